"""Flaws beside edges: ringing, and colour that does not keep to the edges of luma."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box, gaussian, luma, pad_symmetric, spread
from pixeval.metrics.flaw_heat import STEP, HeatMean, gradient_magnitude, ramp, saturating

BANDS = tuple(0.10 * 1.25**k for k in range(7))
"""Centres of the frequency bands in cycles per pixel, 0.10 to 0.38."""
COARSE = 4
"""Energies are kept for cells of so many pixels a side: they are averaged with a sigma of 5 pixels anyway."""


class RingingFlaw(HeatMean):
    """Waves beside strong edges, as steep low-pass filters and sharpening leave them (cf. Marziliano et al. 2004).

    Local energy in seven narrow frequency bands: images have about as much in one band as the bands two below and two
    above would suggest (their geometric mean), waves of one period have more. Counted within 12 pixels of strong edges.
    """

    fingerprint = "ringing_flaw/2"
    half = 3 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        energies = _band_energies(grey) + 1e-12
        own, usual = energies[:, 2:-2], (energies[:, :-4] * energies[:, 4:]).sqrt()
        beyond = torch.sigmoid(8 * torch.log(own / (4 * usual)))
        waves = (own.sqrt() * beyond).amax(1, keepdim=True)
        height, width = grey.shape[-2:]
        waves = F.interpolate(waves, scale_factor=float(COARSE), mode="bilinear")[..., :height, :width]
        strong = ramp(gradient_magnitude(gaussian(grey, 1.0)), 6 * STEP, 15 * STEP)
        return saturating(waves * spread(strong, 12), self.half).squeeze(1)


def _band_energies(grey: Tensor) -> Tensor:
    """N x 1 x H x W -> N x bands x ceil(H / 4) x ceil(W / 4): local mean square in bands a fifth of an octave wide."""
    margin = 4 * COARSE
    height, width = (-(-side // COARSE) for side in grey.shape[-2:])
    padded = pad_symmetric(grey, margin, margin)
    padded = F.pad(padded, (0, -grey.shape[-1] % COARSE, 0, -grey.shape[-2] % COARSE), mode="replicate")
    size = padded.shape[-2:]
    rows = torch.fft.fftfreq(size[0], dtype=grey.dtype, device=grey.device)[:, None]
    columns = torch.fft.rfftfreq(size[1], dtype=grey.dtype, device=grey.device)[None]
    octaves = torch.log2(torch.hypot(rows, columns).clamp_min(1e-3))
    passed = torch.stack([torch.exp(-0.5 * ((octaves - math.log2(centre)) / 0.2).square()) for centre in BANDS])
    waves = torch.fft.irfft2(torch.fft.rfft2(padded) * passed, s=size)
    cells = F.avg_pool2d(waves.square(), COARSE)
    energies = gaussian(cells.flatten(0, 1)[:, None], 5.0 / COARSE).view_as(cells)
    first = margin // COARSE
    return energies[..., first : first + height, first : first + width]


class ColourBleedingFlaw(HeatMean):
    """Colour smeared over edges that are sharp in luma.

    At edges of chroma, how much of the gradient survives blurs of 7, 13 and 25 pixels (as in ``blur_flaw``), less the
    same for the luma edge there: colour that is as sharp as luma has no heat, nor has colour without a luma edge within
    a few pixels. Of a wide smear more survives the wide blurs, so the value rises with its width.
    """

    fingerprint = "colour_bleeding_flaw/2"
    sigma = 5.0
    reach = 8
    blurs = ((7, 0.15, 0.4), (13, 0.2, 0.5), (25, 0.2, 0.5))
    """Side of the blur, and from where to where the difference of the surviving shares counts."""

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        planes = torch.cat((grey, images[:, :1] - grey, images[:, 2:] - grey), 1)
        alone = planes.flatten(0, 1)[:, None]
        edges = gradient_magnitude(alone)
        luma_edges, colour_edges = self._around(edges, planes)
        softer = torch.zeros_like(grey)
        for side, low, high in self.blurs:
            luma_kept, colour_kept = self._around(torch.minimum(edges, gradient_magnitude(box(alone, side))), planes)
            apart = colour_kept / colour_edges.clamp_min(1e-6) - luma_kept / luma_edges.clamp_min(1e-6)
            softer = softer + ramp(apart, low, high) / len(self.blurs)
        near = gaussian(spread(luma_edges, self.reach), self.reach / 2)
        return (softer * ramp(colour_edges, 0.5 * STEP, 2 * STEP) * ramp(near, 1.5 * STEP, 5 * STEP)).squeeze(1)

    def _around(self, edges: Tensor, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Local mean of the gradients of luma, and of both chroma planes together."""
        local = gaussian(edges, self.sigma).view_as(planes)
        return local[:, :1], local[:, 1:].sum(1, keepdim=True)
