"""Comparisons whose truth is known without a vote: a clean image is better than the same with a planted flaw."""

import io

from PIL import Image
from torch import Tensor

from pixeval.images import to_uint8
from pixeval.validation.clean_images import clean_images
from pixeval.validation.planted_flaws import PLANTED, VISIBLE, plant
from reward_models.judgements import Judgement, picture_of

LEVELS = (2, 3, 4)
"""Slight, medium and strong, in turn; level 1 can hardly be seen, and level 5 needs no teaching."""


def planted_judgements(weight: float) -> list[Judgement]:
    """About 470 comparisons on the bundled images that detectors are tuned on; none on those they are reported on."""
    found = []
    for place, image in enumerate(clean_images("tune")):
        clean = picture_of(png_of(image.pixels), image.name)
        for number, flaw in enumerate(PLANTED):
            planted = plant(flaw, image.pixels, LEVELS[(place + number) % len(LEVELS)], image.name)
            if planted.change >= VISIBLE:
                flawed = picture_of(png_of(planted.pixels), f"{image.name}-{flaw.name}")
                prompt = f"planted flaws: {image.source}"
                found.append(Judgement(prompt, clean, flawed, (1.0, 0.0, 0.0), "flaws", weight))
    return found


def png_of(pixels: Tensor) -> bytes:
    """3 x H x W in [0, 1] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(pixels[None])[0]).save(buffer, "PNG")
    return buffer.getvalue()
