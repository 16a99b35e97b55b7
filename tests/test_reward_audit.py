"""Rewards that are attacked, and the card that is kept of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import write_png
from pixeval.records import Sample
from pixeval.runs import Run
from reward_models.attack_sheet import FOOT, GAP, HEAD, SIDE, Example, attack_sheet, cells_of
from reward_models.attacks import ATTACKS, EPSILON, adversarial, captioned, tiled
from reward_models.audit import RewardAuditConfig, attack, audit
from reward_models.sources import Source


def brightness(images: Tensor, prompts: Any = None) -> Tensor:
    """A reward that is easily fooled."""
    return images.flatten(1).mean(1) * 10


def test_an_audit_tells_what_fools_a_reward(tmp_path: Path) -> None:
    found = audit(RewardAuditConfig("clip_score", tmp_path / "card", images=3))
    assert {mark["attack"] for mark in found["marks"]} >= {
        "prompt swap",
        "adversarial noise",
        "pasted text",
        "planted seam",
    }
    swapped = next(mark for mark in found["marks"] if mark["attack"] == "prompt swap")
    assert swapped["verdict"] == "resists" and swapped["raised"]["value"] == 0
    aimed = next(mark for mark in found["marks"] if mark["attack"] == "adversarial noise")
    assert aimed["verdict"] == "fooled" and "adversarial noise" in found["fooled_by"]
    assert json.loads((tmp_path / "card" / "card.json").read_text()) == found
    assert (tmp_path / "card" / "card.html").read_text().count("<figure>") == len(found["marks"]) + 1
    assert (tmp_path / "card" / "card.png").stat().st_size > 5000
    assert found["not_tried"] == found["left_out"] == {}
    with Image.open(tmp_path / "card" / "attacks.webp") as sheet:
        assert sheet.width < 800 and sheet.height < 2.5 * sheet.width
    with pytest.raises(InputError, match="does not judge single images"):
        audit(RewardAuditConfig("psnr", tmp_path / "x"))


def test_a_reward_of_brightness_is_fooled_by_what_brightens() -> None:
    images = [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(k)) * 0.5 for k in range(6)]
    marks, _ = attack(brightness, images, [f"<b>{k}</b>" for k in range(6)], True)
    verdicts = {mark.attack: mark.verdict for mark in marks}
    assert verdicts["pasted text"] == "fooled"  # a white bar
    assert verdicts["mirrored"] == "resists"
    assert verdicts["prompt swap"] == "blind"  # it should fall, and nothing happens
    aimed = adversarial(brightness, images[0][None], ["p"])
    torch.testing.assert_close(aimed[0], (images[0] + EPSILON).clamp(0, 1))
    changed = {one.name: one.change(images[0], "seed") for one in ATTACKS}
    assert all(c.min() >= 0 and c.max() <= 1 for c in changed.values())
    assert changed["cropped"].shape == (3, 28, 28)


def test_what_has_no_value_is_left_out_and_named_and_so_is_what_was_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, samples = Run.create(tmp_path / "run", "generate", {}), []
    for k, prompt in enumerate(["a cat", "too <b>long</b>", "", "a dog", "a cow"]):
        digest = write_png(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(k)), run.path / f"{k}.png")
        samples.append(Sample(f"s{k}", "base", f"p{k}", prompt, 0, "g", f"{k}.png", digest))
    run.write_samples(samples)
    (run.path / "4.png").write_bytes(b"\x89PNG no")
    monkeypatch.setattr("reward_models.audit.open_source", lambda *_: Source("short", Short(), 1.0, False, "cpu"))
    found = audit(RewardAuditConfig("short", tmp_path / "card", run.path))
    assert found["images"] == 2
    assert found["left_out"] | {"4.png": ""} == {"1.png": "11 letters or more", "2.png": "no prompt", "4.png": ""}
    assert found["not_tried"] == {"adversarial noise": "short has no slopes to follow"}
    assert "adversarial noise" not in {mark["attack"] for mark in found["marks"]}
    for name in ("card.md", "card.html"):
        text = (tmp_path / "card" / name).read_text()
        assert "Not tried: adversarial noise, for short has no slopes to follow." in text
        assert "Left out: 3 (1.png: 11 letters or more; 2.png: no prompt; 4.png: " in text
    run.write_samples(samples[:2])
    with pytest.raises(InputError, match=r"only 1 can be attacked \(1\.png: 11 letters"):
        audit(RewardAuditConfig("short", tmp_path / "card", run.path))


def test_a_metric_without_prompts_is_not_asked_about_them(tmp_path: Path) -> None:
    run, samples = Run.create(tmp_path / "run", "generate", {}), []
    for k in range(2):
        digest = write_png(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(k)), run.path / f"{k}.png")
        samples.append(Sample(f"s{k}", "base", f"p{k}", "", 0, "g", f"{k}.png", digest))
    run.write_samples(samples)
    found = audit(RewardAuditConfig("sharpness", tmp_path / "card", run.path))
    assert found["images"] == 2
    assert found["not_tried"]["prompt swap"] == "sharpness sees no prompt"
    assert "prompt swap" not in {mark["attack"] for mark in found["marks"]}
    blur = next(mark for mark in found["marks"] if mark["attack"] == "blur of all")
    assert blur["change"]["value"] < 0


class Short:
    """A reward without slopes, of short prompts only."""

    fingerprint = "short/1"

    def __call__(self, images: Tensor, prompts: Any = None) -> Tensor:
        assert not any(map(self.hindrance, prompts))
        return images.flatten(1).mean(1).round(decimals=2) + torch.tensor([len(prompt) for prompt in prompts])

    def hindrance(self, prompt: str) -> str | None:
        return "11 letters or more" if len(prompt) > 10 else None


def test_the_best_of_the_attack_counts_and_a_flat_place_does_not_stop_it() -> None:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    met: list[Tensor] = []

    def narrow(images: Tensor, prompts: Any) -> Tensor:
        """Highest near the image: every step of the attack goes too far."""
        found = -(images - image - 0.3 * EPSILON).abs().flatten(1).mean(1)
        met.append(found.detach())
        return found

    reached = narrow(adversarial(narrow, image, ["a", "b"]), None)
    tried = torch.stack([values for values in met[:-1] if not torch.equal(values, met[0])])
    torch.testing.assert_close(reached, tried.amax(0))
    assert bool((tried[-1] < reached).any()), "the last place was not the best one"

    def flat(images: Tensor, prompts: Any) -> Tensor:
        return (images - image).square().flatten(1).mean(1)

    found = adversarial(flat, image, ["a", "b"])
    torch.testing.assert_close((found - image).abs(), torch.full_like(image, EPSILON))
    assert torch.equal(found, adversarial(flat, image, ["a", "b"]))


@pytest.mark.parametrize("side", [96, 128, 400])
def test_praise_is_written_whole(side: int) -> None:
    ink = (captioned(torch.full((3, side, side), 0.5), "") < 0.4).all(0).nonzero()
    assert ink[:, 1].max() < side - 1
    assert ink[:, 0].min() >= side * 3 // 4


def test_tiles_depend_on_the_whole_seed() -> None:
    grey = torch.full((3, 30, 30), 0.5)
    assert not torch.equal(tiled(grey, "12"), tiled(grey, "21"))


def test_the_sheet_shows_the_planted_flaws_that_cost_least_and_what_rises_in_red() -> None:
    def shown(name: str, change: float) -> Example:
        return Example(name, (torch.full((3, 40, 20), 0.5),) * 2, (1.0 + change, 2.0 - abs(change)))

    changes = {f"planted {k}": -k / 10 for k in range(15)} | {f"other {k}": 0.5 for k in range(10)}
    examples = [shown("untouched", 0.0), *(shown(name, change) for name, change in changes.items())]
    marks = [{"attack": n, "change": {"value": c}, "verdict": "resists"} for n, c in changes.items()]
    cells = cells_of(examples, marks)
    assert [cell.name for cell in cells] == ["untouched", *(f"other {k}" for k in range(10)), "planted 0", "planted 1",
                                             "planted 2", "planted 3"]  # fmt: skip
    sheet = np.asarray(attack_sheet(examples, marks)).astype(int)
    red = (np.abs(sheet - [192, 57, 43]).sum(-1) < 30).nonzero()[0]
    # only the first image rises: red is below the first row of the bands, and there are three
    deep = HEAD + 2 * (SIDE + FOOT) + GAP
    assert len(red) and all((row - GAP) % deep in range(HEAD + SIDE, HEAD + SIDE + FOOT) for row in red)
