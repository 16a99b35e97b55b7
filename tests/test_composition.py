"""Checks of objects, counts, colours and positions: the rules on made boxes, the detectors on tiny random weights."""

from pathlib import Path

import numpy as np
import pytest
import tiny_published as tiny
import torch
from PIL import Image
from transformers import GroundingDinoProcessor, Owlv2Processor

from pixeval.detection import Box, Detector, _by_name, _Found, _phrases
from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.metrics.colours import COLOURS, basic_colour, colour_shares
from pixeval.metrics.composition import Composition, StrictComposition, check_composition, relative_position
from pixeval.records import RELATIONS, ObjectSpec, Prompt, RelationSpec

NAMED = {
    "red": [(255, 0, 0), (200, 20, 30), (178, 34, 34), (220, 20, 60)],
    "orange": [(255, 165, 0), (255, 140, 0), (240, 120, 20)],
    "yellow": [(255, 255, 0), (255, 215, 0), (250, 240, 90)],
    "green": [(0, 128, 0), (34, 139, 34), (0, 255, 0), (85, 107, 47), (46, 139, 87)],
    "blue": [(0, 0, 255), (30, 144, 255), (0, 0, 139), (70, 130, 180), (135, 206, 235)],
    "purple": [(128, 0, 128), (148, 0, 211), (75, 0, 130)],
    "pink": [(255, 192, 203), (255, 105, 180), (255, 182, 193)],
    "brown": [(139, 69, 19), (101, 67, 33), (160, 82, 45)],
    "black": [(0, 0, 0), (20, 20, 24)],
    "white": [(255, 255, 255), (245, 245, 240)],
    "grey": [(128, 128, 128), (169, 169, 169), (90, 92, 95)],
}


@pytest.mark.parametrize(("name", "rgb"), [(name, rgb) for name, values in NAMED.items() for rgb in values])
def test_named_colours_get_their_names(name: str, rgb: tuple[int, int, int]) -> None:
    crop = torch.tensor(rgb).view(3, 1, 1).expand(3, 9, 12) / 255
    shares = colour_shares(crop)
    assert COLOURS[int(shares.argmax())] == name
    assert float(shares.sum()) == pytest.approx(1)


def test_the_corners_of_a_box_do_not_count() -> None:
    crop = torch.ones(3, 40, 60)
    rows, columns = np.mgrid[0:40, 0:60]
    ball = torch.from_numpy(((rows - 19.5) / 20) ** 2 + ((columns - 29.5) / 30) ** 2 <= 1)
    crop[:, ball] = torch.tensor([0.9, 0.1, 0.1])[:, None]
    assert float(colour_shares(crop)[COLOURS.index("red")]) > 0.98
    assert [basic_colour(word) for word in ("Gray", " red ", "violet", "turquoise")] == ["grey", "red", "purple", None]


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(left, top, right, bottom, 0.9)


