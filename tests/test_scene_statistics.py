"""NIQE, BRISQUE, PIQE, CPBD and the smaller quality metrics: directions, masks, what has no value."""

import sys
from pathlib import Path

import pytest
import torch
from scipy import ndimage, special, stats

from pixeval.catalog import find, load
from pixeval.metrics.natural_scenes import fit, mean_of, scale
from pixeval.metrics.piqe import Piqe

sys.path.insert(0, str(Path(__file__).parent / "golden"))

import make_golden


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    return torch.from_numpy(make_golden.photographs()[:4]).permute(0, 3, 1, 2).float()


def soft(images: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))


def noisy(images: torch.Tensor, levels: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return ((images + levels / 255 * noise).clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize(
    ("name", "worsen", "strengths"),
    [
        ("niqe", soft, (0, 1.5, 3)),
        ("niqe", noisy, (0, 15, 40)),
        ("brisque", soft, (0, 1.5, 3)),
        ("brisque", noisy, (0, 15, 40)),
        ("piqe", soft, (0, 1.5, 3)),
        ("piqe", noisy, (0, 15, 40)),
        ("cpbd", soft, (0, 1, 2)),
        ("wavelet_noise", noisy, (0, 5, 15)),
        ("exposure", lambda images, gain: images * (1 - gain), (0, 0.5, 0.9)),
        ("clipping", lambda images, gain: (images * (1 + gain)).clamp(0, 1), (0, 0.5, 2)),
    ],
)
def test_direction(name: str, worsen, strengths: tuple[float, ...], photographs: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
    spec = find(name)
    means = [float(load(spec)(worsen(photographs, strength)).mean()) for strength in strengths]
    assert means == sorted(means, reverse=spec.higher_is_better), means
    assert means[0] != means[-1]


def test_the_noise_that_was_added_is_the_noise_that_is_found() -> None:
    grey = 0.5 + 0.05 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(1))
    assert float(load(find("wavelet_noise"))(grey.expand(1, 3, -1, -1))) == pytest.approx(0.05, rel=0.02)


def test_the_fit_finds_the_shape_and_the_scales() -> None:
    for shape in (0.8, 2.0, 5.0):
        draws = torch.from_numpy(stats.gennorm.rvs(shape, size=200_000, random_state=0))
        skewed = torch.where(draws < 0, 0.5 * draws, draws)
        found = fit(draws)
        assert float(found.shape) == pytest.approx(shape, rel=0.03)
        variance = special.gamma(3 / shape) / special.gamma(1 / shape)
        assert float(found.left) == pytest.approx(variance**0.5, rel=0.01)
        assert float(scale(found.shape) * found.right) == pytest.approx(1, rel=0.02)
        # each side holds half of these draws, so the mean is that of the two halves
        _, left, right = fit(skewed)
        assert float(right / left) == pytest.approx(2, rel=0.02)
    assert float(mean_of(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(1.0))) == 0
    assert fit(torch.zeros(9)).shape.isnan()


def test_piqe_shows_where() -> None:
    cat = torch.from_numpy(make_golden.photographs()[3]).permute(2, 0, 1)[None].float()[..., :150, :170]
    spoilt = cat.clone()
    spoilt[..., 64:128, 64:128] = noisy(cat, 60)[..., 64:128, 64:128]
    flat = cat.clone()
    blocks = flat[..., 64:128, 64:128].unflatten(2, (4, 16)).unflatten(4, (4, 16)).mean((3, 5), keepdim=True)
    flat[..., 64:128, 64:128] = blocks.expand(-1, -1, 4, 16, 4, 16).reshape(1, 3, 64, 64)
    clean = Piqe().maps(cat)
    assert clean.noise.shape == clean.active.shape == clean.artefacts.shape == (1, 150, 170)
    assert clean.noise.dtype == torch.bool
    inside = (slice(None), slice(64, 128), slice(64, 128))
    assert Piqe().maps(spoilt).noise[inside].float().mean() > 0.9
    assert not Piqe().maps(flat).active[:, 80:112, 80:112].any()
    assert (clean.noise <= clean.active).all() and (clean.artefacts <= clean.active).all()


@pytest.mark.parametrize("name", ["niqe", "brisque", "cpbd"])
def test_flat_images_have_no_value_rather_than_a_wrong_one(name: str) -> None:
    assert load(find(name))(torch.full((1, 3, 192, 192), 0.3)).isnan().all()
    assert find(name).undefined
