"""What the flaw detectors share: the value is the mean of the heat map, and signals become heat in two ways."""

from collections.abc import Sequence

from torch import Tensor

from pixeval.metrics.filters import sobel

STEP = 1 / 255
"""One level of an 8-bit image."""


class HeatMean:
    """A detector whose value is the mean of its heat map, in [0, 1]; higher is worse."""

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return self.heatmap(images).flatten(1).mean(1)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1], at the resolution of the images."""
        raise NotImplementedError


def ramp(signal: Tensor, low: float, high: float) -> Tensor:
    """0 up to ``low``, 1 from ``high``, straight between."""
    return ((signal - low) / (high - low)).clamp(0, 1)


def saturating(signal: Tensor, half: float) -> Tensor:
    """Signals of at least 0 to [0, 1): one half at ``half``."""
    return signal / (signal + half)


def gradient_magnitude(planes: Tensor) -> Tensor:
    """Length of the Sobel gradient of N x 1 x H x W, in value per pixel; never exactly 0, so that it has a slope."""
    down, across = sobel(planes)
    return (down.square() + across.square() + 1e-12).sqrt()
