"""Are the things of the prompt there, in their number, colour and place, as an open-vocabulary detector sees them.

After GenEval (Ghosh et al. 2023, arXiv 2310.11513), with another detector and another rule for colours.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pixeval.detection import Box, Detector
from pixeval.errors import InputError
from pixeval.metrics.arguments import check_pairs
from pixeval.metrics.colours import COLOURS, basic_colour, colour_shares
from pixeval.records import ObjectSpec, Prompt, Relation

MARGIN = 0.1
"""Share of both boxes' sizes by which a thing must be beyond another (GenEval's)."""
DIRECTION = 0.5
"""Least share of the distance of the centres that lies along an axis (GenEval's)."""


class Composition:
    """The share of a prompt's checks that the image passes. In [0, 1], higher is better.

    The checks are: for each object, that there are as many as asked; for each coloured one as well, that so many of
    them have the colour; for each relation, that the surest boxes of both objects stand in it.
    """

    name = "composition"

    def __init__(self, records: Mapping[str, Prompt], source: str | Detector) -> None:
        """``records`` by the text of the prompt; ``source``: a Detector, or folder or hub name of one."""
        self.records = records
        self.detector = source if isinstance(source, Detector) else Detector.load(source)
        asked = "\x1f".join(f"{text}\x1e{records[text].objects}{records[text].relations}" for text in sorted(records))
        digest = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.fingerprint = f"{self.name}/1/{digest}/{self.detector.fingerprint}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32 for N x 3 x H x W images and their prompts.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`; or a prompt cannot be checked.
        """
        texts = check_pairs(self.name, images, prompts)
        values = torch.empty(len(texts))
        for text in dict.fromkeys(texts):
            places = [place for place, other in enumerate(texts) if other == text]
            for place, passed in zip(places, self.checks(images[places], text), strict=True):
                values[place] = self.summary(passed)
        return values

    def checks(self, images: Tensor, prompt: str) -> list[list[bool]]:
        """For each image of one prompt, which checks it passes: objects, colours and relations, in this order.

        Raises:
            InputError: the prompt cannot be checked.
        """
        if (reason := self.hindrance(prompt)) is not None:
            raise InputError(reason)
        record = self.records[prompt]
        names = list(dict.fromkeys(spec.name for spec in record.objects))
        return [
            check_composition(image, boxes, record)
            for image, boxes in zip(images, self.detector(images, names), strict=True)
        ]

    def summary(self, passed: list[bool]) -> float:
        """The value of an image."""
        return sum(passed) / len(passed)

    def hindrance(self, prompt: str) -> str | None:
        """Why an image of this prompt cannot be scored, if so."""
        record = self.records.get(prompt)
        if record is None or not record.objects:
            return "the prompt has no objects to check; give a suite that has them for this text (--suite)"
        for spec in record.objects:
            if spec.colour is not None and basic_colour(spec.colour) is None:
                return f"the colour {spec.colour!r} cannot be checked; known are {', '.join(COLOURS)}"
        return self.detector.hindrance([spec.name for spec in record.objects])

    def to(self, device: str) -> "Composition":
        """Move the weights; returns itself."""
        self.detector.to(device)
        return self


class StrictComposition(Composition):
    """1 where the image passes every check of :class:`Composition`, else 0; its mean is GenEval's kind of score."""

    name = "composition_strict"

    def summary(self, passed: list[bool]) -> float:
        return float(all(passed))


def check_composition(image: Tensor, found: Mapping[str, Sequence[Box]], record: Prompt) -> list[bool]:
    """Which checks one image passes, from the boxes of each name (surest first).

    Args:
        image: 3 x H x W in [0, 1].
        record: at least one object; relations point into its objects.
    """
    counting = [_of_colour(image, found[spec.name], spec) for spec in record.objects]
    passed = []
    for spec, boxes in zip(record.objects, counting, strict=True):
        if spec.colour is not None and spec.at_least > 0:
            passed.append(len(found[spec.name]) >= spec.at_least)
        passed.append(len(boxes) >= spec.at_least and (spec.at_most is None or len(boxes) <= spec.at_most))
    for relation in record.relations:
        subjects, others = (
            counting[place][: max(1, record.objects[place].at_least)] for place in (relation.subject, relation.object)
        )
        holds = [relation.relation in relative_position(a, b) for a in subjects for b in others]
        passed.append(bool(holds) and all(holds))
    return passed


def relative_position(first: Box, second: Box) -> set[Relation]:
    """Where ``first`` is from ``second``, up to two words; none where they are too close to tell.

    GenEval's rule: the offset of the centres loses a tenth of both sizes on each axis, and what remains must be over
    half of the distance of the centres.
    """
    across = (first.left + first.right - second.left - second.right) / 2
    down = (first.top + first.bottom - second.top - second.bottom) / 2
    widths = first.right - first.left + second.right - second.left
    heights = first.bottom - first.top + second.bottom - second.top
    distance = math.hypot(across, down)
    if distance == 0:
        return set()
    x = math.copysign(max(abs(across) - MARGIN * widths, 0), across) / distance
    y = math.copysign(max(abs(down) - MARGIN * heights, 0), down) / distance
    holds: dict[Relation, bool] = {
        "left of": x < -DIRECTION,
        "right of": x > DIRECTION,
        "above": y < -DIRECTION,
        "below": y > DIRECTION,
    }
    return {relation for relation, true in holds.items() if true}


def _of_colour(image: Tensor, boxes: Sequence[Box], spec: ObjectSpec) -> list[Box]:
    colour = None if spec.colour is None else basic_colour(spec.colour)
    if colour is None:
        return list(boxes)
    return [box for box in boxes if COLOURS[int(colour_shares(_crop(image, box)).argmax())] == colour]


def _crop(image: Tensor, box: Box) -> Tensor:
    """What is inside the box, at least one pixel."""
    height, width = image.shape[-2:]
    top, left = (min(max(int(edge), 0), side - 1) for edge, side in ((box.top, height), (box.left, width)))
    bottom, right = max(math.ceil(box.bottom), top + 1), max(math.ceil(box.right), left + 1)
    return image[:, top:bottom, left:right]
