"""Statistics of natural scenes: locally normalised luma and the generalised Gaussians that photographs follow.

NIQE and BRISQUE are distances and regressions on these; they carry no weights.
"""

from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

REACH = 3
"""The window has 7 x 7 pixels."""
SIGMA = 7 / 6
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Neighbours to the right, below, and on both diagonals, in the order of the published features."""


class AsymmetricGaussian(NamedTuple):
    """A generalised Gaussian with one scale per side; each a tensor of one value per sample."""

    shape: Tensor
    left: Tensor
    """Root of the mean square of the negative values."""
    right: Tensor


def precise(planes: Tensor) -> Tensor:
    """In float64 where the device has it: shape estimates amplify rounding."""
    return planes if planes.device.type == "mps" else planes.double()


def normalised(planes: Tensor, stabiliser: float, borders: Literal["replicate", "constant"]) -> tuple[Tensor, Tensor]:
    """Luma minus its local mean, divided by its local standard deviation plus ``stabiliser``; and that deviation.

    Where luma is flat the result is exactly 0: otherwise the rounding of the mean would decide about its sign, and
    the fits, which do not depend on the scale, would describe that.

    Args:
        planes: N x 1 x H x W.
        stabiliser: one 8-bit level of ``planes``.
        borders: what lies outside: the border pixel again, or zero.
    """
    steps = torch.arange(-REACH, REACH + 1, dtype=planes.dtype, device=planes.device)
    kernel = torch.exp(-0.5 * (steps / SIGMA).square())
    kernel = kernel / kernel.sum()

    def blur(values: Tensor) -> Tensor:
        padded = F.pad(values, (REACH,) * 4, mode=borders)
        return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))

    mean = blur(planes)
    deviation = (blur(planes.square()) - mean.square()).abs().sqrt()
    values = (planes - mean) / (deviation + stabiliser)
    return torch.where(
        values.abs() < 2**14 * torch.finfo(planes.dtype).eps, torch.zeros_like(values), values
    ), deviation


@cache
def _shapes() -> tuple[Tensor, Tensor]:
    """Shapes 0.2, 0.201, ... 10 and the ratio (E|x|)^2 / E x^2 that each of them has."""
    shapes = torch.arange(0.2, 10.0005, 0.001, dtype=torch.float64)
    ratio = 2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)
    return shapes, ratio.exp()


def fit(samples: Tensor, *, continuous: bool = False, zero_is_positive: bool = False) -> AsymmetricGaussian:
    """Fit by moments (Lasmar et al. 2009) to the last axis; not a number where one side has no values.

    Args:
        continuous: interpolate the shape between the grid points; otherwise the nearest one, as NIQE's authors do.
        zero_is_positive: count zeros on the right side; otherwise on neither.
    """
    squares, negative = samples.square(), samples < 0
    positive = samples >= 0 if zero_is_positive else samples > 0
    left = ((squares * negative).sum(-1) / negative.sum(-1)).sqrt()
    right = ((squares * positive).sum(-1) / positive.sum(-1)).sqrt()
    balance = left / right
    ratio = samples.abs().mean(-1).square() / squares.mean(-1)
    ratio = ratio * (balance**3 + 1) * (balance + 1) / (balance.square() + 1).square()
    shapes, ratios = (table.to(samples) for table in _shapes())
    upper = torch.searchsorted(ratios, ratio.contiguous()).clamp(1, len(ratios) - 1)
    place = ((ratio - ratios[upper - 1]) / (ratios[upper] - ratios[upper - 1])).clamp(0, 1)
    if not continuous:
        place = (place > 0.5).to(place)
    shape = shapes[upper - 1] + place * (shapes[upper] - shapes[upper - 1])
    return AsymmetricGaussian(torch.where(ratio.isnan(), ratio, shape), left, right)


def scale(shape: Tensor) -> Tensor:
    """The factor from a standard deviation to the scale parameter of a generalised Gaussian."""
    return (0.5 * (torch.lgamma(1 / shape) - torch.lgamma(3 / shape))).exp()


def mean_of(shape: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Mean of the asymmetric generalised Gaussian with these scale parameters."""
    return (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
