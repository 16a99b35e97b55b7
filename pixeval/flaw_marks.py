"""Flaw marks of annotators as places of images: who marked what, and the share of annotators who marked a place.

As in RichHF-18K (Liang et al. 2024, arXiv 2312.10240) a click stands for a disc whose radius is a twentieth of the
image's height, and all annotators who judged an image count, those without a mark included. A box stands for itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from pixeval.records import FlawMark, Severity, Vote, current_votes

Array = NDArray[np.float32]

RADIUS = 1 / 20
"""Of the disc of a click, as a share of the image's height."""
WEIGHT: dict[Severity, float] = {"minor": 0.5, "major": 1.0}


def marks_by_image(votes: Iterable[Vote]) -> dict[str, dict[str, tuple[FlawMark, ...]]]:
    """By sample id, what each annotator who judged its flaws marked on it: nothing at all, perhaps.

    Of votes about work and repeats that stand, neither skipped nor rejected; repeats add their marks to the
    annotator's own.
    """
    found: dict[str, dict[str, tuple[FlawMark, ...]]] = defaultdict(dict)
    for vote in current_votes(list(votes)):
        if vote.question != "flaws" or vote.purpose not in ("work", "repeat") or vote.choice in ("skip", "reject"):
            continue
        for side, sample in (("left", vote.left), ("right", vote.right)):
            own = tuple(mark for mark in vote.marks if mark.side == side)
            found[sample][vote.annotator] = found[sample].get(vote.annotator, ()) + own
    return dict(found)


def mark_shape(marks: Iterable[FlawMark], width: int, height: int, weighted: bool = False) -> Array:
    """H x W in [0, 1]: 1 within the marks of one annotator; where they overlap, the greatest.

    Args:
        marks: of one image.
        width: of the image, in pixels, as is ``height``.
        weighted: minor flaws count half.
    """
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    shape = np.zeros((height, width), dtype=np.float32)
    for mark in marks:
        value = WEIGHT[mark.severity] if weighted else 1.0
        x, y = mark.x * width, mark.y * height
        if mark.width or mark.height:
            # At least one pixel, however thin the box.
            right, bottom = max(x + mark.width * width, x + 1), max(y + mark.height * height, y + 1)
            inside = (columns >= x) & (columns < right) & (rows >= y) & (rows < bottom)
        else:
            inside = (columns - x) ** 2 + (rows - y) ** 2 <= max(RADIUS * height, 0.75) ** 2
        shape = np.maximum(shape, np.where(inside, np.float32(value), np.float32(0)))
    return shape


def marked_share(by_annotator: Mapping[str, Iterable[FlawMark]], width: int, height: int) -> Array:
    """H x W in [0, 1]: share of the annotators who marked a place; 0 where nobody judged the image."""
    shapes = [mark_shape(marks, width, height) for marks in by_annotator.values()]
    if not shapes:
        return np.zeros((height, width), dtype=np.float32)
    share: Array = np.mean(shapes, axis=0, dtype=np.float32)
    return share
