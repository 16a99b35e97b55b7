"""Image files to pictures inlined in the page, several at a time, and smaller where they would not fit."""

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from pixeval.images import UnreadableImage, read_image, to_uint8
from pixeval.pictures import LOSSLESS_SIDE, Picture

SIZES = ((384, 90), (320, 86), (256, 82), (192, 78))
"""Side and quality of thumbnails, tried in this order until all of them fit."""
BUDGET = 6_500_000
"""Characters for all thumbnails of a page, so that it stays below 10 MB with heat maps and figures."""
Item = TypeVar("Item")
Result = TypeVar("Result")
MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def thumbnails(files: Mapping[str, Path], budget: int = BUDGET) -> dict[str, Picture]:
    """A picture of every file, by its key: the largest of :data:`SIZES` at which all fit into ``budget``.

    Images that are small from the start are kept without loss: a codec's artefacts would pass for the model's flaws.
    """
    # Some tell what all will take, so that little is encoded twice.
    sample = dict(sorted(files.items())[:: max(1, len(files) // 12)])
    for side, quality in SIZES:
        last = (side, quality) == SIZES[-1]
        if not last and _total(_encoded(sample, side, quality)) * len(files) / max(1, len(sample)) > 1.1 * budget:
            continue
        found = _encoded(files, side, quality)
        if last or _total(found) <= budget:
            return found
    raise AssertionError("the last size is taken whatever it needs")


def originals(files: Mapping[str, Path]) -> dict[str, Picture]:
    """The files themselves, byte by byte, where browsers can show them; others as thumbnails."""
    return dict(zip(files, parallel(_original, list(files.values())), strict=True))


def parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``work`` of every item in threads, results in order; decoding and encoding leave the interpreter free."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(work, items))


def encode(array: np.ndarray, side: int, quality: int) -> Picture:
    """H x W x 3 uint8 as WebP, at most ``side`` pixels high and wide."""
    picture = Image.fromarray(array)
    small = max(picture.size) <= min(side, LOSSLESS_SIDE)
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "WEBP", lossless=True, quality=60, method=3)
    else:
        picture.save(buffer, "WEBP", quality=quality, method=3)
    text = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{text}", picture.width, picture.height)


def _encoded(files: Mapping[str, Path], side: int, quality: int) -> dict[str, Picture]:
    def one(path: Path) -> Picture:
        try:
            return encode(to_uint8(read_image(path)[None])[0], side, quality)
        except UnreadableImage as error:
            return Picture("", 1, 1, str(error))

    return dict(zip(files, parallel(one, list(files.values())), strict=True))


def _original(path: Path) -> Picture:
    try:
        read_image(path)  # refuses what is damaged, too large or no image
        with Image.open(path) as picture:
            mime, width, height = MIME.get(picture.format or ""), picture.width, picture.height
    except (UnreadableImage, OSError) as error:
        return Picture("", 1, 1, str(error))
    if mime is None:
        return _encoded({"": path}, *SIZES[0])[""]
    return Picture(f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}", width, height)


def _total(pictures: Mapping[str, Picture]) -> int:
    return sum(len(picture.uri) for picture in pictures.values())
