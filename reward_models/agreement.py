"""How often a reward agrees with people, beside how often people agree with each other on the same pairs.

All figures are shares in [0, 1], higher is better, with 95 % bootstrap intervals over prompts; only decided votes
count, and a tie of the reward is half right.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from reward_models.judgements import Judgement

MARGINS = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))
"""Ranges of the margin: votes for the preferred image less those for the other, as a share of all decided votes."""


@dataclass(frozen=True)
class Judged:
    """A judgement, and what the reward makes of its two images."""

    judgement: Judgement
    difference: float
    """Reward of the first image less that of the second."""

    @property
    def right(self) -> float:
        """1 when the reward prefers what was preferred, 0 when the other, one half for a tie of the reward."""
        wanted = np.sign(self.judgement.shares[0] - self.judgement.shares[2])
        return float(0.5 + 0.5 * wanted * np.sign(self.difference))


def share(judged: Sequence[Judged]) -> Interval | None:
    """Share of decided judgements with which the reward agrees; None without any."""
    kept = [one for one in judged if one.judgement.decided]
    if not kept:
        return None
    return mean_interval([one.right for one in kept], clusters=[one.judgement.prompt for one in kept])


def majorities(judged: Sequence[Judged]) -> list[Judged]:
    """One for every pair and question: the votes put together, the images in the order of the first vote."""
    grouped: dict[object, list[Judged]] = defaultdict(list)
    for one in judged:
        grouped[one.judgement.pair].append(one)
    return [_together(group) for group in grouped.values()]


def _together(group: Sequence[Judged]) -> Judged:
    head = group[0].judgement
    total = sum(one.judgement.weight for one in group)
    sums = np.zeros(3)
    for one in group:
        same = one.judgement.first.sha256 == head.first.sha256
        sums += one.judgement.weight * np.array(one.judgement.shares if same else one.judgement.shares[::-1])
    first, tie, second = (float(value) for value in sums / total)
    whole = Judgement(head.prompt, head.first, head.second, (first, tie, second), head.question, total, None, head.tags)
    return Judged(whole, group[0].difference)


@dataclass(frozen=True)
class Cast:
    """A decided vote of a known annotator, and what the others said about the pair."""

    annotator: str
    sign: int
    """1 for the image of the pair that sorts first, -1 for the other."""
    others: int
    """Votes of the others for the first image less those for the second."""
    reward: int
    """What the reward prefers: 1, -1, or 0 for a tie."""
    prompt: str


def agreement(judged: Sequence[Judged], by_pair: Sequence[Judged]) -> dict[str, Interval | None]:
    """With single votes, with the majority of each pair, and both on the pairs of :func:`human_ceiling`.

    There single votes are those that another annotator's stand beside, and the majority is that of the others for every
    vote, just as people are counted: each row has the comparisons of a row of the ceiling.
    """
    cast = [vote for votes in _shared(judged).values() for vote in votes]
    alone = [(0.5 + 0.5 * vote.sign * vote.reward, vote.prompt) for vote in cast]
    others = [(0.5 + 0.5 * np.sign(vote.others) * vote.reward, vote.prompt) for vote in cast if vote.others]
    return {
        "single annotators": share(judged),
        "majority": share(by_pair),
        "single annotators where several judged": _mean(alone),
        "majority of the others where several judged": _mean(others),
    }


def human_ceiling(judged: Sequence[Judged]) -> dict[str, Interval | None]:
    """What people reach on the same pairs.

    ``single``: how often two annotators' decided votes on a pair are the same, every two of them counted once.
    ``majority``: how often a vote is that of the majority of the others, even ones left out. None where no pair has two
    annotators.
    """
    shared = _shared(judged)
    twos = [two for votes in shared.values() for two in combinations(votes, 2) if two[0].annotator != two[1].annotator]
    single = [(float(one.sign == other.sign), one.prompt) for one, other in twos]
    cast = [vote for votes in shared.values() for vote in votes if vote.others]
    majority = [(float(vote.sign * vote.others > 0), vote.prompt) for vote in cast]
    return {"single": _mean(single), "majority": _mean(majority)}


def _shared(judged: Sequence[Judged]) -> dict[object, list[Cast]]:
    """Decided votes on pairs on which at least two annotators decided."""
    grouped: dict[object, list[tuple[str, int, int, str]]] = defaultdict(list)
    for one in judged:
        judgement = one.judgement
        if judgement.annotator is not None and judgement.decided:
            in_order = 1 if judgement.first.sha256 < judgement.second.sha256 else -1
            said = in_order if judgement.shares[0] > judgement.shares[2] else -in_order
            reward = in_order * int(np.sign(one.difference))
            grouped[judgement.pair].append((judgement.annotator, said, reward, judgement.prompt))
    found: dict[object, list[Cast]] = {}
    for pair, votes in grouped.items():
        if len({name for name, *_ in votes}) > 1:
            found[pair] = [
                Cast(name, said, sum(other for who, other, *_ in votes if who != name), reward, prompt)
                for name, said, reward, prompt in votes
            ]
    return found


def _mean(points: Sequence[tuple[float, str]]) -> Interval | None:
    return mean_interval([p for p, _ in points], clusters=[key for _, key in points]) if points else None


def breakdowns(judged: Sequence[Judged], by_pair: Sequence[Judged]) -> dict[str, dict[str, Interval | None]]:
    """Agreement with the majority by margin of the votes, by size of the reward difference, by tag of the prompt; and
    with single votes by the side that was preferred."""
    sizes = [abs(one.difference) for one in by_pair if one.judgement.decided]
    cuts = [0.0, *np.quantile(sizes, [1 / 3, 2 / 3, 1]).tolist()] if sizes else []
    tags = sorted({tag for one in by_pair for tag in one.judgement.tags})
    return {
        "margin": {f"{low:.2f} to {high:.2f}": share(_within(by_pair, low, high, _margin)) for low, high in MARGINS},
        "difference": {
            f"{low:.3g} to {high:.3g}": share(_within(by_pair, low, high, lambda one: abs(one.difference)))
            for low, high in pairwise(cuts)
        },
        "tag": {tag: share([one for one in by_pair if tag in one.judgement.tags]) for tag in tags},
        "side": {
            "first preferred": share([one for one in judged if one.judgement.shares[0] > one.judgement.shares[2]]),
            "second preferred": share([one for one in judged if one.judgement.shares[0] < one.judgement.shares[2]]),
        },
    }


def _margin(one: Judged) -> float:
    first, _, second = one.judgement.shares
    return abs(first - second) / (first + second) if first + second else 0.0


def _within(judged: Sequence[Judged], low: float, high: float, of: Callable[[Judged], float]) -> list[Judged]:
    """Above ``low`` (at the lowest also equal to it), up to ``high``."""
    return [one for one in judged if (low < of(one) <= high) or (of(one) == low == 0)]


def plain(figures: Mapping[str, Interval | None]) -> dict[str, Any]:
    """As JSON can hold it."""
    return {name: None if found is None else vars(found) for name, found in figures.items()}
