"""False contours of too few levels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import gaussian, luma, pad_symmetric
from pixeval.metrics.flaw_heat import STEP, HeatMean, saturating

PERIOD = 8
"""Of the lattices that blocks, latents and patches leave, or a divisor of theirs."""


class BandingFlaw(HeatMean):
    """False contours: faint steps of 2 to 24 levels between flat plateaus, where a smooth gradient should be.

    A step counts when three pixels on both of its sides are flat and no channel jumps farther, with the square of its
    height: bands twice as coarse have half as many contours, twice as high. Contours follow the image; where
    they keep to a few columns, or rows, out of eight they are blocks, cells or a seam, and count little. So do
    the contours of a gradient that runs exactly across or down with few bands.
    """

    fingerprint = "banding_flaw/4"
    flat = 0.75 * STEP
    half = 2.0
    """Mean square height in levels."""
    least = 0.1
    """Of the same, left to chance."""
    few = 0.05
    """Levels per pixel of height of the image: fewer contours than this on a phase say nothing about a lattice."""

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        across = self._off_lattice(self._contours(images))
        down = self._off_lattice(self._contours(images.transpose(-1, -2))).transpose(-1, -2)
        signal = gaussian((torch.maximum(across, down) / STEP).square(), 7.0)
        return saturating((signal - self.least).clamp_min(0), self.half).squeeze(1)

    def _off_lattice(self, contours: Tensor) -> Tensor:
        """Contours on phases of the lattice that have far more of them than half of the phases have, weakened."""
        height, width = contours.shape[-2:]
        by_phase = F.pad(contours.sum(-2), (0, -width % PERIOD)).view(len(contours), 1, -1, PERIOD).sum(-2)
        usual = by_phase.sort(-1).values[..., 3:5].mean(-1, keepdim=True)
        weight: Tensor = ((3 * usual + self.few * STEP * height) / by_phase.clamp_min(1e-9)).clamp(max=1)
        return contours * weight[..., torch.arange(width, device=weight.device) % PERIOD][..., None, :]

    def _contours(self, images: Tensor) -> Tensor:
        """Height in luma of the contour crossed when entering each pixel along the row, else 0."""
        grey = luma(images)
        in_channels = F.pad((images[..., 1:] - images[..., :-1]).abs().amax(1, keepdim=True), (1, 0))
        steps = F.pad((grey[..., 1:] - grey[..., :-1]).abs(), (1, 0))
        is_flat = (steps < self.flat).to(grey)
        around = pad_symmetric(is_flat, 0, 3)
        width = grey.shape[-1]
        flat_sides = torch.ones_like(steps)
        for offset in (0, 1, 2, 4, 5, 6):
            flat_sides = flat_sides * around[..., offset : offset + width]
        return steps * flat_sides * ((steps >= 1.5 * STEP) & (in_channels <= 24 * STEP))
