"""Seams of tiled decoding."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box_columns, box_rows, luma, pad_symmetric
from pixeval.metrics.flaw_heat import STEP, ramp, saturating

WIDE, ALONG = 17, 31
"""Pixels across a line over which restlessness is measured, and along it over which jumps are averaged."""
REACH = 16
"""Lines within so many pixels are rivals."""


class SeamFlaw:
    """A straight line across the image at which brightness or colour jumps, as between tiles decoded apart.

    A line between two columns (or rows) is judged by its coverage: the share of places along it where the jump exceeds
    those of the lines next to it. Jumps are taken relative to how restless the image is there, cut off at one and a
    half times that, so that a few strong edges do not make a line, and averaged over 31 pixels of it. Natural edges
    seldom run straight from border to border, and contours of more than 40 levels are not faint enough for a seam.
    Lines with like ones 16 and 32 pixels beside are a grid, not seams. A line counts in full when its mean jump, over
    its whole length and with its sign, exceeds those of all lines within 16 pixels. Value: coverage of the strongest
    line, scaled by its jump (half at 4 levels).
    """

    fingerprint = "seam_flaw/3"
    half = 4 * STEP
    part = 0.1
    """Of the heat, of a line whose mean jump is not higher than all others around."""

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

    def _upright(self, planes: Tensor) -> Tensor:
        jumps = planes[..., 1:] - planes[..., :-1]
        width = jumps.shape[-1]
        around = pad_symmetric(jumps, 0, 1)
        # what the neighbours do on average is the slope of the image itself
        own = jumps - (around[..., :width] + around[..., 2:]) / 2
        restless = (box_columns(own.abs(), WIDE) * WIDE - own.abs()) / (WIDE - 1)
        relative = (own / (0.5 * restless + 0.75 * STEP)).clamp(-1.5, 1.5)
        size = box_rows(relative, ALONG).abs()
        beside = pad_symmetric(size, 0, 4)
        usual = torch.stack([beside[..., k : k + width] for k in (0, 1, 2, 6, 7, 8)]).amax(0)
        # soft contours spread over three columns
        contrast = box_rows(jumps + around[..., :width] + around[..., 2:], 25).abs()
        faint = ramp(-contrast, -48 * STEP, -32 * STEP)
        covered = ramp(size - usual, 0.25, 0.55) * faint
        covered = covered.amax(1)
        coverage = covered.mean(1)
        rivals = F.pad(coverage, (32, 32))
        at_period = torch.stack([rivals[:, k : k + width] for k in (0, 16, 48, 64)]).mean(0)
        height = box_rows(own.clamp(-24 * STEP, 24 * STEP), ALONG).abs().amax(1)
        jump = (height * covered).sum(1) / covered.sum(1).clamp_min(1e-6)
        found = ramp(coverage - 3 * at_period, 0.2, 0.6) * saturating(jump, self.half)
        return found * (self.part + (1 - self.part) * _outstanding((relative * faint).mean(2).abs()))


def _outstanding(lines: Tensor) -> Tensor:
    """How far the mean jump of each line exceeds those 3 to 16 pixels beside, in any plane: N x C x W -> N x W."""
    width = lines.shape[-1]
    around = pad_symmetric(lines[:, :, None], 0, REACH)[:, :, 0]
    beside = [around[..., k : k + width] for k in range(2 * REACH + 1) if abs(k - REACH) > 2]
    return ramp((lines - torch.stack(beside).amax(0)).amax(1), 0.0, 0.2)
