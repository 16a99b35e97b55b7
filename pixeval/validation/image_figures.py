"""What is measured on one image: values of all metrics on it, clean and with every flaw, and their heat maps' figures.

An image is planted once per flaw and level, and all metrics look at it while it is there; nothing is kept but numbers,
so that images can be measured anywhere and in any order.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pixeval.catalog import find, load
from pixeval.validation.clean_images import CleanImage
from pixeval.validation.localisation import FIGURES, Array, mean_iou
from pixeval.validation.planted_flaws import LEVELS, MEDIUM, PLANTED, VISIBLE, Planted, PlantedFlaw, plant

HEAT_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)

ImageFigures = dict[str, Any]
"""Of one image, as JSON can hold them.

``clean``: value by metric. ``flaws``: by planted flaw, where its medium level shows: ``medium``, the value by metric;
``levels``, the values of the metric that should find it, by level; ``heat``, the figures of its heat map, with
``mIoU`` by threshold.
"""


@dataclass(frozen=True)
class Judge:
    """A metric under test, oriented so that higher is worse."""

    name: str
    scorer: Any
    sign: float
    has_heat: bool

    @classmethod
    def named(cls, name: str) -> "Judge":
        """The metric ``name`` of the families quality or flaws."""
        spec = find(name)
        return cls(name, load(spec), -1.0 if spec.higher_is_better else 1.0, spec.family == "flaws")

    @torch.no_grad()
    def value(self, pixels: Tensor) -> float:
        """Of 3 x H x W."""
        return self.sign * float(self.scorer(pixels[None]))

    @torch.no_grad()
    def heat(self, pixels: Tensor) -> Array:
        """H x W in [0, 1]."""
        found: Array = self.scorer.heatmap(pixels[None])[0].double().numpy()
        return found


def measure(image: CleanImage, judges: list[Judge], cross_talk: bool = True) -> ImageFigures:
    """The figures of one image.

    Args:
        judges: the metrics under test.
        cross_talk: without it only what thresholds are chosen by: values on the clean image, heat maps of own flaws.
    """
    flaws = {}
    for flaw in PLANTED:
        own = next((judge for judge in judges if judge.name == flaw.detector), None)
        if own is None and not cross_talk:
            continue
        medium = plant(flaw, image.pixels, MEDIUM, image.name)
        if medium.change < VISIBLE:
            continue
        found: dict[str, Any] = {}
        if cross_talk:
            found["medium"] = {judge.name: judge.value(medium.pixels) for judge in judges}
        if own is not None and cross_talk:
            found["levels"] = _by_level(own, flaw, image, found["medium"][own.name])
        if own is not None and own.has_heat:
            found["heat"] = _places(own, medium)
        flaws[flaw.name] = found
    return {"clean": {judge.name: judge.value(image.pixels) for judge in judges}, "flaws": flaws}


def _by_level(own: Judge, flaw: PlantedFlaw, image: CleanImage, medium: float) -> dict[str, float]:
    """The place is the same at every level."""
    others = {level: plant(flaw, image.pixels, level, image.name) for level in LEVELS if level != MEDIUM}
    return {str(level): medium if level == MEDIUM else own.value(others[level].pixels) for level in LEVELS}


def _places(own: Judge, medium: Planted) -> dict[str, Any]:
    heat, mask = own.heat(medium.pixels), medium.mask.double().numpy()
    figures: dict[str, Any] = {name: figure(heat, mask) for name, (figure, _) in FIGURES.items()}
    return figures | {"mIoU": {str(t): mean_iou(heat, mask, t) for t in HEAT_THRESHOLDS}}
