"""The colour of a thing: the one of eleven basic colour terms that most of its pixels have.

No weights, and the same answer for the same pixels everywhere. Shading is allowed for by judging hue first; a thing of
many colours, or one that fills little of its box, is judged by what there is most of.
"""

import torch
from torch import Tensor

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
"""The basic terms of English (Berlin and Kay 1969)."""
SPELLINGS = {"gray": "grey", "violet": "purple"}

HUES = ((14, "red"), (41, "orange"), (68, "yellow"), (167, "green"), (258, "blue"), (310, "purple"), (345, "pink"))
"""Upper ends in degrees of the HSV circle; from 345 on it is red again."""
GREY_CHROMA = 0.12
"""Largest difference of the channels of black, grey and white."""
BLACK_VALUE, WHITE_VALUE = 0.2, 0.85
BROWN_VALUE = 0.65
"""Orange (and warm dark red and yellow) below this value is brown."""
PINK_SATURATION, PINK_VALUE = 0.6, 0.7
"""Red or purple above this value and below this saturation is pink."""


def basic_colour(name: str) -> str | None:
    """The basic term for a colour as people write it, or None where there is none."""
    word = " ".join(name.lower().split())
    word = SPELLINGS.get(word, word)
    return word if word in COLOURS else None


def colour_shares(crop: Tensor) -> Tensor:
    """3 x H x W in [0, 1] -> the share of each of :data:`COLOURS`, summing to 1, in the ellipse that fits the crop.

    The ellipse leaves out the corners of the box, which are mostly background.
    """
    height, width = crop.shape[-2:]
    rows = (torch.arange(height, device=crop.device) + 0.5) / height * 2 - 1
    columns = (torch.arange(width, device=crop.device) + 0.5) / width * 2 - 1
    inside = rows[:, None] ** 2 + columns[None] ** 2 <= 1
    if not bool(inside.any()):
        inside = torch.ones_like(inside)
    terms = pixel_colours(crop)[inside]
    return torch.bincount(terms, minlength=len(COLOURS)).float() / len(terms)


def pixel_colours(image: Tensor) -> Tensor:
    """3 x H x W in [0, 1] -> H x W indices into :data:`COLOURS`."""
    value, chroma = image.amax(0), image.amax(0) - image.amin(0)
    saturation = chroma / value.clamp_min(1e-6)
    hue = _hue(image, value, chroma)
    ends = torch.tensor([float(end) for end, _ in HUES], device=image.device)
    terms = torch.tensor([COLOURS.index(term) for _, term in HUES] + [0], device=image.device)
    found = terms[torch.bucketize(hue, ends, right=True)]
    pale = (saturation < PINK_SATURATION) & (value > PINK_VALUE)
    red_or_purple = (found == COLOURS.index("red")) | (found == COLOURS.index("purple")) & (hue > 285)
    found = torch.where(red_or_purple & pale, COLOURS.index("pink"), found)
    warm = (hue >= 8) & (hue < 55)
    found = torch.where(warm & (value < BROWN_VALUE), COLOURS.index("brown"), found)
    grey = torch.where(value > WHITE_VALUE, COLOURS.index("white"), COLOURS.index("grey"))
    found = torch.where(chroma < GREY_CHROMA, grey, found)
    return torch.where(value < BLACK_VALUE, COLOURS.index("black"), found)


def _hue(image: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Degrees on the HSV circle (Smith 1978, doi:10.1145/965139.807361); 0 where there is no hue."""
    red, green, blue = image
    safe = chroma.clamp_min(1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / safe % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return torch.where(chroma > 0, 60 * sector, torch.zeros_like(sector))
