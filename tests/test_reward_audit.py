"""Rewards that are attacked, and the card that is kept of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pixeval.errors import InputError
from reward_models.attacks import ATTACKS, EPSILON, adversarial
from reward_models.audit import RewardAuditConfig, attack, audit


def brightness(images: Tensor, prompts: Any = None) -> Tensor:
    """A reward that is easily fooled."""
    return images.flatten(1).mean(1) * 10


def test_an_audit_tells_what_fools_a_reward(tmp_path: Path) -> None:
    found = audit(RewardAuditConfig("clip_score", tmp_path / "card", images=4))
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
    with pytest.raises(InputError, match="does not judge single images"):
        audit(RewardAuditConfig("sharpness", tmp_path / "x"))


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
