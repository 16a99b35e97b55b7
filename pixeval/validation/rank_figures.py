"""How well values separate and order things: AUC and correlations with bootstrap intervals over whole clusters."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from pixeval.errors import InputError
from pixeval.stats.interval import Interval

Array = NDArray[np.float64]

DRAWS = 1000


def auc(negative: Array, positive: Array) -> float:
    """Probability that a positive value exceeds a negative one, ties half (Mann-Whitney)."""
    ranks = scipy_stats.rankdata(np.concatenate((negative, positive)))
    n, m = len(negative), len(positive)
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def srcc(first: Array, second: Array) -> float:
    """Spearman's rank correlation; not a number where one side is constant."""
    return plcc(scipy_stats.rankdata(first), scipy_stats.rankdata(second))


def plcc(first: Array, second: Array) -> float:
    """Pearson's correlation; not a number where one side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def krcc(first: Array, second: Array) -> float:
    """Kendall's tau-b, which corrects for ties; not a number where one side is constant."""
    return float(scipy_stats.kendalltau(first, second).statistic)


def auc_interval(
    negative: Sequence[float], positive: Sequence[float], clusters: Sequence[Hashable], seed: int = 0
) -> Interval:
    """AUC of ``positive`` against ``negative`` values of the same items, with a 95 % bootstrap interval.

    Args:
        clusters: one key per item; whole clusters are drawn, both values of their items together.

    Raises:
        InputError: unequal lengths or no items.
    """
    low, high = np.asarray(negative, dtype=np.float64), np.asarray(positive, dtype=np.float64)
    return _bootstrapped(lambda rows: auc(low[rows], high[rows]), (low, high), clusters, seed)


def correlation_interval(
    figure: Callable[[Array, Array], float],
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Interval:
    """``srcc``, ``plcc`` or ``krcc`` of paired values with a 95 % bootstrap interval over clusters (default: items).

    Raises:
        InputError: unequal lengths, fewer than three items, or one side constant.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    keys = list(range(len(a))) if clusters is None else clusters
    if len(a) < 3:
        raise InputError(f"a correlation needs at least three items, got {len(a)}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise InputError("one side is the same for all items, so there is nothing to correlate")
    return _bootstrapped(lambda rows: figure(a[rows], b[rows]), (a, b), keys, seed)


def _bootstrapped(
    figure: Callable[[NDArray[np.int64]], float], sides: tuple[Array, Array], clusters: Sequence[Hashable], seed: int
) -> Interval:
    """The figure over all rows, and percentiles of it over draws of whole clusters; undefined draws are left out."""
    n = len(sides[0])
    if not n == len(sides[1]) == len(clusters):
        raise InputError(f"values and clusters must be as many, got {n}, {len(sides[1])} and {len(clusters)}")
    if n == 0:
        raise InputError("no values to compare")
    members: dict[Hashable, list[int]] = {}
    for row, key in enumerate(clusters):
        members.setdefault(key, []).append(row)
    groups = [np.array(rows, dtype=np.int64) for rows in members.values()]
    value = figure(np.arange(n))
    if len(groups) < 2:
        return Interval(value, None, None, n)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        rows = np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))])
        drawn.append(figure(rows))
    defined = [d for d in drawn if np.isfinite(d)]
    if len(defined) < DRAWS // 2:
        return Interval(value, None, None, n)
    low, high = np.quantile(defined, [0.025, 0.975])
    # with few clusters the percentiles can miss the estimate itself
    return Interval(value, min(value, float(low)), max(value, float(high)), n)
