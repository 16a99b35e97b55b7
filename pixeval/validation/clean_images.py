"""Clean images to plant flaws in, without a download: photographs, drawings and generated ones, in two sets.

Thresholds of detectors are tuned on ``tune``; figures are reported on ``report``. No photograph, icon, drawing or
sample is in both.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, list_images, read_image
from pixeval.validation.drawn_images import drawn_image
from pixeval.zoo import BUNDLED
from pixeval.zoo.icons import load_icons

Split = Literal["tune", "report"]
Kind = Literal["photograph", "drawing", "generated", "own"]

SIDE = 160
LEAST, MOST = 64, 1024
"""Smallest side of an own image in pixels, and the longer side beyond which it is reduced."""
TILE = 128
"""Side of the zoo's samples on their contact sheet."""


@dataclass(frozen=True)
class CleanImage:
    """One image and where it comes from."""

    name: str
    kind: Kind
    source: str
    """Images of one source (two crops of a photograph) are not independent; intervals draw whole sources."""
    pixels: Tensor
    """3 x H x W in [0, 1], on 8-bit levels."""


@dataclass(frozen=True)
class Photograph:
    """A file that comes with scikit-image, reduced, and the corners of the crops taken from it."""

    file: str
    reduce: float
    corners: tuple[tuple[int, int], ...]


PHOTOGRAPHS: dict[Split, tuple[Photograph, ...]] = {
    "tune": (
        Photograph("astronaut.png", 2, ((0, 40), (96, 0))),
        Photograph("coffee.png", 2, ((20, 0), (40, 130))),
        Photograph("motorcycle_left.png", 2, ((80, 20), (60, 200))),
        Photograph("brick.png", 2, ((40, 40),)),
        Photograph("gravel.png", 2, ((40, 40),)),
        Photograph("moon.png", 2, ((40, 40),)),
        Photograph("ihc.png", 2, ((40, 40),)),
        Photograph("astronaut.png", 3, ((10, 5),)),
        Photograph("coffee.png", 2.4, ((0, 45),)),
        Photograph("motorcycle_left.png", 3, ((3, 5), (3, 80))),
        Photograph("brick.png", 3, ((5, 5),)),
        Photograph("gravel.png", 3, ((5, 5),)),
        Photograph("moon.png", 3, ((5, 5),)),
        Photograph("ihc.png", 3, ((5, 5),)),
        Photograph("cell.png", 2, ((0, 0), (160, 100))),
    ),
    "report": (
        Photograph("chelsea.png", 1.8, ((3, 10), (3, 85))),
        Photograph("camera.png", 2, ((20, 30), (96, 96))),
        Photograph("rocket.jpg", 2, ((0, 80), (53, 150))),
        Photograph("hubble_deep_field.jpg", 2, ((20, 20), (250, 300))),
        Photograph("retina.jpg", 3, ((60, 60), (160, 200))),
        Photograph("coins.png", 1.8, ((4, 20),)),
        Photograph("grass.png", 2, ((40, 40),)),
    ),
}
"""Reducing averages away the sensor's noise and the blocks of JPEG: half of these files were coded as such once, the
PNG files of chelsea, coins, grass and ihc among them, and show it at their own size."""


def clean_images(split: Split) -> list[CleanImage]:
    """The bundled images of one set: photographs, icons, drawings by rule, samples of the zoo's U-Net."""
    return [*photographs(split), *_icon_sheets(split), *_drawings(split), *_samples(split)]


