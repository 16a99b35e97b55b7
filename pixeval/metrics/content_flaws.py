"""Too much of the same: places that repeat each other, and places without anything in them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box, gaussian, luma, pad_symmetric, sobel
from pixeval.metrics.flaw_heat import STEP, HeatMean, gradient_magnitude, ramp


class RepetitionFlaw(HeatMean):
    """Texture that recurs elsewhere in the image by a plain shift: cloned regions and tiled patterns.

    The whitened autocorrelation of luma proposes shifts of at least 16 pixels; at each, places count whose window
    of 11 pixels agrees with the shifted one (normalised correlation from 0.8, full from 0.95) and has structure in two
    directions. Regular things, such as bricks and windows, count when they are all but equal.
    """

    fingerprint = "repetition_flaw/1"
    proposals = 6
    nearest = 16

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        detail = grey - gaussian(grey, 4.0)
        textured = _corner_strength(grey)
        return torch.cat([self._one(d[None], t[None]) for d, t in zip(detail, textured, strict=True)])[:, 0]

    def _one(self, detail: Tensor, textured: Tensor) -> Tensor:
        heat = torch.zeros_like(detail)
        for down, across in self._shifts(detail):
            agree = ramp(_local_correlation(detail, detail.roll((-down, -across), (2, 3))), 0.8, 0.95)
            agree = agree * textured * textured.roll((-down, -across), (2, 3)) * _inside(detail, down, across)
            here = gaussian(agree, 3.0)
            # the flaw is in both places
            heat = torch.maximum(heat, torch.maximum(here, here.roll((down, across), (2, 3))))
        return ramp(heat, 0.1, 0.6)

    def _shifts(self, detail: Tensor) -> list[tuple[int, int]]:
        """The strongest peaks of the whitened autocorrelation, half of the plane (the other half mirrors it)."""
        height, width = detail.shape[-2:]
        spectrum = torch.fft.rfft2(detail, s=(2 * height, 2 * width))
        power = spectrum.abs().square()
        usual = F.avg_pool2d(F.pad(power, (4, 4, 4, 4), mode="replicate"), 9, 1)
        peaks = torch.fft.irfft2(power / usual.clamp_min(1e-12), s=(2 * height, 2 * width))[0, 0]
        peaks = peaks[: height * 3 // 4].roll(width, 1)[:, width // 4 : 2 * width - width // 4]
        down = torch.arange(len(peaks), device=detail.device)[:, None]
        across = torch.arange(peaks.shape[1], device=detail.device)[None] - (width - width // 4)
        far = torch.maximum(down, across.abs()) >= self.nearest
        peaks = torch.where(far, peaks, peaks.new_tensor(float("-inf")))
        highest = F.max_pool2d(peaks[None, None], 5, 1, 2)[0, 0]
        ranked = torch.where(peaks == highest, peaks, peaks.new_tensor(float("-inf"))).flatten()
        best = ranked.topk(min(self.proposals, ranked.numel()))
        columns = peaks.shape[1]
        places = best.indices[best.values.isfinite()].tolist()
        return [(place // columns, place % columns - (width - width // 4)) for place in places]


def _local_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Normalised correlation in windows of 11 pixels; 0 where there is next to nothing to compare."""
    mean_a, mean_b = box(first, 11), box(second, 11)
    variance_a = (box(first.square(), 11) - mean_a.square()).clamp_min(0)
    variance_b = (box(second.square(), 11) - mean_b.square()).clamp_min(0)
    together = box(first * second, 11) - mean_a * mean_b
    scale = (variance_a * variance_b).sqrt()
    return together / scale.clamp_min((2 * STEP) ** 2)


def _inside(like: Tensor, down: int, across: int) -> Tensor:
    """1 where the shifted place is still in the image."""
    height, width = like.shape[-2:]
    rows = torch.arange(height, device=like.device)[:, None] + down < height
    columns = torch.arange(width, device=like.device)[None] + across
    return (rows & (columns >= 0) & (columns < width)).to(like)[None, None]


def _corner_strength(grey: Tensor) -> Tensor:
    """Whether there is structure in two directions: the smaller eigenvalue of the structure tensor, as [0, 1]."""
    down, across = sobel(grey)
    a, b, c = (gaussian(product, 3.0) for product in (down.square(), down * across, across.square()))
    smaller = (a + c) / 2 - ((a - c).square() / 4 + b.square() + 1e-12).sqrt()
    return ramp(smaller.clamp_min(0).sqrt(), 2 * STEP, 6 * STEP)


class BlankFlaw(HeatMean):
    """Emptiness: the share of the image far from anything, 1 for a blank image.

    Far means more than an eighth of the shorter side away from a gradient of a few levels per pixel, so that the
    margins of an icon on white count little. All other flaw metrics are about 0 on an empty image; tuning a model
    against them alone rewards empty images, and this one shows it.
    """

    fingerprint = "blank_flaw/1"
    half = 2 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        edges = gradient_magnitude(gaussian(luma(images), 1.0)).square()
        presence = edges / (edges + self.half**2)
        reach = max(1, min(images.shape[-2:]) // 8)
        rows = F.max_pool2d(pad_symmetric(presence, reach, 0), (2 * reach + 1, 1), 1)
        return 1 - F.max_pool2d(pad_symmetric(rows, 0, reach), (1, 2 * reach + 1), 1).squeeze(1)
