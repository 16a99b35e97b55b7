"""Power spectra by radial frequency band."""

import torch
from torch import Tensor

HIGH_BAND = 0.25
"""Cycles per pixel; half of the highest frequency along an axis. Bands are ``[0, HIGH_BAND)`` and the rest."""


def power(planes: Tensor) -> Tensor:
    """Power spectrum of N x C x H x W after removing each plane's mean and applying a Hann window.

    Without the window, unequal opposite borders would leak energy into every frequency.
    """
    height, width = planes.shape[-2:]
    window = torch.outer(_hann(height, planes), _hann(width, planes))
    centred = planes - planes.mean((-2, -1), keepdim=True)
    spectrum: Tensor = torch.fft.fft2(centred * window)
    return spectrum.abs().square()


def _hann(size: int, like: Tensor) -> Tensor:
    return torch.hann_window(size, periodic=False, dtype=like.dtype, device=like.device)


def radius(height: int, width: int, like: Tensor) -> Tensor:
    """H x W distances from zero frequency, in cycles per pixel (up to 0.71 in the corners)."""
    rows = torch.fft.fftfreq(height, dtype=like.dtype, device=like.device)
    columns = torch.fft.fftfreq(width, dtype=like.dtype, device=like.device)
    return torch.hypot(rows[:, None], columns[None, :])


def band_energy(planes: Tensor, low: float, high: float) -> Tensor:
    """Energy per image in ``low <= radius < high``, zero frequency left out; N x C x H x W -> (N,)."""
    distance = radius(planes.shape[-2], planes.shape[-1], planes)
    mask = (distance >= low) & (distance < high) & (distance > 0)
    return (power(planes) * mask).sum((-3, -2, -1))
