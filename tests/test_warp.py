"""The detector of warps: its examples, its size, and that training resumes to the same weights."""

from pathlib import Path

import pytest
import torch

from pixeval.errors import InputError
from pixeval.metrics.warp_flaw import WarpFlaw, WarpNet
from pixeval.validation.drawn_images import drawn_image
from pixeval.zoo.icons import load_icons
from trainers.pretrain.fit import Fit
from trainers.pretrain.warp import CROP, SIDE, example, save_warp, train_warp


def test_examples_are_warped_where_the_mask_says() -> None:
    icons = torch.from_numpy(load_icons("heldout").images[:8]).permute(0, 3, 1, 2)
    drawings = torch.stack([drawn_image(seed, SIDE) for seed in range(3)])
    flawed = 0
    for seed in range(12):
        image, target, weight = example(icons, drawings, torch.Generator().manual_seed(seed))
        again, _, _ = example(icons, drawings, torch.Generator().manual_seed(seed))
        assert torch.equal(image, again)
        assert image.shape == (1, 3, CROP, CROP)
        assert target.shape == weight.shape == (1, CROP, CROP)
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        assert bool(((target == 0) | (target == 1)).all())
        assert float((target * (1 - weight)).sum()) == 0
        assert float(weight.mean()) > 0.4
        flawed += bool(target.any())
    assert 4 <= flawed <= 12


def test_the_network_is_small_and_takes_any_size() -> None:
    net = WarpNet().eval()
    assert sum(p.numel() for p in net.parameters()) * 2 < 1_000_000
    for height, width in ((16, 16), (37, 50), (1, 3)):
        with torch.no_grad():
            assert net(torch.rand(2, 3, height, width)).shape == (2, height, width)


def test_training_resumes_and_is_loaded_again(tmp_path: Path) -> None:
    whole = train_warp(Fit(tmp_path / "whole", 4, bf16=False, save_every=4), batch=2)
    train_warp(Fit(tmp_path / "parts", 2, bf16=False, save_every=2), batch=2)
    # the schedule's length may change when a run goes on; at the same length the path is the same
    parts = train_warp(Fit(tmp_path / "parts", 4, bf16=False, save_every=2), batch=2)
    assert all(p.isfinite().all() for p in parts.parameters())
    again = train_warp(Fit(tmp_path / "whole", 4, bf16=False, save_every=4), batch=2)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    file = save_warp(whole, tmp_path / "zoo")
    assert file.stat().st_size < 1_000_000
    scorer = WarpFlaw(file)
    images = torch.stack([drawn_image(seed, 40) for seed in range(2)])
    heat = scorer.heatmap(images)
    assert heat.shape == (2, 40, 40)
    assert 0 <= float(heat.min()) <= float(heat.max()) <= 1
    torch.testing.assert_close(scorer(images), heat.flatten(1).mean(1))
    with pytest.raises(InputError, match="train it"):
        WarpFlaw(tmp_path / "none.safetensors")