def own_images(folder: Path) -> list[CleanImage]:
    """Clean images of the user, every one its own source; large ones reduced to a longer side of ``MOST``.

    Raises:
        InputError: no folder, no images in it, an image that cannot be read, or one smaller than ``LEAST``.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder of clean images")
    files = list_images(folder)
    if not files:
        raise InputError(f"{folder} holds no images (.png, .jpg, .webp, .bmp, .tif); give a folder that does")
    return [_own(file, file.relative_to(folder).as_posix()) for file in files]


def _own(file: Path, name: str) -> CleanImage:
    try:
        pixels = read_image(file)
    except UnreadableImage as error:
        raise InputError(f"{error}; take it out of the folder") from error
    if min(pixels.shape[-2:]) < LEAST:
        raise InputError(f"{name} has a side below {LEAST} pixels; take it out of the folder")
    factor = MOST / max(pixels.shape[-2:])
    if factor < 1:
        size = [max(LEAST, round(side * factor)) for side in pixels.shape[-2:]]
        pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    return CleanImage(name, "own", name, eight_bit(pixels))


def eight_bit(images: Tensor) -> Tensor:
    """Clamped and rounded to the 256 levels that files have."""
    return (images.clamp(0, 1) * 255).round() / 255


def photographs(split: Split, side: int = SIDE) -> list[CleanImage]:
    """The photographs of one set as crops of ``side`` pixels, 200 at most; those that are smaller are left out."""
    found: list[CleanImage] = []
    folder = Path(str(resources.files("skimage"))) / "data"
    for photograph in PHOTOGRAPHS[split]:
        whole = reduced(read_image(folder / photograph.file), photograph.reduce)
        if min(whole.shape[-2:]) < side:
            continue
        stem = photograph.file.partition(".")[0]
        for row, column in photograph.corners:
            top, left = min(row, whole.shape[1] - side), min(column, whole.shape[2] - side)
            pixels = eight_bit(whole[:, top : top + side, left : left + side])
            number = sum(image.source == stem for image in found)
            found.append(CleanImage(f"{stem}-{number}", "photograph", stem, pixels))
    return found


def reduced(pixels: Tensor, factor: float) -> Tensor:
    """3 x H x W made smaller by a factor: by means of whole pixels where it is whole, else by a triangle filter."""
    if factor == int(factor):
        return F.avg_pool2d(pixels[None], int(factor))[0]
    size = [round(side / factor) for side in pixels.shape[-2:]]
    return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]


def _icon_sheets(split: Split) -> list[CleanImage]:
    """Icons; at 72 pixels nothing is left of the blocks of their WebP files."""
    first, count = {"tune": (0, 8), "report": (1, 12)}[split]
    icons = load_icons("train").images
    # a stride through all, even rows for one set and odd ones for the other
    rows = [first + 2 * (97 * number % 900) for number in range(4 * count)]
    return sheets("icons", "drawing", torch.from_numpy(icons[rows]).permute(0, 3, 1, 2).float() / 255)


def _drawings(split: Split) -> list[CleanImage]:
    seeds = {"tune": range(100, 106), "report": range(200, 208)}[split]
    return [CleanImage(f"drawn-{s}", "drawing", f"drawn-{s}", drawn_image(s, SIDE)) for s in seeds]


def _samples(split: Split) -> list[CleanImage]:
    """Samples of the bundled U-Net; at 72 pixels its blur and its own grid of 8 pixels are less than they were."""
    places = {"tune": range(32), "report": range(32, 64)}[split]
    sheet = read_image(BUNDLED["zoo:unet"] / "samples.webp")
    tiles = [sheet[:, r : r + TILE, c : c + TILE] for p in places for r, c in [(p // 8 * TILE, p % 8 * TILE)]]
    return sheets("unet", "generated", torch.stack(tiles))


def sheets(name: str, kind: Kind, images: Tensor) -> list[CleanImage]:
    """Images on white with a margin, four to a sheet."""
    margin = 4
    side = SIDE // 2 - 2 * margin
    small = F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    # near-white grounds turn white, or the border of each would be a seam; by degrees, or they would be clipped
    near = ((small.amin(1, keepdim=True) - 0.93) / 0.06).clamp(0, 1)
    small = small + (1 - small) * near.square() * (3 - 2 * near)
    small = eight_bit(F.pad(small, (margin,) * 4, value=1.0))
    found = []
    for number, four in enumerate(torch.split(small, 4)):
        sheet = torch.cat([torch.cat([four[0], four[1]], 2), torch.cat([four[2], four[3]], 2)], 1)
        found.append(CleanImage(f"{name}-{number}", kind, f"{name}-{number}", sheet))
    return found
