"""Where the flaws are: heat maps by metric name, and laid over the image for people."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.images import check_images, write_png
from pixeval.metric_spec import MetricSpec
from pixeval.metrics.filters import luma

COLOUR = (0.90, 0.10, 0.45)
"""Magenta red: rare in images, and apart from grey for colour-blind eyes by its lightness."""
BORDER = (0.0, 0.55, 0.0)
STRONGEST = 0.85
"""Opacity of full heat; something of the image stays visible."""
STRIP = 32
"""Height in pixels of the strip with the score and the colour bar."""
LEAST_WIDTH = 176
"""Narrower images are set on a white ground of this width, so that the strip can be read."""


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


def overlay(image: Tensor, heat: Tensor, full: float = 1.0) -> Tensor:
    """Lay ``heat`` (H x W in [0, 1]) over ``image`` (3 x H x W): grey underneath, colour where there is heat.

    Args:
        full: heat that is drawn at full strength, ``full_heat`` of the metric in the catalogue.
    """
    return _tinted(0.35 + 0.65 * luma(image[None])[0], heat / full)


def _tinted(grey: Tensor, share: Tensor) -> Tensor:
    """1 x H x W and H x W -> 3 x H x W; half of full heat has two thirds of the opacity, a tenth a quarter."""
    opacity = share.clamp(0, 1) ** 0.6 * STRONGEST
    return (1 - opacity) * grey.expand(3, -1, -1) + opacity * grey.new_tensor(COLOUR).view(3, 1, 1)


def outlined(pixels: Tensor, mask: Tensor) -> Tensor:
    """Draw the border of ``mask`` (H x W, 0 or 1) into ``pixels`` (3 x H x W), in green, on the outside."""
    wide = F.max_pool2d(mask[None], 3, 1, 1)[0] - mask
    return pixels + wide * (pixels.new_tensor(BORDER).view(3, 1, 1) - pixels)


def captioned(laid: Tensor, name: str, value: float, full: float) -> Tensor:
    """An overlay with a strip below: the metric and its value, and what the colours mean."""
    wide = F.pad(laid, (0, max(0, LEAST_WIDTH - laid.shape[-1])), value=1.0)
    strip = Image.new("L", (wide.shape[2], STRIP), 255)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=11)
    draw.text((4, 1), f"{name} {value:.3f}", fill=0, font=font)
    draw.text((4, 16), "heat 0", fill=0, font=font)
    draw.text((120, 16), f"{full:g}" + (" up" if full < 1 else ""), fill=0, font=font)
    text = torch.from_numpy(np.array(strip)).to(laid).div(255).expand(3, -1, -1).clone()
    text[:, 18:29, 44:116] = _tinted(laid.new_full((1, 11, 72), 0.7), torch.linspace(0, 1, 72).expand(11, -1))
    return torch.cat((wide, text), 1)


def write_overlay(image: Tensor, heat: Tensor, path: Path, spec: MetricSpec, value: float) -> str:
    """Write :func:`overlay`, :func:`captioned`, as PNG, atomically; returns the SHA-256 of the file."""
    return write_png(captioned(overlay(image, heat, spec.full_heat), spec.name, value, spec.full_heat), path)
