"""Filters against torch's own pooling and scipy, at sizes smaller and larger than their windows."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from pixeval.metrics.filters import box, gaussian, pad_symmetric, sobel, spread

SIZES = ((2, 1, 40, 53), (1, 1, 16, 17))


def planes(size: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_filters_agree_with_scipy_and_pooling(size: tuple[int, ...]) -> None:
    images = planes(size)
    for amount in (0, 3, 16, 40):
        expected = np.pad(images, ((0, 0), (0, 0), (amount, amount), (2, 2)), mode="symmetric")
        assert np.array_equal(pad_symmetric(images, amount, 2), expected)
    for side in (1, 3, 9, 25, 31):
        expected = ndimage.uniform_filter(images.numpy(), (1, 1, side, side), mode="reflect")
        np.testing.assert_allclose(box(images, side), expected, atol=1e-12)
    for sigma in (0.7, 2.0, 6.0):
        expected = ndimage.gaussian_filter(
            images.numpy(), (0, 0, sigma, sigma), radius=(0, 0, *(max(1, round(3 * sigma)),) * 2)
        )
        np.testing.assert_allclose(gaussian(images, sigma), expected, atol=1e-12)
    for radius in (0, 1, 4, 12):
        assert torch.equal(spread(images, radius), F.max_pool2d(images, 2 * radius + 1, 1, radius))
    for axis, found in zip((2, 3), sobel(images), strict=True):
        np.testing.assert_allclose(found, _sobel(images, axis), atol=1e-12)


def _sobel(images: torch.Tensor, axis: int) -> np.ndarray:
    slope = ndimage.correlate1d(images.numpy(), [-0.5, 0, 0.5], axis)
    return np.asarray(ndimage.correlate1d(slope, [0.25, 0.5, 0.25], 5 - axis))


def test_filters_have_gradients() -> None:
    images = planes((1, 1, 16, 17)).requires_grad_()
    for function in (lambda p: box(p, 5), lambda p: gaussian(p, 1.0), lambda p: spread(p, 2), lambda p: sobel(p)[0]):
        assert torch.autograd.gradcheck(function, images)
