"""Flaws that lie on a lattice: the cells of latents and patches, and the period of two pixels."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box, box_rows, gaussian, luma, pad_symmetric
from pixeval.metrics.flaw_heat import STEP, HeatMean, ramp, saturating

BLOCK = 8
CAP = 16 * STEP
"""A step counts for at most this, so that one hard contour on the lattice by chance does not outweigh the rest."""


MARGIN = 1.3
"""Steps of one phase stand out of another's when they are so many times as high; by chance they often are higher."""


def lone_steps(grey: Tensor) -> Tensor:
    """Steps into each column (N x 1 x H x W), as far as they stand out of those two pixels beside, at most ``CAP``.

    Ramps and texture cancel; a line of one pixel counts on both of its sides.
    """
    steps = F.pad((grey[..., 1:] - grey[..., :-1]).abs(), (1, 0))
    around = pad_symmetric(steps, 0, 2)
    width = steps.shape[-1]
    return (steps - torch.maximum(around[..., :width], around[..., 4 : 4 + width])).clamp(0, CAP)


def phase_means(steps: Tensor, period: int) -> Tensor:
    """Mean step per phase of the column, over windows of three cells: N x period x H x ceil(W / period)."""
    n, _, height, width = steps.shape
    cells = F.pad(steps, (0, -width % period)).view(n, height, -1, period)
    across = box(cells.permute(0, 3, 1, 2).flatten(0, 1)[:, None], 3)
    return box_rows(across, 3 * period + 1).view(n, period, height, -1)


def over_columns(cells: Tensor, period: int, width: int) -> Tensor:
    """N x 1 x H x cells -> N x 1 x H x ``width``."""
    return cells.repeat_interleave(period, -1)[..., :width]


OFF_GRID = [2, 3, 4, 5, 6, 10, 11, 12, 13, 14]
"""Phases of 16 pixels that no grid has; those next to 0 and 8 share a soft step or a line."""


def phases_of_16(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Mean steps by phase of 16 columns, and of 16 rows (that one turned)."""
    return phase_means(lone_steps(grey), 16), phase_means(lone_steps(grey.transpose(-1, -2)), 16)


def both_ways(across: Tensor, down: Tensor, like: Tensor) -> Tensor:
    """Steps of columns and of rows, per cell of 16 pixels, as one smooth map of the size of ``like``."""
    steps = over_columns(across, 16, like.shape[-1]) + over_columns(down, 16, like.shape[-2]).transpose(-1, -2)
    return gaussian(steps, 2.0)


def beyond_usual(phases: Tensor, phase: int) -> Tensor:
    """How much higher the steps of ``phase`` are than those off the grid: N x 1 x H x cells."""
    return phases[:, phase : phase + 1] - phases[:, OFF_GRID].mean(1, keepdim=True)


class GridFlaw(HeatMean):
    """Steps and lines on the 8-pixel grid of latent decoders, beyond those at other places of the grid's cells.

    Compared are the steps into columns 8k with those into the strongest other column (not the next one, which a soft
    step or a line shares), over windows of three cells. Both odd and even multiples must have them, there and in
    the image as a whole, or it is the 16-pixel grid of patches. Where the blocks are JPEG's (see
    :func:`coding_evidence`), the heat is not counted here. A grid that was shifted or rescaled after generation is not
    found.
    """

    fingerprint = "grid_flaw/3"
    half = 3 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        across, down = phases_of_16(grey)
        border, middle = (
            (beyond_usual(across, k).mean((1, 2, 3)) + beyond_usual(down, k).mean((1, 2, 3))).clamp_min(0)
            for k in (0, 8)
        )
        every_8 = ramp(middle / (border + 0.02 * STEP), 0.4, 0.8)[:, None, None, None]
        heat = saturating(both_ways(self._excess(across), self._excess(down), grey) * every_8, self.half).squeeze(1)
        start = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return heat * (1 - coding_evidence(grey.detach(), start, start))

    @staticmethod
    def _excess(phases: Tensor) -> Tensor:
        on_grid = torch.minimum(phases[:, :1], phases[:, 8:9])
        return (on_grid - MARGIN * phases[:, OFF_GRID].amax(1, keepdim=True)).clamp_min(0)


class PatchGridFlaw(HeatMean):
    """Steps and lines on the 16-pixel grid of the patches of diffusion transformers (2 x 2 latents of 8 pixels).

    As :class:`GridFlaw`, but against all other phases of the 16 pixels, the middle of the cell included; where the
    middle has a quarter to half of the steps as well, it is a grid of 8 pixels and its chance excess is not counted.
    """

    fingerprint = "patch_grid_flaw/2"
    half = 3 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        across, down = phases_of_16(grey)
        wide, high = self._excess(across), self._excess(down)
        # steps where there is heat
        border, middle = (
            (wide * beyond_usual(across, k)).sum((1, 2, 3)) + (high * beyond_usual(down, k)).sum((1, 2, 3))
            for k in (0, 8)
        )
        every_8 = ramp(middle / border.clamp_min(1e-9), 0.25, 0.5)[:, None, None, None]
        return saturating(both_ways(wide, high, grey) * (1 - every_8), self.half).squeeze(1)

    @staticmethod
    def _excess(phases: Tensor) -> Tensor:
        return (phases[:, :1] - MARGIN * phases[:, 2:15].amax(1, keepdim=True)).clamp_min(0)


def coding_evidence(grey: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """How far blocks that start at (``row``, ``column``) lack high frequencies which they would have elsewhere.

    N x 1 x H x W and two (N,) -> N x H x W in [0, 1]. Only blocks with low frequencies speak; evidence spreads over
    about five blocks.
    """
    height, width = grey.shape[-2:]
    rows = -(-height // BLOCK) * BLOCK
    columns = -(-width // BLOCK) * BLOCK
    whole = F.pad(grey, (0, columns - width, 0, rows - height), mode="replicate")
    aligned, content = _missing_detail(_shifted(whole, row, column))
    elsewhere, _ = _missing_detail(_shifted(whole, row + BLOCK // 2, column + BLOCK // 2))
    lacking = gaussian((aligned - elsewhere) * content, 2.0) / gaussian(content, 2.0).clamp_min(0.02)
    evidence = ramp(lacking, 0.07, 0.18)
    wide = evidence.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    return _shifted(wide, -row, -column)[:, 0, :height, :width]


def _shifted(planes: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Each plane rolled up by its ``row`` and left by its ``column``."""
    height, width = planes.shape[-2:]
    down = (torch.arange(height, device=planes.device) + row[:, None]) % height
    across = (torch.arange(width, device=planes.device) + column[:, None]) % width
    taken = planes.gather(2, down[:, None, :, None].expand_as(planes))
    return taken.gather(3, across[:, None, None, :].expand_as(planes))


