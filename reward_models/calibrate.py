"""From reward differences to probabilities that can be believed: temperature, lapses, isotonic map, and what they miss.

Everything is folded: what is judged is the probability that the image with the higher reward wins a decided
comparison, which is at least one half; swapping the two images changes nothing.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from pixeval.errors import InputError
from pixeval.stats.interval import Interval
from reward_models.model import Calibration

Array = NDArray[np.float64]

BINS = 10
LEAST = 30
"""Comparisons that a temperature needs."""
LEAST_MAPPED = 200
"""Decided comparisons that the maps of probabilities (lapses, isotonic) need."""
DRAWS = 500


@dataclass(frozen=True)
class Bin:
    """Comparisons of about equal confidence."""

    confidence: float
    """Mean predicted probability."""
    share: Interval
    """Of comparisons that went as predicted."""


@dataclass(frozen=True)
class Reliability:
    """How far predicted probabilities can be believed."""

    bins: tuple[Bin, ...]
    """Of equal counts, by rising confidence."""
    ece: Interval
    """Expected calibration error: mean gap of confidence and share over bins. At least 0, lower is better. Chance alone
    makes it positive; see ``floor``."""
    floor: float
    """The mean ECE of as many comparisons whose probabilities are exactly right."""


def fit_calibration(differences: Array, outcomes: Array, weights: Array) -> Calibration:
    """Temperature (beside the weight of ties) by maximum likelihood, then lapses and the isotonic map of what is left.

    Args:
        differences: raw reward differences, (n,).
        outcomes: n x 3 shares of votes for first, tie, second.
        weights: (n,).

    Raises:
        InputError: fewer than ``LEAST`` comparisons.
    """
    if len(differences) < LEAST:
        raise InputError(f"{len(differences)} held-out comparisons are too few to calibrate on; {LEAST} are needed")
    tied = bool(outcomes[:, 1].sum() > 0)

    def loss(parameters: Array) -> float:
        half = differences / math.exp(parameters[0]) / 2
        middle = np.full_like(half, parameters[1] if tied else -np.inf)
        logits = np.stack((half, middle, -half), 1)
        logs = logits - logsumexp(logits, 1, keepdims=True)
        return -float((weights[:, None] * np.where(outcomes > 0, outcomes * logs, 0)).sum() / weights.sum())

    with np.errstate(invalid="ignore"):
        found = minimize(loss, [0.0, -1.0] if tied else [0.0], method="Nelder-Mead", options={"xatol": 1e-4})
    temperature = float(np.exp(np.clip(found.x[0], -8, 8)))
    chances, right, counts = folded(differences / temperature, outcomes, weights)
    if len(chances) < LEAST_MAPPED:
        return Calibration(temperature)
    lapses = fit_lapses(chances, right, counts)
    return Calibration(temperature, lapses, pool_adjacent_violators(chances, right, counts))


def folded(differences: Array, outcomes: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Predicted probability that the better-looking wins, share of decided votes by which it did, and weights.

    Comparisons without a decided vote, and differences of exactly 0, are left out.
    """
    decided = outcomes[:, 0] + outcomes[:, 2]
    kept = (decided > 0) & (differences != 0)
    d, shares = differences[kept], outcomes[kept]
    right = np.where(d > 0, shares[:, 0], shares[:, 2]) / decided[kept]
    return 1 / (1 + np.exp(-np.abs(d))), right, weights[kept] * decided[kept]


def fit_lapses(chances: Array, right: Array, weights: Array) -> tuple[float, float]:
    """Share of lapses and slope, by maximum likelihood, of the psychometric function of :func:`lapsing_chance`.

    Args:
        chances, right, weights: of :func:`folded`.
    """

    def loss(parameters: Array) -> float:
        p = lapsing_chance(chances, (1 / (1 + math.exp(-parameters[0])), math.exp(parameters[1])))
        logs = right * np.log(p.clip(1e-9)) + (1 - right) * np.log((1 - p).clip(1e-9))
        return -float((weights * logs).sum() / weights.sum())

    found = minimize(loss, [-2.0, 0.0], method="Nelder-Mead", bounds=[(-8, 8), (-8, 8)], options={"xatol": 1e-4})
    return 1 / (1 + math.exp(-found.x[0])), math.exp(found.x[1])


