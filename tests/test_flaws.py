"""Planted flaws: the value rises with the strength, and the new heat lies where the flaw was planted."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from pixeval.catalog import CATALOG, find, load
from pixeval.errors import InputError
from pixeval.heatmap_overlay import heatmaps, overlay
from pixeval.metrics.filters import gaussian
from pixeval.metrics.flaws import GridFlaw
from pixeval.zoo.icons import load_icons


@cache
def scenes() -> list[Tensor]:
    """Three held-out icons and two photographs, as batches of one size."""
    from skimage import data

    icons = load_icons("heldout").images[[5, 50, 95]]
    photos = np.stack([data.astronaut()[:160, 150:310], data.chelsea()[40:200, 120:280]])
    return [torch.from_numpy(array.copy()).permute(0, 3, 1, 2).float() / 255 for array in (icons, photos)]


def blurred(images: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return images
    return torch.cat([gaussian(images[:, c : c + 1], sigma) for c in range(3)], 1)


def grid(images: Tensor, levels: float) -> Tensor:
    height, width = images.shape[-2:]
    offsets = torch.randn(1, 1, height // 8, width // 8, generator=torch.Generator().manual_seed(1))
    return images + levels / 255 * offsets.repeat_interleave(8, 2).repeat_interleave(8, 3)


def banded(images: Tensor, levels: float) -> Tensor:
    return images if levels == 0 else (images * 255 / levels).round() * levels / 255


def noisy(images: Tensor, levels: float) -> Tensor:
    return images + levels / 255 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))


def vivid(images: Tensor, amount: float) -> Tensor:
    grey = images.mean(1, keepdim=True)
    return grey + (images - grey) * (1 + amount)


PLANTED: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "blur_flaw": (blurred, (0, 0.8, 1.2, 2)),
    "grid_flaw": (grid, (0, 4, 8, 14)),
    "banding_flaw": (banded, (0, 2, 4, 8)),
    "noise_flaw": (noisy, (0, 5, 12, 30)),
    "oversaturation_flaw": (vivid, (0, 0.8, 1.5, 3)),
}


def eight_bit(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


def planted(name: str, images: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """The images with the flaw in their central quarter, and the mask of that quarter."""
    plant, _ = PLANTED[name]
    if name == "banding_flaw":  # contours show on smooth ground
        images = blurred(images, 6.0)
    height, width = images.shape[-2:]
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    return eight_bit(images * (1 - mask) + plant(images, strength) * mask), mask[:, 0]


def test_every_flaw_metric_is_planted() -> None:
    assert sorted(PLANTED) == sorted(spec.name for spec in CATALOG if spec.family == "flaws")


@pytest.mark.parametrize("scene", [0, 1], ids=["icons", "photographs"])
@pytest.mark.parametrize("name", PLANTED)
def test_value_and_heat_follow_the_planted_flaw(name: str, scene: int) -> None:
    scorer = load(find(name))
    strengths = PLANTED[name][1]
    images = [planted(name, scenes()[scene], strength) for strength in strengths]
    values = torch.stack([scorer(image) for image, _ in images])
    assert (values[1:] >= values[:-1]).all(), values
    assert (values[-1] > values[0] + 0.003).all(), values
    clean, strong = scorer.heatmap(images[0][0]), scorer.heatmap(images[-1][0])
    assert strong.shape == images[0][0][:, 0].shape
    assert strong.min() >= 0
    assert strong.max() <= 1
    gained = (strong - clean).clamp_min(0)
    inside = (gained * images[0][1]).flatten(1).sum(1) / gained.flatten(1).sum(1)
    # the region is a quarter of the image: without localisation about 0.25 would lie inside
    assert (inside > 0.55).all(), inside


def test_other_flaws_matter_less_than_the_own_one() -> None:
    images = scenes()[1]
    for name in ("grid_flaw", "noise_flaw", "oversaturation_flaw", "blur_flaw"):
        scorer = load(find(name))
        rise = {
            other: float((scorer(planted(other, images, PLANTED[other][1][-1])[0]) - scorer(images)).mean())
            for other in ("grid_flaw", "noise_flaw", "oversaturation_flaw", "blur_flaw")
        }
        assert max(rise, key=lambda other: rise[other]) == name, rise


def test_the_grid_of_lossy_webp_is_found_where_it_is() -> None:
    # the bundled icons are lossy WebP of 128 pixels, coded in blocks of 4, 8 and 16
    icons = torch.from_numpy(load_icons("heldout").images[::40]).permute(0, 3, 1, 2).float() / 255
    by_shift = [float(GridFlaw()(icons.roll((shift, shift), (2, 3))).mean()) for shift in range(4)]
    assert by_shift[0] > 2 * max(by_shift[1:])


def test_flat_images_have_no_flaw() -> None:
    for value in (0.0, 0.5, 1.0):
        images = torch.full((1, 3, 32, 40), value)
        for name in PLANTED:
            assert float(load(find(name))(images)) == 0


def test_heatmaps_by_name_and_overlay() -> None:
    images = scenes()[0]
    found = heatmaps(images, ["noise_flaw", "blur_flaw"])
    assert list(found) == ["noise_flaw", "blur_flaw"]
    assert found["blur_flaw"].shape == (3, 128, 128)
    heat = torch.zeros(128, 128)
    heat[:64] = 1
    laid = overlay(images[0], heat)
    assert laid.shape == images[0].shape
    assert laid.min() >= 0
    assert laid.max() <= 1
    below = laid[:, 64:]
    assert (below.amax(0) - below.amin(0)).max() < 1e-6
    assert (laid[0, :64] - laid[1, :64]).min() > 0.5
    with pytest.raises(InputError, match="no heat map"):
        heatmaps(images, ["sharpness"])
    with pytest.raises(InputError, match="at least 16"):
        heatmaps(images[..., :8, :8], ["noise_flaw"])
