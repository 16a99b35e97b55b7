"""Where the flaws are: heat maps by metric name, and laid over the image for people."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.images import check_images, write_png
from pixeval.metrics.filters import luma

COLOUR = (0.90, 0.10, 0.45)
"""Magenta red: rare in images, and apart from grey for colour-blind eyes by its lightness."""
BORDER = (0.0, 0.55, 0.0)
STRONGEST = 0.85
"""Opacity of full heat; something of the image stays visible."""


def heatmaps(images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Heat maps of flaw metrics, each N x H x W in [0, 1], higher is worse; without gradients.

    Raises:
        InputError: a name is unknown or not a flaw metric, or the images are too small.
    """
    check_images(images)
    found = {}
    for name in names:
        spec = find(name)
        if spec.family != "flaws":
            raise InputError(f"metric {name!r} has no heat map; name one of the flaws family")
        if min(images.shape[-2:]) < spec.min_side:
            raise InputError(f"{name} needs images of at least {spec.min_side} pixels a side")
        with torch.no_grad():
            found[name] = load(spec).heatmap(images)
    return found


def overlay(image: Tensor, heat: Tensor) -> Tensor:
    """Lay ``heat`` (H x W in [0, 1]) over ``image`` (3 x H x W): grey underneath, colour where there is heat."""
    grey = 0.35 + 0.65 * luma(image[None])[0]
    opacity = heat.clamp(0, 1).sqrt() * STRONGEST
    return (1 - opacity) * grey.expand_as(image) + opacity * image.new_tensor(COLOUR).view(3, 1, 1)


def outlined(pixels: Tensor, mask: Tensor) -> Tensor:
    """Draw the border of ``mask`` (H x W, 0 or 1) into ``pixels`` (3 x H x W), in green, on the outside."""
    wide = F.max_pool2d(mask[None], 3, 1, 1)[0] - mask
    return pixels + wide * (pixels.new_tensor(BORDER).view(3, 1, 1) - pixels)


def write_overlay(image: Tensor, heat: Tensor, path: Path) -> str:
    """Write :func:`overlay` as PNG, atomically; returns the SHA-256 of the file."""
    return write_png(overlay(image, heat), path)
