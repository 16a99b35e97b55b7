"""Image files to pictures inlined in the page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pixeval.images import UnreadableImage, read_image, to_uint8

MAX_SIDE = 384
LOSSLESS_SIDE = 256
"""Up to this size images are inlined without loss: a codec's artefacts would pass for the model's flaws."""


@dataclass(frozen=True)
class Picture:
    """One inlined image, or the reason why there is none."""

    uri: str
    """``data:image/webp;base64,...``; empty when the file could not be read."""
    width: int
    height: int
    problem: str | None = None


def picture_of(path: Path) -> Picture:
    """Read a file of any ordinary format and inline it, scaled down to at most 384 pixels a side."""
    try:
        return inline(read_image(path))
    except UnreadableImage as error:
        return Picture("", 1, 1, str(error))


def inline(image: Tensor) -> Picture:
    """Inline 3 x H x W in [0, 1]."""
    return inline_array(to_uint8(image[None])[0])


def inline_array(array: np.ndarray) -> Picture:
    """Inline H x W x 3 uint8."""
    picture = Image.fromarray(array)
    if max(picture.size) > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if max(picture.size) <= LOSSLESS_SIDE:
        picture.save(buffer, "WEBP", lossless=True, quality=80, method=4)
    else:
        picture.save(buffer, "WEBP", quality=92, method=4)
    text = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{text}", picture.width, picture.height)
