"""How images of any size and shape are brought to the sizes that are trained at."""

import math

import torch.nn.functional as F
from torch import Tensor

WIDEST = 2.0
"""Ratio of the sides of the most elongated bucket."""
STEPS = 16
"""Sides of buckets are multiples of about this part of the model's own side: 64 pixels at 1024."""

Size = tuple[int, int]
"""Height and width in pixels."""


def bucket_sizes(resolution: Size, multiple: int) -> list[Size]:
    """Sizes from 1:2 to 2:1 with about as many pixels as ``resolution`` and never more, from tall to wide.

    Args:
        resolution: that of the model.
        multiple: what the sides must be multiples of.
    """
    area = resolution[0] * resolution[1]
    side = math.sqrt(area)
    step = multiple * max(1, round(side / STEPS / multiple))
    found = {resolution}
    for longer in range(math.ceil(side / step) * step, int(side * math.sqrt(WIDEST)) + step, step):
        shorter = int(area / longer / step) * step
        if shorter and longer / shorter <= WIDEST:
            found |= {(longer, shorter), (shorter, longer)}
    return sorted(found, key=lambda size: (size[1] / size[0], size))


def training_sizes(resolution: Size, multiple: int, buckets: bool) -> list[Size]:
    """The sizes that are trained at: ``resolution`` alone, or the buckets around it."""
    return bucket_sizes(resolution, multiple) if buckets else [resolution]


def nearest_bucket(image: Tensor, sizes: list[Size]) -> int:
    """Number of the size whose shape is nearest to that of an image, 3 x H x W; ratios are compared as logarithms."""
    ratio = math.log(image.shape[2] / image.shape[1])
    return min(range(len(sizes)), key=lambda k: (abs(math.log(sizes[k][1] / sizes[k][0]) - ratio), k))


def fit_image(image: Tensor, resolution: Size) -> Tensor:
    """3 x H x W in [0, 1], any size -> scaled to cover ``resolution`` (antialiased), centre crop, [-1, 1]."""
    height, width = resolution
    if tuple(image.shape[1:]) != resolution:
        scale = max(height / image.shape[1], width / image.shape[2])
        size = [max(height, round(image.shape[1] * scale)), max(width, round(image.shape[2] * scale))]
        image = F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        image = image[:, top : top + height, left : left + width]
    return image * 2 - 1


def fit_marks(marks: Tensor | None, image: Tensor, resolution: Size) -> Tensor | None:
    """1 x h x w marks on the whole of ``image`` (3 x H x W) -> the same crop as :func:`fit_image`, in [0, 1]."""
    if marks is None:
        return None
    size = [int(side) for side in image.shape[1:]]
    whole = F.interpolate(marks[None], size, mode="bilinear", antialias=True)[0]
    return (fit_image(whole, resolution) / 2 + 0.5).clamp(0, 1)
