"""Distances of decoded images against float64 references and gradients written out here."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.pixel_losses import charbonnier, emphasis, feature_distance, inliers, pixel_sft, pyramid

SHAPE = (3, 3, 16, 16)


def draw(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights() -> Tensor:
    marks = torch.zeros(3, 1, 16, 16)
    marks[:, :, :4, :8] = 1
    return emphasis(marks, 4.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_squares_and_charbonnier_equal_float64_references_with_their_gradients(weighted: bool) -> None:
    decoded, target, weight = draw(0).requires_grad_(), draw(1), weights() if weighted else None
    difference = (decoded.detach() - target).double().numpy()
    factor = 1.0 if weight is None else weight.double().numpy()
    elements = 3 * 16 * 16
    root = np.sqrt(difference**2 + 1e-6)
    for loss, values, slopes in (
        (pixel_sft, difference**2, 2 * difference),
        (charbonnier, root - 1e-3, difference / root),
    ):
        found = loss(decoded, target, weight)
        expected = (factor * values).reshape(3, -1).mean(1)
        torch.testing.assert_close(found.detach().double(), torch.from_numpy(expected), rtol=1e-5, atol=0)
        (gradient,) = torch.autograd.grad(found.sum(), decoded)
        wanted = torch.from_numpy(factor * slopes / elements)
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-9)
        assert float(loss(target, target, weight).abs().max()) == 0


def test_the_pyramid_keeps_each_pattern_in_its_band() -> None:
    zero = torch.zeros(1, 3, 16, 16)
    flat = torch.full_like(zero, 0.3)
    checkers = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    squares = checkers.repeat_interleave(2, 0).repeat_interleave(2, 1)[:16, :16]
    assert float(pyramid(flat, zero)) == pytest.approx(0.3 / 4)
    assert float(pyramid(checkers.expand_as(zero), zero)) == pytest.approx(1 / 4)
    assert float(pyramid(squares.expand_as(zero), zero)) == pytest.approx(1 / 4)
    both = (flat + 0.5 * checkers + 0.25 * squares).expand_as(zero)
    assert float(pyramid(both, zero)) == pytest.approx((0.3 + 0.5 + 0.25) / 4)


def test_the_pyramid_equals_a_float64_reference() -> None:
    decoded, target, weight = draw(0), draw(1), weights()
    difference, place, bands = (decoded - target).double().numpy(), weight.double().numpy(), []
    for _ in range(3):
        n, c, h, w = difference.shape
        coarse = difference.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
        fine = difference - coarse.repeat(2, 2).repeat(2, 3)
        bands.append((np.abs(fine) * place).reshape(n, -1).mean(1))
        difference, place = coarse, place.reshape(n, 1, h // 2, 2, w // 2, 2).mean((3, 5))
    bands.append((np.abs(difference) * place).reshape(3, -1).mean(1))
    expected = torch.from_numpy(np.mean(bands, 0))
    torch.testing.assert_close(pyramid(decoded, target, weight).double(), expected, rtol=1e-5, atol=0)
    assert pyramid(draw(0, (1, 3, 5, 3)), draw(1, (1, 3, 5, 3))).shape == (1,)


def test_weights_have_mean_one_and_the_stated_ratio() -> None:
    marks = torch.zeros(2, 1, 8, 8)
    marks[0, :, :2] = 1
    weight = emphasis(marks, 4.0)
    torch.testing.assert_close(weight.mean((1, 2, 3)), torch.ones(2))
    assert float(weight[0, 0, 0, 0] / weight[0, 0, 7, 7]) == pytest.approx(5.0)
    assert torch.equal(weight[1], torch.ones(1, 8, 8))
    left_out = emphasis(marks, -1.0)
    assert float(left_out[0, :, :2].max()) == 0
    torch.testing.assert_close(left_out[0].mean(), torch.tensor(1.0))
    assert bool(torch.isfinite(emphasis(torch.ones(1, 1, 4, 4), -1.0)).all())


def test_gradient_mass_moves_to_the_marked_region_by_the_closed_form() -> None:
    """With errors of one size, a region of share p gets (1 + kappa) p / (1 + kappa p) of the gradient."""
    marks = torch.zeros(1, 1, 16, 16)
    marks[:, :, 4:8, 4:12] = 1
    share, kappa = 32 / 256, 4.0
    decoded = (torch.randint(0, 2, (1, 3, 16, 16), generator=torch.Generator().manual_seed(0)) * 2.0 - 1) * 0.1
    decoded.requires_grad_()
    for loss in (pixel_sft, charbonnier):
        for weight, expected in ((None, share), (emphasis(marks, kappa), (1 + kappa) * share / (1 + kappa * share))):
            (gradient,) = torch.autograd.grad(loss(decoded, torch.zeros_like(decoded), weight).sum(), decoded)
            inside = float((gradient.abs() * marks).sum() / gradient.abs().sum())
            assert inside == pytest.approx(expected, rel=1e-5)


def reference_feature_distance(features: list[Tensor], targets: list[Tensor]) -> list[float]:
    """Without masks: layers of at most twice the latent's resolution."""
    total, weights_sum = np.zeros(len(features[0])), 0.0
    for found, wanted in zip(features, targets, strict=True):
        x, y = found.double().numpy(), wanted.double().numpy()
        deviation = y.reshape(*y.shape[:2], -1).std(2, ddof=1)[..., None, None]
        layer = 1 / (y.shape[2] / targets[0].shape[2])
        total += layer * (((x - y) / deviation) ** 2).reshape(len(x), -1).mean(1)
        weights_sum += layer
    return [float(value) for value in total / weights_sum]


def test_feature_distance_equals_a_float64_reference_and_ignores_the_scale_of_channels() -> None:
    shapes = [(2, 5, 8, 8), (2, 3, 16, 16)]
    features = [draw(i, shape) for i, shape in enumerate(shapes)]
    targets = [draw(10 + i, shape) for i, shape in enumerate(shapes)]
    found = feature_distance(features, targets)
    torch.testing.assert_close(found, torch.tensor(reference_feature_distance(features, targets)), rtol=1e-5, atol=0)
    scaled = feature_distance([7 * x for x in features], [7 * x for x in targets])
    torch.testing.assert_close(scaled, found, rtol=1e-5, atol=0)
    assert float(feature_distance(targets, targets).max()) == 0


def test_feature_distance_counts_marked_places_more() -> None:
    target = [draw(0, (1, 4, 8, 8))]
    marks = torch.zeros(1, 1, 32, 32)
    marks[..., :16, :] = 1
    above, below = target[0].clone(), target[0].clone()
    above[..., :4, :] += 1
    below[..., 4:, :] += 1
    weight = emphasis(marks, 4.0)
    ratio = feature_distance([above], target, weight) / feature_distance([below], target, weight)
    assert float(ratio) == pytest.approx(5.0, rel=1e-5)


def test_groups_of_extreme_features_are_left_out_with_a_margin() -> None:
    features = draw(0, (1, 2, 64, 64))
    features[0, 0, 20:26, 30:36] = 60
    features[0, 1, 5, 5] = 60
    kept = inliers(features)
    assert not bool(kept[0, 0, 20:26, 30:36].any())
    assert not bool(kept[0, 0, 20:26, 28:30].all())
    assert bool(kept[0, 1].all()), "a single one is not a group"
    assert float(kept.float().mean()) > 0.95
    target = [draw(1, (1, 2, 16, 16)), features]
    spoiled = [
        target[0],
        features + 100 * (~inliers(features, 3)).float(),
    ]  # as is done at four times the latent's size
    assert float(feature_distance(spoiled, target)) == pytest.approx(0, abs=1e-6)
