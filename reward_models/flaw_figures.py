"""How well flaw maps mark the right places, by the figures of RichHF-18K (Liang et al. 2024, arXiv 2312.10240).

The truth may be soft. It is the density of CC, KLD and SIM as it is; its places above 0 are the fixations of NSS and
AUC-Judd; for mIoU those of at least one half are flawed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from pixeval.validation.localisation import FIGURES, mean_iou
from pixeval.validation.rank_figures import correlation_interval, plcc, srcc
from reward_models.flaw_examples import Marked

Array = NDArray[np.float64]
THRESHOLD = 0.5
"""Of the map, for mIoU and for what of a sound image is marked."""
NAMES = (*FIGURES, "mIoU", "MSE", "MSE of sound images", "marked share of sound images")


def figures_of(heat: Array, truth: Array) -> dict[str, float]:
    """Those of :data:`NAMES` that there are for one map and its truth, both H x W in [0, 1]."""
    found = {"MSE": float(np.square(heat - truth).mean())}
    if 0 < (truth > 0).sum() < truth.size:
        found |= {name: figure(heat, truth) for name, (figure, _) in FIGURES.items()}
    most = (truth >= THRESHOLD).astype(np.float64)
    if 0 < most.sum() < most.size:
        found["mIoU"] = mean_iou(heat, most, THRESHOLD)
    if truth.sum() == 0:
        found["MSE of sound images"] = found["MSE"]
        found["marked share of sound images"] = float((heat >= THRESHOLD).mean())
    return found


@dataclass(frozen=True)
class Judged:
    """One example and what its map is worth."""

    source: str
    kind: str
    flaw: str
    level: int
    rating: float | None
    figures: dict[str, float]
    mean: float
    """Of the map: how flawed the image is as a whole."""


def judge(heat_of: Callable[[Tensor], Tensor], examples: Iterable[Marked]) -> list[Judged]:
    """Every example by itself.

    Args:
        heat_of: N x 3 x H x W images to N x H x W maps in [0, 1].
    """
    found = []
    for one in examples:
        with torch.no_grad():
            heat = heat_of(one.pixels[None])[0].double().numpy()
        told = figures_of(heat, one.mask.double().numpy())
        found.append(Judged(one.source, one.kind, one.flaw, one.level, one.rating, told, float(heat.mean())))
    return found


def summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """Means with 95 % intervals over sources, and n."""
    found = {}
    for name in NAMES:
        rows = [(one.figures[name], one.source) for one in judged if name in one.figures]
        if rows:
            found[name] = told(mean_interval([value for value, _ in rows], clusters=[source for _, source in rows]))
    return found


def agreement(truth: Sequence[float], judged: Sequence[Judged]) -> dict[str, Any]:
    """PLCC and SRCC of the maps' means with ``truth``, with 95 % intervals over sources."""
    means, sources = [one.mean for one in judged], [one.source for one in judged]
    return {
        name: told(correlation_interval(figure, truth, means, sources))
        for name, figure in (("PLCC", plcc), ("SRCC", srcc))
    }


def told(found: Interval) -> dict[str, Any]:
    """As JSON has it."""
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
