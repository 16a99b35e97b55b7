"""Bootstrap intervals of means, by drawing whole clusters: BCa, which for means costs no more than percentiles."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from pixeval.errors import InputError
from pixeval.stats.clusters import Array, Keys, cluster_sums, codes_of
from pixeval.stats.interval import Interval

DRAWS = 2000
DRAWN_AT_ONCE = 250_000
"""Clusters in one part of the draws: some arrays of 2 MB, whatever their number."""


def multiplicities(groups: int, draws: int, seed: int, at_once: int = DRAWN_AT_ONCE) -> Iterator[Array]:
    """How often each cluster is drawn, as blocks of draws x groups; each row sums to ``groups``."""
    rng = np.random.default_rng(seed)
    chunk = max(1, at_once // groups)
    for start in range(0, draws, chunk):
        picked = rng.integers(0, groups, size=(min(chunk, draws - start), groups))
        row = np.arange(len(picked))[:, None] * groups
        yield np.bincount((picked + row).ravel(), minlength=picked.size).reshape(picked.shape).astype(np.float64)


def mean_interval(
    values: Sequence[float], confidence: float = 0.95, seed: int = 0, clusters: Keys | None = None
) -> Interval:
    """The mean and its BCa bootstrap interval (Efron 1987), at levels that allow for few clusters.

    The levels are those of Hesterberg (2015): Student's t with G - 1 degrees of freedom times sqrt(G / (G - 1)) in
    the place of the normal quantile, since bootstrap draws of G clusters vary too little by that much.

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
    values: Array, confidence: float = 0.95, seed: int = 0, clusters: Keys | None = None
) -> list[Interval]:
    """:func:`mean_interval` of every column of ``values`` (items x columns), from one set of bootstrap draws.

    Raises:
        InputError: as :func:`mean_interval`.
    """
    if not np.isfinite(values).all():
        raise InputError("a value is NaN or infinite; leave out what could not be scored")
    n, columns = values.shape
    codes = np.arange(n) if clusters is None else codes_of(clusters, n)
    totals = [cluster_sums(values[:, column], codes) for column in range(columns)]
    sums, counts = np.stack([total for total, _ in totals], 1), totals[0][1]
    means = values.mean(0)
    groups = len(sums)
    if groups < 2:
        return [Interval(float(mean), None, None, n) for mean in means]
    drawn = np.concatenate([(w @ sums) / (w @ counts)[:, None] for w in multiplicities(groups, DRAWS, seed)])
    found = []
    for column, mean in enumerate(means):
        low, high = bca_bounds(drawn[:, column], float(mean), _left_out(sums[:, column], counts), confidence)
        se = float(drawn[:, column].std(ddof=1)) * math.sqrt(groups / (groups - 1))
        found.append(Interval(float(mean), low, high, n, se, float(groups - 1)))
    return found


def paired_interval(
    a: Sequence[float],
    b: Sequence[float],
    confidence: float = 0.95,
    seed: int = 0,
    clusters: Keys | None = None,
) -> Interval:
    """Mean of ``a - b`` over items scored under both conditions, ``a[i]`` and ``b[i]`` being the same item.

    Raises:
        InputError: the lengths differ, or as in :func:`mean_interval`.
    """
    if len(a) != len(b):
        raise InputError(f"paired scores must have one value per item on both sides, got {len(a)} and {len(b)}")
    return mean_interval([x - y for x, y in zip(a, b, strict=True)], confidence, seed, clusters)


def bca_bounds(drawn: Array, estimate: float, left_out: Array, confidence: float = 0.95) -> tuple[float, float]:
    """Bias-corrected and accelerated bounds (Efron 1987), at the levels of :func:`mean_interval`.

    Args:
        drawn: the estimate in every bootstrap draw.
        estimate: that of the data.
        left_out: the estimate with each cluster left out, for the acceleration; its length is the number of clusters.
    """
    groups = len(left_out)
    away = left_out.mean() - left_out
    spread = float((away**2).sum()) ** 1.5
    acceleration = float((away**3).sum()) / (6 * spread) if spread > 1e-300 else 0.0
    below = (float((drawn < estimate).mean()) + float((drawn <= estimate).mean())) / 2
    half_step = 0.5 / len(drawn)
    bias = float(ndtri(min(max(below, half_step), 1 - half_step)))
    t = math.sqrt(groups / (groups - 1)) * float(stdtrit(groups - 1, (1 + confidence) / 2))
    levels = []
    for z in (-t, t):
        slope = 1 - acceleration * (bias + z)
        levels.append(float(ndtr(bias + (bias + z) / slope)) if slope > 0 else float(z > 0))
    low, high = np.quantile(drawn, levels)
    return float(min(low, estimate)), float(max(high, estimate))


def percentile_bounds(drawn: Array, confidence: float = 0.95) -> tuple[Array, Array]:
    """Percentile bounds (Efron 1979) of every column of ``drawn`` (draws x columns)."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def _left_out(sums: Array, counts: Array) -> Array:
    rest: Array = (sums.sum() - sums) / (counts.sum() - counts)
    return rest
