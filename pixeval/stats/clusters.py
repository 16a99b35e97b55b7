"""Means of values that are not independent: sums by cluster and cluster-robust variances.

Votes are clustered twice, in prompts and in annotators; treating them as independent makes intervals far too narrow.
"""

import math
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from pixeval.errors import InputError
from pixeval.stats.interval import Interval

Array = NDArray[np.float64]
Codes = NDArray[np.integer]
"""One small non-negative whole number per value, equal for values of one cluster."""
Keys = Iterable[Hashable] | Codes


def codes_of(keys: Keys, n: int) -> Codes:
    """Clusters as codes: an array of whole numbers as it is, other keys in order of first appearance.

    Raises:
        InputError: not one key per value.
    """
    if isinstance(keys, np.ndarray) and keys.dtype.kind in "iu":
        codes = keys
    else:
        positions: dict[Hashable, int] = {}
        codes = np.array([positions.setdefault(key, len(positions)) for key in keys], dtype=np.int64)
    if len(codes) != n:
        raise InputError(f"there must be one cluster key per value, got {len(codes)} for {n}")
    return codes


def cluster_sums(values: Array, codes: Codes) -> tuple[Array, Array]:
    """Sum and size of each cluster that is not empty, in order of its code."""
    sizes = np.bincount(codes).astype(np.float64)
    sums: Array = np.bincount(codes, weights=values).astype(np.float64, copy=False)
    held = sizes > 0
    return sums[held], sizes[held]


def cells_of(first: Codes, second: Codes) -> Codes:
    """One code for each combination of two clusterings that occurs."""
    width = int(second.max()) + 1
    cells = first.astype(np.int64) * width + second
    if (int(first.max()) + 1) * width <= 4 * len(cells) + 10_000:
        return cells
    found: Codes = np.unique(cells, return_inverse=True)[1]
    return found


def cluster_variance(residuals: Array, codes: Codes, total: float) -> tuple[float, int]:
    """Cluster-robust variance of ``residuals.sum() / total`` with the G/(G-1) correction, and G."""
    sums, _ = cluster_sums(residuals, codes)
    groups = len(sums)
    if groups < 2:
        return 0.0, groups
    return groups / (groups - 1) * float(sums @ sums) / total**2, groups


def clustered_mean(
    values: Sequence[float] | Array,
    prompts: Keys,
    annotators: Keys,
    bounds: tuple[float, float],
    confidence: float = 0.95,
    weights: Array | None = None,
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
        weights: positive weight of each vote, such as its inverse propensity: the mean is then Hajek's (1971)
            weighted mean, and the variance that of its linearisation.

    Raises:
        InputError: no values, or keys are missing.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise InputError("no votes to take a mean of")
    weight = np.ones(array.size) if weights is None else np.asarray(weights, dtype=np.float64)
    total = float(weight.sum())
    mean, least, most = float(weight @ array) / total, bounds[0], bounds[1]
    rows, people = codes_of(prompts, array.size), codes_of(annotators, array.size)
    residuals = weight * (array - mean)
    by_prompt, n_prompts = cluster_variance(residuals, rows, total)
    if n_prompts < 2:
        return Interval(mean, None, None, array.size)
    if np.ptp(array) == 0:
        z = float(ndtri((1 + confidence) / 2))
        unseen = z * z / (n_prompts + z * z)
        return Interval(mean, mean - unseen * (mean - least), mean + unseen * (most - mean), array.size)
    variance, groups = by_prompt, n_prompts
    by_annotator, n_annotators = cluster_variance(residuals, people, total)
    if n_annotators > 1:
        by_cell, _ = cluster_variance(residuals, cells_of(rows, people), total)
        variance = max(by_prompt, by_prompt + by_annotator - by_cell)
        groups = min(n_prompts, n_annotators)
    # Votes that cancel within every prompt leave no variance between prompts; then that of single votes is taken.
    variance = variance if variance > 1e-15 else float(residuals @ residuals) / total**2
    se = math.sqrt(variance)
    half = float(stdtrit(groups - 1, (1 + confidence) / 2)) * se
    return Interval(mean, max(least, mean - half), min(most, mean + half), array.size, se, float(groups - 1))