def test_positions_follow_the_rule_of_geneval() -> None:
    """Offset of the centres, less a tenth of both sizes, over the distance; beyond a half (GenEval's source)."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(500):
        first, second = (np.concatenate([c, c + rng.uniform(5, 60, 2)]) for c in rng.uniform(0, 100, (2, 2)))
        offset = (first[:2] + first[2:] - second[:2] - second[2:]) / 2
        sizes = first[2:] - first[:2] + second[2:] - second[:2]
        left = np.sign(offset) * np.maximum(np.abs(offset) - 0.1 * sizes, 0) / np.linalg.norm(offset)
        holds = (left[0] < -0.5, left[0] > 0.5, left[1] < -0.5, left[1] > 0.5)
        expected = {relation for relation, true in zip(RELATIONS, holds, strict=True) if true}
        assert relative_position(box(*first), box(*second)) == expected
        seen |= expected
        seen.add(str(len(expected)))
    assert seen >= {*RELATIONS, "0", "1", "2"}
    assert relative_position(box(0, 0, 9, 9), box(0, 0, 9, 9)) == set()


def painted() -> torch.Tensor:
    """A red square at the left, a green and a red one at the right, on white."""
    image = torch.ones(3, 60, 100)
    for left, colour in ((5, (0.9, 0.1, 0.1)), (45, (0.1, 0.6, 0.1)), (75, (0.9, 0.1, 0.1))):
        image[:, 20:40, left : left + 20] = torch.tensor(colour).view(3, 1, 1)
    return image


APPLES = [box(5, 20, 25, 40), box(45, 20, 65, 40), box(75, 20, 95, 40)]


@pytest.mark.parametrize(
    ("objects", "relations", "expected"),
    [
        ((ObjectSpec("apple"),), (), [True]),
        ((ObjectSpec("apple", at_least=3, at_most=3),), (), [True]),
        ((ObjectSpec("apple", at_least=2, at_most=2),), (), [False]),
        ((ObjectSpec("apple", "red", 2, 2),), (), [True, True]),
        ((ObjectSpec("apple", "red", 3, 3),), (), [True, False]),
        ((ObjectSpec("apple", "gray"),), (), [True, False]),
        ((ObjectSpec("dog"),), (), [False]),
        ((ObjectSpec("dog", at_least=0, at_most=0), ObjectSpec("apple", "blue", 0, 0)), (), [True, True]),
        (
            (ObjectSpec("apple", "red"), ObjectSpec("apple", "green")),
            (RelationSpec(0, "left of", 1), RelationSpec(1, "right of", 0), RelationSpec(0, "above", 1)),
            [True, True, True, True, True, True, False],
        ),
        # both red ones must be there, and the second is at the right
        (
            (ObjectSpec("apple", "red", 2), ObjectSpec("apple", "green")),
            (RelationSpec(0, "left of", 1),),
            [True, True, True, True, False],
        ),
        ((ObjectSpec("apple"), ObjectSpec("dog")), (RelationSpec(0, "left of", 1),), [True, False, False]),
    ],
)
def test_checks_on_made_boxes(
    objects: tuple[ObjectSpec, ...], relations: tuple[RelationSpec, ...], expected: list[bool]
) -> None:
    record = Prompt("p", "p", objects=objects, relations=relations)
    assert check_composition(painted(), {"apple": APPLES, "dog": []}, record) == expected


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_owl(tmp_path_factory.mktemp("owl"))


@pytest.fixture(scope="module")
def grounding_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_grounding_dino(tmp_path_factory.mktemp("dino"))


def test_owl_boxes_are_those_of_its_own_post_processing(owl: Path) -> None:
    processor = Owlv2Processor.from_pretrained(owl)
    detector = Detector(Detector.load(str(owl)).model, processor, threshold=0.4)
    assert detector.fingerprint != Detector.load(str(owl)).fingerprint
    image, names = tiny.images(1, 40, 64), ["apple", "dog"]
    picture = Image.fromarray(to_uint8(image)[0])
    inputs = processor(images=picture, text=[[f"a photo of a {name}" for name in names]], return_tensors="pt")
    with torch.no_grad():
        raw = detector.model(**inputs)
    (found,) = processor.post_process_grounded_object_detection(raw, 0.4, torch.tensor([[40, 64]]))
    boxes = detector(image, names)[0]
    assert 0 < sum(map(len, boxes.values())) <= len(found["scores"]) < 16
    for k, name in enumerate(names):
        own = {round(float(score), 4) for score in found["scores"][found["labels"] == k]}
        assert {round(b.score, 4) for b in boxes[name]} <= own
        assert [b.score for b in boxes[name]] == sorted((b.score for b in boxes[name]), reverse=True)
        assert max(own, default=0.0) == max((round(b.score, 4) for b in boxes[name]), default=0.0)
        assert all(0 <= b.left <= b.right <= 64 and 0 <= b.top <= b.bottom <= 40 for b in boxes[name])


def test_grounding_dino_boxes_are_those_of_its_own_post_processing(grounding_dino: Path) -> None:
    detector, processor = Detector.load(str(grounding_dino)), GroundingDinoProcessor.from_pretrained(grounding_dino)
    image = tiny.images(1, 40, 64)
    inputs = processor(images=Image.fromarray(to_uint8(image)[0]), text="dog.", return_tensors="pt")
    with torch.no_grad():
        raw = detector.model(**inputs)
    raw.logits[..., [0, 2, 3]] = -torch.inf  # start, full stop and end, which are no part of the name
    (found,) = processor.post_process_grounded_object_detection(
        raw, inputs["input_ids"], threshold=0.35, target_sizes=[(40, 64)]
    )
    boxes = detector(image, ["dog"])[0]["dog"]
    best = int(found["scores"].argmax())
    assert boxes[0].score == pytest.approx(float(found["scores"][best]), abs=1e-4)
    limits = torch.tensor([64.0, 40.0, 64.0, 40.0])
    edges = found["boxes"][best].clamp_min(0).minimum(limits).tolist()
    assert [boxes[0].left, boxes[0].top, boxes[0].right, boxes[0].bottom] == pytest.approx(edges, abs=1e-2)
    tokens = processor.tokenizer("red apple. dog.", return_tensors="pt").input_ids[0]
    assert _phrases(tokens, processor.tokenizer).tolist() == [-1, 0, 0, -1, 1, -1, -1]


def test_of_two_boxes_that_overlap_by_half_the_surer_one_stays() -> None:
    edges = torch.tensor([[0, 0, 10, 10], [0, 1, 10, 11], [0, 6, 10, 16], [-5, 0, 10, 10], [30, 30, 70, 90]])
    found = _Found(edges.float(), torch.tensor([0.6, 0.8, 0.7, 0.5, 0.4]), torch.tensor([0, 0, 0, 1, 1]))
    boxes = _by_name(found, ["apple", "dog"], 50, 60)
    assert [(b.top, round(b.score, 3)) for b in boxes["apple"]] == [(1, 0.8), (6, 0.7)]
    # edges are cut to the image; a box is compared with those of its own name only
    assert [(b.left, b.right, b.bottom) for b in boxes["dog"]] == [(0, 10, 10), (30, 60, 50)]


def test_names_that_do_not_fit_are_refused_with_a_reason(owl: Path, grounding_dino: Path) -> None:
    assert "the detector's context is 16" in (Detector.load(str(owl)).hindrance(["xylophone quartz fjord"]) or "")
    assert "the detector's context is 32" in (Detector.load(str(grounding_dino)).hindrance(["dog"] * 20) or "")
    with pytest.raises(InputError, match="context is 16"):
        Detector.load(str(owl))(tiny.images(1), ["xylophone quartz fjord"])


def test_share_and_strict_value_come_from_the_same_checks(owl: Path) -> None:
    objects = (ObjectSpec("apple"), ObjectSpec("dog", at_least=0, at_most=0), ObjectSpec("car", "red"))
    records = {
        "p": Prompt("p", "p", objects=objects),
        "q": Prompt("q", "q", objects=(ObjectSpec("cat", "teal"),)),
        "r": Prompt("r", "r"),
        "s": Prompt("s", "s", objects=(ObjectSpec("apple"),)),
    }
    images, detector = tiny.images(), Detector.load(str(owl))
    share, strict = Composition(records, detector), StrictComposition(records, detector)
    passed = share.checks(images, "p")
    assert [len(row) for row in passed] == [4, 4, 4]
    assert share(images, ["p"] * 3).tolist() == pytest.approx([sum(row) / 4 for row in passed])
    assert strict(images, ["p", "s", "p"])[1] == 1.0
    assert strict(images, ["p"] * 3).tolist() == [float(all(row)) for row in passed]
    assert "'teal' cannot be checked" in (share.hindrance("q") or "")
    assert "no objects to check" in (share.hindrance("r") or "")
    with pytest.raises(InputError, match="no objects to check"):
        share(images[:1], ["unknown"])
    assert share.fingerprint != strict.fingerprint != StrictComposition({}, detector).fingerprint
