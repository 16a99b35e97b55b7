"""Which pairs of images an annotator judges, in which order, and which image is on which side. Pure functions."""

import dataclasses
import json
import math
import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Purpose, Question, Sample

BATCH = 10
"""Pairs judged on one question before the next question is asked about the same pairs."""
SIDE_BLOCK = 4
"""Sides are balanced exactly within every so many consecutive judgements of a pair of labels on a question."""
EVERYBODY_UP_TO = 200
"""Pairs up to which everybody judges everything when nothing else is said."""
OVERLAP = 5
"""Votes per pair and question of larger studies; the paper asked at least five people (arXiv 2409.17565)."""

Cell = tuple[str, str]
"""Two labels, in order."""


@dataclass(frozen=True)
class Design:
    """How a project asks; kept with the project."""

    questions: tuple[Question, ...] = QUESTIONS
    seed: int = 0
    votes_per_pair: int | None = None
    """People who answer each question about each pair; None: everybody judges everything."""
    active: bool = False
    """Prefer pairs whose next answer should tell most."""
    random_share: float = 0.2
    """Of picks under active selection that are made uniformly."""
    repeats: float = 0.05
    """Share of a person's answers, at least, that are about an earlier pair with its sides swapped."""
    gold: float = 0.1
    """Share of a person's answers that are about pairs of known answer, as long as there are any."""
    lease_minutes: float = 60.0
    """After so long without an answer, pairs that somebody was given go to others."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise InputError(f"ask at least one question out of {', '.join(QUESTIONS)}")
        if self.votes_per_pair is not None and self.votes_per_pair < 1:
            raise InputError(f"votes per pair must be at least 1, got {self.votes_per_pair}")
        if not 0.2 <= self.random_share <= 1:
            raise InputError(f"the random share of picks must be within [0.2, 1], got {self.random_share}")
        if not (0 <= self.repeats <= 0.5 and 0 <= self.gold <= 0.5):
            raise InputError(f"shares of repeats and gold pairs are within [0, 0.5], got {self.repeats}, {self.gold}")
        if not self.lease_minutes > 0:
            raise InputError(f"a lease lasts more than 0 minutes, got {self.lease_minutes}")

    def to_json(self) -> str:
        """As text, for the database."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Design":
        """From the text of :meth:`to_json`."""
        return _read_design(text)


@lru_cache(maxsize=64)
def _read_design(text: str) -> Design:
    # Every vote asks for the design of its project.
    values = json.loads(text)
    return Design(**{**values, "questions": tuple(values["questions"])})


def default_overlap(pairs: int) -> int | None:
    """Votes per pair of a study of so many pairs: everybody judges a small one whole."""
    return None if pairs <= EVERYBODY_UP_TO else OVERLAP


# ---- what is compared ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matchup:
    """Two images of one prompt by two labels; which is ``a`` says nothing about sides."""

    a: Sample
    b: Sample
    prompt_id: str
    prompt: str

    @property
    def key(self) -> str:
        """The same for the same two images, in whichever order they come."""
        return ":".join(sorted((self.a.id, self.b.id)))


def match_samples(groups: Mapping[str, Sequence[Sample]]) -> list[Matchup]:
    """Every pair of images that can be compared, for every two of the groups.

    Images are matched by prompt and seed. Two groups that have no (prompt, seed) in common are matched by prompt,
    the first image of one with the first of the other and so on.

    Args:
        groups: samples by label, at least two labels.

    Raises:
        InputError: fewer than two groups, or two of them share no prompt.
    """
    if len(groups) < 2:
        raise InputError("a comparison needs two sets of images; give two runs, or RUN:LABEL twice")
    matchups: dict[str, Matchup] = {}
    for (label_a, group_a), (label_b, group_b) in combinations(groups.items(), 2):
        found = _match(_by_key(group_a, True), _by_key(group_b, True))
        found = found or _match(_by_key(group_a, False), _by_key(group_b, False))
        if not found:
            raise InputError(
                f"{label_a!r} and {label_b!r} have no prompt in common; "
                "compare sets that were generated from the same prompts"
            )
        matchups.update((matchup.key, matchup) for matchup in found)
    return list(matchups.values())


