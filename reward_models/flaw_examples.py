"""What a flaw map learns from and is judged on: images with planted flaws, and images with marks of annotators."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, read_image
from pixeval.records import FlawMark, counted_votes, people_first
from pixeval.runs import Run
from pixeval.validation.clean_images import SIDE, CleanImage, clean_images, sheets
from pixeval.validation.drawn_images import drawn_image
from pixeval.validation.planted_flaws import PLANTED, VISIBLE, PlantedFlaw, plant
from pixeval.zoo.icons import load_icons

POINT = 0.05
"""Radius of the place that a mark without size stands for, as a share of the shorter side."""
LEVELS = (2, 3, 4)
"""Slight, medium and strong, in turn; level 1 can hardly be seen, and level 5 needs no teaching."""
MORE_DRAWINGS, MORE_ICONS = range(106, 122), range(32, 96)
"""Drawings and icons beside those of the tuning set, and none of the report set's: with two drawings to learn from, 0.2
to 0.75 of a sound new one was taken for flawed."""


@dataclass(frozen=True)
class Marked:
    """An image and where it is flawed."""

    pixels: Tensor
    """3 x H x W in [0, 1]."""
    mask: Tensor
    """H x W in [0, 1], the share of annotators that marked a place, or 0 and 1; all 0 for a sound image."""
    source: str
    """Images of one source are not independent."""
    kind: str = ""
    """Of the image, as of :class:`pixeval.validation.clean_images.CleanImage`."""
    flaw: str = ""
    """The planted flaw; empty for sound images and for marks."""
    level: int = 0
    """Of the planted flaw, 1 to 5."""
    by_people: bool = False
    """Whether the mask is made of marks."""
    rating: float | None = None
    """What people said of the image as a whole, higher is better."""


def training_images() -> list[CleanImage]:
    """The bundled images of the tuning set, with more drawings and icons."""
    icons = load_icons("train").images
    rows = [2 * (97 * number % 900) for number in MORE_ICONS]
    pixels = torch.from_numpy(icons[rows]).permute(0, 3, 1, 2).float() / 255
    drawings = [CleanImage(f"drawn-{s}", "drawing", f"drawn-{s}", drawn_image(s, SIDE)) for s in MORE_DRAWINGS]
    return [*clean_images("tune"), *drawings, *sheets("more-icons", "drawing", pixels)]


def planted_examples(
    images: Sequence[CleanImage], levels: Sequence[int] = LEVELS, flaws: Sequence[PlantedFlaw] = PLANTED
) -> Iterator[Marked]:
    """Every image clean, and with each planted flaw that can be seen in it, at the levels in turn."""
    for place, image in enumerate(images):
        yield Marked(image.pixels, torch.zeros(image.pixels.shape[-2:]), image.source, image.kind)
        for number, flaw in enumerate(flaws):
            level = levels[(place + number) % len(levels)]
            planted = plant(flaw, image.pixels, level, image.name)
            if planted.change >= VISIBLE:
                yield Marked(planted.pixels, planted.mask, image.source, image.kind, flaw.name, level)


def marked_examples(runs: Sequence[Run]) -> list[Marked]:
    """Images that annotators marked places of, and those of the same pairs that they left unmarked.

    Raises:
        InputError: marks on a sample that is in none of the runs.
    """
    files = {s.id: (run.image(s), s.prompt_id or s.id) for run in runs for s in run.samples()}
    votes = {vote.id: vote for run in runs for vote in run.votes()}
    marks: dict[str, list[FlawMark]] = {}
    for vote in counted_votes(people_first(list(votes.values()))):
        if vote.marks:
            for side, sample in (("left", vote.left), ("right", vote.right)):
                marks.setdefault(sample, []).extend(mark for mark in vote.marks if mark.side == side)
    found = []
    for sample, placed in marks.items():
        if sample not in files:
            raise InputError(f"sample {sample!r} has marks but is in none of the runs; give all that were labelled")
        try:
            pixels = read_image(files[sample][0])
        except UnreadableImage:
            continue
        mask = mask_of(placed, pixels.shape[-2], pixels.shape[-1])
        found.append(Marked(pixels, mask, files[sample][1], by_people=True))
    return found


def mask_of(marks: Sequence[FlawMark], height: int, width: int) -> Tensor:
    """H x W: 1 in the boxes, and within ``POINT`` of marks without size."""
    rows, columns = (torch.arange(height)[:, None] + 0.5) / height, (torch.arange(width)[None] + 0.5) / width
    mask = torch.zeros(height, width, dtype=torch.bool)
    for mark in marks:
        if mark.width > 0 and mark.height > 0:
            inside = (rows >= mark.y) & (rows <= mark.y + mark.height)
            mask |= inside & (columns >= mark.x) & (columns <= mark.x + mark.width)
        else:
            short = min(height, width)
            mask |= torch.hypot((rows - mark.y) * height / short, (columns - mark.x) * width / short) <= POINT
    return mask.float()
