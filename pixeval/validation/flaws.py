"""Metrics against planted flaws: monotonicity, detection, localisation and cross-talk, each with its interval and n.

Heat and value thresholds are chosen on one set of images and every figure is measured on another (``clean_images``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixeval.catalog import find, load
from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from pixeval.stats.proportions import wilson
from pixeval.validation.clean_images import CleanImage
from pixeval.validation.localisation import FIGURES, Array, mean_iou
from pixeval.validation.planted_flaws import LEVELS, MEDIUM, PLANTED, VISIBLE, Planted, PlantedFlaw, plant
from pixeval.validation.rank_figures import auc, auc_interval, krcc

FALSE_ALARMS = 0.05
"""Share of clean images of the tuning set that the value threshold lets pass as flawed."""
HEAT_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


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


class PlantedSet:
    """Clean images and the flaws planted in them, and the values of judges on them, each computed once."""

    def __init__(self, images: Sequence[CleanImage]) -> None:
        self.images = images
        self._clean: dict[tuple[str, int], float] = {}

    def clean(self, judge: Judge, row: int) -> float:
        """Value of a clean image."""
        key = (judge.name, row)
        if key not in self._clean:
            self._clean[key] = judge.value(self.images[row].pixels)
        return self._clean[key]

    def planted(self, flaw: PlantedFlaw, level: int, row: int) -> Planted:
        """The flaw in one image; the place is the same at every level."""
        return plant(flaw, self.images[row].pixels, level, self.images[row].name)

    def visible(self, flaw: PlantedFlaw) -> list[tuple[int, Planted]]:
        """Rows of the images in which the medium flaw shows at all, with that flaw; others take no part."""
        medium = [self.planted(flaw, MEDIUM, row) for row in range(len(self.images))]
        return [(row, found) for row, found in enumerate(medium) if found.change >= VISIBLE]

    def sources(self, rows: Sequence[int]) -> list[str]:
        """What the intervals draw."""
        return [self.images[row].source for row in rows]


def validate_flaws(
    names: Sequence[str],
    tune: Sequence[CleanImage],
    report: Sequence[CleanImage],
    step: Callable[[str], None] = lambda done: None,
) -> dict[str, Any]:
    """Figures of the metrics ``names`` on planted flaws, as JSON can hold them.

    Args:
        names: metrics of the families flaws or quality; those with a planted flaw of their own get all figures, all get
            their row of the cross-talk.
        tune: images on which thresholds are chosen.
        report: images on which every figure is measured.
        step: called with the name of every planted flaw that is done.

    Returns:
        ``images``: how many of each kind; ``detectors``: figures by metric; ``cross_talk``: AUC by planted flaw and
        metric at medium severity.
    """
    judges = [Judge.named(name) for name in names]
    tuning, reporting = PlantedSet(tune), PlantedSet(report)
    detectors: dict[str, Any] = {}
    cross_talk: dict[str, dict[str, float]] = {}
    for flaw in PLANTED:
        shown = reporting.visible(flaw)
        own = next((judge for judge in judges if judge.name == flaw.detector), None)
        # with too few images that can carry the flaw nothing is said about it
        if len(shown) >= 3:
            cross_talk[flaw.name] = {judge.name: _cross_auc(judge, reporting, shown) for judge in judges}
            if own is not None:
                detectors[own.name] = _detector(own, flaw, tuning, reporting, shown)
        step(flaw.name)
    kinds = [image.kind for image in report]
    return {
        "images": {"tune": len(tune), "report": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}},
        "detectors": detectors,
        "cross_talk": cross_talk,
    }


def _cross_auc(judge: Judge, images: PlantedSet, shown: Sequence[tuple[int, Planted]]) -> float:
    clean = np.array([images.clean(judge, row) for row, _ in shown])
    return auc(clean, np.array([judge.value(found.pixels) for _, found in shown]))


def _detector(
    judge: Judge, flaw: PlantedFlaw, tuning: PlantedSet, reporting: PlantedSet, shown: Sequence[tuple[int, Planted]]
) -> dict[str, Any]:
    rows = [row for row, _ in shown]
    sources = reporting.sources(rows)
    clean = [reporting.clean(judge, row) for row in rows]
    values = {
        level: [
            judge.value((medium if level == MEDIUM else reporting.planted(flaw, level, row)).pixels)
            for row, medium in shown
        ]
        for level in LEVELS
    }
    steps = np.array([clean, *(values[level] for level in LEVELS)]).T
    order = np.arange(len(LEVELS) + 1, dtype=np.float64)
    taus = [krcc(order, row) if np.ptp(row) > 0 else 0.0 for row in steps]
    threshold = _value_threshold(judge, tuning)
    alarms = sum(reporting.clean(judge, row) > threshold for row in range(len(reporting.images)))
    kinds = [reporting.images[row].kind for row in rows]
    medium = values[MEDIUM]
    found: dict[str, Any] = {
        "flaw": flaw.name,
        "unit": flaw.unit,
        "amounts": list(flaw.amounts),
        "tau": _plain(mean_interval(taus, clusters=sources)),
        "auc": {str(level): _plain(auc_interval(clean, values[level], sources)) for level in LEVELS},
        "auc_by_kind": {
            kind: auc(
                *(np.array([v for v, k in zip(side, kinds, strict=True) if k == kind]) for side in (clean, medium))
            )
            for kind in dict.fromkeys(kinds)
        },
        "value_threshold": threshold,
        "found": _plain(wilson(sum(value > threshold for value in medium), len(medium))),
        "false_alarms": _plain(wilson(alarms, len(reporting.images))),
    }
    if judge.has_heat:
        found |= _localisation(judge, flaw, tuning, shown, sources)
    return found


def _localisation(
    judge: Judge,
    flaw: PlantedFlaw,
    tuning: PlantedSet,
    shown: Sequence[tuple[int, Planted]],
    sources: Sequence[str],
) -> dict[str, Any]:
    """Heat maps against the masks, at medium severity."""
    threshold = _heat_threshold(judge, [found for _, found in tuning.visible(flaw)])
    maps = [(judge.heat(found.pixels), found.mask.double().numpy()) for _, found in shown]
    figures: dict[str, Any] = {
        name: _plain(mean_interval([figure(heat, mask) for heat, mask in maps], clusters=sources))
        for name, (figure, _) in FIGURES.items()
    }
    ious = [mean_iou(heat, mask, threshold) for heat, mask in maps]
    figures["mIoU"] = _plain(mean_interval(ious, clusters=sources))
    return {"heat_threshold": threshold, "localisation": figures}


def _value_threshold(judge: Judge, tuning: PlantedSet) -> float:
    """What all but ``FALSE_ALARMS`` of the clean tuning images stay below or at."""
    values = [tuning.clean(judge, row) for row in range(len(tuning.images))]
    return float(np.quantile(values, 1 - FALSE_ALARMS, method="higher"))


def _heat_threshold(judge: Judge, planted: Sequence[Planted]) -> float:
    """The heat threshold with the greatest mIoU on the tuning images."""
    maps = [(judge.heat(found.pixels), found.mask.double().numpy()) for found in planted]
    if not maps:
        return HEAT_THRESHOLDS[2]
    scores = {t: float(np.mean([mean_iou(heat, mask, t) for heat, mask in maps])) for t in HEAT_THRESHOLDS}
    return max(HEAT_THRESHOLDS, key=lambda t: scores[t])


def _plain(interval: Interval) -> dict[str, float | int | None]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
