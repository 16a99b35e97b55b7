"""Shares of independent trials. Votes of one study are not independent: for them see :mod:`pixeval.stats.clusters`."""

import math

from scipy.special import ndtri

from pixeval.errors import InputError
from pixeval.stats.interval import Interval


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
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
    return Interval(share, min(share, middle - half), max(share, middle + half), int(n))