def _by_key(samples: Sequence[Sample], with_seed: bool) -> dict[tuple[str, str, int | None], list[Sample]]:
    grouped: dict[tuple[str, str, int | None], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.prompt_id is not None and sample.prompt is not None:
            grouped[sample.prompt_id, sample.prompt, sample.seed if with_seed else None].append(sample)
    return grouped


def _match(
    group_a: Mapping[tuple[str, str, int | None], list[Sample]],
    group_b: Mapping[tuple[str, str, int | None], list[Sample]],
) -> list[Matchup]:
    return [
        Matchup(a, b, prompt_id, prompt)
        for (prompt_id, prompt, seed), samples in group_a.items()
        for a, b in zip(samples, group_b.get((prompt_id, prompt, seed), []), strict=False)
        if a.id != b.id
    ]


# ---- which pairs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A pair that an annotator may be given."""

    pair: str
    cell: Cell
    questions: tuple[Question, ...]
    """Those that still want answers."""
    claims: int
    """Over these questions: annotators who have them or answered them."""
    votes: int
    first_score: float
    """What the votes gave the first image: 1 for a win, 0.5 for a tie."""


@dataclass(frozen=True)
class Pick:
    """A candidate that was picked, and the probability with which it was among those of its cell."""

    candidate: Candidate
    propensity: float


def information(votes: int, first_score: float) -> float:
    """How much one more answer should lower the variance of a pair's win rate.

    The win rate has the posterior Beta(1 + s, 1 + n - s) of a uniform prior. An answer brings its variance V down to
    V (a + b) / (a + b + 1) on average, so the drop is V / (a + b + 1): large for pairs with few votes, then for those
    with divided votes.
    """
    a, b = 1 + first_score, 1 + votes - first_score
    return a * b / ((a + b) ** 2 * (a + b + 1) ** 2)


def pick_pairs(
    candidates: Sequence[Candidate], size: int, given: Mapping[Cell, int], design: Design, rng: random.Random
) -> list[Pick]:
    """Up to ``size`` pairs for one annotator.

    Each comes from the pair of labels that the annotator was given least often. There it is drawn uniformly among
    the pairs that fewest people were given, with propensity 1; under active selection it is drawn from all pairs,
    with probability e / n + (1 - e) w / sum(w), where w is :func:`information` and e the random share.

    Args:
        candidates: in any order; the result does not depend on it.
        given: how often the annotator was given each pair of labels.
    """
    cells: dict[Cell, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda c: c.pair):
        cells[candidate.cell].append(candidate)
    counts = {cell: given.get(cell, 0) for cell in cells}
    picks: list[Pick] = []
    while len(picks) < size and cells:
        least = min(counts[cell] for cell in cells)
        cell = rng.choice(sorted(c for c in cells if counts[c] == least))
        pick = _pick(cells[cell], design, rng)
        picks.append(pick)
        counts[cell] += 1
        cells[cell].remove(pick.candidate)
        if not cells[cell]:
            del cells[cell]
    return picks


def _pick(pool: Sequence[Candidate], design: Design, rng: random.Random) -> Pick:
    if not design.active:
        fewest = min(c.claims for c in pool)
        return Pick(rng.choice([c for c in pool if c.claims == fewest]), 1.0)
    weights = [information(c.votes, c.first_score) for c in pool]
    total = math.fsum(weights)
    shares = [design.random_share / len(pool) + (1 - design.random_share) * w / total for w in weights]
    chosen = rng.choices(range(len(pool)), shares)[0]
    return Pick(pool[chosen], shares[chosen])


def owed(share: float, others: int, given: int) -> int:
    """How many more are needed to make up at least ``share`` of all, with ``others`` and ``given`` there already."""
    return max(0, math.ceil(others * share / (1 - share) - 1e-9) - given)


# ---- sides and order -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draft:
    """A question about a pair, before its side and place are decided."""

    pair: str
    cell: Cell
    question: Question
    purpose: Purpose
    propensity: float = 1.0
    first_left: bool | None = None
    """Decided already, as for repeats; None: to be drawn."""


@dataclass
class Sides:
    """How often the first image of a cell was on the left, so far."""

    count: int = 0
    left: int = 0

    def draw(self, rng: random.Random) -> bool:
        """Whether the first image goes left: a random order of two and two in every block of four.

        When judgements were taken away from the middle of a block, the next draws make up for it.
        """
        free = SIDE_BLOCK - self.count % SIDE_BLOCK
        wanted = (free - (2 * self.left - self.count)) / 2
        first_left = rng.random() * free < wanted
        self.count += 1
        self.left += first_left
        return first_left


def order_batch(drafts: Collection[Draft], rng: random.Random) -> list[Draft]:
    """All of the first question, then of the second, and so on; shuffled within a question.

    With flaws first, nobody has seen the prompt of a pair when judging its flaws; and what tests the annotator stands
    anywhere among the rest.
    """
    ordered: list[Draft] = []
    for question in QUESTIONS:
        block = sorted((d for d in drafts if d.question == question), key=lambda d: (d.pair, d.purpose))
        rng.shuffle(block)
        ordered += block
    return ordered


def decide_sides(drafts: Sequence[Draft], sides: dict[Any, Sides], rng: random.Random) -> list[bool]:
    """For each draft whether its first image goes left, drawn in order and counted in ``sides``.

    ``sides`` is kept by (cell, question, purpose), so that work is balanced by itself.
    """
    decided = []
    for draft in drafts:
        if draft.first_left is None:
            decided.append(sides.setdefault((draft.cell, draft.question, draft.purpose), Sides()).draw(rng))
        else:
            decided.append(draft.first_left)
    return decided
