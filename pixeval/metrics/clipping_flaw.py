"""Highlights and shadows cut off at the limits."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box, gaussian, spread
from pixeval.metrics.flaw_heat import STEP, HeatMean, gradient_magnitude, ramp


class ClippingFlaw(HeatMean):
    """Blown whites and crushed blacks: areas pinned at 0 or 255 into which a gradient runs and is cut off.

    Per channel. An area counts as far as the values three pixels outside of it approach the limit on a slope; paper
    white and flat black that end at contours were meant, and have no heat. Where half to nine tenths of the border of
    the image are pinned, it is a ground of paper, whose objects may well fade into it: its heat counts a tenth. Where
    colour is near its purest, it is the chroma that was cut off (:class:`~pixeval.metrics.flaws.OversaturationFlaw`),
    and counts less.
    """

    fingerprint = "clipping_flaw/3"

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        n, channels, height, width = images.shape
        planes = images.reshape(n * channels, 1, height, width)
        heat = torch.zeros_like(planes)
        for turned in (planes, 1 - planes):
            # most channels of most images touch no limit, and the rest is work
            rows = (turned < 1.5 * STEP).flatten(1).any(1).nonzero()[:, 0]
            if len(rows):
                heat = heat.index_put((rows,), torch.maximum(heat[rows], _pinned(turned[rows])))
        chroma = images.amax(1) - images.amin(1)
        return heat.view(n, channels, height, width).mean(1) * (1 - ramp(chroma, 0.5, 0.9))


def _pinned(planes: Tensor) -> Tensor:
    """Heat of what is pinned at 0."""
    pinned = ramp(-planes, -1.5 * STEP, -0.5 * STEP)
    area = ramp(box(pinned, 3), 0.3, 0.8)
    ring = spread(area, 4) - spread(area, 2)
    # less is the halo of an object on paper, more is its contour; a slope has come from the limit at its own pace,
    # the shading behind a contour has not
    slope = gradient_magnitude(gaussian(planes, 0.7))
    came_by_slope = ramp(7 * slope / planes.clamp_min(STEP), 0.6, 1.2)
    cut_off = ring * came_by_slope * ramp(planes, 3 * STEP, 8 * STEP) * ramp(-planes, -70 * STEP, -40 * STEP)
    # from the border inwards, ever wider, until some border is in sight
    share, known = torch.zeros_like(planes), torch.zeros_like(planes)
    both = torch.cat((ring, cut_off))
    for reach in (9, 33, 129):
        seen, found = _wide_mean(both, reach).chunk(2)
        here = ramp(seen, 0.0, 0.02) * (1 - known)
        share = share + here * found / seen.clamp_min(1e-6)
        known = known + here
    rows, columns = pinned[..., (0, -1), :].mean((-2, -1)), pinned[..., (0, -1)].mean((-2, -1))
    paper = ramp((rows + columns) / 2, 0.5, 0.9)[..., None, None]
    return area * share.square() * (1 - 0.9 * paper)


def _wide_mean(planes: Tensor, reach: int) -> Tensor:
    """Mean over about ``reach`` pixels a side, taken on a coarser image where that is much."""
    coarse = reach // 8
    if coarse == 1:
        return box(planes, 9)
    small = box(F.avg_pool2d(planes, coarse, coarse, ceil_mode=True, count_include_pad=False), 9)
    return F.interpolate(small, planes.shape[-2:], mode="bilinear")
