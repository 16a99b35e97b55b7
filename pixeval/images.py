"""The one image convention: float32, N x 3 x H x W, RGB, [0, 1]. Files are brought to it here and nowhere else."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pixeval.errors import InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000


class UnreadableImage(Exception):
    """One image that cannot be read; the message is the reason kept in the scores."""


def read_image(path: Path) -> Tensor:
    """Read any ordinary image file as float32 3 x H x W in [0, 1].

    Orientation from EXIF is applied, transparency is laid on white, grey becomes RGB, 16-bit depth is kept.

    Raises:
        UnreadableImage: missing, truncated, not an image, or over 100 megapixels.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"cannot read {path.name}: {error.strerror or error}") from error
    return decode_image(data, path.name)


def decode_image(
    data: bytes, name: str, formats: tuple[str, ...] | None = None, most_pixels: int = MAX_PIXELS
) -> Tensor:
    """As :func:`read_image`, from the bytes of a file called ``name``.

    Args:
        formats: Pillow's names of those that are read; none for all that it knows.
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats) as opened:
            if opened.width * opened.height > most_pixels:
                size = f"{opened.width}x{opened.height}"
                raise UnreadableImage(f"{name} has {size} pixels; the limit is {most_pixels // 10**6} million")
            opened.load()
            return _to_tensor(ImageOps.exif_transpose(opened))
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        # Pillow's own message holds an address of memory, which would differ from run to run
        raise UnreadableImage(f"{name} is not an image that can be read: unknown format") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{name} is not an image that can be read: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnreadableImage(f"{name} is damaged or truncated: {error}") from error


def _to_tensor(image: Image.Image) -> Tensor:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        grey = np.asarray(image).astype(np.float32) / 65535.0
        return torch.from_numpy(grey).clamp(0, 1).expand(3, -1, -1).contiguous()
    if image.mode == "F":
        grey = np.asarray(image, dtype=np.float32)
        return torch.from_numpy(grey.copy()).clamp(0, 1).expand(3, -1, -1).contiguous()
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    array = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def check_images(images: Tensor) -> Tensor:
    """Return ``images`` if it follows the convention.

    Raises:
        InputError: naming the first broken rule.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images must be N x 3 x H x W, got shape {tuple(images.shape)}")
    if not images.dtype.is_floating_point:
        raise InputError(f"images must be floating point in [0, 1], got {images.dtype}; divide by 255")
    low, high = images.aminmax()
    if not bool(low >= -1e-4) or not bool(high <= 1 + 1e-4):
        raise InputError(f"images must lie in [0, 1], got [{float(low):.3g}, {float(high):.3g}]; rescale or clamp")
    return images


def to_uint8(images: Tensor) -> np.ndarray:
    """N x 3 x H x W in [0, 1] -> N x H x W x 3 uint8, rounded to nearest."""
    array: np.ndarray = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return array


def write_png(image: Tensor, path: Path) -> str:
    """Write 3 x H x W as PNG without metadata, atomically; returns the SHA-256 of the file."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image[None])[0]).save(buffer, "PNG", compress_level=6)
    data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    return hashlib.sha256(data).hexdigest()


def list_images(folder: Path) -> list[Path]:
    """Image files below ``folder``, by extension, sorted; hidden files and folders are left out."""
    # A link to nowhere is an image that cannot be read, and said to be one, rather than none.
    found = [p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and (p.is_file() or not p.exists())]
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
