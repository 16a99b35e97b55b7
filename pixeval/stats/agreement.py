"""How far annotators agree beyond chance: Krippendorff's alpha, Fleiss' and Cohen's kappa, with intervals."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Question, Vote
from pixeval.stats.bootstrap import bca_bounds, multiplicities
from pixeval.stats.clusters import Array, Codes, Keys, codes_of
from pixeval.stats.interval import Interval
from pixeval.stats.vote_table import BOTH_BAD, LEFT, TIE, VoteTable

DRAWS = 1000
DRAWN_AT_ONCE = 2_000_000
MOST_COUNTS = 2_000_000
"""Counts by prompt and two people up to which Cohen's kappa gets an interval."""

Figure = Callable[[Array], Array]
"""A coefficient of every row of summed columns."""


@dataclass(frozen=True)
class Agreement:
    """Agreement on one question; 1 is full agreement, 0 what chance gives, below it worse."""

    alpha: Interval
    """Krippendorff's nominal alpha; ``n`` counts votes on pairs of images that have two or more."""
    fleiss: Interval
    """Fleiss' kappa, each pair of images weighing the same."""
    cohen: Interval | None
    """Mean of Cohen's kappa over all two annotators who share pairs, weighted by how many; None beyond 200 people."""
    share: Interval
    """Of two votes on one pair of images, how often they are the same: the raw figure, without regard to chance."""
    items: int
    """Pairs of images with two or more votes."""


