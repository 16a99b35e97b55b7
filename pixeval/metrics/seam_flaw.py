"""Seams of tiled decoding."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box_rows, luma, pad_symmetric
from pixeval.metrics.flaw_heat import STEP, ramp


class SeamFlaw:
    """A straight line across the image at which brightness or colour jumps, as between tiles decoded apart.

    A line between two columns (or rows) is judged by its coverage: the share of places along it where the jump,
    averaged over 25 pixels of the line, exceeds those of the lines next to it by a level and a half. Natural edges
    seldom run straight from border to border, and contours of more than 40 levels are not faint enough for a seam.
    Lines with like ones 8 or 16 pixels beside are a grid, not seams. Value: heat of the strongest line.
    """

    fingerprint = "seam_flaw/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return torch.stack([lines.amax(1) for lines in self._lines(images)], 1).amax(1)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]; the two pixels on either side of a line carry its heat."""
        height, width = images.shape[-2:]
        upright, level = self._lines(images)
        columns = F.max_pool1d(F.pad(upright, (1, 3)), 4, 1)[:, None, :].expand(-1, height, -1)
        rows = F.max_pool1d(F.pad(level, (1, 3)), 4, 1)[:, :, None].expand(-1, -1, width)
        return torch.maximum(columns[..., :width], rows[:, :height])

    def _lines(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Heat of the line before each column but the first (N x (W - 1)), and before each row."""
        grey = luma(images)
        planes = torch.cat((grey, images[:, :1] - grey, images[:, 2:] - grey), 1)
        return self._upright(planes), self._upright(planes.transpose(-1, -2))

    @staticmethod
    def _upright(planes: Tensor) -> Tensor:
        jumps = planes[..., 1:] - planes[..., :-1]
        width = jumps.shape[-1]
        around = pad_symmetric(jumps, 0, 1)
        # what the neighbours do on average is the slope of the image itself
        own = jumps - (around[..., :width] + around[..., 2:]) / 2
        size = _along(own.clamp(-12 * STEP, 12 * STEP)).abs()
        beside = pad_symmetric(size, 0, 4)
        usual = torch.stack([beside[..., k : k + width] for k in (0, 1, 2, 6, 7, 8)]).amax(0)
        # soft contours spread over three columns
        contrast = _along(jumps + around[..., :width] + around[..., 2:]).abs()
        covered = ramp(size - usual, 0.75 * STEP, 2 * STEP) * ramp(-contrast, -48 * STEP, -32 * STEP)
        coverage = covered.amax(1).mean(1)
        rivals = F.pad(coverage, (16, 16))
        at_period = torch.stack([rivals[:, k : k + width] for k in (0, 8, 24, 32)]).amax(0)
        return ramp(coverage - at_period, 0.3, 0.75)


def _along(jumps: Tensor) -> Tensor:
    """Mean over 25 pixels of each line; N x C x H x W."""
    return box_rows(jumps.flatten(0, 1)[:, None], 25).view_as(jumps)
