"""Fidelity of an image to its own reference image of the same size, as for VAE reconstructions."""

import torch
from torch import Tensor

from pixeval.metrics.spectrum import HIGH_BAND, band_energy


class Psnr:
    """Peak signal-to-noise ratio in dB over all channels, peak 1. Higher is better; infinite for equal images."""

    fingerprint = "psnr/1"

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        return -10 * torch.log10((images - references).square().flatten(1).mean(1))


class Ssim:
    """Structural similarity (Wang et al. 2004): 11 x 11 Gaussian window of sigma 1.5, mean over RGB. In [-1, 1]."""

    fingerprint = "ssim/1"

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        values = structural_similarity_index_measure(images, references, reduction="none", data_range=1.0)
        assert isinstance(values, Tensor)
        return values.reshape(len(images))


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
