"""A study with simulated votes on the bundled icons, whose truth is known; nothing in it comes from people.

Each caption has six images: its own icon, that with one, two and three planted flaws of different kinds at medium
strength, the icon of another caption, and that with one. What is better is known: for flaws, fewer of them; for
alignment, the right icon; for appeal, both.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from pixeval.images import decode_image
from pixeval.records import QUESTIONS, Question
from pixeval.validation.planted_flaws import MEDIUM, PLANTED, VISIBLE, plant
from pixeval.zoo.icons import Icons, load_icons
from reward_models.judgements import Judgement, Picture, Shares, picture_of
from reward_models.planted import png_of

SAME = 1e-9
"""Utilities no further apart are equal."""
MOST_FLAWS = 3
"""In one image."""


@dataclass(frozen=True)
class SimulatedImage:
    """One image of the study and the truth about it."""

    picture: Picture
    flaws: int
    """How many are planted in it."""
    own: bool
    """Whether it is the icon of its caption."""

    def pixels(self) -> Tensor:
        """3 x H x W in [0, 1]."""
        return decode_image(self.picture.contents(), self.picture.name)

    def utility(self, question: Question) -> float:
        """What is better, by question."""
        if question == "flaws":
            return -float(self.flaws)
        if question == "alignment":
            return float(self.own)
        return float(self.own) - self.flaws / MOST_FLAWS


def simulated_images(split: str, prompts: int, seed: int = 0) -> dict[str, list[SimulatedImage]]:
    """Images by caption; deterministic in its arguments.

    Args:
        split: of the icons, ``train`` or ``heldout``. Of ``train`` every second one is used: detectors and rewards are
            reported on sheets of the others (:mod:`pixeval.validation.clean_images`).
        prompts: captions taken, evenly spread over the split.
    """
    icons = load_icons(split)
    known = range(0, len(icons.captions), 2 if split == "train" else 1)
    rows = [known[len(known) * k // prompts] for k in range(min(prompts, len(known)))]
    seeds = {row: random.Random(f"{seed}/{icons.codes[row]}") for row in rows}
    return {icons.captions[row]: _images_of(icons, row, known, rng) for row, rng in seeds.items()}


def _images_of(icons: Icons, row: int, known: Sequence[int], rng: random.Random) -> list[SimulatedImage]:
    other = rng.choice([k for k in known if icons.captions[k] != icons.captions[row]])
    own, wrong = (_pixels(icons, k) for k in (row, other))
    return [
        *_flawed(own, icons.codes[row], MOST_FLAWS, rng, True),
        *_flawed(wrong, icons.codes[other], 1, rng, False),
    ]


def _flawed(pixels: Tensor, code: str, most: int, rng: random.Random, own: bool) -> list[SimulatedImage]:
    """The icon with no flaw, one, two and so on, each of another kind and visible in it."""
    found = [SimulatedImage(_picture(pixels, code), 0, own)]
    name = code
    for kind in rng.sample(range(len(PLANTED)), len(PLANTED)):
        if len(found) > most:
            break
        planted = plant(PLANTED[kind], pixels, MEDIUM, code)
        if planted.change >= VISIBLE:
            pixels, name = planted.pixels, f"{name}-{PLANTED[kind].name}"
            found.append(SimulatedImage(_picture(pixels, name), len(found), own))
    return found


def simulated_votes(
    images: dict[str, list[SimulatedImage]],
    votes: int,
    noise: float,
    questions: Sequence[Question] = QUESTIONS,
    seed: int = 0,
) -> list[Judgement]:
    """Votes of annotators after Bradley and Terry on random pairs with a better image, the questions in turn.

    The smaller the difference, the likelier the worse image wins; over all pairs it does so in a share of ``noise``.
    """
    scales = {question: annotator_scale(images, noise, question) for question in questions}
    rng = random.Random(f"votes/{seed}")
    captions = list(images)
    found: list[Judgement] = []
    while len(found) < votes:
        question = questions[len(found) % len(questions)]
        caption = rng.choice(captions)
        first, second = rng.sample(images[caption], 2)
        gap = first.utility(question) - second.utility(question)
        if abs(gap) < SAME:
            continue
        said = rng.random() < _logistic(scales[question] * gap)
        shares: Shares = (1.0, 0.0, 0.0) if said else (0.0, 0.0, 1.0)
        found.append(Judgement(caption, first.picture, second.picture, shares, question, annotator="simulated"))
    return found


def true_gaps(images: dict[str, list[SimulatedImage]], question: Question) -> list[float]:
    """Differences of utility of all pairs of one prompt with a better image, all positive."""
    found = [
        abs(a.utility(question) - b.utility(question)) for group in images.values() for a, b in combinations(group, 2)
    ]
    return [gap for gap in found if gap >= SAME]


def annotator_scale(images: dict[str, list[SimulatedImage]], noise: float, question: Question) -> float:
    """Log odds per unit of utility with which a share of ``noise`` of the votes goes to the worse image."""
    gaps = true_gaps(images, question)

    def excess(scale: float) -> float:
        return sum(_logistic(-scale * gap) for gap in gaps) / len(gaps) - noise

    return float(brentq(excess, 1e-6, 1e3))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _pixels(icons: Icons, row: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(icons.images[row])).permute(2, 0, 1).float() / 255


def _picture(pixels: Tensor, name: str) -> Picture:
    return picture_of(png_of(pixels), name)
