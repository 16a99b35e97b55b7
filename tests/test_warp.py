"""The detector of warps: its pairs, its measurements and size, and that training resumes to the same weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixeval.errors import InputError
from pixeval.metrics.warp_flaw import CELL, CHANNELS, WarpFlaw, WarpNet, contour_measurements
from pixeval.validation.clean_images import clean_images
from pixeval.validation.drawn_images import drawn_image
from trainers.pretrain.fit import Fit
from trainers.pretrain.warp import SIDE, Material, pair, save_warp, train_warp


@pytest.fixture(scope="module")
def material() -> Material:
    return Material.bundled()


def test_pairs_differ_where_the_cells_say(material: Material) -> None:
    for seed in range(8):
        images, target, weight = pair(material, torch.Generator().manual_seed(seed))
        again, _, _ = pair(material, torch.Generator().manual_seed(seed))
        assert torch.equal(images, again)
        assert images.shape == (2, 3, SIDE, SIDE)
        assert target.shape == weight.shape == (2, 1, SIDE // CELL, SIDE // CELL)
        assert torch.equal(images, (images * 255).round() / 255)
        assert not bool(target[1].any())
        assert 0.05 < float(target[0].mean()) < 0.6
        changed = torch.nn.functional.avg_pool2d((images[0] - images[1]).abs().mean(0)[None], CELL)[0]
        inside = target[0, 0] > 0
        assert float(changed[inside].mean()) > 2 * float(changed[~inside].mean())


def test_nothing_that_is_reported_on_is_trained_on(material: Material) -> None:
    corners = {icon[:, ::16, ::16].numpy().tobytes() for icon in material.icons}
    from pixeval.zoo.icons import load_icons

    icons = torch.from_numpy(load_icons("train").images).permute(0, 3, 1, 2)
    reported = [1 + 2 * (97 * k % 900) for k in range(48)]
    assert not corners & {icons[row][:, ::16, ::16].numpy().tobytes() for row in reported}
    sheets: list[Tensor] = [image.pixels for image in clean_images("report") if image.kind == "generated"]
    assert len(material.samples) == 32
    assert len(sheets) == 8


def test_measurements_are_bounded_and_ignore_contrast() -> None:
    image = drawn_image(5, 64)[None]
    found = contour_measurements(image)
    assert found.shape == (1, CHANNELS, 32, 32)
    assert float(found.abs().max()) <= 1.0
    # direction at a scale; half of the contrast changes little where there is an edge
    faint = contour_measurements(0.25 + 0.5 * image)
    edge = found[:, 7] > 0.5
    assert float((found[:, 5] - faint[:, 5]).abs()[edge].mean()) < 0.05
    turned = contour_measurements(image.transpose(2, 3))
    torch.testing.assert_close(turned[:, 5], -found[:, 5].transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_the_network_is_small_and_takes_any_size(tmp_path: Path) -> None:
    net = WarpNet().eval()
    assert sum(p.numel() for p in net.parameters()) < 300_000
    scorer = WarpFlaw(save_warp(net, tmp_path))
    for height, width in ((16, 16), (37, 50), (64, 33)):
        heat = scorer.heatmap(torch.rand(2, 3, height, width))
        assert heat.shape == (2, height, width)
        assert 0 <= float(heat.min()) <= float(heat.max()) <= 1
    with pytest.raises(InputError, match="train it"):
        WarpFlaw(tmp_path / "none.safetensors")


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
    assert file.stat().st_size < 600_000
    images = torch.stack([drawn_image(seed, 40) for seed in range(2)])
    scorer = WarpFlaw(file)
    assert scorer(images).shape == (2,)
    assert bool(((scorer(images) >= 0) & (scorer(images) <= 1)).all())
