"""Distances between a decoded prediction and its decoded target, as pure functions, per sample and in float32.

Images are N x 3 x H x W in model range, about [-1, 1]. Every function takes an optional ``weight``, N x 1 x H x W with
a mean of 1 over each image (see :func:`emphasis`), that says where errors count; None counts all places alike.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CHARBONNIER_EPSILON = 1e-3
"""As in LapSRN (Lai et al., arXiv 1710.01992)."""
PYRAMID_LEVELS = 4
OUTLIER_TAIL = 0.02
OUTLIER_DEVIATIONS = 2.0
OUTLIER_SCALE = 4
"""Feature maps of at least this many times the latent's resolution are masked."""


def pixel_sft(decoded: Tensor, decoded_target: Tensor, weight: Tensor | None = None) -> Tensor:
    """(2) of arXiv 2409.17565: squared error, mean over the elements, images N x 3 x H x W -> (N,)."""
    return weighted_mean((decoded.float() - decoded_target.float()).square(), weight)


def charbonnier(decoded: Tensor, decoded_target: Tensor, weight: Tensor | None = None) -> Tensor:
    """``sqrt(d^2 + eps^2) - eps``, mean over the elements -> (N,): an absolute error with a slope at 0.

    Charbonnier et al. 1994 (doi:10.1109/ICIP.1994.413553); less drawn to averages of sharp answers than squares are.
    """
    difference = decoded.float() - decoded_target.float()
    return weighted_mean((difference.square() + CHARBONNIER_EPSILON**2).sqrt() - CHARBONNIER_EPSILON, weight)


def pyramid(
    decoded: Tensor, decoded_target: Tensor, weight: Tensor | None = None, levels: int = PYRAMID_LEVELS
) -> Tensor:
    """Absolute errors of the bands of a Laplacian pyramid, mean over elements and then over bands -> (N,).

    The Lap1 loss of GLO (Bojanowski et al., arXiv 1707.05776): its weights 4^j of summed bands are equal weights of
    band means. Bands are differences to 2 x 2 means; the last band is what remains.
    """
    difference = decoded.float() - decoded_target.float()
    bands: list[Tensor] = []
    for _ in range(levels - 1):
        if min(difference.shape[-2:]) < 2:
            break
        coarse = F.avg_pool2d(difference, 2)
        fine = difference - F.interpolate(coarse, size=difference.shape[-2:], mode="nearest")
        bands.append(weighted_mean(fine.abs(), weight))
        difference = coarse
        weight = None if weight is None else F.avg_pool2d(weight, 2)
    return torch.stack([*bands, weighted_mean(difference.abs(), weight)]).mean(0)


def feature_distance(
    features: Sequence[Tensor], target_features: Sequence[Tensor], weight: Tensor | None = None
) -> Tensor:
    """Latent perceptual loss (Berrada et al., arXiv 2411.04873) on a decoder's features -> (N,).

    ``sum_l w_l E_l / sum_l w_l``, where E_l is the mean squared difference of layer l in units of its channels'
    standard deviations, leaving out outliers (:func:`inliers`), and w_l is the inverse of how much the layer has been
    upsampled. Deviations are those of the target's features, a scale that the prediction cannot change; the authors'
    implementation for diffusers takes its scale from there too, as a norm over the channels at each place.

    Args:
        features: of the prediction, each N x C_l x H_l x W_l, from the latent's resolution up.
        target_features: of the target, without gradient.
        weight: where errors count, brought to each layer's resolution.
    """
    height = features[0].shape[-2]
    total, weights = torch.zeros((), device=features[0].device), 0.0
    for found, wanted in zip(features, target_features, strict=True):
        upsampled = wanted.shape[-2] / height
        deviation = wanted.float().flatten(2).std(2)[..., None, None].clamp_min(1e-6)
        squares = ((found.float() - wanted.float()) / deviation).square()
        kept = inliers(wanted, 3 if upsampled < 2 * OUTLIER_SCALE else 5) if upsampled >= OUTLIER_SCALE else None
        here = squares.new_ones(squares.shape) if kept is None else kept.float()
        if weight is not None:
            here = here * F.adaptive_avg_pool2d(weight, (squares.shape[-2], squares.shape[-1]))
        error = (squares * here).flatten(1).sum(1) / here.flatten(1).sum(1).clamp_min(1e-6)
        total, weights = total + error / upsampled, weights + 1 / upsampled
    return total / weights


def inliers(features: Tensor, opening: int = 5) -> Tensor:
    """Where features are ordinary, bool of their shape; decoders have spots of extreme activations in late layers.

    A place is an outlier when it lies more than two standard deviations beyond the 2 % or 98 % quantile of its
    channel. Single outliers are kept, groups are left out with a margin (parameters of the authors' implementation of
    arXiv 2411.04873).
    """
    flat = features.float().flatten(2)
    tail = max(1, int(flat.shape[-1] * OUTLIER_TAIL))
    low = flat.kthvalue(tail, -1).values[..., None, None]
    high = flat.kthvalue(flat.shape[-1] - tail, -1).values[..., None, None]
    margin = OUTLIER_DEVIATIONS * flat.std(-1)[..., None, None]
    ordinary = ((low - margin < features) & (features < high + margin)).float()
    grown = F.max_pool2d(ordinary, 3, 1, 1)
    return -F.max_pool2d(-grown, opening, 1, opening // 2) > 0.5


def emphasis(marks: Tensor, kappa: float) -> Tensor:
    """Weights ``1 + kappa * marks``, divided by their mean over each image, so that the loss keeps its scale.

    Args:
        marks: N x 1 x H x W in [0, 1]: where flaws are.
        kappa: 0 for no difference; above 0, marked places count 1 + kappa times as much as others; down to -1, less.
    """
    raw = 1 + kappa * marks.float()
    return raw / raw.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)


def weighted_mean(errors: Tensor, weight: Tensor | None) -> Tensor:
    """N x C x H x W errors, with N x 1 x H x W weights of mean 1 -> (N,)."""
    return (errors if weight is None else errors * weight).flatten(1).mean(1)
