"""Adapters of published models, on tiny random weights of the same classes and file layouts.

Where the authors' arithmetic can be written down or run, it is the reference here.
"""

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import tiny_published as tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import write_tiny_clip
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms
from transformers import CLIPModel, CLIPProcessor

from pixeval.catalog import CATALOG, find, load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.metrics.image_reward import ImageReward
from pixeval.metrics.preference import HpsV2, PickScore, load_hps
from pixeval.records import ObjectSpec, Prompt, RelationSpec
from pixeval.scoring.evaluate import ScoreConfig, score
from pixeval.scoring.summary import render

PROMPTS = ["a red apple", "a blue car", "a red apple"]
OBJECTS = (ObjectSpec("apple", "red"), ObjectSpec("dog", at_least=0, at_most=2))
RECORDS = {
    "a red apple": Prompt("apple", "a red apple", (), ("is it a apple ?", "is there a dog ?"), OBJECTS),
    "a blue car": Prompt(
        "car",
        "a blue car",
        (),
        ("is the car blue ?",),
        (ObjectSpec("car", "blue"), ObjectSpec("tree")),
        (RelationSpec(0, "left of", 1),),
    ),
}
ELSEWHERE = {"hpsv3", "reward", "reward_conservative", "reward_held_out", "remote_reward"}
"""Tested in files of their own."""
PUBLISHED = [s for s in CATALOG if s.family == "alignment" and "weights" in s.needs and s.name not in ELSEWHERE]
WRITERS: dict[str, Callable[..., Path]] = {
    "pickscore": tiny.write_clip,
    "hpsv2": write_tiny_clip,
    "hpsv2_1": write_tiny_clip,
    "image_reward": tiny.write_image_reward,
    "mps": tiny.write_mps,
    "vqa_score": tiny.write_llava,
    "question_rate": tiny.write_blip2,
    "composition": tiny.write_owl,
    "composition_strict": tiny.write_grounding_dino,
}

