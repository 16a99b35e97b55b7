"""Intervals, tests and agreement for scores and votes. Every number comes with its n and, where one exists, its
interval; where none exists (one item, one prompt) the bounds are None, never NaN.

What is resampled decides what an interval speaks about. Scores resample items (or clusters of items, such as the
seeds of one prompt). Votes are clustered twice, in prompts and in annotators, because treating them as independent
makes intervals far too narrow.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from pixeval.errors import InputError
from pixeval.records import Question, Vote, counted_votes

Array = NDArray[np.float64]

DRAWS = 2000
DRAWN_AT_ONCE = 250_000
"""Items in one part of the draws: some arrays of 2 MB, whatever the number of items."""
FLIPS = 20_000
EXACT_CLUSTERS = 14
"""Up to this many clusters the sign-flip test runs over all 2^n assignments."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float | None
    """None (with ``high``) where no interval can be given: fewer than two independent units."""
    high: float | None
    n: int
    """Observations behind ``value``."""

    def scaled(self, factor: float, shift: float) -> "Interval":
        """``factor * x + shift`` of value and bounds, for a positive ``factor``."""
        if self.low is None or self.high is None:
            return Interval(factor * self.value + shift, None, None, self.n)
        return Interval(factor * self.value + shift, factor * self.low + shift, factor * self.high + shift, self.n)


def mean_interval(
    values: Sequence[float], confidence: float = 0.95, seed: int = 0, clusters: Sequence[Hashable] | None = None
) -> Interval:
    """The mean and its percentile bootstrap interval (Efron 1979).

    Args:
        values: one finite number per item; leave out what could not be scored.
        confidence: in (0, 1).
        seed: of the bootstrap draws; the same seed gives the same bounds.
        clusters: one key per item; whole clusters are drawn, for items that are not independent (several seeds of
            one prompt). Without it every item is its own cluster.

    Raises:
        InputError: no values, a value that is not finite, or as many keys as values are missing.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise InputError("no values to take a mean of; score at least one image")
    return mean_intervals(array[:, None], confidence, seed, clusters)[0]


def mean_intervals(
    values: Array, confidence: float = 0.95, seed: int = 0, clusters: Sequence[Hashable] | None = None
) -> list[Interval]:
    """:func:`mean_interval` of every column of ``values`` (items x columns), from one set of bootstrap draws.

    Raises:
        InputError: as :func:`mean_interval`.
    """
    if not np.isfinite(values).all():
        raise InputError("a value is NaN or infinite; leave out what could not be scored")
    n, columns = values.shape
    keys = range(n) if clusters is None else clusters
    totals = [_cluster_sums(values[:, column], keys) for column in range(columns)]
    sums, counts = np.stack([total for total, _ in totals], 1), totals[0][1]
    means = values.mean(0)
    groups = len(sums)
    if groups < 2:
        return [Interval(float(mean), None, None, n) for mean in means]
    rng = np.random.default_rng(seed)
    draws: list[Array] = []
    chunk = max(1, DRAWN_AT_ONCE // groups)
    for start in range(0, DRAWS, chunk):
        picked = rng.integers(0, groups, size=(min(chunk, DRAWS - start), groups))
        row = np.arange(len(picked))[:, None] * groups
        times = np.bincount((picked + row).ravel(), minlength=picked.size).reshape(picked.shape).astype(np.float64)
        draws.append((times @ sums) / (times @ counts)[:, None])
    low, high = np.quantile(np.concatenate(draws), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return [Interval(float(m), float(lo), float(hi), n) for m, lo, hi in zip(means, low, high, strict=True)]


def paired_interval(
    a: Sequence[float],
    b: Sequence[float],
    confidence: float = 0.95,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Mean of ``a - b`` over items scored under both conditions, ``a[i]`` and ``b[i]`` being the same item.

    Raises:
        InputError: the lengths differ, or as in :func:`mean_interval`.
    """
    if len(a) != len(b):
        raise InputError(f"paired scores must have one value per item on both sides, got {len(a)} and {len(b)}")
    return mean_interval([x - y for x, y in zip(a, b, strict=True)], confidence, seed, clusters)


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Share of ``n`` independent trials with Wilson's score interval (Wilson 1927); ties may count as halves.

    Raises:
        InputError: ``n`` is zero.
    """
    if n < 1:
        raise InputError("no trials to take a share of")
    z = float(ndtri((1 + confidence) / 2))
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the two ends the closed form is exactly 0 and 1; only rounding moves it past the value.
    return Interval(share, min(share, middle - half), max(share, middle + half), n)


def clustered_mean(
    values: Sequence[float],
    prompts: Sequence[Hashable],
    annotators: Sequence[Hashable],
    bounds: tuple[float, float],
    confidence: float = 0.95,
) -> Interval:
    """Mean with a two-way cluster-robust interval over prompts and annotators (Cameron, Gelbach and Miller 2011).

    The variance is V_prompt + V_annotator - V_cell, at least V_prompt, each with its G/(G-1) correction, and the
    quantile is Student's t with min(G) - 1 degrees of freedom. With one annotator only prompts are clustered; with
    one prompt there is no interval. When all values agree the variance says nothing, and the bounds are those
    that Wilson's interval allows for never having seen another answer in as many trials as there are prompts.

    Args:
        values: one number per vote within ``bounds``.
        prompts: the prompt of each vote.
        annotators: the annotator of each vote.
        bounds: least and greatest possible value; the interval is cut there.

    Raises:
        InputError: no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise InputError("no votes to take a mean of")
    mean, least, most = float(array.mean()), bounds[0], bounds[1]
    n_prompts, n_annotators = len(set(prompts)), len(set(annotators))
    if n_prompts < 2:
        return Interval(mean, None, None, array.size)
    if np.ptp(array) == 0:
        z = float(ndtri((1 + confidence) / 2))
        unseen = z * z / (n_prompts + z * z)
        return Interval(mean, mean - unseen * (mean - least), mean + unseen * (most - mean), array.size)
    residuals = array - mean
    by_prompt = _cluster_variance(residuals, prompts)
    variance, groups = by_prompt, n_prompts
    if n_annotators > 1:
        by_cell = _cluster_variance(residuals, list(zip(prompts, annotators, strict=True)))
        variance = max(by_prompt, by_prompt + _cluster_variance(residuals, annotators) - by_cell)
        groups = min(n_prompts, n_annotators)
    half = float(stdtrit(groups - 1, (1 + confidence) / 2)) * math.sqrt(variance)
    return Interval(mean, max(least, mean - half), min(most, mean + half), array.size)


