"""Set distances against torch-fidelity and torchmetrics, and their bootstrap intervals."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from pixeval.metrics.distribution import Cmmd, FrechetDistance, KernelDistance
from pixeval.scoring.set_pass import interval, set_score

METRICS = [FrechetDistance(), KernelDistance(), Cmmd()]


def sets(n: int, m: int, dimensions: int = 32, shift: float = 0.2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions)) / dimensions**0.5
    first, second = rng.normal(size=(n, dimensions)) @ mixing, rng.normal(shift, 1.2, (m, dimensions)) @ mixing
    return torch.from_numpy(first), torch.from_numpy(second)


@pytest.mark.parametrize("seed", range(3))
def test_frechet_equals_torch_fidelity_and_torchmetrics(seed: int) -> None:
    x, y = sets(80, 120, seed=seed)
    found = FrechetDistance()(x, y)
    statistics = [fid_features_to_statistics(f) for f in (x, y)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert found == pytest.approx(expected, rel=1e-4)
    moments = [moment for f in (x, y) for moment in (f.mean(0), f.T.cov())]
    assert found == pytest.approx(float(_compute_fid(*moments)), rel=1e-4)
    # float32 features as encoders give them
    assert FrechetDistance()(x.float(), y.float()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_kernel_distance_equals_torch_fidelity_and_torchmetrics(seed: int) -> None:
    x, y = sets(90, 90, seed=seed)
    found = KernelDistance()(x, y)
    options = {
        "kid_kernel": "poly",
        "kid_kernel_poly_degree": 3,
        "kid_kernel_poly_gamma": None,
        "kid_kernel_poly_coef0": 1,
    }
    assert found == pytest.approx(float(kernel_mmd(x.numpy(), y.numpy(), **options)), rel=1e-4)
    assert found == pytest.approx(float(poly_mmd(x, y)), rel=1e-4)


def test_kernel_distance_is_unbiased_for_unequal_sizes() -> None:
    rng = np.random.default_rng(3)
    draws = [KernelDistance()(*(torch.from_numpy(rng.normal(size=(n, 8))) for n in (12, 40))) for _ in range(400)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 20


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.fingerprint)
def test_equal_sets_are_near_zero_and_order_does_not_matter(metric: FrechetDistance) -> None:
    x, y = sets(60, 70)
    # exactly zero where biased; the unbiased one leaves out the diagonals and falls below
    assert metric(x, x) < 1e-9
    assert metric(x, y) > metric(x, x)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert metric(x[order], y) == pytest.approx(metric(x, y), rel=1e-9)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.fingerprint)
def test_a_resample_equals_the_distance_of_the_copied_rows(metric: FrechetDistance) -> None:
    x, y = sets(50, 60)
    counts = torch.from_numpy(np.random.default_rng(5).multinomial(50, np.full(50, 0.02), size=2)).double()
    found = metric.resampled(x, y, counts)
    copied = torch.tensor([metric(x.repeat_interleave(c.long(), 0), y) for c in counts], dtype=torch.float64)
    if isinstance(metric, KernelDistance):
        assert (found < copied).all()  # copies of one image are no pair of images
    else:
        torch.testing.assert_close(found, copied, rtol=1e-6, atol=1e-9)


def test_intervals_cover_repeated_measurements() -> None:
    covered, repeats = 0, 40
    _, reference = sets(60, 400, 8, seed=0)
    rng = np.random.default_rng(9)
    mixing = np.random.default_rng(0).normal(size=(8, 8)) / 8**0.5
    truth = KernelDistance()(torch.from_numpy(rng.normal(size=(4000, 8)) @ mixing), reference)
    for _ in range(repeats):
        x = torch.from_numpy(rng.normal(size=(60, 8)) @ mixing)
        low, high = interval(KernelDistance(), x, reference, KernelDistance()(x, reference))
        covered += low <= truth <= high
    assert covered >= 0.8 * repeats


def test_small_sets_have_a_reason() -> None:
    x, y = sets(20, 40)
    row = set_score(FrechetDistance(), x, y, "base", "frechet_distance", "icons", "f/1")
    assert (row.value, row.low, row.n) == (None, None, 20)
    assert "at least 33" in (row.reason or "")
    assert set_score(Cmmd(), torch.zeros(0, 0), y, "base", "cmmd", "icons", "c/1").value is None
