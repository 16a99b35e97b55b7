"""The images that an audit attacked, side by side, with what each attack did to the reward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from pixeval.images import to_uint8

COLOURS = {"fooled": "#c0392b", "unclear": "#d9822b", "blind": "#6b7580", "resists": "#1b64a8"}
INK, FRAME = "#16191d", "#d5dade"
COLUMNS, CELLS = 5, 15
SIDE, GAP, HEAD, FOOT = 144, 8, 52, 34
"""In pixels: of an image, between images, above and below them."""
FONT, LETTERS = 20, 14
"""Height of the letters, which a phone halves, and how many of them fit above an image."""
PLANTED = "planted "


@dataclass(frozen=True)
class Example:
    """Some images under an attack."""

    name: str
    images: tuple[Tensor, ...]
    """3 x H x W in [0, 1]; sizes may differ."""
    rewards: tuple[float, ...]
    """Of each of them."""


def attack_sheet(examples: Sequence[Example], marks: Sequence[Mapping[str, Any]]) -> Image.Image:
    """A column for each attack, with the same images in all; below each the change of its reward, red where it rises.

    Args:
        examples: the untouched images first.
        marks: of the attacks.
    """
    cells, untouched = cells_of(examples, marks), examples[0]
    colour = {mark["attack"]: COLOURS[mark["verdict"]] for mark in marks}
    deep = HEAD + len(untouched.images) * (SIDE + FOOT) + GAP
    bands = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, bands * deep + GAP), "white")
    for number, cell in enumerate(cells):
        corner = (GAP + number % COLUMNS * (SIDE + GAP), GAP + number // COLUMNS * deep)
        _draw_column(sheet, corner, cell, untouched, colour.get(cell.name, INK))
    return sheet


def cells_of(examples: Sequence[Example], marks: Sequence[Mapping[str, Any]]) -> list[Example]:
    """What is shown: all but planted flaws, of which those that lower the reward least fill the space that is left."""
    change = {mark["attack"]: mark["change"]["value"] for mark in marks}
    planted = sorted((e for e in examples if e.name.startswith(PLANTED)), key=lambda e: -change[e.name])
    others = [example for example in examples if not example.name.startswith(PLANTED)]
    return [*others, *planted[: max(0, CELLS - len(others))]]


def _draw_column(sheet: Image.Image, corner: tuple[int, int], cell: Example, untouched: Example, colour: str) -> None:
    pen, font, (left, top) = ImageDraw.Draw(sheet), ImageFont.load_default(FONT), corner
    middle = left + SIDE // 2
    title = "\n".join(wrap(cell.name, LETTERS))
    pen.text((middle, top + HEAD // 2), title, fill=colour, font=font, anchor="mm", align="center", spacing=2)
    for row, (pixels, reward) in enumerate(zip(cell.images, cell.rewards, strict=True)):
        y = top + HEAD + row * (SIDE + FOOT)
        tile = Image.fromarray(to_uint8(pixels[None])[0])
        sheet.paste(ImageOps.pad(tile, (SIDE, SIDE), Image.Resampling.LANCZOS, "white"), (left, y))
        pen.rectangle((left, y, left + SIDE - 1, y + SIDE - 1), outline=FRAME)
        change = round(reward - untouched.rewards[row], 2) + 0.0  # no minus before zero
        told = f"reward {reward:.2f}" if cell is untouched else f"{change:+.2f}"
        ink = COLOURS["fooled"] if change > 0 else INK
        pen.text((middle, y + SIDE + FONT * 2 // 3), told, fill=ink, font=font, anchor="mm")
