"""What the curves are measured on: sharp icons of people to tune on, flawed copies of them, and held-out icons."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pixeval.images import write_png
from pixeval.metrics.filters import gaussian
from pixeval.pair_folder import export_pairs
from pixeval.records import Pair
from pixeval.validation.clean_images import eight_bit
from pixeval.validation.planted_flaws import MEDIUM, PLANTED, VISIBLE, plant
from pixeval.zoo.icons import load_icons

PEOPLE = "skin tone"
"""In the caption of every icon of a person, as nearly all held-out icons are."""
AMOUNT, SIGMA = 2.0, 1.0
"""Of the unsharp mask: how much of the difference from the blurred icon is added, and the blur in pixels."""


@dataclass(frozen=True)
class Icon:
    """A captioned image; ``pixels`` is 3 x H x W in [0, 1]."""

    name: str
    caption: str
    pixels: Tensor

    @property
    def scene(self) -> str:
        """The caption without the skin tone: icons of one scene are not independent."""
        words = self.caption.removesuffix(f" {PEOPLE}").split()
        return " ".join(words[:-1]) if self.caption.endswith(PEOPLE) else self.caption


def tuning_icons(n: int) -> list[Icon]:
    """n icons of people at equal steps of the training split."""
    return _spread([icon for icon in _icons("train") if icon.caption.endswith(PEOPLE)], n)


def held_out_icons(n: int) -> list[Icon]:
    """n icons at equal steps of the held-out split, by name: in the order in which a folder of them is read."""
    return sorted(_spread(_icons("heldout"), n), key=lambda icon: icon.name)


def crisp(icons: list[Icon]) -> list[Icon]:
    """The icons with an unsharp mask: one look, as the paper's, and one with more detail than the models know.

    On the icons as they are there is nothing to learn, the bundled models were trained on them at length.
    """

    def sharpened(pixels: Tensor) -> Tensor:
        return eight_bit(pixels + AMOUNT * (pixels - gaussian(pixels[None], SIGMA)[0]))

    return [replace(icon, pixels=sharpened(icon.pixels)) for icon in icons]


def _spread(icons: list[Icon], n: int) -> list[Icon]:
    return [icons[i * len(icons) // n] for i in range(n)]


def write_captioned(icons: list[Icon], folder: Path) -> Path:
    """The icons as PNG files with their captions beside them; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for icon in icons:
        write_png(icon.pixels, folder / f"{icon.name}.png")
        (folder / f"{icon.name}.txt").write_text(icon.caption)
    return folder


def write_pairs(icons: list[Icon], folder: Path) -> Path:
    """The icons as chosen, each with one planted medium flaw as rejected; returns ``folder``.

    The flaws take turns; where one does not show in an icon, the next one is taken.
    """
    images = folder.with_name(folder.name + "-images")
    images.mkdir(parents=True, exist_ok=True)
    pairs = []
    for number, icon in enumerate(icons):
        for turn in range(len(PLANTED)):
            planted = plant(PLANTED[(number + turn) % len(PLANTED)], icon.pixels, MEDIUM, icon.name)
            if planted.change >= VISIBLE:
                break
        chosen, rejected = images / f"{icon.name}.png", images / f"{icon.name}-flawed.png"
        write_png(icon.pixels, chosen)
        write_png(planted.pixels, rejected)
        ids = (f"{icon.name}-c", f"{icon.name}-r")
        pairs.append(
            Pair(icon.name, icon.caption, *ids, str(chosen), str(rejected), "clean", "flawed", 1.0, "planted flaws")
        )
    export_pairs(pairs, folder, "Clean icons against the same with one planted flaw.")
    return folder


def _icons(split: str) -> list[Icon]:
    read = load_icons(split)
    pixels = torch.from_numpy(read.images).permute(0, 3, 1, 2).float() / 255
    return [Icon(*row) for row in zip(read.codes, read.captions, pixels, strict=True)]
