"""An estimate and how far it can be trusted."""

from dataclasses import dataclass

from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float | None
    """None (with ``high``) where no interval can be given: fewer than two independent units."""
    high: float | None
    n: int
    """Observations behind ``value``."""
    se: float | None = None
    """Standard error, where the method has one."""
    df: float | None = None
    """Degrees of freedom of Student's t that goes with ``se``."""

    def scaled(self, factor: float, shift: float) -> "Interval":
        """``factor * x + shift`` of value and bounds, for a positive ``factor``."""
        se = None if self.se is None else factor * self.se
        if self.low is None or self.high is None:
            return Interval(factor * self.value + shift, None, None, self.n, se, self.df)
        low, high = factor * self.low + shift, factor * self.high + shift
        return Interval(factor * self.value + shift, low, high, self.n, se, self.df)

    def negated(self) -> "Interval":
        """The interval of the negative."""
        low = None if self.high is None else -self.high
        return Interval(-self.value, low, None if self.low is None else -self.low, self.n, self.se, self.df)

    def excludes(self, value: float) -> bool:
        """Whether the interval leaves ``value`` out; False where there is no interval."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def bound(self, level: float) -> float | None:
        """The one-sided ``level`` quantile ``value + t se``, as for a test at ``1 - level``; None without ``se``."""
        if self.se is None or self.df is None:
            return None
        return float(self.value + stdtrit(self.df, level) * self.se)

    def p_above(self, value: float) -> float | None:
        """One-sided p of "the truth is at most ``value``", by Student's t; None without a positive ``se``."""
        if not self.se or self.df is None:
            return None
        return float(stdtr(self.df, -(self.value - value) / self.se))

    def p_differs(self, value: float = 0.0) -> float | None:
        """Two-sided p of "the truth is ``value``", by Student's t; None without a positive ``se``."""
        if not self.se or self.df is None:
            return None
        return min(1.0, float(2 * stdtr(self.df, -abs(self.value - value) / self.se)))
