"""Blocks of JPEG coding."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box, gaussian
from pixeval.metrics.flaw_heat import STEP, HeatMean, ramp, saturating
from pixeval.metrics.grid_flaws import BLOCK, dct_basis, lone_steps, over_columns, phase_means

CODED_LUMA = (0.299, 0.587, 0.114)
"""Of ITU-R BT.601, which JPEG files code; in other mixtures the coarser coding of chroma fills what luma lacks."""
FINEST = 3
"""Frequencies from here to 7, across and down, count as detail; coding loses them first."""


class JpegFlaw(HeatMean):
    """Blocks of JPEG coding, wherever the grid of blocks lies, so that a cropped image is judged as well.

    Quantisation erases high DCT frequencies in the blocks of the code, and in no blocks that start elsewhere (cf. Fan
    and de Queiroz 2003). The phase at which most is missing, and with it steps between the blocks, is tested
    against the 49 phases that share neither its rows nor its columns. Heat: the steps of that phase (cf. Wang,
    Sheikh and Bovik 2002), where blocks lack what those around them have.
    """

    fingerprint = "jpeg_flaw/3"
    half = STEP
    least = 0.2 * STEP
    """Steps below are left to chance."""

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = (images * images.new_tensor(CODED_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        height, width = grey.shape[-2:]
        across, down = _excess(grey), _excess(grey.transpose(-1, -2))
        missing = _missing_by_phase(grey)
        row, column, clarity = _likeliest(missing.mean((-2, -1)), down.mean((-2, -1)), across.mean((-2, -1)))
        each = torch.arange(len(grey), device=grey.device)
        lacking = gaussian(missing[each, row, column][:, None], 2.0)
        evidence = ramp(lacking, 0.04, 0.15) * ramp(clarity, 1.0, 2.0)[:, None, None, None]
        steps = over_columns(across[each, column][:, None], BLOCK, width)
        steps = steps + over_columns(down[each, row][:, None], BLOCK, height).transpose(-1, -2)
        heat = saturating((gaussian(steps, 2.0) - self.least).clamp_min(0), self.half).squeeze(1)
        return heat * _over_blocks(evidence[:, 0], row, column, height, width)


def _excess(grey: Tensor) -> Tensor:
    """How far the steps into the columns of each phase exceed those of all others: N x 8 x H x cells.

    The next columns are rivals too, unlike for a latent grid: blocks have no soft steps, nor lines between them.
    """
    phases = phase_means(lone_steps(grey), BLOCK)
    rivals = torch.stack([phases.roll(-k, 1)[:, 1:].amax(1) for k in range(BLOCK)], 1)
    return (phases - rivals).clamp_min(0)


def _missing_by_phase(grey: Tensor) -> Tensor:
    """Per block, how much more detail it lacks than the blocks that start within four pixels do on average.

    N x 1 x H x W -> N x 8 x 8 x rows x columns; the first two are the phase, the rest the blocks that start at it.
    """
    height, width = grey.shape[-2:]
    basis = dct_basis().to(grey)[FINEST:].T
    padded = F.pad(grey / STEP, (0, BLOCK - 1, 0, BLOCK - 1), mode="replicate").squeeze(1)
    across = (padded.unfold(-1, BLOCK, 1).reshape(-1, BLOCK) @ basis).view(len(grey), height + BLOCK - 1, -1)
    size = (across.unfold(1, BLOCK, 1).reshape(-1, BLOCK) @ basis).abs()
    # a coefficient of less than one level is missing; by degrees, so that rounding decides nothing
    missing = ramp(-size, -1.25, -0.75).view(len(grey), 1, height, width, -1).mean(-1)
    beyond = missing - box(missing, BLOCK + 1)
    # blocks that overhang the image say nothing
    beyond = beyond[..., : height - BLOCK + 1, : width - BLOCK + 1]
    beyond = F.pad(beyond, (0, BLOCK - 1 + -width % BLOCK, 0, BLOCK - 1 + -height % BLOCK))
    rows, columns = beyond.shape[-2] // BLOCK, beyond.shape[-1] // BLOCK
    return beyond.view(len(grey), rows, BLOCK, columns, BLOCK).permute(0, 2, 4, 1, 3)


def _likeliest(missing: Tensor, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The phase at which most is missing and the steps are highest, and how clearly: row, column, clarity, each (N,).

    N x 8 x 8 and two N x 8. Clarity is the distance of what is missing there from the mean over the 49 phases of other
    rows and columns, in standard deviations of these; none where the phases diagonally next to it miss nearly as much,
    as beside the lines of a latent grid.
    """
    each = torch.arange(len(missing), device=missing.device)
    lift = (missing - missing.mean((1, 2), keepdim=True)).clamp_min(0)
    joint = lift * (0.05 * STEP + down[:, :, None] + across[:, None])
    best = joint.flatten(1).argmax(1)
    row, column = best // BLOCK, best % BLOCK
    order = torch.arange(BLOCK, device=missing.device)
    others = ((order != row[:, None])[:, :, None] & (order != column[:, None])[:, None]).to(missing)
    count = (BLOCK - 1) ** 2
    mean = (missing * others).sum((1, 2)) / count
    spread = ((missing - mean[:, None, None]).square() * others).sum((1, 2)).div(count).sqrt()
    here = missing[each, row, column]
    beside = [missing[each, (row + i) % BLOCK, (column + j) % BLOCK] for i in (-1, 1) for j in (-1, 1)]
    alone = (here - torch.stack(beside).amax(0)) / here.clamp_min(1e-3)
    return row, column, (here - mean) / (spread + 1e-3) * ramp(alone, 0.6, 0.85)


def _over_blocks(blocks: Tensor, row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """N x rows x columns, of blocks that start at (``row``, ``column``) -> N x height x width."""
    down = (torch.arange(height, device=blocks.device) - row[:, None]).div(BLOCK, rounding_mode="floor").clamp_min(0)
    across = (torch.arange(width, device=blocks.device) - column[:, None]).div(BLOCK, rounding_mode="floor")
    each = torch.arange(len(blocks), device=blocks.device)[:, None, None]
    return blocks[each, down[:, :, None], across.clamp_min(0)[:, None]]