Scorers = dict[str, Any]


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> Scorers:
    """Every published metric of the family, through the catalogue."""
    root = tmp_path_factory.mktemp("published")
    return {s.name: load(s, records=RECORDS, weights=str(WRITERS[s.name](root / s.name))) for s in PUBLISHED}


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_values_do_not_depend_on_the_company(spec: Any, scorers: Scorers) -> None:
    scorer, images = scorers[spec.name], tiny.images()
    found = scorer(images, PROMPTS)
    assert found.shape == (3,)
    assert found.dtype == torch.float32
    assert all(spec.low <= float(value) <= spec.high for value in found)
    alone = torch.cat([scorer(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    turned = scorer(images.flip(0), PROMPTS[::-1]).flip(0)
    torch.testing.assert_close(alone, found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_images_and_prompts_cannot_be_taken_for_each_other(spec: Any, scorers: Scorers) -> None:
    scorer, images = scorers[spec.name], tiny.images()
    for arguments, says in (
        ((PROMPTS, images), "images come first"),
        ((images, images), "prompts come second"),
        ((images, "a red apple"), "got one string"),
        ((images, None), "got no prompts"),
        ((images, PROMPTS[:2]), "2 prompts for 3 images"),
        ((images[0], PROMPTS), "one prompt per image|N x 3 x H x W"),
        ((images * 255, PROMPTS), r"must lie in \[0, 1\]"),
    ):
        with pytest.raises(InputError, match=says):
            scorer(*arguments)


@pytest.mark.parametrize("spec", [s for s in PUBLISHED if s.differentiable], ids=lambda spec: spec.name)
def test_gradients_reach_the_images(spec: Any, scorers: Scorers) -> None:
    images = tiny.images().requires_grad_()
    scorers[spec.name](images, PROMPTS).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_the_fingerprint_follows_the_weights(spec: Any, scorers: Scorers, tmp_path: Path) -> None:
    again = load(spec, records=RECORDS, weights=str(WRITERS[spec.name](tmp_path / "again")))
    other = load(spec, records=RECORDS, weights=str(WRITERS[spec.name](tmp_path / "other", seed=1)))
    assert scorers[spec.name].fingerprint == again.fingerprint != other.fingerprint
    assert spec.name in again.fingerprint


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_what_cannot_be_loaded_is_said_in_one_line(spec: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled.pt").write_bytes(b"not read")
    for source in ("empty", "pickled.pt", "no-such-folder"):
        with pytest.raises(InputError) as error:
            load(spec, records=RECORDS, weights=str(tmp_path / source))
        assert source in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=f"--weights {spec.name}=PATH"):
        load(spec, records=RECORDS)


def test_a_model_with_a_part_missing_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_clip(tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("visual_projection.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lack visual_projection\.weight"):
        PickScore(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled"):
        PickScore(str(folder))
    reward = tiny.write_image_reward(tmp_path / "reward")
    tensors = load_file(reward)
    tensors.pop("mlp.layers.7.bias")
    save_file(tensors, reward)
    with pytest.raises(InputError, match="does not hold the state dict of ImageReward"):
        ImageReward(str(reward))


def test_pickscore_is_that_of_the_model_card(tmp_path: Path) -> None:
    folder = tiny.write_clip(tmp_path / "clip")
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)

    def card(images: Tensor) -> Tensor:
        with torch.no_grad():
            pixels = processor(images=[Image.fromarray(a) for a in to_uint8(images)], return_tensors="pt")
            tokens = processor(text=PROMPTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
            seen = F.normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
            read = F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
            return model.logit_scale.exp() * (read * seen).sum(1)

    exact = tiny.images(height=32, width=32)
    torch.testing.assert_close(PickScore(str(folder))(exact, PROMPTS), card(exact), rtol=1e-4, atol=1e-4)
    # here the card's processor resizes and rounds to 8 bits; the adapter does not round
    smooth = F.interpolate(tiny.images(height=8, width=8), (80, 96), mode="bicubic").clamp(0, 1)
    smooth = (smooth * 255).round() / 255
    torch.testing.assert_close(PickScore(str(folder))(smooth, PROMPTS), card(smooth), rtol=0.02, atol=0.02)


def test_hps_is_100_cosines_of_padded_images(tmp_path: Path) -> None:
    folder = write_tiny_clip(tmp_path / "clip")
    scorer, encoder = HpsV2(str(folder)), ClipEncoder.load(str(folder))
    images, mean, std = tiny.images(height=40, width=64), [0.5, 0.4, 0.6], [0.5, 0.3, 0.4]
    small = transforms.resize(images, [20, 32], transforms.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    square = transforms.normalize(transforms.pad(small, [0, 6, 0, 6], fill=0), mean, std)
    with torch.no_grad():
        out = encoder.model(square, encoder.tokenizer(PROMPTS))
    torch.testing.assert_close(scorer(images, PROMPTS), 100 * (out[0] * out[1]).sum(1), rtol=1e-4, atol=1e-3)


def test_hps_comes_from_a_converted_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 2, "layers": 1}}
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: config)
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    # as published: the state dict in a pickled dictionary, converted as docs/metrics.md says
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "HPS_v2.1_compressed.pt")
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    script = page.split("```python\n# convert_weights.py\n")[1].split("```")[0]
    (tmp_path / "convert_weights.py").write_text(script)
    command = ["convert_weights.py", "HPS_v2.1_compressed.pt", "hps.safetensors"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path("convert_weights.py")
    encoder = load_hps(str(tmp_path / "hps.safetensors"), "hpsv2_1")
    assert encoder.preprocess["resize_mode"] == "longest"
    images = tiny.images(height=32, width=32)
    with torch.no_grad():
        seen = F.normalize(model.eval().encode_image(encoder.prepare(images)), dim=-1)
    torch.testing.assert_close(encoder(images), seen, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="convert it to safetensors once"):
        load_hps(str(tmp_path / "HPS_v2.1_compressed.pt"), "hpsv2_1")
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match="does not hold the state dict of an open_clip ViT-H-14"):
        load_hps(str(tmp_path / "wrong.safetensors"), "hpsv2_1")


@pytest.mark.parametrize("name", ["pickscore", "hpsv2"])
def test_no_part_of_a_long_prompt_is_lost(name: str, scorers: Scorers) -> None:
    image, words = tiny.images(1), "a blue car on a road with a green tree and a yellow sun and a grey cat " * 3
    assert not torch.allclose(scorers[name](image, [words]), scorers[name](image, [words + "dog"]))


def test_prompts_that_are_read_in_parts_are_counted_and_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    words = "a blue car on a road with a green tree and a yellow sun and a grey cat "
    texts = ["a red apple", words * 2, words * 2, words * 3]
    for number in range(4):
        Image.fromarray(to_uint8(tiny.images(4))[number]).save(tmp_path / "images" / f"{number}.png")
    rows = [json.dumps({"file_name": f"{number}.png", "prompt": text}) for number, text in enumerate(texts)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    weights = (f"pickscore={tiny.write_clip(tmp_path / 'clip')}", f"hpsv2={write_tiny_clip(tmp_path / 'hps')}")
    config = ScoreConfig(
        tmp_path / "images",
        ("pickscore", "hpsv2", "contrast"),
        tmp_path / "prompts.jsonl",
        out=tmp_path / "out",
        weights=weights,
        cache="none",
    )
    found = score(config)
    assert found is not None
    assert found["in_parts"] == [
        {"metric": "pickscore", "n": 2, "prompts": 3},
        {"metric": "hpsv2", "n": 2, "prompts": 3},
    ]
    told = " ".join(render(found).split())
    assert "pickscore: 2 of 3 prompts are longer than its CLIP reads and scored in parts: their values do not" in told
    again = score(replace(config, metrics=("contrast",)))
    assert again is not None and again["in_parts"] == [] and "scored in parts" not in render(again)


def test_image_reward_refuses_long_prompts_with_a_reason(tmp_path: Path) -> None:
    file = str(tiny.write_image_reward(tmp_path))
    scorer, image = ImageReward(file), tiny.images(1)
    fits, long = "apple " * 33, "apple " * 34
    assert scorer.hindrance(fits) is None
    assert scorer.hindrance(long) == ("the prompt has 36 tokens; image_reward was trained on 35 and would cut the rest")
    with pytest.raises(InputError, match="36 tokens"):
        scorer(image, [long])
    wider = ImageReward(file, max_tokens=48)
    assert wider(image, [long]).isfinite()
    assert wider.fingerprint != scorer.fingerprint
    with pytest.raises(InputError, match="48 is the most"):
        ImageReward(file, max_tokens=49)


def test_the_catalogue_says_what_each_path_must_be() -> None:
    assert set(WRITERS) == {spec.name for spec in PUBLISHED}
    assert all(spec.weights != "none" and spec.weights_format for spec in PUBLISHED)
    assert find("pickscore").weights_format.endswith("yuvalkirstain/PickScore_v1")
