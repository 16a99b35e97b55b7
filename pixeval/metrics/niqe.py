"""NIQE: how far the natural-scene statistics of an image lie from those of pristine photographs."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import pad_symmetric
from pixeval.metrics.natural_scenes import SHIFTS, fit, mean_of, normalised, precise, scale
from pixeval.weight_files import read_weights
from pixeval.zoo import QUALITY

BLOCK = 96
"""Side of a block in pixels, at full size."""


class Niqe:
    """Naturalness image quality evaluator (Mittal, Soundararajan and Bovik 2013) with the authors' parameters.

    From 0 (typically 2 to 20), lower is better: the distance between Gaussians over 36 statistics of 96-pixel blocks
    at two scales. Not a number where the blocks have no texture at all. Images need at least two blocks a side.
    """

    fingerprint = "niqe/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return torch.stack([_distance(rows) for rows in features(images)]).to(images)


def grey_levels(images: Tensor) -> Tensor:
    """Luma (BT.601 on stored values) in whole levels of 0-255, N x 1 x H x W in float64."""
    images = precise(images)
    weights = images.new_tensor([0.298936, 0.587043, 0.114021]).view(1, 3, 1, 1)
    return (255 * (weights * images).sum(1, keepdim=True)).round()


def features(images: Tensor) -> Tensor:
    """N x blocks x 36: at each of two scales 2 of the values and 4 of each of the products with four neighbours."""
    planes = grey_levels(images)
    rows, columns = (size // BLOCK for size in planes.shape[-2:])
    planes = planes[..., : rows * BLOCK, : columns * BLOCK]
    found = []
    for side in (BLOCK, BLOCK // 2):
        values, _ = normalised(planes, 1.0, "replicate")
        blocks = values[:, 0].unfold(1, side, side).unfold(2, side, side)
        found.append(_block_features(blocks.flatten(1, 2)))
        planes = _half(planes)
    return torch.cat(found, -1)


def _block_features(blocks: Tensor) -> Tensor:
    """N x blocks x side x side -> N x blocks x 18."""
    own = fit(blocks.flatten(2))
    factor = scale(own.shape)
    found = [own.shape, factor * (own.left + own.right) / 2]
    for shift in SHIFTS:
        product = fit((blocks * blocks.roll(shift, (2, 3))).flatten(2))
        factor = scale(product.shape)
        left, right = factor * product.left, factor * product.right
        found += [product.shape, mean_of(product.shape, left, right), left, right]
    return torch.stack(found, -1)


def _half(planes: Tensor) -> Tensor:
    """Half the size, bicubic with antialiasing over mirrored borders."""
    padded = pad_symmetric(planes, 8, 8)
    return F.interpolate(padded, scale_factor=0.5, mode="bicubic", antialias=True)[..., 4:-4, 4:-4]


def _distance(rows: Tensor) -> Tensor:
    """From the features of one image's blocks, blocks x 36."""
    mean_pristine, covariance_pristine = (tensor.to(rows) for tensor in _pristine())
    mean = rows.nanmean(0)
    whole = rows[~rows.isnan().any(1)]
    if len(whole) < 2:
        return rows.new_tensor(torch.nan)
    pooled = (covariance_pristine + whole.T.cov()) / 2
    difference = mean_pristine - mean
    squared: Tensor = difference @ torch.linalg.pinv(pooled, hermitian=True) @ difference
    return squared.clamp_min(0).sqrt()


@cache
def _pristine() -> tuple[Tensor, Tensor]:
    tensors = read_weights(QUALITY / "niqe.safetensors", "niqe")
    return tensors["mean"], tensors["covariance"]
