"""Whether a metric prefers what people prefer, and the pairs on which it does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from pixeval.records import QUESTIONS, Question, Vote
from pixeval.stats.agreement import preferences
from pixeval.stats.bootstrap import bca_bounds, mean_interval, multiplicities
from pixeval.stats.clusters import Array, Codes, clustered_mean
from pixeval.stats.interval import Interval
from pixeval.stats.vote_table import VoteTable

DRAWS = 1000


@dataclass(frozen=True)
class MetricAgreement:
    """One metric against the votes on one question; 0.5 is a coin."""

    votes: Interval
    """Share of decisive votes that go to the image the metric prefers; equal scores count half. Two-way clustered."""
    majority: Interval | None
    """The same for the majority of each pair of images, where there is one; bootstrap over prompts."""
    person: Interval | None
    """How often one person's vote goes with the majority of the others on that pair: what a metric can be expected to
    reach. None where no pair has enough votes."""
    correlation: Interval
    """Of the signed ranks of the metric's difference and the net share of votes, in [-1, 1]; through zero, so that it
    does not matter which image of a pair comes first."""
    pairs: int
    """Pairs of images with a score of both and an answer."""
    left_out: int
    """Pairs with an answer of which an image has no score."""


@dataclass(frozen=True)
class Disagreement:
    """A pair of images on which metric and people differ."""

    prompt_id: str
    preferred: str
    """Sample id of the image that people prefer; the metric prefers the other one."""
    other: str
    for_preferred: int
    """Votes."""
    for_other: int
    ties: int
    difference: float
    """How much better the metric finds the other image, in its own units, positive."""
    strength: float
    """|net share of votes| times the difference in standard deviations of all differences; they are sorted by it."""


@dataclass(frozen=True)
class _Judged:
    """Pairs of images with votes and scores; "first" is as in :func:`pixeval.stats.agreement.preferences`."""

    table: VoteTable
    item: Codes
    toward_first: Array
    """By vote: +1, -1 or 0."""
    prompt: Codes
    """By pair, as all that follows."""
    first: Codes
    second: Codes
    difference: Array
    """Score of the first less that of the second, higher being better."""
    left_out: int

    def per_pair(self, values: Array) -> Array:
        """Sums of a value per vote."""
        sums: Array = np.bincount(self.item, values, len(self.prompt)).astype(np.float64, copy=False)
        return sums


def metric_agreement(
    votes: Sequence[Vote] | VoteTable,
    scores: Mapping[str, float],
    question: Question,
    higher_is_better: bool = True,
    seed: int = 0,
) -> MetricAgreement | None:
    """A metric against people.

    Args:
        votes: of any labels.
        scores: the metric's value by sample id; leave out what could not be scored.
        question: of the votes.
        higher_is_better: the metric's direction.
        seed: of the bootstraps.

    Returns:
        None when no decisive vote is on a pair of images that both have a score.
    """
    judged = _judged(votes, scores, question, higher_is_better)
    decisive = judged.toward_first != 0
    if not decisive.any():
        return None
    by_metric = np.sign(judged.difference)
    right = (judged.toward_first * by_metric[judged.item] + 1) / 2
    table = judged.table
    net = judged.per_pair(judged.toward_first)
    settled = net != 0
    majority = None
    if settled.any():
        points = (np.sign(net[settled]) * by_metric[settled] + 1) / 2
        majority = mean_interval(points.tolist(), seed=seed, clusters=judged.prompt[settled])
    others = net[judged.item] - judged.toward_first
    judged_by_others = decisive & (others != 0)
    person = None
    if judged_by_others.any():
        agreed = (np.sign(others[judged_by_others]) == judged.toward_first[judged_by_others]).astype(np.float64)
        rows = table.where(judged_by_others)
        person = clustered_mean(agreed, rows.prompt, rows.annotator, (0.0, 1.0))
    rows = table.where(decisive)
    return MetricAgreement(
        votes=clustered_mean(right[decisive], rows.prompt, rows.annotator, (0.0, 1.0)),
        majority=majority,
        person=person,
        correlation=_correlation(judged, net / judged.per_pair(np.ones(len(table))), seed),
        pairs=len(judged.prompt),
        left_out=judged.left_out,
    )


def disagreements(
    votes: Sequence[Vote] | VoteTable,
    scores: Mapping[str, float],
    question: Question,
    higher_is_better: bool = True,
) -> list[Disagreement]:
    """Pairs of images of which people prefer one and the metric the other, strongest first."""
    judged = _judged(votes, scores, question, higher_is_better)
    if not len(judged.prompt):
        return []
    net, total = judged.per_pair(judged.toward_first), judged.per_pair(np.ones(len(judged.item)))
    wins = judged.per_pair((judged.toward_first > 0).astype(np.float64))
    losses = judged.per_pair((judged.toward_first < 0).astype(np.float64))
    spread = float(np.sqrt((judged.difference**2).mean())) or 1.0
    found = []
    for pair in np.flatnonzero(net * judged.difference < 0):
        ahead = net[pair] > 0
        images = (judged.first[pair], judged.second[pair])
        preferred, other = images if ahead else images[::-1]
        size = abs(float(judged.difference[pair]))
        found.append(
            Disagreement(
                prompt_id=judged.table.prompts[judged.prompt[pair]],
                preferred=judged.table.images[preferred],
                other=judged.table.images[other],
                for_preferred=int(wins[pair] if ahead else losses[pair]),
                for_other=int(losses[pair] if ahead else wins[pair]),
                ties=int(total[pair] - wins[pair] - losses[pair]),
                difference=size,
                strength=abs(float(net[pair] / total[pair])) * size / spread,
            )
        )
    return sorted(found, key=lambda one: (-one.strength, one.preferred, one.other))


def _judged(
    votes: Sequence[Vote] | VoteTable, scores: Mapping[str, float], question: Question, higher_is_better: bool
) -> _Judged:
    table = VoteTable.of(votes)
    table = table.where(table.answered & (table.question == QUESTIONS.index(question)))
    items, labels = preferences(table) if len(table) else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    value = np.array([scores.get(image, np.nan) for image in table.images], dtype=np.float64)
    known = np.isfinite(value[table.left]) & np.isfinite(value[table.right])
    left_out = len(np.unique(items[~known]))
    table, items, labels = table.where(known), items[known], labels[known]
    _, rows, item = np.unique(items, return_index=True, return_inverse=True)
    width = len(table.images)
    low, high = items[rows] // max(width, 1), items[rows] % max(width, 1)
    sign = 1.0 if higher_is_better else -1.0
    toward = np.select([labels == 0, labels == 1], [1.0, -1.0], 0.0)
    difference = sign * (value[low] - value[high])
    return _Judged(table, item, toward, table.prompt[rows], low, high, difference, left_out)


def _correlation(judged: _Judged, net: Array, seed: int) -> Interval:
    """Uncentred correlation of signed ranks; the ranks are those of the whole, also in bootstrap draws."""
    x, y = (np.sign(v) * rankdata(np.abs(v)) for v in (judged.difference, net))
    codes = np.unique(judged.prompt, return_inverse=True)[1]
    groups = int(codes.max()) + 1
    sums = np.column_stack([np.bincount(codes, product, groups) for product in (x * y, x * x, y * y)])

    def figure(columns: Array) -> Array:
        scale = np.sqrt(columns[:, 1] * columns[:, 2])
        return np.divide(columns[:, 0], scale, out=np.zeros(len(columns)), where=scale > 0)

    value = float(figure(sums.sum(0)[None])[0])
    if groups < 2:
        return Interval(value, None, None, len(x))
    drawn = np.concatenate([figure(times @ sums) for times in multiplicities(groups, DRAWS, seed)])
    low, high = bca_bounds(drawn, value, figure(sums.sum(0) - sums))
    return Interval(value, low, high, len(x), float(drawn.std(ddof=1)), float(groups - 1))
