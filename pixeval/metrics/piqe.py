"""PIQE: block artefacts and noise in the blocks that draw the eye, with masks that show which."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pixeval.metrics.filters import pad_symmetric
from pixeval.metrics.natural_scenes import normalised
from pixeval.metrics.niqe import grey_levels

BLOCK, SEGMENT = 16, 6
"""Side of a block and length of the pieces of its edges, in pixels."""
ACTIVE, IMPAIRED = 0.1, 0.1
"""A block is active above this variance; an edge piece is impaired below this standard deviation."""


class PiqeMaps(NamedTuple):
    """Boolean masks, N x H x W, constant within blocks of 16 pixels."""

    active: Tensor
    artefacts: Tensor
    """Active blocks with a flat piece of edge, as coding leaves it."""
    noise: Tensor
    """Active blocks whose deviation looks like Gaussian noise."""


class Piqe:
    """Perception-based image quality evaluator (Venkatanath et al. 2015). In [0, 100], lower is better.

    A flat image has 100. :meth:`maps` shows the blocks behind the value.
    """

    fingerprint = "piqe/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        variance, active, artefacts, noise = _judge(_blocks(images))
        distortion = artefacts * (1 - variance) + noise * variance
        score = (distortion.flatten(1).sum(1) + 1) / (active.flatten(1).sum(1) + 1)
        return (100 * score).clamp(0, 100).to(images)

    def maps(self, images: Tensor) -> PiqeMaps:
        """Which blocks are active, and which of them show artefacts or noise."""
        height, width = images.shape[-2:]
        _, *masks = _judge(_blocks(images))
        large = (m.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, :height, :width] for m in masks)
        return PiqeMaps(*large)


def _blocks(images: Tensor) -> Tensor:
    """Normalised luma as N x rows x columns x 16 x 16 blocks; the image is mirrored to whole blocks."""
    planes = grey_levels(images)
    height, width = planes.shape[-2:]
    below, beside = -height % BLOCK, -width % BLOCK
    planes = pad_symmetric(planes, below, beside)[..., below:, beside:]
    planes = (255 * planes / planes.amax((1, 2, 3), keepdim=True).clamp_min(1)).round()
    values, _ = normalised(planes, 1.0, "replicate")
    return values[:, 0].unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)


def _judge(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Variance and the three masks, each N x rows x columns."""
    variance = blocks.flatten(3).var(3)
    active = variance > ACTIVE
    edges = torch.stack((blocks[..., 0, :], blocks[..., -1, :], blocks[..., 0], blocks[..., -1]), 3)
    flattest = edges.unfold(4, SEGMENT, 1).std(5).flatten(3).amin(3)
    deviation = variance.sqrt()
    ratio = _centre_to_surround(blocks)
    unlike = (deviation - ratio).abs() / torch.maximum(deviation, ratio)
    return variance, active, active & (flattest < IMPAIRED), active & (deviation > 2 * unlike)


def _centre_to_surround(blocks: Tensor) -> Tensor:
    """Deviation of the two middle columns over that of the others; 0 where that does not exist.

    As in the authors' code, the tenth column is missing from the surround instead of the ninth.
    """
    centre = blocks[..., 7:9].flatten(3).std(3)
    others = [column for column in range(BLOCK) if column not in (7, 9)]
    return (centre / blocks[..., others].flatten(3).std(3)).nan_to_num(0.0, posinf=0.0)