def sign_flip_p(differences: Sequence[float], clusters: Sequence[Hashable] | None = None, seed: int = 0) -> float:
    """Two-sided p of "positive and negative differences are equally likely", by flipping signs of whole clusters.

    Exact over all assignments for at most 14 clusters that are not zero, otherwise from 20,000 random ones with
    the observed one counted in, so never below 1/20,001. 1.0 when there is nothing to tell apart.
    """
    array = np.asarray(differences, dtype=np.float64)
    sums, _ = _cluster_sums(array, range(array.size) if clusters is None else clusters)
    sums = sums[sums != 0]
    if sums.size == 0:
        return 1.0
    # The tolerance makes sums that are equal but for rounding count as equal.
    observed = abs(float(sums.sum())) * (1 - 1e-12)
    if sums.size <= EXACT_CLUSTERS:
        bits = (np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1
        return float((np.abs((bits * 2 - 1) @ sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme, chunk = 0, max(1, 2_000_000 // sums.size)
    for start in range(0, FLIPS, chunk):
        signs = rng.integers(0, 2, size=(min(chunk, FLIPS - start), sums.size)) * 2 - 1
        extreme += int((np.abs(signs @ sums) >= observed).sum())
    return (1 + extreme) / (1 + FLIPS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values of one family, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def krippendorff_alpha(ratings: Mapping[Hashable, Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal labels: 1 is full agreement, 0 what chance gives, below it worse.

    Args:
        ratings: the labels that each item got; items with fewer than two say nothing about agreement.

    Returns:
        None where alpha is undefined: no item with two labels, or only one label ever used.
    """
    observed, totals, n = 0.0, Counter[Hashable](), 0
    for labels in ratings.values():
        if len(labels) < 2:
            continue
        counts = Counter(labels)
        totals.update(counts)
        n += len(labels)
        observed += (len(labels) ** 2 - sum(c * c for c in counts.values())) / (len(labels) - 1)
    expected = n * n - sum(c * c for c in totals.values())
    return None if expected == 0 else 1 - (n - 1) * observed / expected


@dataclass(frozen=True)
class WinRates:
    """What the votes on one question say about generator ``a`` against generator ``b``."""

    a_label: str
    b_label: str
    question: Question
    win: int
    """Votes for ``a``."""
    tie: int
    loss: int
    both_bad: int
    """Its own answer; in every rate it counts as a tie, since it prefers neither."""
    skip: int
    """Not in any rate, nor is ``reject``."""
    reject: int
    n: int
    """win + tie + loss + both_bad."""
    prompts: int
    annotators: int
    net: Interval
    """Net win rate (win - loss) / n in [-1, 1], positive when ``a`` is preferred; the headline. Its interval is
    two-way cluster-robust: it speaks about new prompts and new annotators."""
    win_rate: Interval
    """(win + tie/2) / n in [0, 1], the same interval on this scale."""
    decisive: Interval | None
    """win / (win + loss); None when nobody preferred either."""
    naive_net: Interval
    """Net win rate with Wilson's interval, as if all votes were independent. For reference: it is too narrow."""
    p_value: float
    """Sign-flip test over prompts of "neither is preferred". It takes these annotators as given, so it can be
    small while ``net``, which allows for other annotators, includes zero. Not adjusted: see :func:`holm`."""
    simulated: bool
    """True when any of the votes is simulated."""


def win_rates(votes: Sequence[Vote], a_label: str, b_label: str, question: Question, seed: int = 0) -> WinRates:
    """Count and summarise the votes between two labels; superseded votes are dropped first.

    Raises:
        InputError: no vote on this question compares the two labels, or none gives an answer.
    """
    kept = [
        v
        for v in counted_votes(list(votes))
        if v.question == question and {v.left_label, v.right_label} == {a_label, b_label} and a_label != b_label
    ]
    signs = {id(v): sign for v in kept if (sign := _sign(v, a_label)) is not None}
    answered = [v for v in kept if id(v) in signs]
    if not answered:
        raise InputError(
            f"no answered vote compares {a_label!r} with {b_label!r} on {question!r}; label that pair first"
        )
    values = [signs[id(v)] for v in answered]
    prompts, annotators = [v.prompt_id for v in answered], [v.annotator for v in answered]
    choices = Counter(v.choice for v in kept)
    win, loss, n = values.count(1), values.count(-1), len(values)
    net = clustered_mean(values, prompts, annotators, (-1.0, 1.0))
    decisive = [i for i in range(n) if values[i] != 0]
    return WinRates(
        a_label=a_label,
        b_label=b_label,
        question=question,
        win=win,
        tie=choices["tie"],
        loss=loss,
        both_bad=choices["both_bad"],
        skip=choices["skip"],
        reject=choices["reject"],
        n=n,
        prompts=len(set(prompts)),
        annotators=len(set(annotators)),
        net=net,
        win_rate=net.scaled(0.5, 0.5),
        decisive=clustered_mean(
            [(values[i] + 1) / 2 for i in decisive],
            [prompts[i] for i in decisive],
            [annotators[i] for i in decisive],
            (0.0, 1.0),
        )
        if decisive
        else None,
        naive_net=wilson((n + win - loss) / 2, n).scaled(2.0, -1.0),
        p_value=sign_flip_p(values, prompts, seed),
        simulated=any(v.simulated for v in answered),
    )


def left_share(votes: Sequence[Vote], question: Question | None = None) -> Interval | None:
    """How often the left image was preferred among decisive votes, with Wilson's interval; 0.5 without side bias.

    None when there are no decisive votes.
    """
    kept = [v for v in counted_votes(list(votes)) if question in (None, v.question) and v.choice in ("left", "right")]
    return wilson(sum(v.choice == "left" for v in kept), len(kept)) if kept else None


def vote_agreement(votes: Sequence[Vote], question: Question) -> float | None:
    """Krippendorff's alpha over pairs of images judged by several annotators; which side they were on is undone.

    Skips and rejections are left out; None where alpha is undefined.
    """
    ratings: dict[Hashable, list[Hashable]] = {}
    for vote in counted_votes(list(votes)):
        if vote.question == question and vote.choice not in ("skip", "reject"):
            first, second = sorted((vote.left, vote.right))
            chosen = {"left": vote.left, "right": vote.right}.get(vote.choice, vote.choice)
            ratings.setdefault((first, second), []).append(chosen)
    return krippendorff_alpha(ratings)


def _sign(vote: Vote, a_label: str) -> int | None:
    """+1 for ``a``, -1 against, 0 for neither, None for no answer."""
    if vote.choice in ("skip", "reject"):
        return None
    if vote.choice in ("tie", "both_bad"):
        return 0
    preferred = vote.left_label if vote.choice == "left" else vote.right_label
    return 1 if preferred == a_label else -1


def _cluster_sums(values: Array, clusters: Iterable[Hashable]) -> tuple[Array, Array]:
    """Sum and size of each cluster, in order of first appearance."""
    positions: dict[Hashable, int] = {}
    index = np.array([positions.setdefault(key, len(positions)) for key in clusters], dtype=np.int64)
    if len(index) != len(values):
        raise InputError(f"there must be one cluster key per value, got {len(index)} for {len(values)}")
    sums = np.bincount(index, weights=values, minlength=len(positions)).astype(np.float64)
    return sums, np.bincount(index, minlength=len(positions)).astype(np.float64)


def _cluster_variance(residuals: Array, clusters: Iterable[Hashable]) -> float:
    """Cluster-robust variance of a mean, with the G/(G-1) correction."""
    sums, _ = _cluster_sums(residuals, clusters)
    groups = len(sums)
    return groups / (groups - 1) * float((sums**2).sum()) / residuals.size**2
