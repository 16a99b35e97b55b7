"""What a flaw map learns from and is judged on: images with planted flaws, and images with marks of annotators."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pixeval.errors import InputError
from pixeval.flaw_marks import marked_share, marks_by_image
from pixeval.images import UnreadableImage, read_image
from pixeval.records import FlawMark, current_votes, people_first
from pixeval.runs import Run
from pixeval.validation.clean_images import SIDE, CleanImage, clean_images, sheets
from pixeval.validation.drawn_images import drawn_image
from pixeval.validation.planted_flaws import PLANTED, VISIBLE, PlantedFlaw, plant
from pixeval.zoo.icons import load_icons
from reward_models.planted import LEVELS

HELD_OUT, LEAST_MARKED = 0.2, 10
"""Share of the prompts whose images are held out, and marked images from which on there is enough for it."""
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


@dataclass(frozen=True)
class Annotated:
    """An image of a run whose flaws annotators judged."""

    file: Path
    source: str
    """Its prompt."""
    by_annotator: Mapping[str, Sequence[FlawMark]]
    """What each of them marked; nothing, perhaps."""

    @property
    def share(self) -> float:
        """Of the annotators: those who marked something."""
        return sum(map(bool, self.by_annotator.values())) / len(self.by_annotator)


def annotated_images(runs: Sequence[Run]) -> list[Annotated]:
    """Images that annotators marked places of, and those of the same pairs that they left unmarked.

    Raises:
        InputError: marks on a sample that is in none of the runs.
    """
    files = {s.id: (run.image(s), s.prompt_id or s.id) for run in runs for s in run.samples()}
    votes = current_votes(people_first(list({vote.id: vote for run in runs for vote in run.votes()}.values())))
    shown = marks_by_image(vote for vote in votes if vote.marks)
    if lost := next((sample for sample in shown if sample not in files), None):
        raise InputError(f"sample {lost!r} has marks but is in none of the runs; give all that were labelled")
    return [Annotated(*files[sample], marks) for sample, marks in marks_by_image(votes).items() if sample in shown]


def hold_out(images: Sequence[Annotated], seed: int) -> tuple[list[Annotated], list[Annotated]]:
    """Those to learn from and, of :data:`HELD_OUT` of the prompts, those to be judged on.

    There are none of the second where fewer than :data:`LEAST_MARKED` are marked, or all are of one prompt.
    """
    prompts = sorted({image.source for image in images})
    if len(prompts) < 2 or sum(image.share > 0 for image in images) < LEAST_MARKED:
        return list(images), []
    held = set(random.Random(seed).sample(prompts, max(1, round(HELD_OUT * len(prompts)))))
    return [one for one in images if one.source not in held], [one for one in images if one.source in held]


def marked_examples(images: Iterable[Annotated], problems: list[str]) -> Iterator[Marked]:
    """The images with the share of annotators who marked a place; ``problems`` tells of files that cannot be read."""
    for one in images:
        try:
            pixels = read_image(one.file)
        except UnreadableImage as error:
            problems.append(f"{one.file}: {error}")
            continue
        mask = torch.from_numpy(marked_share(one.by_annotator, pixels.shape[-1], pixels.shape[-2]))
        yield Marked(pixels, mask, one.source, by_people=True, rating=1 - one.share)