def krippendorff_alpha(ratings: Mapping[Hashable, Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal labels (Krippendorff 2011).

    Args:
        ratings: the labels that each item got; items with fewer than two say nothing about agreement.

    Returns:
        None where alpha is undefined: no item with two labels, or only one label ever used.
    """
    labels = [label for item in ratings.values() for label in item]
    items = np.repeat(np.arange(len(ratings)), [len(item) for item in ratings.values()])
    return None if not labels else _value(alpha_of(rating_counts(items, codes_of(labels, len(labels))).sum_columns()))


@dataclass(frozen=True)
class RatingCounts:
    """How often each item got each label."""

    counts: Array
    """Items x labels; items with fewer than two ratings are left out."""
    clusters: Codes
    """What each item belongs to, for the bootstrap."""

    def columns(self) -> Array:
        """What the coefficients need of every item, additive over items: items x (4 + labels).

        Alpha's observed disagreement, Fleiss' observed agreement, 1, ratings, and the ratings of each label.
        """
        sizes = self.counts.sum(1)
        same = (self.counts**2).sum(1)
        disagreement = (sizes**2 - same) / (sizes - 1)
        agreement = (same - sizes) / (sizes * (sizes - 1))
        return np.column_stack([disagreement, agreement, np.ones(len(sizes)), sizes, self.counts])

    def sum_columns(self) -> Array:
        """:meth:`columns` of all items together, as one row."""
        total: Array = self.columns().sum(0)[None]
        return total


def rating_counts(items: Codes, labels: Codes, clusters: Codes | None = None) -> RatingCounts:
    """Ratings, one row each, as a table of items and labels.

    Args:
        items: the item of each rating.
        labels: the label it gave.
        clusters: the cluster of each rating's item; every item is its own by default.
    """
    own, index = np.unique(items, return_inverse=True)
    width = int(labels.max()) + 1 if len(labels) else 0
    counts = np.bincount(index * width + labels, minlength=len(own) * width).reshape(len(own), width)
    cluster = np.arange(len(own))
    if clusters is not None:
        cluster[index] = clusters
    kept = counts.sum(1) >= 2
    return RatingCounts(counts[kept].astype(np.float64), cluster[kept])


def alpha_of(sums: Array) -> Array:
    """Krippendorff's alpha of every row of summed columns (see :class:`RatingCounts`); NaN where undefined."""
    n = sums[:, 3]
    expected = n**2 - (sums[:, 4:] ** 2).sum(1)
    return _ratio(expected - (n - 1) * sums[:, 0], expected)


def fleiss_of(sums: Array) -> Array:
    """Fleiss' kappa (1971) of every row of summed columns; NaN where undefined.

    Items may have unequal numbers of ratings: agreement is that of the average item, chance that of all ratings.
    """
    chance = _ratio((sums[:, 4:] ** 2).sum(1), sums[:, 3] ** 2)
    observed = _ratio(sums[:, 1], sums[:, 2])
    return _ratio(observed - chance, 1 - chance)


def share_of(sums: Array) -> Array:
    """How often two ratings of one item are the same, for every row of summed columns."""
    return _ratio(sums[:, 1], sums[:, 2])


def cohen_kappa(
    first: Sequence[Hashable], second: Sequence[Hashable], clusters: Keys | None = None, seed: int = 0
) -> Interval | None:
    """Cohen's kappa (1960) of two raters on the same items, with a bootstrap interval over items or their clusters.

    Returns:
        None where kappa is undefined: both only ever gave one and the same label.

    Raises:
        InputError: not one label of both per item, or no item.
    """
    if len(first) != len(second) or not first:
        raise InputError(f"kappa needs one label of both raters per item, got {len(first)} and {len(second)}")
    both = codes_of([*first, *second], 2 * len(first))
    width = int(both.max()) + 1
    cells = np.zeros((len(first), width * width))
    cells[np.arange(len(first)), both[: len(first)] * width + both[len(first) :]] = 1
    codes = np.arange(len(first)) if clusters is None else codes_of(clusters, len(first))

    def kappa(sums: Array) -> Array:
        table = sums.reshape(-1, width, width) / sums.sum(1)[:, None, None]
        chance = (table.sum(1) * table.sum(2)).sum(1)
        return _ratio(np.trace(table, axis1=1, axis2=2) - chance, 1 - chance)

    return _bootstrapped(cells, codes, [kappa], len(first), seed)[0]


def vote_agreement(votes: Sequence[Vote] | VoteTable, question: Question, seed: int = 0) -> Agreement | None:
    """Agreement on pairs of images judged by several annotators; which side they were on is undone.

    The labels are: the image of the label that sorts first, the other one, tie, both bad. Skips and rejections are
    left out. Intervals draw whole prompts.

    Returns:
        None where it is undefined: no pair with two answers, or only one answer ever given.
    """
    table = VoteTable.of(votes)
    table = table.where(table.answered & (table.question == QUESTIONS.index(question)))
    if not len(table):
        return None
    items, labels = preferences(table)
    rated = rating_counts(items, labels, table.prompt)
    columns = rated.columns()
    if not len(columns) or not np.isfinite(alpha_of(columns.sum(0)[None])).all():
        return None
    n = int(columns[:, 3].sum())
    alpha, fleiss, share = _bootstrapped(columns, rated.clusters, (alpha_of, fleiss_of, share_of), n, seed)
    if alpha is None or fleiss is None or share is None:
        return None
    return Agreement(alpha, fleiss, _mean_cohen(table, items, labels, seed), share, len(columns))


def preferences(table: VoteTable) -> tuple[Codes, Codes]:
    """The pair of images of each row as a code, and the answer with sides undone: 0, 1 (which image), 2 tie, 3 bad.

    Image 0 is that of the label that sorts first; the code is ``place of image 0 * len(images) + place of image 1``.
    """
    ahead = np.where(table.left_label == table.right_label, table.left > table.right, False)
    swapped = (table.left_label > table.right_label) | ahead
    low = np.where(swapped, table.right, table.left).astype(np.int64)
    high = np.where(swapped, table.left, table.right)
    items = low * len(table.images) + high
    first = (table.choice == LEFT) != swapped
    labels = np.select([table.choice == TIE, table.choice == BOTH_BAD], [2, 3], np.where(first, 0, 1))
    return items, labels


def _mean_cohen(table: VoteTable, items: Codes, labels: Codes, seed: int) -> Interval | None:
    """Light's (1971) kappa: pairs of people are counted in both orders, so that which of them is first is no matter."""
    people = np.unique(table.annotator)
    if len(people) > 200 or len(people) < 2:
        return None
    order = np.lexsort((table.annotator, items))
    item, person, label, prompt = items[order], table.annotator[order], labels[order], table.prompt[order]
    pairs: list[NDArray[np.int64]] = []
    for step in range(1, int(np.unique(item, return_counts=True)[1].max())):
        same = np.flatnonzero(item[step:] == item[:-step])
        same = same[person[same] != person[same + step]]
        pairs.append(np.column_stack([same, same + step]))
    index = np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64)
    if not len(index):
        return None
    who = person[index[:, 0]].astype(np.int64) * (int(person.max()) + 1) + person[index[:, 1]]
    couple = np.unique(who, return_inverse=True)[1]
    couples = int(couple.max()) + 1
    cell = (label[index[:, 0]] * 4 + label[index[:, 1]]).astype(np.int64)
    _, group = np.unique(prompt[index[:, 0]], return_inverse=True)
    groups = int(group.max()) + 1
    if groups * couples * 16 > MOST_COUNTS:
        whole = np.bincount(couple * 16 + cell, minlength=couples * 16).astype(np.float64)
        return Interval(float(_light(whole[None])[0]), None, None, len(index))
    counts = np.bincount((group * couples + couple) * 16 + cell, minlength=groups * couples * 16)
    columns = counts.reshape(groups, -1).astype(np.float64)
    return _bootstrapped(columns, np.arange(groups), [_light], len(index), seed)[0]


def _light(sums: Array) -> Array:
    tables = sums.reshape(len(sums), -1, 4, 4)
    sizes = tables.sum((2, 3))
    shares = tables / np.maximum(sizes, 1e-300)[:, :, None, None]
    chance = (shares.sum(2) * shares.sum(3)).sum(2)
    kappa = _ratio(np.trace(shares, axis1=2, axis2=3) - chance, 1 - chance)
    weight = np.where(np.isfinite(kappa), sizes, 0)
    return _ratio((np.nan_to_num(kappa) * weight).sum(1), weight.sum(1))


def _bootstrapped(
    columns: Array, clusters: Codes, figures: Sequence[Figure], n: int, seed: int
) -> list[Interval | None]:
    """Figures of summed columns with BCa intervals from one set of draws of clusters; None where undefined."""
    _, codes = np.unique(clusters, return_inverse=True)
    groups = int(codes.max()) + 1
    sums = np.zeros((groups, columns.shape[1]))
    np.add.at(sums, codes, columns)
    drawn = np.zeros((0, columns.shape[1]))
    if groups > 1:
        drawn = np.concatenate([times @ sums for times in multiplicities(groups, DRAWS, seed, DRAWN_AT_ONCE)])
    total = sums.sum(0)
    return [_with_bounds(figure(total[None])[0], figure(drawn), figure(total - sums), n, groups) for figure in figures]


def _with_bounds(value: float, drawn: Array, left_out: Array, n: int, groups: int) -> Interval | None:
    if not np.isfinite(value):
        return None
    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    if len(drawn) < DRAWS / 2 or len(left_out) < 2:
        return Interval(float(value), None, None, n)
    low, high = bca_bounds(drawn, float(value), left_out)
    return Interval(float(value), low, high, n, float(drawn.std(ddof=1)), float(groups - 1))


def _ratio(numerator: Array, denominator: Array) -> Array:
    defined = np.abs(denominator) > 1e-12
    ratio: Array = np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=defined)
    return ratio


def _value(figures: Array) -> float | None:
    return float(figures[0]) if np.isfinite(figures[0]) else None
