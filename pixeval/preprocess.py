"""Images to what an image encoder expects: resized, cropped or padded, and normalised; on tensors, differentiably."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""By channel; of OpenAI's CLIP, and of everything trained after it on the same footing."""


def prepare(images: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """N x 3 x H x W in [0, 1] -> N x 3 x h x w, as ``open_clip.image_transform`` does for PIL images.

    Args:
        settings: ``size`` (one side, or rows and columns), ``mean`` and ``std`` by channel, ``resize_mode``
            (``shortest``, ``longest`` or ``squash``), ``interpolation`` (``bicubic`` or ``bilinear``) and
            ``fill_color`` of the padding, 0 to 255.
    """
    size = settings["size"]
    rows, columns = (size, size) if isinstance(size, int) else size
    images = _fit(images, rows, columns, settings)
    mean, std = (images.new_tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def _fit(images: Tensor, rows: int, columns: int, settings: Mapping[str, Any]) -> Tensor:
    height, width = images.shape[-2:]
    if (height, width) == (rows, columns):
        return images
    mode, kind = settings.get("resize_mode") or "shortest", settings.get("interpolation") or "bicubic"
    if mode == "squash":
        return _resize(images, rows, columns, kind)
    if mode == "longest":
        scale = min(rows / height, columns / width)
        images = _resize(images, max(1, round(height * scale)), max(1, round(width * scale)), kind)
        bottom, right = rows - images.shape[-2], columns - images.shape[-1]
        pad = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
        return F.pad(images, pad, value=float(settings.get("fill_color") or 0) / 255)
    # the crop below would drop the far ends anyway; resizing them would cost memory without bound
    images = _centre(images, min(height, 4 * width), min(width, 4 * height))
    height, width = images.shape[-2:]
    scale = max(rows / height, columns / width)
    images = _resize(images, max(rows, int(height * scale)), max(columns, int(width * scale)), kind)
    return _centre(images, rows, columns)


def _resize(images: Tensor, rows: int, columns: int, kind: str) -> Tensor:
    mode = "bilinear" if kind == "bilinear" else "bicubic"
    # bicubic overshoots; 8-bit resizers clip, and so does this
    return F.interpolate(images, (rows, columns), mode=mode, antialias=True, align_corners=False).clamp(0, 1)


def _centre(images: Tensor, rows: int, columns: int) -> Tensor:
    top, left = round((images.shape[-2] - rows) / 2), round((images.shape[-1] - columns) / 2)
    return images[..., top : top + rows, left : left + columns]
