"""Metrics against planted flaws: monotonicity, detection, localisation and cross-talk, each with its interval and n.

Heat and value thresholds are chosen on one set of images and every figure is measured on another (``clean_images``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from pixeval.stats.proportions import wilson
from pixeval.validation.clean_images import CleanImage
from pixeval.validation.image_figures import HEAT_THRESHOLDS, ImageFigures
from pixeval.validation.image_runs import measure_all
from pixeval.validation.localisation import FIGURES
from pixeval.validation.planted_flaws import LEVELS, MEDIUM, PLANTED, PlantedFlaw
from pixeval.validation.rank_figures import auc, auc_interval, krcc

FALSE_ALARMS = 0.05
"""Share of clean images of the tuning set that the value threshold lets pass as flawed."""
LEAST = 3
"""With fewer images that can carry a flaw nothing is said about it."""
WORST = 4
"""Images named per detector when it is looked at on the tuning set."""


@dataclass(frozen=True)
class Measured:
    """Clean images and what was measured on each."""

    images: Sequence[CleanImage]
    figures: Sequence[ImageFigures]

    def clean(self, name: str) -> list[float]:
        """Values of a metric on the clean images."""
        return [one["clean"][name] for one in self.figures]

    def showing(self, flaw: PlantedFlaw) -> list[int]:
        """Rows of the images in which the medium flaw shows at all; others take no part."""
        return [row for row, one in enumerate(self.figures) if flaw.name in one["flaws"]]

    def of(self, flaw: PlantedFlaw, rows: Sequence[int]) -> list[dict[str, Any]]:
        """What was measured of a flaw."""
        return [self.figures[row]["flaws"][flaw.name] for row in rows]


def validate_flaws(
    names: Sequence[str], tune: Sequence[CleanImage], report: Sequence[CleanImage] | None, workers: int = 1
) -> dict[str, Any]:
    """Figures of the metrics ``names`` on planted flaws, as JSON can hold them.

    Args:
        names: metrics of the families flaws or quality; those with a planted flaw of their own get all figures, all get
            their row of the cross-talk.
        tune: images on which thresholds are chosen.
        report: images on which every figure is measured; None for those of ``tune``, where detectors are worked on:
            then the images that each detector judges worst are named besides.
        workers: processes.

    Returns:
        ``images``: how many of each kind; ``detectors``: figures by metric; ``cross_talk``: AUC by planted flaw and
        metric at medium severity.
    """
    judged = tune if report is None else report
    tasks = [(image, True) for image in judged] + [(image, False) for image in (tune if report is not None else ())]
    found = measure_all(tasks, names, workers)
    reporting = Measured(judged, found[: len(judged)])
    tuning = reporting if report is None else Measured(tune, found[len(judged) :])
    detectors: dict[str, Any] = {}
    cross_talk: dict[str, dict[str, float]] = {}
    for flaw in PLANTED:
        rows = reporting.showing(flaw)
        if len(rows) < LEAST:
            continue
        cross_talk[flaw.name] = {name: _cross_auc(name, flaw, reporting, rows) for name in names}
        if flaw.detector in names:
            detectors[flaw.detector] = _detector(flaw, tuning, reporting, rows)
            if report is None:
                detectors[flaw.detector]["worst"] = _worst(flaw, reporting, rows)
    kinds = [image.kind for image in judged]
    counts: dict[str, Any] = {"tune": len(tune), "report": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}}
    if report is None:
        counts["same"] = True
    return {"images": counts, "detectors": detectors, "cross_talk": cross_talk}


def _cross_auc(name: str, flaw: PlantedFlaw, images: Measured, rows: Sequence[int]) -> float:
    clean = images.clean(name)
    flawed = [one["medium"][name] for one in images.of(flaw, rows)]
    return auc(np.array([clean[row] for row in rows]), np.array(flawed))


def _detector(flaw: PlantedFlaw, tuning: Measured, reporting: Measured, rows: Sequence[int]) -> dict[str, Any]:
    name = flaw.detector
    sources = [reporting.images[row].source for row in rows]
    everywhere = reporting.clean(name)
    clean = [everywhere[row] for row in rows]
    shown = reporting.of(flaw, rows)
    values = {level: [one["levels"][str(level)] for one in shown] for level in LEVELS}
    steps = np.array([clean, *(values[level] for level in LEVELS)]).T
    order = np.arange(len(LEVELS) + 1, dtype=np.float64)
    taus = [krcc(order, row) if np.ptp(row) > 0 else 0.0 for row in steps]
    # what all but few of the clean tuning images stay below or at
    threshold = float(np.quantile(tuning.clean(name), 1 - FALSE_ALARMS, method="higher"))
    alarms = sum(value > threshold for value in everywhere)
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
        "false_alarms": _plain(wilson(alarms, len(everywhere))),
    }
    if "heat" in shown[0]:
        found |= _localisation(flaw, tuning, shown, sources)
    return found


def _localisation(
    flaw: PlantedFlaw, tuning: Measured, shown: Sequence[dict[str, Any]], sources: Sequence[str]
) -> dict[str, Any]:
    """Heat maps against the masks, at medium severity; the threshold of mIoU is the best one on the tuning images."""
    tuned = [one["heat"]["mIoU"] for one in tuning.of(flaw, tuning.showing(flaw))]
    means = {t: float(np.mean([one[str(t)] for one in tuned])) for t in HEAT_THRESHOLDS} if tuned else {}
    threshold = max(means, key=lambda t: means[t]) if tuned else HEAT_THRESHOLDS[2]
    figures: dict[str, Any] = {
        name: _plain(mean_interval([one["heat"][name] for one in shown], clusters=sources)) for name in FIGURES
    }
    ious = [one["heat"]["mIoU"][str(threshold)] for one in shown]
    figures["mIoU"] = _plain(mean_interval(ious, clusters=sources))
    return {"heat_threshold": threshold, "localisation": figures}


def _worst(flaw: PlantedFlaw, images: Measured, rows: Sequence[int]) -> dict[str, list[list[Any]]]:
    """The clean images with the highest values, and those with the medium flaw that have the lowest."""
    name = flaw.detector
    clean = zip(images.clean(name), images.images, strict=True)
    values = [one["medium"][name] for one in images.of(flaw, rows)]
    flawed = zip(values, [images.images[row] for row in rows], strict=True)
    return {
        "clean": [[image.name, value] for value, image in sorted(clean, key=lambda pair: -pair[0])[:WORST]],
        "flawed": [[image.name, value] for value, image in sorted(flawed, key=lambda pair: pair[0])[:WORST]],
    }


def _plain(interval: Interval) -> dict[str, float | int | None]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
