"""Overlap of sets, diversity and spectra: against torch-fidelity, known answers, and what each must notice."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pixeval.metrics.diversity import VendiScore
from pixeval.metrics.manifolds import Coverage, Density, Precision, Recall
from pixeval.metrics.spectrum_distance import SpectrumDistance
from pixeval.scoring.set_pass import set_score
from pixeval.spectrum_encoder import BANDS, SpectrumEncoder

OVERLAPS = [Precision(), Recall(), Density(), Coverage()]


def sets(n: int = 60, m: int = 70, shift: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(n, 6))), torch.from_numpy(rng.normal(shift, 1.0, (m, 6)))


def test_precision_and_recall_equal_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = sets()
    theirs = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=64, save_cpu_ram=False, verbose=False)
    assert Precision()(x, y) == pytest.approx(theirs["precision"], abs=1e-6)
    assert Recall()(x, y) == pytest.approx(theirs["recall"], abs=1e-6)


@pytest.mark.parametrize("metric", [*OVERLAPS, VendiScore(), SpectrumDistance()], ids=lambda m: m.fingerprint)
def test_a_resample_equals_the_value_of_the_copied_rows(metric: Precision) -> None:
    x, y = sets()
    counts = torch.from_numpy(np.random.default_rng(5).multinomial(60, np.full(60, 1 / 60), size=4)).double()
    found = metric.resampled(x, y, counts)
    copied = torch.tensor([metric(x.repeat_interleave(c.long(), 0), y) for c in counts], dtype=torch.float64)
    torch.testing.assert_close(found, copied, rtol=1e-6, atol=1e-9)


def test_precision_falls_with_strays_and_recall_with_missing_kinds() -> None:
    rng = np.random.default_rng(1)
    clusters = torch.from_numpy(rng.normal(size=(200, 4)) * 0.3 + 5 * rng.integers(0, 2, (200, 1)))
    other = torch.from_numpy(rng.normal(size=(200, 4)) * 0.3 + 5 * rng.integers(0, 2, (200, 1)))
    one_kind = clusters[clusters.mean(1) < 2.5]
    strays = torch.cat((clusters[:100], clusters[:100] + 40))
    for metric in (Recall(), Coverage()):
        assert metric(one_kind, other) < 0.7 < metric(clusters, other)
    for metric in (Precision(), Density()):
        assert metric(strays, other) < 0.6 < metric(clusters, other)
        assert metric(one_kind, other) > 0.7


def test_vendi_counts_what_differs() -> None:
    vendi = VendiScore()
    axes = torch.eye(8, dtype=torch.float64)
    assert vendi(axes, axes[:0]) == pytest.approx(8)
    assert vendi(axes[:1].expand(9, -1), axes[:0]) == pytest.approx(1)
    assert vendi(axes[:3].repeat(20, 1), axes[:0]) == pytest.approx(3)
    # more images than dimensions and fewer take different roads to the same eigenvalues
    x, _ = sets(30)
    wide = torch.cat((x, torch.zeros(30, 40, dtype=torch.float64)), 1)
    assert vendi(x, x[:0]) == pytest.approx(vendi(wide, x[:0]))
    row = set_score(vendi, x, None, "base", "vendi_score", "", "v/1")
    assert row.value is not None and row.low is not None and row.low < row.value
    assert set_score(vendi, x[:1], None, "base", "vendi_score", "", "v/1").value is None


def test_spectra_show_which_band_differs() -> None:
    encoder = SpectrumEncoder()
    noise = torch.randn(12, 1, 64, 48, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    features = encoder(0.5 + 0.1 * noise)
    assert features.shape == (12, BANDS)
    # white noise of deviation 0.1 has -20 dB in every band, at any size
    # (removing the mean takes something from the lowest)
    torch.testing.assert_close(features.mean(0)[1:], torch.full((BANDS - 1,), -20.0), atol=1.3, rtol=0)
    soft = torch.from_numpy(ndimage.gaussian_filter(noise.numpy(), (0, 0, 1.0, 1.0)))
    excess = SpectrumDistance().by_band(encoder(0.5 + 0.1 * soft), features)
    assert excess[0].abs() < 1 and (excess.diff() < 0).all() and excess[-1] < -15
    assert SpectrumDistance()(features, features) == pytest.approx(0, abs=1e-12)
    assert encoder(torch.rand(1, 3, 16, 16)).isnan().any()
    assert encoder(torch.full((1, 3, 32, 32), 0.5)).isfinite().all()
