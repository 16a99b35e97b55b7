"""Looking at a study while it runs: intervals that hold at every look, so that one may stop at any of them.

A 95 % interval looked at again and again leaves out the truth at some look far more often than 5 % of the time. A
confidence sequence holds at all looks at once (Howard et al. 2021); this one bets (Waudby-Smith and Ramdas 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixeval.errors import InputError
from pixeval.records import Question, Vote
from pixeval.stats.clusters import Array
from pixeval.stats.vote_table import VoteTable

GRID = 1001
"""Possible means that are bet against."""
AT_ONCE = 1000


@dataclass(frozen=True)
class ConfidenceSequence:
    """The running estimate after each unit with bounds that hold at all of them at once."""

    value: Array
    low: Array
    high: Array
    confidence: float

    def decided(self, value: float = 0.0) -> int | None:
        """After how many units the bounds first leave ``value`` out, so that one might have stopped; None if never."""
        out = np.flatnonzero((self.low > value) | (self.high < value))
        return int(out[0]) + 1 if out.size else None


def confidence_sequence(
    values: Sequence[float] | Array, bounds: tuple[float, float], confidence: float = 0.95
) -> ConfidenceSequence:
    """Bounds of the mean of bounded, independent units, valid at every look, without assumptions on their shape.

    For every possible mean a bettor stakes against it, with the hedged capital process and predictable plug-in stakes
    of Waudby-Smith and Ramdas (2024, section 4; stakes cut at half of what keeps the capital positive). A mean stays
    in as long as neither the capital bet upwards nor that bet downwards reached 2 / (1 - confidence). Bounds never
    widen.

    Args:
        values: one number per unit in the order they came, such as the mean vote of each prompt.
        bounds: least and greatest possible value.
        confidence: in (0, 1).

    Raises:
        InputError: no values, or one outside the bounds.
    """
    array = np.asarray(values, dtype=np.float64)
    least, most = bounds
    if not array.size or not (array.min() >= least and array.max() <= most):
        raise InputError(f"a confidence sequence needs values within [{least:g}, {most:g}]")
    unit = (array - least) / (most - least)
    alpha, count = 1 - confidence, np.arange(1, len(unit) + 1)
    means = (0.5 + np.cumsum(unit)) / (count + 1)
    spread = (0.25 + np.cumsum((unit - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    stake = np.sqrt(2 * np.log(2 / alpha) / (before * count * np.log(count + 1)))
    low, high = _staying(unit, stake, float(np.log(2 / alpha)))
    middle = np.cumsum(unit) / count
    # Where no mean stays, the one that was seen is left.
    low, high = np.where(np.isnan(low), middle, low), np.where(np.isnan(high), middle, high)
    scale = most - least
    return ConfidenceSequence(
        np.cumsum(array) / count,
        np.maximum.accumulate(np.clip(low, 0, 1)) * scale + least,
        np.minimum.accumulate(np.clip(high, 0, 1)) * scale + least,
        confidence,
    )


def vote_sequence(
    votes: Sequence[Vote] | VoteTable,
    a_label: str,
    b_label: str,
    question: Question,
    votes_per_prompt: int = 1,
    confidence: float = 0.95,
) -> ConfidenceSequence:
    """:func:`confidence_sequence` of the net win rate, one unit per prompt, in the order in which prompts got complete.

    A unit is the mean of a prompt's first ``votes_per_prompt`` answers; prompts with fewer are not looked at yet. It
    speaks about new prompts and takes the annotators as given. Prompts must be given out in random order, and not be
    chosen for what earlier votes said.

    Raises:
        InputError: no prompt is complete.
    """
    table = VoteTable.of(votes).about(a_label, b_label, question)
    table = table.where(table.answered)
    values = table.signs(a_label)
    order = np.argsort(table.prompt, kind="stable")
    _, starts, sizes = np.unique(table.prompt[order], return_index=True, return_counts=True)
    complete = sizes >= votes_per_prompt
    if not complete.any():
        raise InputError(f"no prompt has {votes_per_prompt} answered votes on {question!r} yet; collect more")
    rows = order[starts[complete][:, None] + np.arange(votes_per_prompt)]
    done = np.argsort(rows.max(1), kind="stable")
    return confidence_sequence(values[rows].mean(1)[done], (-1.0, 1.0), confidence)


def _staying(unit: Array, stake: Array, threshold: float) -> tuple[Array, Array]:
    """Least and greatest mean, rounded outwards on a grid, against which no bettor has won yet, after each unit."""
    grid, step = np.linspace(0, 1, GRID), 1 / (GRID - 1)
    up, down, most = np.zeros(GRID), np.zeros(GRID), np.full(GRID, -np.inf)
    lows, highs = [], []
    for start in range(0, len(unit), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        rising = up + _log_gains(unit[part], stake[part], grid)
        falling = down + _log_gains(1 - unit[part], stake[part], 1 - grid)
        reached = np.maximum(most, np.maximum.accumulate(np.maximum(rising, falling), axis=0))
        up, down, most = rising[-1], falling[-1], reached[-1]
        inside = reached < threshold
        any_in = inside.any(1)
        lows.append(np.where(any_in, (np.argmax(inside, 1) - 1) * step, np.nan))
        highs.append(np.where(any_in, (GRID - np.argmax(inside[:, ::-1], 1)) * step, np.nan))
    return np.concatenate(lows), np.concatenate(highs)


def _log_gains(unit: Array, stake: Array, grid: Array) -> Array:
    """Log of the growth of a capital that bets that the mean is above each value of ``grid``, up to each unit."""
    staked = np.minimum(stake[:, None], 0.5 / np.maximum(grid, 1e-12))
    growth: Array = np.cumsum(np.log1p(staked * (unit[:, None] - grid)), axis=0)
    return growth
