"""Quality of single images from pixels alone: no prompt, no reference, no weights. All differentiable.

Each is a measurement with a direction that holds for photographs and renders of usual taste, not a verdict.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box_columns, box_rows, correlate, luma, pad_symmetric, sobel
from pixeval.metrics.spectrum import HIGH_BAND, band_energy

LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
TO_SIGMA = math.sqrt(math.pi / 2) / 6
"""Mean absolute response of Immerkaer's mask to the standard deviation of Gaussian noise."""
IMMERKAER = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
DAUBECHIES = [(1 - 3**0.5, 3**0.5 - 3, 3 + 3**0.5, -1 - 3**0.5)]
"""High-pass of the wavelet with two vanishing moments, times 4 sqrt(2)."""
MEDIAN_OF_NORMAL = 0.6744897501960817
"""Median of the absolute value of a standard normal variable."""
HALF_LEVEL = 0.5 / 255


class Sharpness:
    """Variance of the Laplacian of luma in [0, 1] (Pertuz et al. 2013). At least 0; higher is sharper."""

    fingerprint = "sharpness/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return correlate(luma(images), LAPLACIAN).flatten(1).var(1, correction=0)


class BlurEffect:
    """How little changes when the image is blurred again (Crete-Roffet et al. 2007).

    In [0, 1], higher is more blurred; the worse of the two axes, window 11. Equals
    ``skimage.measure.blur_effect``. An image without any edge has 1.
    """

    fingerprint = "blur_effect/1"
    window = 11

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        grey = luma(images)
        down = self._along(sobel(grey)[0], sobel(box_rows(grey, self.window))[0])
        across = self._along(sobel(grey)[1], sobel(box_columns(grey, self.window))[1])
        return torch.maximum(down, across)

    @staticmethod
    def _along(edges: Tensor, edges_blurred: Tensor) -> Tensor:
        epsilon = torch.finfo(edges.dtype).eps
        sharp, blurred = edges.abs().clamp_min(epsilon), edges_blurred.abs().clamp_min(epsilon)
        inside = (..., slice(2, -1), slice(2, -1))
        total = sharp[inside].flatten(1).sum(1)
        lost = (sharp - blurred).clamp_min(0)[inside].flatten(1).sum(1)
        return (total - lost).abs() / total


class Noise:
    """Standard deviation of additive noise in luma, estimated by Immerkaer's mask (1996).

    At least 0, in luma units (1/255 is one 8-bit step); lower is better. Fine texture counts as noise.
    """

    fingerprint = "noise/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        grey = luma(images)
        response = F.conv2d(grey, IMMERKAER.to(grey).view(1, 1, 3, 3)).abs()
        return response.flatten(1).mean(1) * TO_SIGMA


class WaveletNoise:
    """Standard deviation of additive noise in luma from the finest diagonal wavelet coefficients (Donoho 1994).

    At least 0, in luma units; lower is better. Coefficients that are 0 do not count, so flat parts of an image are left
    out; elsewhere equal to ``skimage.restoration.estimate_sigma``, which keeps the rounding errors of flat parts.
    """

    fingerprint = "wavelet_noise/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        grey = luma(images)
        taps = grey.new_tensor(DAUBECHIES) / (4 * math.sqrt(2))
        details = F.conv2d(pad_symmetric(grey, 2, 2), (taps.T @ taps)[None, None], stride=2).flatten(1).abs()
        # rounding leaves traces in flat parts; one level in one pixel and channel makes 5e-6
        kept = details > 1e-6
        ordered = torch.where(kept, details, torch.inf).sort(1).values
        number = kept.sum(1, keepdim=True)
        middle = torch.cat(((number - 1).clamp_min(0) // 2, number // 2), 1)
        return torch.where(number > 0, ordered.gather(1, middle), 0.0).mean(1) / MEDIAN_OF_NORMAL


class Colourfulness:
    """Spread and offset of the opponent colours on the 0-255 scale (Hasler and Suesstrunk 2003).

    From 0; their observers called 15 slightly, 45 averagely, 82 highly and 109 extremely colourful.
    """

    fingerprint = "colourfulness/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        red, green, blue = (images * 255).flatten(2).unbind(1)
        opponents = torch.stack((red - green, (red + green) / 2 - blue), 1)
        # the floor keeps the square root's gradient finite on grey images
        spread = opponents.var(2, correction=0).sum(1).clamp_min(1e-12).sqrt()
        offset = opponents.mean(2).square().sum(1).clamp_min(1e-12).sqrt()
        return spread + 0.3 * offset


class Contrast:
    """RMS contrast: standard deviation of luma in [0, 1] (Peli 1990). In [0, 0.5]."""

    fingerprint = "contrast/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return luma(images).flatten(1).var(1, correction=0).clamp_min(1e-14).sqrt()


class Exposure:
    """How close every channel is to the middle of the range: mean over pixels of the product over RGB of
    exp(-(v - 0.5)^2 / (2 * 0.2^2)), the well-exposedness of Mertens et al. (2007).

    In [0, 1], higher is better; black, white and pure colours have about 0.
    """

    fingerprint = "exposure/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return torch.exp(-(images - 0.5).square().sum(1) / (2 * 0.2**2)).flatten(1).mean(1)


class Clipping:
    """Share of pixels with a channel within half an 8-bit level of 0 or 1. In [0, 1], lower is better."""

    fingerprint = "clipping/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        clipped = ((images <= HALF_LEVEL) | (images >= 1 - HALF_LEVEL)).any(1)
        return clipped.flatten(1).to(images).mean(1)


class HighFrequency:
    """Share of the luma's spectral energy at or above 0.25 cycles per pixel (cf. Durall et al. 2020).

    In [0, 1]; falls with blur, rises with noise and with grid artefacts.
    """

    fingerprint = "high_frequency/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        grey = luma(images)
        # the floor gives a flat image the value 0
        return band_energy(grey, HIGH_BAND, 1.0) / band_energy(grey, 0.0, 1.0).clamp_min(1e-8)
