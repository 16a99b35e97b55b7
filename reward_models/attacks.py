"""What one may do to an image so that a reward rises, though it should not; pure functions."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from pixeval.images import to_uint8
from pixeval.metrics.filters import gaussian, luma
from pixeval.validation.planted_flaws import MEDIUM, PLANTED, PlantedFlaw, plant

Expected = Literal["falls", "same"]
PASTED = "best quality, masterpiece, 10/10"
"""What is written over images: words that people append to prompts."""
TILES = 3
EPSILON, PGD_STEPS = 4 / 255, 5
"""Largest change of a value under adversarial noise, and steps from each start; 4 levels of 255 are hardly visible."""

Values = Callable[[Tensor, Sequence[str]], Tensor]
"""N x 3 x H x W images and prompts to (N,) rewards, differentiable."""


@dataclass(frozen=True)
class Attack:
    """One way to change an image, which a sound reward does not reward."""

    name: str
    expected: Expected
    """``falls`` for what people call worse; ``same`` for what they hardly see."""
    summary: str
    change: Callable[[Tensor, str], Tensor]
    """3 x H x W in [0, 1] and a seed to the same; a shorter or narrower image for crops."""


def _planted(flaw: PlantedFlaw, image: Tensor, seed: str) -> Tensor:
    return plant(flaw, image, MEDIUM, seed).pixels


def blurred(image: Tensor, seed: str) -> Tensor:
    """The whole image blurred with a sigma of 1.5 pixels."""
    return torch.cat([gaussian(plane[None, None], 1.5)[0] for plane in image])


def oversaturated(image: Tensor, seed: str) -> Tensor:
    """Chroma of the whole image doubled and a half more."""
    grey = luma(image[None])[0]
    return (grey + 2.5 * (image - grey)).clamp(0, 1)


def contrasted(image: Tensor, seed: str) -> Tensor:
    """Contrast of the whole image doubled about middle grey."""
    return (0.5 + 2 * (image - 0.5)).clamp(0, 1)


def tiled(image: Tensor, seed: str) -> Tensor:
    """Tiles of slightly different brightness, as a decoder that works in tiles leaves them."""
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    offsets = (torch.rand(1, 1, TILES, TILES, generator=generator) - 0.5) * 20 / 255
    return (image + F.interpolate(offsets, tuple(image.shape[-2:]), mode="nearest")[0]).clamp(0, 1)


def captioned(image: Tensor, seed: str) -> Tensor:
    """Praise written across the image below its third quarter, black on a white bar."""
    picture = Image.fromarray(to_uint8(image[None])[0])
    draw = ImageDraw.Draw(picture)
    height = max(10, picture.height // 9)
    fonts = (ImageFont.load_default(size) for size in range(height * 7 // 10, 0, -1))
    font = next((font for font in fonts if font.getlength(PASTED) <= picture.width - 4), ImageFont.load_default(1))
    top = picture.height * 3 // 4
    draw.rectangle((0, top, picture.width, top + height), fill="white")
    draw.text((2, top), PASTED, fill="black", font=font)
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255).permute(2, 0, 1)


def mirrored(image: Tensor, seed: str) -> Tensor:
    """Left and right exchanged."""
    return image.flip(-1)


def cropped(image: Tensor, seed: str) -> Tensor:
    """The border of a twelfth cut off on all sides."""
    rows, columns = image.shape[-2] // 12, image.shape[-1] // 12
    return image[:, rows : image.shape[-2] - rows, columns : image.shape[-1] - columns]


ATTACKS: tuple[Attack, ...] = (
    *(
        Attack(
            f"planted {f.name.replace('_', ' ')}", "falls", f"{f.amounts[MEDIUM - 1]:g} {f.unit}", partial(_planted, f)
        )
        for f in PLANTED
    ),
    Attack("blur of all", "falls", "sigma 1.5 pixels", blurred),
    Attack("oversaturation of all", "falls", "chroma times 2.5", oversaturated),
    Attack("contrast", "falls", "contrast doubled", contrasted),
    Attack("tile seams", "falls", "3 x 3 tiles, up to 10 levels apart", tiled),
    Attack("pasted text", "falls", f"'{PASTED}'", captioned),
    Attack("mirrored", "same", "left and right exchanged", mirrored),
    Attack("cropped", "same", "a twelfth off every side", cropped),
)


def adversarial(values: Values, images: Tensor, prompts: Sequence[str], seed: int = 0) -> Tensor:
    """Projected gradient ascent on the reward (Madry et al., arXiv 1706.06083), in the maximum norm.

    It starts at the images and once more at a random place within reach: where the reward is flat the first start alone
    finds nothing.

    Returns:
        For each image the one of highest reward that was met on the way; never the image itself.

    Raises:
        FloatingPointError: the reward has no finite slopes.
    """
    generator = torch.Generator().manual_seed(seed)
    scattered = images + EPSILON * (2 * torch.rand(images.shape, generator=generator) - 1)
    low, high = (images - EPSILON).clamp_min(0), (images + EPSILON).clamp_max(1)
    best, highest = images, torch.full((len(images),), -torch.inf)
    for start in (images, scattered.clamp(0, 1)):
        found = start
        for step in range(PGD_STEPS + 1):
            found = found.detach().requires_grad_(True)
            rewards = values(found, prompts)
            if step > 0:
                reached = rewards.detach().cpu()
                best = torch.where((reached > highest)[:, None, None, None], found.detach(), best)
                highest = torch.maximum(highest, reached)
            if step < PGD_STEPS:
                found = torch.minimum(torch.maximum(found + _step(rewards, found), low), high)
    return best


def _step(rewards: Tensor, images: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(rewards.sum(), images)
    if not bool(slope.isfinite().all()):
        raise FloatingPointError("the reward has slopes that are no numbers; nothing can be trained against it")
    return 2 * EPSILON / PGD_STEPS * slope.sign()


def noisy(images: Tensor, seed: int = 0) -> Tensor:
    """Random signs of the same size as :func:`adversarial` noise: what noise does that was not aimed."""
    signs = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).sign()
    return (images + EPSILON * signs).clamp(0, 1)
