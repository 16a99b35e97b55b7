"""Claims of "not worse" and "as good": an interval that includes zero shows neither, these tests do."""

from dataclasses import dataclass
from typing import Literal

from pixeval.errors import InputError
from pixeval.stats.interval import Interval

Claim = Literal["non-inferior", "equivalent", "superior"]


@dataclass(frozen=True)
class MarginTest:
    """A one-sided claim about a change, or two of them."""

    claim: Claim
    holds: bool
    """Whether the data show it at level ``alpha``. False means "not shown", never "the opposite is true"."""
    value: float
    margin: float
    low: float | None
    """One-sided ``1 - alpha`` bounds of the change (both, so a ``1 - 2 alpha`` interval), which decide; None without an
    interval."""
    high: float | None
    p_value: float | None
    """By the same t; None where the values do not vary."""
    alpha: float
    n: int


def non_inferior(change: Interval, margin: float, higher_is_better: bool = True, alpha: float = 0.05) -> MarginTest:
    """Whether ``change`` (candidate minus baseline) is worse by less than ``margin``, by a one-sided t test.

    Args:
        change: with ``se`` and ``df``, as :func:`pixeval.stats.bootstrap.paired_interval` and the net win rate of
            :func:`pixeval.stats.win_rates.win_rates` have them.
        margin: greatest loss that would be accepted, positive, in the units of ``change``; state it before looking.
        higher_is_better: the metric's direction.
        alpha: one-sided level.

    Raises:
        InputError: a margin that is not positive.
    """
    return _one_sided("non-inferior", change, _positive(margin), higher_is_better, alpha)


def superior(change: Interval, margin: float = 0.0, higher_is_better: bool = True, alpha: float = 0.05) -> MarginTest:
    """Whether ``change`` is better by more than ``margin``, by a one-sided t test.

    Raises:
        InputError: a negative margin.
    """
    if margin < 0:
        raise InputError(f"a margin of superiority must not be negative, got {margin:g}")
    return _one_sided("superior", change, -margin, higher_is_better, alpha)


def equivalent(change: Interval, margin: float, alpha: float = 0.05) -> MarginTest:
    """Whether ``change`` is within ``margin`` of zero in both directions: two one-sided tests (Schuirmann 1987).

    Raises:
        InputError: a margin that is not positive.
    """
    _positive(margin)
    low, high = _bounds(change, alpha)
    above, below = change.p_above(-margin), change.negated().p_above(-margin)
    p_value = None if above is None or below is None else max(above, below)
    holds = low is not None and high is not None and -margin < low and high < margin
    return MarginTest("equivalent", holds, change.value, margin, low, high, p_value, alpha, change.n)


def _one_sided(claim: Claim, change: Interval, loss: float, higher_is_better: bool, alpha: float) -> MarginTest:
    """Whether the change in the good direction is above ``-loss``."""
    good = change if higher_is_better else change.negated()
    low, high = _bounds(change, alpha)
    worst = low if higher_is_better else None if high is None else -high
    holds = worst is not None and worst > -loss
    return MarginTest(claim, holds, change.value, abs(loss), low, high, good.p_above(-loss), alpha, change.n)


def _bounds(change: Interval, alpha: float) -> tuple[float | None, float | None]:
    """One-sided bounds by Student's t; without variance (all values equal) those of the interval itself."""
    if not change.se:
        return change.low, change.high
    return change.bound(alpha), change.bound(1 - alpha)


def _positive(margin: float) -> float:
    if not margin > 0:
        raise InputError(f"a margin must be positive, in the units of the change, got {margin:g}")
    return margin
