"""Flaws beside edges: ringing, and colour that does not keep to the edges of luma."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box, gaussian, luma, pad_symmetric
from pixeval.metrics.flaw_heat import STEP, HeatMean, gradient_magnitude, ramp, saturating

BANDS = tuple(0.10 * 1.25**k for k in range(7))
"""Centres of the frequency bands in cycles per pixel, 0.10 to 0.38."""


class RingingFlaw(HeatMean):
    """Waves beside strong edges, as steep low-pass filters and sharpening leave them (cf. Marziliano et al. 2004).

    Local energy in seven narrow frequency bands: images have about as much in one band as the bands two below and two
    above would suggest (their geometric mean), waves of one period have more. Counted within 12 pixels of strong edges.
    """

    fingerprint = "ringing_flaw/1"
    half = 3 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        energies = _band_energies(grey)
        signals = []
        for k in range(2, len(BANDS) - 2):
            usual = (energies[k - 2] * energies[k + 2] + 1e-12).sqrt()
            beyond = torch.sigmoid(8 * torch.log((energies[k] + 1e-12) / (4 * usual)))
            signals.append((energies[k] + 1e-12).sqrt() * beyond)
        strong = ramp(gradient_magnitude(gaussian(grey, 1.0)), 6 * STEP, 15 * STEP)
        signal = torch.stack(signals).amax(0) * _spread(strong, 12)
        return saturating(signal, self.half).squeeze(1)


def _band_energies(grey: Tensor) -> list[Tensor]:
    """Local mean square of the image in each of ``BANDS``, each an octave's fifth wide."""
    margin = 16
    padded = pad_symmetric(grey, margin, margin)
    height, width = padded.shape[-2:]
    rows = torch.fft.fftfreq(height, dtype=grey.dtype, device=grey.device)[:, None]
    columns = torch.fft.rfftfreq(width, dtype=grey.dtype, device=grey.device)[None]
    octaves = torch.log2(torch.hypot(rows, columns).clamp_min(1e-3))
    spectrum = torch.fft.rfft2(padded)
    energies = []
    for centre in BANDS:
        passed = torch.exp(-0.5 * ((octaves - math.log2(centre)) / 0.2).square())
        wave = torch.fft.irfft2(spectrum * passed, s=(height, width))
        energies.append(gaussian(wave.square(), 5.0)[..., margin:-margin, margin:-margin])
    return energies


class ColourBleedingFlaw(HeatMean):
    """Colour smeared over edges that are sharp in luma.

    At edges of chroma, how much of the gradient survives another blur (as in ``blur_flaw``), less the same for the
    luma edge there: colour that is as sharp as luma has no heat, nor has colour without a luma edge.
    """

    fingerprint = "colour_bleeding_flaw/1"

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        grey = luma(images)
        chroma = torch.cat((images[:, :1] - grey, images[:, 2:] - grey), 1)
        luma_edges, luma_kept = _edges(grey)
        planes = chroma.flatten(0, 1)[:, None]
        colour_edges, colour_kept = (both.view_as(chroma).sum(1, keepdim=True) for both in _edges(planes))
        softer = ramp(colour_kept / colour_edges.clamp_min(1e-6) - luma_kept / luma_edges.clamp_min(1e-6), 0.15, 0.4)
        present = ramp(colour_edges, 0.5 * STEP, 2 * STEP) * ramp(luma_edges, 1.5 * STEP, 5 * STEP)
        return (softer * present).squeeze(1)


def _edges(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Local gradient, and what is left of it after a blur of five pixels."""
    edges = gradient_magnitude(planes)
    kept = torch.minimum(edges, gradient_magnitude(box(planes, 5)))
    return gaussian(edges, 3.0), gaussian(kept, 3.0)


def _spread(presence: Tensor, radius: int) -> Tensor:
    """Greatest presence within ``radius`` pixels."""
    return F.max_pool2d(presence, 2 * radius + 1, 1, radius)
