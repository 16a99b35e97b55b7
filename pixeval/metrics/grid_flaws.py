"""Flaws that lie on a lattice: the cells of latents and patches, the blocks of JPEG, and the period of two pixels."""

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


class GridFlaw(HeatMean):
    """Steps and lines on the 8-pixel grid of latent decoders, beyond those at other places of the grid's cells.

    Compared are the steps into columns 8k with those into the strongest other column (not the next one, which a soft
    step or a line shares), over windows of three cells. Both odd and even multiples must have them, or it
    is the 16-pixel grid of patches. Where the blocks are JPEG's (see :class:`JpegFlaw`), the heat is not counted here.
    A grid that was shifted or rescaled after generation is not found.
    """

    fingerprint = "grid_flaw/2"
    half = 3 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        across = self._excess(grey)
        down = self._excess(grey.transpose(-1, -2)).transpose(-1, -2)
        heat = saturating(gaussian(across + down, 2.0), self.half).squeeze(1)
        start = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return heat * (1 - coding_evidence(grey.detach(), start, start))

    @staticmethod
    def _excess(grey: Tensor) -> Tensor:
        phases = phase_means(lone_steps(grey), 16)
        on_grid = torch.minimum(phases[:, :1], phases[:, 8:9])
        off_grid = phases[:, [2, 3, 4, 5, 6, 10, 11, 12, 13, 14]].amax(1, keepdim=True)
        return over_columns((on_grid - MARGIN * off_grid).clamp_min(0), 16, grey.shape[-1])


class PatchGridFlaw(HeatMean):
    """Steps and lines on the 16-pixel grid of the patches of diffusion transformers (2 x 2 latents of 8 pixels).

    As :class:`GridFlaw`, but against all other phases of the 16 pixels, the middle of the cell included.
    """

    fingerprint = "patch_grid_flaw/1"
    half = 3 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        across = self._excess(grey)
        down = self._excess(grey.transpose(-1, -2)).transpose(-1, -2)
        return saturating(gaussian(across + down, 2.0), self.half).squeeze(1)

    @staticmethod
    def _excess(grey: Tensor) -> Tensor:
        phases = phase_means(lone_steps(grey), 16)
        excess = phases[:, :1] - MARGIN * phases[:, 2:15].amax(1, keepdim=True)
        return over_columns(excess.clamp_min(0), 16, grey.shape[-1])


class JpegFlaw(HeatMean):
    """Blocks of JPEG coding, wherever the grid of blocks lies, so that a cropped image is judged as well.

    The likeliest phases are those with the strongest steps (cf. Wang, Sheikh and Bovik 2002). Steps alone could be a
    latent grid: the heat counts as far as the blocks also lack the high DCT frequencies that the same pixels show when
    cut into blocks elsewhere (cf. Fan and de Queiroz 2003), which is what quantisation does. The hottest phase counts.
    """

    fingerprint = "jpeg_flaw/1"
    half = 3 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        columns, rows = self._excess(grey), self._excess(grey.transpose(-1, -2))
        heats = []
        for across, column in columns:
            for down, row in rows:
                heat = saturating(gaussian(across + down.transpose(-1, -2), 2.0), self.half).squeeze(1)
                heats.append(heat * coding_evidence(grey, row, column))
        found = torch.stack(heats)
        best = found.mean((-2, -1)).argmax(0)
        return found[best, torch.arange(len(grey), device=grey.device)]

    @staticmethod
    def _excess(grey: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For the two likeliest phases: the excess of the steps there, N x 1 x H x W, and the phase, (N,)."""
        phases = phase_means(lone_steps(grey), BLOCK)
        rivals = torch.stack([phases.roll(-k, 1)[:, 2:7].amax(1) for k in range(BLOCK)], 1)
        excess = (phases - rivals).clamp_min(0)
        likeliest = excess.mean((-2, -1)).topk(2, 1).indices
        each = torch.arange(len(grey), device=grey.device)
        return [(over_columns(excess[each, k][:, None], BLOCK, grey.shape[-1]), k) for k in likeliest.unbind(1)]


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
