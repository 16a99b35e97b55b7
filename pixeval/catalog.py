"""Every metric that can be named on the command line. Importing this module imports no torch."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["quality", "flaws", "alignment", "distribution", "reference"]
Need = Literal["prompt", "reference_image", "reference_set", "clip"]


@dataclass(frozen=True)
class MetricSpec:
    """What a metric is, without loading it."""

    name: str
    family: Family
    summary: str
    """One line for people."""
    higher_is_better: bool
    low: float
    high: float
    """Range of possible values; ``inf`` where unbounded."""
    factory: str
    """``module:attribute``; called without arguments (or with the encoder for needs=("clip",))."""
    citation: str
    needs: tuple[Need, ...] = ()
    differentiable: bool = False
    extra: str | None = None
    """The optional dependency group that must be installed, if any."""
    weights: str = "none"
    """Licence of the weights, or ``none``."""
