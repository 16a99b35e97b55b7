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

from pixeval.metrics.filters import box, gaussian, luma, pad_symmetric, spread
from pixeval.metrics.flaw_heat import STEP, HeatMean, gradient_magnitude, ramp, saturating
from pixeval.metrics.quality import IMMERKAER


class BlurFlaw:
    """Edges without sharpness: how much of the gradient survives another blur, where there is detail at all.

    A local form of the blur effect (Crete-Roffet et al. 2007) with a blur of three pixels, which blurred texture
    survives as well as blurred edges. Intended softness (depth of field, smoke) counts as well; even shading does not.
    Value: mean over pixels weighted by the presence of detail; where this fills less than a fifth of the image, the
    value falls with it.
    """

    fingerprint = "blur_flaw/3"
    least_detail = 0.2

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        severity, presence = self._severity(images)
        return (severity * presence).flatten(1).mean(1) / presence.flatten(1).mean(1).clamp_min(self.least_detail)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        severity, presence = self._severity(images)
        return (severity * presence).squeeze(1)

    @staticmethod
    def _severity(images: Tensor) -> tuple[Tensor, Tensor]:
        grey = luma(images)
        edges = gradient_magnitude(grey)
        survived = torch.minimum(edges, gradient_magnitude(box(grey, 3)))
        energy = gaussian(edges, 5.0)
        # a sharp step keeps 0.67 of its gradient under this blur; of sigma 0.8, 0.84; 1.2, 0.92; 1.8, 0.96; 4, 0.99
        severity = ramp(gaussian(survived, 5.0) / energy.clamp_min(0.05 * STEP), 0.83, 0.97)
        detail = gaussian((grey - gaussian(grey, 4.0)).abs(), 5.0)
        return severity, ramp(detail, 0.5 * STEP, 2 * STEP)


class NoiseFlaw(HeatMean):
    """Grain: variation from pixel to pixel that is the same in all directions, and texture is not.

    In the differences of the channels, where photographs have little texture and the noise of sensors and of denoising
    models is as strong as in each channel; and in luma, as far as it exceeds what variation at twice the scale
    suggests: white noise halves from scale to scale, texture grows. The least of the estimates by Immerkaer's mask and
    by second differences in four directions counts, and of those within 4 pixels. Half of full heat at a standard
    deviation of 8 levels. Fine natural texture without colour counts in part.
    """

    fingerprint = "noise_flaw/3"
    half = 8 * STEP
    cell = 4
    texture = 0.2
    """Share of the variance at twice the scale, taken as four times as strong, that is laid to texture."""
    shrinkage = (0.85, 0.77)
    """The estimates of white noise on a flat ground, colour and luma, as shares of its standard deviation."""

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey, (red, green, blue) = luma(images), (images[:, k : k + 1] for k in range(3))
        differences = torch.cat((red - green, blue - green)) / math.sqrt(2)
        first, second = self._cells(differences, self.cell).chunk(2)
        colour = self._variances((first + second) / 2)
        halved = F.avg_pool2d(grey, 2, ceil_mode=True, count_include_pad=False)
        fine, coarse = (self._variances(self._cells(p, c)) for p, c in ((grey, self.cell), (halved, self.cell // 2)))
        plain = (fine - self.texture * 4 * coarse).clamp_min(0)
        variance = torch.maximum(
            *(self._everywhere(v) / s**2 for v, s in zip((colour, plain), self.shrinkage, strict=True))
        )
        heat = saturating(variance, self.half**2)
        height, width = images.shape[-2:]
        full = F.interpolate(heat, scale_factor=float(self.cell), mode="bilinear")
        return full[:, 0, :height, :width]

    def _cells(self, planes: Tensor, side: int) -> Tensor:
        """N x 5 x h x w: mean absolute responses in cells of ``side`` pixels."""
        responses = F.conv2d(pad_symmetric(planes, 1, 1), self._kernels().to(planes)).abs()
        return F.avg_pool2d(responses, side, ceil_mode=True, count_include_pad=False)

    @staticmethod
    def _variances(cells: Tensor) -> Tensor:
        """N x 1 x h x w: the least of the five estimates, squared."""
        return gaussian(cells, 0.75).amin(1, keepdim=True).square()

    @staticmethod
    def _everywhere(variances: Tensor) -> Tensor:
        """The least of the cells around."""
        return gaussian(-spread(-variances, 1), 0.75)

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
    """Colour pushed against the gamut: areas where a channel is at its limit because of the chroma.

    What over-optimised rewards and high guidance tend to do. The cube of chroma (largest minus smallest channel) is
    the heat where, at that luma and hue, hardly more is possible, and in areas, not in single pixels: a channel at its
    limit is common in dark and in bright colours, whose chroma is small. White, black and grey have none; pure flat
    colours of drawings and logos have.
    """

    fingerprint = "oversaturation_flaw/3"

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        offset = images - grey
        room = torch.where(offset > 0, 1 - grey, grey)
        used = (offset.abs() / room.clamp_min(1e-3)).amax(1, keepdim=True)
        chroma = images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
        at_limit = ramp(used, 0.97, 1.0)
        areas = at_limit * ramp(box(at_limit, 5), 0.3, 0.9)
        return gaussian(areas * chroma**3, 3.0).squeeze(1)
