"""Quality of single images from pixels alone: no prompt, no reference, no weights. All differentiable.

Each is a measurement with a direction that holds for photographs and renders of usual taste, not a verdict.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box_columns, box_rows, correlate, luma, sobel
from pixeval.metrics.spectrum import HIGH_BAND, band_energy

LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
TO_SIGMA = math.sqrt(math.pi / 2) / 6
"""Mean absolute response of Immerkaer's mask to the standard deviation of Gaussian noise."""
IMMERKAER = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])


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


class HighFrequency:
    """Share of the luma's spectral energy at or above 0.25 cycles per pixel (cf. Durall et al. 2020).

    In [0, 1]; falls with blur, rises with noise and with grid artefacts.
    """

    fingerprint = "high_frequency/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        grey = luma(images)
        # the floor gives a flat image the value 0
        return band_energy(grey, HIGH_BAND, 1.0) / band_energy(grey, 0.0, 1.0).clamp_min(1e-8)
