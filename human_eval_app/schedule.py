"""Which pairs of images an annotator judges, in which order, and which image is on which side. Pure functions."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pixeval.errors import InputError
from pixeval.records import Question, Sample

BATCH = 10
"""Pairs judged on one question before the next question is asked about the same pairs."""
SIDE_BLOCK = 4
"""Sides are balanced exactly within every so many consecutive judgements of a pair of labels on a question."""


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


@dataclass(frozen=True)
class Assignment:
    """One question about one pair for one annotator, with sides decided; a row of the store."""

    id: str
    """Opaque; the browser sees it."""
    annotator: str
    position: int
    """Order in which this annotator gets it."""
    question: Question
    prompt_id: str
    prompt: str
    left: str
    """Sample id."""
    right: str
    left_label: str
    right_label: str


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


def plan(
    annotator: str,
    matchups: Sequence[Matchup],
    labels: Mapping[str, str],
    questions: Sequence[Question],
    seed: int,
    secret: str,
) -> list[Assignment]:
    """Everything that one annotator is asked, in order; the same for the same arguments.

    The pairs are shuffled per annotator and cut into batches of ten; a batch is judged on the first question, then
    on the second, and so on. With flaws first, nobody has seen the prompt of a pair when judging its flaws. Sides
    are random, and balanced within annotator, pair of labels and question.

    Args:
        annotator: their name.
        matchups: what to compare.
        labels: the label to record for each sample id.
        questions: in the order in which they are asked.
        seed: of the study.
        secret: of the study; keeps ids from being computed from sample ids.
    """
    rng = random.Random(f"{seed}/{annotator}")
    shuffled = sorted(matchups, key=lambda m: m.key)
    rng.shuffle(shuffled)
    sides: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    planned: list[Assignment] = []
    for start in range(0, len(shuffled), BATCH):
        for question in questions:
            for matchup in shuffled[start : start + BATCH]:
                # In the order of labels, so that balance does not depend on the order of the runs.
                first, second = sorted((matchup.a, matchup.b), key=lambda s: (labels[s.id], s.id))
                cell = (labels[first.id], labels[second.id], question)
                left, right = (first, second) if _next_side(sides[cell], rng) else (second, first)
                planned.append(
                    Assignment(
                        id=_digest(secret, annotator, matchup.key, question),
                        annotator=annotator,
                        position=len(planned),
                        question=question,
                        prompt_id=matchup.prompt_id,
                        prompt=matchup.prompt,
                        left=left.id,
                        right=right.id,
                        left_label=labels[left.id],
                        right_label=labels[right.id],
                    )
                )
    return planned


def _next_side(queue: list[bool], rng: random.Random) -> bool:
    """Draw from blocks of two Trues and two Falses in random order."""
    if not queue:
        queue.extend([True, False] * (SIDE_BLOCK // 2))
        rng.shuffle(queue)
    return queue.pop()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:24]
