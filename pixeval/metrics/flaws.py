"""Visible flaws, as a value and a heat map per image, both in [0, 1], higher is worse. No weights, no prompt.

Each detector turns one signal into a heat map through ``s / (s + threshold)`` or a ramp, where the threshold is about
what becomes visible on a screen; the value is the mean of the map (for blur: over the places that have edges). They
find planted flaws of their own kind (``tests/test_flaws.py``) and say nothing about anatomy, text or composition.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box, box_rows, gaussian, luma, pad_symmetric, sobel
from pixeval.metrics.quality import IMMERKAER, TO_SIGMA

STEP = 1 / 255
"""One level of an 8-bit image."""


def _ramp(signal: Tensor, low: float, high: float) -> Tensor:
    return ((signal - low) / (high - low)).clamp(0, 1)


class BlurFlaw:
    """Edges without sharpness: how much of the gradient survives another blur, where there is gradient at all.

    A local form of the blur effect (Crete-Roffet et al. 2007) in 15-pixel windows. Intended softness (depth of
    field, smoke) counts as well. Value: mean over pixels weighted by the presence of edges.
    """

    fingerprint = "blur_flaw/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        severity, presence = self._severity(images)
        return (severity * presence).flatten(1).sum(1) / presence.flatten(1).sum(1).clamp_min(1e-6)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        severity, presence = self._severity(images)
        return (severity * presence).squeeze(1)

    @staticmethod
    def _severity(images: Tensor) -> tuple[Tensor, Tensor]:
        grey = luma(images)
        edges = _magnitude(grey)
        survived = torch.minimum(edges, _magnitude(box(grey, 5)))
        energy = gaussian(edges, 5.0)
        # a sharp step keeps 0.4 of its gradient under this blur, a step of sigma 3 keeps 0.9
        severity = _ramp(gaussian(survived, 5.0) / energy.clamp_min(1e-6), 0.5, 0.95)
        return severity, _ramp(energy, 0.5 * STEP, 2 * STEP)


def _magnitude(grey: Tensor) -> Tensor:
    down, across = sobel(grey)
    return (down.square() + across.square() + 1e-12).sqrt()


class GridFlaw:
    """Steps on the 8-pixel grid that latent decoders and JPEG share, beyond the steps next to them.

    Luma steps across multiples of 8 against steps at the strongest of the seven other phases, over windows of three
    periods. A grid that was shifted or rescaled after generation is not found.
    """

    fingerprint = "grid_flaw/1"
    period = 8
    threshold = 3 * STEP

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return self.heatmap(images).flatten(1).mean(1)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        across = self._excess(grey)
        down = self._excess(grey.transpose(-1, -2)).transpose(-1, -2)
        signal = gaussian(across + down, 2.0)
        return (signal / (signal + self.threshold)).squeeze(1)

    def _excess(self, grey: Tensor) -> Tensor:
        """How much larger steps into columns 8, 16, ... are than those of any other phase nearby; at least 0."""
        steps = F.pad((grey[..., 1:] - grey[..., :-1]).abs(), (1, 0))
        # a step counts as far as it stands out of its neighbours, so that ramps and texture cancel; the cap keeps
        # one hard contour that lies on the grid by chance from outweighing everything
        beside = pad_symmetric(steps, 0, 1)
        alone = (steps - torch.maximum(beside[..., :-2], beside[..., 2:])).clamp(0, 16 * STEP)
        n, _, height, width = alone.shape
        blocks = F.pad(alone, (0, -width % self.period)).view(n, height, -1, self.period)
        by_phase = box(blocks.permute(0, 3, 1, 2).flatten(0, 1)[:, None], 3)
        by_phase = box_rows(by_phase, 3 * self.period + 1).view(n, self.period, height, -1)
        excess = (by_phase[:, :1] - by_phase[:, 1:].amax(1, keepdim=True)).clamp_min(0)
        return excess.repeat_interleave(self.period, -1)[..., :width]


class BandingFlaw:
    """False contours: faint steps of 2 to 24 levels between flat plateaus, where a smooth gradient should be.

    A step counts when three pixels on both of its sides are flat. Flat drawings with nearly equal colours side by
    side look the same to it.
    """

    fingerprint = "banding_flaw/1"
    flat = 0.75 * STEP
    threshold = 0.5 * STEP

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return self.heatmap(images).flatten(1).mean(1)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        down = self._contours(grey.transpose(-1, -2)).transpose(-1, -2)
        signal = gaussian(torch.maximum(self._contours(grey), down), 4.0)
        return (signal / (signal + self.threshold)).squeeze(1)

    def _contours(self, grey: Tensor) -> Tensor:
        """Height of the contour crossed when entering each pixel along the row, else 0."""
        steps = F.pad((grey[..., 1:] - grey[..., :-1]).abs(), (1, 0))
        is_flat = (steps < self.flat).to(grey)
        around = pad_symmetric(is_flat, 0, 3)
        width = grey.shape[-1]
        flat_sides = torch.ones_like(steps)
        for offset in (0, 1, 2, 4, 5, 6):
            flat_sides = flat_sides * around[..., offset : offset + width]
        return steps * flat_sides * ((steps >= 1.5 * STEP) & (steps <= 24 * STEP))


class NoiseFlaw:
    """Grain where the image is otherwise smooth: Immerkaer's mask, weighted towards pixels without structure.

    Half of full heat at a standard deviation of 8 levels. Fine natural texture counts in part.
    """

    fingerprint = "noise_flaw/1"
    threshold = 8 * STEP

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return self.heatmap(images).flatten(1).mean(1)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        response = F.conv2d(pad_symmetric(grey, 1, 1), IMMERKAER.to(grey).view(1, 1, 3, 3)).abs()
        structure = _magnitude(gaussian(grey, 1.5))
        weight = torch.exp(-(structure / (6 * STEP)).square())
        sigma = TO_SIGMA * gaussian(response * weight, 3.0) / gaussian(weight, 3.0).clamp_min(1e-3)
        signal = (sigma - 0.5 * STEP).clamp_min(0) * gaussian(weight, 3.0)
        return (signal / (signal + self.threshold)).squeeze(1)


class OversaturationFlaw:
    """Colour pushed against the gamut: largest minus smallest channel from 0.75 (no heat) to 1 (full heat).

    What over-optimised rewards and high guidance tend to do. White and black never count; pure flat colours of
    drawings and logos do.
    """

    fingerprint = "oversaturation_flaw/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return self.heatmap(images).flatten(1).mean(1)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        return _ramp(images.amax(1) - images.amin(1), 0.75, 1.0)