def lapsing_chance(chances: Array, lapses: tuple[float, float]) -> Array:
    """lapse / 2 + (1 - lapse) sigma(slope x), x the log odds of ``chances`` (Wichmann and Hill 2001).

    An annotator who lapses says either at random, whatever the difference; and where the reward takes the images for
    what they are not, so does it (doi:10.3758/BF03194544). No temperature levels off as this does.
    """
    share, slope = lapses
    logits = np.log(chances) - np.log1p(-chances.clip(max=1 - 1e-12))
    found: Array = share / 2 + (1 - share) / (1 + np.exp(-slope * logits))
    return found


def pool_adjacent_violators(chances: Array, right: Array, weights: Array) -> tuple[tuple[float, float], ...]:
    """Isotonic regression of ``right`` on ``chances`` (Ayer et al. 1955): mean chance and share of each block.

    Shares below one half become one half: the better-looking image cannot be the worse one.
    """
    order = np.argsort(chances, kind="stable")
    blocks: list[tuple[float, float, float]] = []
    for i in order:
        block = float(weights[i] * chances[i]), float(weights[i] * right[i]), float(weights[i])
        blocks.append(block)
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            last = blocks.pop()
            before = blocks.pop()
            blocks.append((before[0] + last[0], before[1] + last[1], before[2] + last[2]))
    return tuple((chance / weight, max(0.5, share / weight)) for chance, share, weight in blocks)


def isotonic_chance(chances: Array, calibration: Calibration) -> Array:
    """Calibrated probabilities of at least one half; straight between the knots, level beyond; as given without
    knots."""
    if not calibration.knots:
        return chances
    known, mapped = np.array(calibration.knots).T
    found: Array = np.interp(chances, known, mapped)
    return found


def reliability(
    chances: Array, right: Array, clusters: Sequence[Hashable], bins: int = BINS, seed: int = 0
) -> Reliability:
    """Bins of equal counts and the expected calibration error (Naeini et al. 2015), with 95 % bootstrap intervals.

    Args:
        chances: predicted, of :func:`folded`.
        right: shares by which it went as predicted.
        clusters: prompts; whole ones are drawn.

    Raises:
        InputError: no comparisons.
    """
    if len(chances) == 0:
        raise InputError("there is no decided comparison to judge probabilities by")
    rng = np.random.default_rng(seed)
    members: dict[Hashable, list[int]] = {}
    for row, key in enumerate(clusters):
        members.setdefault(key, []).append(row)
    groups = [np.array(rows) for rows in members.values()]
    draws = []
    for _ in range(DRAWS if len(groups) > 1 else 0):
        draws.append(np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))]))
    value, gaps = _binned(chances, right, bins)
    drawn = [_binned(chances[rows], right[rows], bins) for rows in draws]
    exact = [_binned(chances, (rng.random(len(chances)) < chances).astype(float), bins)[0] for _ in range(100)]
    n = len(chances)
    found = []
    for k, (confidence, share, count) in enumerate(gaps):
        low, high = _percentiles([table[k][1] for _, table in drawn if len(table) > k], share)
        found.append(Bin(confidence, Interval(share, low, high, count)))
    low, high = _percentiles([ece for ece, _ in drawn], value)
    return Reliability(tuple(found), Interval(value, low, high, n), float(np.mean(exact)))


def _binned(chances: Array, right: Array, bins: int) -> tuple[float, list[tuple[float, float, int]]]:
    order = np.argsort(chances, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    table = [(float(chances[p].mean()), float(right[p].mean()), len(p)) for p in parts]
    return sum(abs(c - s) * n for c, s, n in table) / len(chances), table


def _percentiles(values: Sequence[float], estimate: float) -> tuple[float, float] | tuple[None, None]:
    if len(values) < 2:
        return None, None
    low, high = np.quantile(values, [0.025, 0.975])
    return min(float(low), estimate), max(float(high), estimate)
