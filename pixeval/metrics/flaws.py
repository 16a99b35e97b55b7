"""Visible flaws, as a value and a heat map per image, both in [0, 1], higher is worse. No weights, no prompt.

Each detector turns one signal into a heat map through ``s / (s + threshold)`` or a ramp, where the threshold is about
what becomes visible on a screen; the value is the mean of the map (for blur: over the places that have edges). They
find planted flaws of their own kind (``tests/test_flaws.py``) and say nothing about anatomy, text or composition.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box, gaussian, luma, pad_symmetric
from pixeval.metrics.flaw_heat import STEP, HeatMean, gradient_magnitude, ramp, saturating
from pixeval.metrics.quality import IMMERKAER


class BlurFlaw:
    """Edges without sharpness: how much of the gradient survives another blur, where there is gradient at all.

    A local form of the blur effect (Crete-Roffet et al. 2007) in 15-pixel windows. Intended softness (depth of
    field, smoke) counts as well. Value: mean over pixels weighted by the presence of edges.
    """

    fingerprint = "blur_flaw/2"

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
        edges = gradient_magnitude(grey)
        survived = torch.minimum(edges, gradient_magnitude(box(grey, 5)))
        energy = gaussian(edges, 5.0)
        # a sharp step keeps 0.4 of its gradient under this blur, a step of sigma 3 keeps 0.9
        severity = ramp(gaussian(survived, 5.0) / energy.clamp_min(1e-6), 0.45, 0.9)
        return severity, ramp(energy, 1 * STEP, 3 * STEP)


class BandingFlaw(HeatMean):
    """False contours: faint steps of 2 to 24 levels between flat plateaus, where a smooth gradient should be.

    A step counts when three pixels on both of its sides are flat and no channel jumps farther. Flat drawings with
    nearly equal colours side by side look the same to it.
    """

    fingerprint = "banding_flaw/2"
    flat = 0.75 * STEP
    threshold = 0.5 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        down = self._contours(images.transpose(-1, -2)).transpose(-1, -2)
        signal = gaussian(torch.maximum(self._contours(images), down), 4.0)
        return saturating(signal, self.threshold).squeeze(1)

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


class NoiseFlaw(HeatMean):
    """Grain where the image is otherwise smooth: Immerkaer's mask, weighted towards pixels without structure.

    Noise is the same in all directions and everywhere; texture has a grain and gaps. So the least counts of
    the estimates by Immerkaer's mask and by second differences in four directions, and of those within 7 pixels. Half
    of full heat at a standard deviation of 8 levels. Fine natural texture counts in part.
    """

    fingerprint = "noise_flaw/2"
    threshold = 8 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        structure = gradient_magnitude(gaussian(grey, 1.5))
        weight = torch.exp(-(structure / (6 * STEP)).square())
        responses = F.conv2d(pad_symmetric(grey, 1, 1), self._kernels().to(grey)).abs() * weight
        averaged = gaussian(responses.flatten(0, 1)[:, None], 3.0).view_as(responses).amin(1, keepdim=True)
        sigma = averaged / gaussian(weight, 3.0).clamp_min(1e-3)
        everywhere = gaussian(-F.max_pool2d(-sigma, 15, 1, 7), 3.0)
        # rounding to 8 bits is noise of 0.3 levels
        signal = everywhere.square() / (everywhere + 0.5 * STEP)
        return saturating(signal, self.threshold).squeeze(1)

    @staticmethod
    def _kernels() -> Tensor:
        """5 x 1 x 3 x 3: masks whose mean absolute response to white noise is its standard deviation."""
        lines = torch.zeros(4, 3, 3)
        lines[0, 1], lines[1, :, 1] = torch.tensor([1.0, -2.0, 1.0]), torch.tensor([1.0, -2.0, 1.0])
        lines[2] = torch.diag(torch.tensor([1.0, -2.0, 1.0]))
        lines[3] = lines[2].flip(0)
        masks = torch.cat((IMMERKAER[None], lines))
        # the mean absolute value of a normal variable is sqrt(2 / pi) of its standard deviation
        return (masks * math.sqrt(math.pi / 2) / masks.square().sum((1, 2), keepdim=True).sqrt())[:, None]


class OversaturationFlaw(HeatMean):
    """Colour pushed against the gamut: largest minus smallest channel from 0.75 (no heat) to 1 (full heat).

    What over-optimised rewards and high guidance tend to do. White and black never count; pure flat colours of
    drawings and logos do.
    """

    fingerprint = "oversaturation_flaw/1"

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        return ramp(images.amax(1) - images.amin(1), 0.75, 1.0)


class ClippingFlaw(HeatMean):
    """Blown whites and crushed blacks: areas pinned at 0 or 255 into which a gradient runs and is cut off.

    Per channel. An area counts as far as the values three pixels outside of it approach the limit on a slope; paper
    white and flat black that end at contours were meant, and have no heat. Where half to nine tenths of the border of
    the image are pinned, it is a ground of paper, whose objects may well fade into it: its heat counts a tenth.
    """

    fingerprint = "clipping_flaw/1"

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        n, channels, height, width = images.shape
        planes = images.reshape(n * channels, 1, height, width)
        heat = torch.maximum(self._pinned(planes), self._pinned(1 - planes))
        return heat.view(n, channels, height, width).mean(1)

    def _pinned(self, planes: Tensor) -> Tensor:
        """Heat of what is pinned at 0."""
        pinned = ramp(-planes, -1.5 * STEP, -0.5 * STEP)
        area = ramp(box(pinned, 3), 0.3, 0.8)
        ring = F.max_pool2d(area, 9, 1, 4) - F.max_pool2d(area, 5, 1, 2)
        # less is the halo of an object on paper, more is its contour; a slope has come from the limit at its own pace,
        # the shading behind a contour has not
        slope = gradient_magnitude(gaussian(planes, 0.7))
        came_by_slope = ramp(7 * slope / planes.clamp_min(STEP), 0.6, 1.2)
        cut_off = ring * came_by_slope * ramp(planes, 3 * STEP, 8 * STEP) * ramp(-planes, -70 * STEP, -40 * STEP)
        # from the border inwards, ever wider, until some border is in sight
        share, known = torch.zeros_like(planes), torch.zeros_like(planes)
        for reach in (9, 33, 129):
            seen = _wide_mean(ring, reach)
            here = ramp(seen, 0.0, 0.02) * (1 - known)
            share = share + here * _wide_mean(cut_off, reach) / seen.clamp_min(1e-6)
            known = known + here
        rows, columns = pinned[..., (0, -1), :].mean((-2, -1)), pinned[..., (0, -1)].mean((-2, -1))
        paper = ramp((rows + columns) / 2, 0.5, 0.9)[..., None, None]
        return area * share.square() * (1 - 0.9 * paper)


def _wide_mean(planes: Tensor, reach: int) -> Tensor:
    """Mean over about ``reach`` pixels a side, taken on a coarser image where that is much."""
    coarse = max(1, reach // 8)
    small = box(F.avg_pool2d(planes, coarse, coarse, ceil_mode=True, count_include_pad=False), 9)
    return F.interpolate(small, planes.shape[-2:], mode="bilinear")