def _missing_detail(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Per block of 8 x 8: the share of high DCT coefficients below one level, and whether it has low ones."""
    basis = dct_basis().to(planes)
    n, _, height, width = planes.shape
    blocks = planes.view(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3) / STEP
    size = (basis @ blocks @ basis.T).abs()
    order = torch.arange(BLOCK, device=planes.device)
    frequency = order[:, None] + order
    high, low = frequency >= 5, (frequency >= 1) & (frequency <= 4)
    missing = (size[..., high] < 1).to(planes).mean(-1)
    content = ramp(size[..., low].square().sum(-1).sqrt(), 12.0, 48.0)
    return missing[:, None], content[:, None]


def dct_basis() -> Tensor:
    """Orthonormal DCT-II of eight samples; rows are frequencies."""
    at = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi / BLOCK * (at + 0.5) * at[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


class CheckerboardFlaw(HeatMean):
    """A pattern of period two, across, down or both, as uneven transposed convolutions leave it (Odena et al. 2016).

    The high-passed luma is multiplied by each of the three alternating signs; where the sign then agrees almost
    everywhere in a window of sigma 6 there is a pattern, and its mean is the amplitude. Edges agree on a few pixels
    only, noise on half.
    """

    fingerprint = "checkerboard_flaw/1"
    half = 3 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        height, width = grey.shape[-2:]
        rows = 1 - 2 * (torch.arange(height, device=grey.device) % 2)[:, None].to(grey)
        columns = 1 - 2 * (torch.arange(width, device=grey.device) % 2)[None].to(grey)
        across, down = _nyquist(grey), _nyquist(grey.transpose(-1, -2)).transpose(-1, -2)
        both = _nyquist(down)
        patterns = ((across - both) * columns, (down - both) * rows, both * rows * columns)
        return torch.stack([self._heat(pattern) for pattern in patterns]).amax(0).squeeze(1)

    def _heat(self, demodulated: Tensor) -> Tensor:
        # relative to the usual strength, so that few strong pixels, as on lines 8 pixels apart, do not make a pattern
        usual = (gaussian(demodulated.square(), 6.0) + STEP**2 / 4).sqrt()
        agreement = gaussian(torch.tanh(demodulated / usual), 6.0).abs() / math.tanh(1.0)
        amplitude = gaussian(demodulated.clamp(-12 * STEP, 12 * STEP), 4.0).abs()
        return ramp(agreement, 0.55, 0.85) * saturating(amplitude, self.half)


def _nyquist(planes: Tensor) -> Tensor:
    """High-pass along the row that keeps period two as it is: 1 -4 6 -4 1 over 16."""
    kernel = planes.new_tensor([1.0, -4.0, 6.0, -4.0, 1.0]).div(16).view(1, 1, 1, 5)
    return F.conv2d(pad_symmetric(planes, 0, 2), kernel)
