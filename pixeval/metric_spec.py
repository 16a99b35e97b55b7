"""What a metric is, without loading it. Importing this module imports no torch."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["quality", "flaws", "alignment", "distribution", "reference"]
Need = Literal[
    "prompt",
    "captions",
    "reference_image",
    "reference_set",
    "clip",
    "general_clip",
    "spectrum",
    "weights",
    "questions",
    "objects",
]
"""``captions`` are all distinct prompts of the run; ``clip`` is the shared encoder and ``general_clip``
says that it must know more than the bundled one, which has only seen icons; ``spectrum`` is the encoder of
:mod:`pixeval.spectrum_encoder`; ``weights`` are the metric's own, which are not bundled and come by
``--weights NAME=PATH``; ``questions`` and ``objects`` are those of the prompts'
records (the run's, or those of ``--suite``), and the metric is given the records by the prompts' texts."""

FAMILIES: tuple[Family, ...] = ("quality", "flaws", "alignment", "distribution", "reference")


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
    """``module:attribute``, called by :func:`pixeval.catalog.load` with what the metric needs and nothing else."""
    citation: str
    needs: tuple[Need, ...] = ()
    differentiable: bool = False
    extra: str | None = None
    """The optional dependency group that must be installed, if any."""
    weights: str = "none"
    """Licence of the weights, or ``none``."""
    weights_format: str = ""
    """For metrics with ``weights`` among their needs: what PATH in ``--weights NAME=PATH`` has to be."""
    min_side: int = 1
    """Smallest height and width of an image that can be scored, in pixels."""
    caution: str = ""
    """When not to trust it, for people."""
    undefined: str = ""
    """Why there may rightly be no finite value, for people; without it such a value counts as a failure."""
    full_heat: float = 1.0
    """For metrics with a heat map: the heat that overlays draw at full strength, about what the hottest tenth of a
    medium planted flaw has. Heat maps themselves are not scaled."""
    unit: str = ""
    """What the value is counted in; empty for pure numbers, shares and probabilities."""

    @property
    def needs_prompt(self) -> bool:
        """Whether the prompt of an image enters its value."""
        return bool({"prompt", "captions", "questions", "objects"} & set(self.needs))
