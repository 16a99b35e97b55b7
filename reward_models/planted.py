"""Comparisons whose truth is known without a vote: a clean image has fewer flaws than one with a planted flaw, and that
one has fewer than the same with another on top."""

import io
import random
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from pixeval.images import to_uint8
from pixeval.validation.clean_images import CleanImage, clean_images
from pixeval.validation.planted_flaws import PLANTED, VISIBLE, plant
from pixeval.zoo.icons import load_icons
from reward_models.judgements import Judgement, Picture, picture_of

TAG = "planted flaws"
"""Tag of these comparisons, by which they are told from votes."""
LEVELS = (2, 3, 4)
"""Slight, medium and strong, in turn; level 1 can hardly be seen, and level 5 needs no teaching."""
ICONS = 96
"""Icons of the training split, whole, beside the images that detectors are tuned on."""


def planted_judgements(weight: float) -> list[Judgement]:
    """About 5,500 comparisons on bundled images that nothing is reported on.

    Each flawed image is compared with the clean one that it was made of and with one other clean image of its kind,
    so that what a clean image reads is learned too; flawed icons also with themselves under one more flaw, as images
    with one flaw only are rare.
    """
    return [*_planted(clean_images("tune"), weight, False), *_planted(_icons(), weight, True)]


def _planted(images: Sequence[CleanImage], weight: float, doubled: bool) -> list[Judgement]:
    cleans = [picture_of(png_of(image.pixels), image.name) for image in images]
    found = []
    for place, (image, clean) in enumerate(zip(images, cleans, strict=True)):
        rng = random.Random(image.name)
        for number in range(len(PLANTED)):
            made = _flawed(image, image.pixels, clean.name, number, LEVELS[(place + number) % len(LEVELS)])
            if made is None:
                continue
            pixels, flawed = made
            # another one for each flaw, so that all meet all
            other = cleans[(place + 1 + number) % len(cleans)]
            for better in dict.fromkeys((clean, other)):
                found.append(_judgement(image.source, better, flawed, weight))
            if doubled:
                second = (number + 1 + rng.randrange(len(PLANTED) - 1)) % len(PLANTED)
                more = _flawed(image, pixels, flawed.name, second, LEVELS[rng.randrange(len(LEVELS))])
                found += [] if more is None else [_judgement(image.source, flawed, more[1], weight)]
    return found


def _flawed(image: CleanImage, pixels: Tensor, name: str, number: int, level: int) -> tuple[Tensor, Picture] | None:
    """``pixels`` under one more flaw, and as a picture; None where it cannot be seen."""
    planted = plant(PLANTED[number], pixels, level, image.name)
    if planted.change < VISIBLE:
        return None
    return planted.pixels, picture_of(png_of(planted.pixels), f"{name}-{PLANTED[number].name}")


def _judgement(source: str, better: Picture, worse: Picture, weight: float) -> Judgement:
    return Judgement(f"{TAG}: {source}", better, worse, (1.0, 0.0, 0.0), "flaws", weight, tags=(TAG,))


def _icons() -> list[CleanImage]:
    """Every second one at most: the sheets of icons that detectors are reported on are made of odd rows."""
    icons = load_icons("train")
    rows = [2 * (len(icons.codes) * k // (2 * ICONS)) for k in range(ICONS)]
    return [
        CleanImage(
            icons.codes[row],
            "drawing",
            icons.codes[row],
            torch.from_numpy(icons.images[row]).permute(2, 0, 1).float() / 255,
        )
        for row in rows
    ]


def png_of(pixels: Tensor) -> bytes:
    """3 x H x W in [0, 1] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(pixels[None])[0]).save(buffer, "PNG")
    return buffer.getvalue()
