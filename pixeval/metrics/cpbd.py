"""CPBD: the share of edges at which a viewer would not notice blur."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import sobel
from pixeval.metrics.niqe import grey_levels

BLOCK = 64
"""Side of a block in pixels; what is left over at the right and the bottom is not looked at."""
EDGE_SHARE = 0.002
"""A block counts when more than this share of its pixels are edges."""
BETA = 3.6
NOTICED = 0.63
"""Probability of detecting blur at the just noticeable width."""


class Cpbd:
    """Cumulative probability of blur detection (Narvekar and Karam 2011). In [0, 1], higher is sharper.

    Not a number where no block has edges. Edges are those of Sobel's operator within 22.5 degrees of upright, thinned
    along the rows, above twice its root mean square (MATLAB's choice); they also choose the blocks, for which the
    authors use Canny's.
    """

    fingerprint = "cpbd/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        planes = grey_levels(images)
        rows, columns = (size // BLOCK for size in planes.shape[-2:])
        edges, widths = _edges(planes)
        inside = (slice(None), slice(0, rows * BLOCK), slice(0, columns * BLOCK))
        blocks, edges, widths = (_cut(p[inside]) for p in (planes[:, 0], edges, widths))
        contrast = blocks.amax((3, 4)) - blocks.amin((3, 4))
        noticeable = torch.where(contrast <= 50, 5.0, 3.0).to(widths)[..., None, None]
        detected = 1 - torch.exp(-((widths / noticeable) ** BETA))
        counts = (edges.to(widths).mean((3, 4)) > EDGE_SHARE)[..., None, None] & edges
        unnoticed = (counts & (detected <= NOTICED)).flatten(1).sum(1)
        return (unnoticed / counts.flatten(1).sum(1)).to(images)


def _cut(planes: Tensor) -> Tensor:
    """N x H x W -> N x rows x columns x 64 x 64."""
    return planes.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)


def _edges(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Where the upright edges are, and how wide each is in pixels; both N x H x W.

    The width reaches from the minimum to the maximum of luma around the edge along its row (Marziliano et al. 2002).
    """
    down, slope = (derivative[:, 0] for derivative in sobel(planes))
    strength = slope.square()
    beside = F.pad(strength, (1, 1))
    thin = (strength >= beside[..., :-2]) & (strength > beside[..., 2:])
    upright = down.abs() < math.tan(math.pi / 8) * slope.abs()
    edges = thin & upright & (strength > 4 * strength.mean((1, 2), keepdim=True))
    rising, falling = _monotone(planes[:, 0]), _monotone(-planes[:, 0])
    return edges, torch.where(slope > 0, rising, falling).to(planes)


def _monotone(rows: Tensor) -> Tensor:
    """Steps of strict rise to the left of and to the right of each pixel, together; N x H x W."""
    rises = rows[..., 1:] > rows[..., :-1]
    return F.pad(_run(rises), (1, 0)) + F.pad(_run(rises.flip(-1)).flip(-1), (0, 1))


def _run(steps: Tensor) -> Tensor:
    """How many true values in a row end at each place."""
    place = torch.arange(1, steps.shape[-1] + 1, device=steps.device).expand(steps.shape)
    last_false = torch.where(steps, torch.zeros_like(place), place).cummax(-1).values
    return place - last_false
