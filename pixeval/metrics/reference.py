"""Fidelity of an image to its own reference image of the same size, as for VAE reconstructions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import along_columns
from pixeval.metrics.spectrum import HIGH_BAND, band_energy

STABILISERS = (0.01**2, 0.03**2)
"""K1 and K2 of SSIM, squared, for values in [0, 1]."""


class Psnr:
    """Peak signal-to-noise ratio in dB over all channels, peak 1. Higher is better; infinite for equal images."""

    fingerprint = "psnr/1"

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        return -10 * torch.log10((images - references).square().flatten(1).mean(1))


class Ssim:
    """Structural similarity (Wang et al. 2004), mean over RGB and over all places where the window fits. In [-1, 1].

    11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, range 1; equals scikit-image with Gaussian weights.
    torchmetrics also averages over mirrored borders, which moves the value by about 0.01 at 128 pixels.
    """

    fingerprint = "ssim/1"

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        luminance, structure = _ssim_maps(images, references)
        return (luminance * structure).flatten(1).mean(1)


def _ssim_maps(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and the product of contrast and structure, wherever the window fits."""
    c1, c2 = STABILISERS
    mean, mean_r = _windowed(images), _windowed(references)
    variance = _windowed(images.square()) - mean.square()
    variance_r = _windowed(references.square()) - mean_r.square()
    covariance = _windowed(images * references) - mean * mean_r
    luminance = (2 * mean * mean_r + c1) / (mean.square() + mean_r.square() + c1)
    return luminance, (2 * covariance + c2) / (variance + variance_r + c2)


def _windowed(planes: Tensor) -> Tensor:
    """Gaussian means over the places where an 11 x 11 window fits."""
    steps = torch.arange(-5, 6, dtype=planes.dtype, device=planes.device)
    kernel = torch.exp(-0.5 * (steps / 1.5).square())
    kernel = kernel / kernel.sum()
    return along_columns(along_columns(planes, kernel).transpose(-1, -2), kernel).transpose(-1, -2)


class MsSsim:
    """Structural similarity over five scales (Wang, Simoncelli and Bovik 2003), mean over RGB. In [0, 1].

    Contrast and structure at every scale, luminance at the coarsest, over all places where the window fits; each scale
    is the mean of 2 x 2 pixels of the one before. Images need 176 pixels a side.
    """

    fingerprint = "ms_ssim/1"
    exponents = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        product = images.new_ones(images.shape[:2])
        for scale, exponent in enumerate(self.exponents):
            if scale > 0:
                images, references = F.avg_pool2d(images, 2), F.avg_pool2d(references, 2)
            luminance, structure = _ssim_maps(images, references)
            last = scale == len(self.exponents) - 1
            kept = luminance * structure if last else structure
            # opposite structure has no power; the floor keeps the gradient finite
            product = product * kept.mean((2, 3)).clamp_min(1e-6) ** exponent
        return product.mean(1)


class BandError:
    """Energy of the difference within a radial frequency band, relative to the reference's energy there.

    At least 0, lower is better; 1 is what a constant image would get. Undefined where the reference has no
    energy in the band.
    """

    def __init__(self, name: str, low: float, high: float) -> None:
        self.fingerprint = f"{name}/1"
        self.low, self.high = low, high

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        error = band_energy(images - references, self.low, self.high)
        present = band_energy(references, self.low, self.high)
        # rounding leaves a trace of energy in flat images: that is none
        return error / torch.where(present > 1e-9 * images[0].numel(), present, torch.zeros_like(present))


def low_band_error() -> BandError:
    """Below 0.25 cycles per pixel: shapes and shading."""
    return BandError("low_band_error", 0.0, HIGH_BAND)


def high_band_error() -> BandError:
    """At or above 0.25 cycles per pixel: detail, as a blurry decoder loses it."""
    return BandError("high_band_error", HIGH_BAND, 1.0)
