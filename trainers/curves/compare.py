"""Paired comparisons of points, from ``numbers.json``: the same held-out rows, noise and seeds on both sides."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from trainers.curves.material import held_out_icons

Figures = Mapping[str, Any]
BASES = ("/base", "/base/pairs")
"""Ends of the names of figures without seeds."""
PARTS = "pixel_error_"
"""Start of the names of the parts of an error."""
DETAIL, DETAIL_BANDS = "pixel_error_detail", ("pixel_error_fine", "pixel_error_finest")
"""The part of the pixel error from an eighth of a cycle per pixel."""


class Compared:
    """The figures with their clusters.

    Args:
        found: ``numbers.json``.
    """

    def __init__(self, found: Figures) -> None:
        self.found = found
        self._scenes: dict[int, list[str]] = {}

    def scenes(self, n: int) -> list[str]:
        """The clusters of n held-out icons."""
        if n not in self._scenes:
            self._scenes[n] = [icon.scene for icon in held_out_icons(n)]
        return self._scenes[n]

    def seeds(self, prefix: str) -> list[Figures]:
        """The figures of a point, such as ``unet/sft/latent``, for every seed that was measured."""
        found: list[Figures] = []
        while f"{prefix}/{len(found)}" in self.found:
            found.append(self.found[f"{prefix}/{len(found)}"])
        return found

    def change(self, point: str, other: str, error: str) -> Interval:
        """How much larger a held-out error is after one training than after another, in per cent of the other's mean.

        The mean over the seeds that both have; the interval draws scenes, so it tells how much held-out icons differ,
        and not how much seeds do.

        Args:
            point: such as ``unet/sft/both 2``.
            other: the same; or ``unet/base``, the untrained model.
            error: such as ``pixel_error``; parts of it by frequency are not kept by row and have no interval.
        """
        if error.startswith(PARTS):
            changes = self.changes(point, other, error)
            return Interval(sum(changes) / len(changes), None, None, len(changes))
        ours, theirs = self.rows(point, error), self.rows(other, error)
        n = min(len(ours), len(theirs)) if not other.endswith(BASES) else len(ours)
        a, b = np.mean(ours[:n], 0), np.mean(theirs[:n], 0)
        return mean_interval(list(a - b), clusters=self.scenes(len(a))).scaled(100 / float(b.mean()), 0.0)

    def changes(self, point: str, other: str, error: str) -> list[float]:
        """The same for every seed alone, without intervals."""
        ours, theirs = self._values(point, error), self._values(other, error)
        if other.endswith(BASES):
            theirs = theirs * len(ours)
        return [100 * (a / b - 1) for a, b in zip(ours, theirs, strict=False)]

    def rows(self, point: str, error: str) -> list[list[float]]:
        """Errors of every held-out row, for every seed (one entry for the untrained model)."""
        found = [self.found[point]] if point.endswith(BASES) else self.seeds(point)
        return [one["errors"]["rows"][error] for one in found]

    def mean(self, point: str, error: str) -> float:
        """An error, over seeds; also those that are not kept by row, such as ``pixel_error_t50``."""
        return float(np.mean(self._values(point, error)))

    def _values(self, point: str, error: str) -> list[float]:
        """An error for every seed."""
        found = [self.found[point]] if point.endswith(BASES) else self.seeds(point)
        names = DETAIL_BANDS if error == DETAIL else (error,)
        return [sum(one["errors"][name] for name in names) for one in found]

    def images(self, point: str, other: str, group: str, name: str) -> Interval:
        """Mean difference of a value of generated images, same caption and sampling seed; intervals draw scenes.

        Args:
            point: such as ``unet/sft/latent``, or ``unet/base``.
            other: the same.
            group: ``metrics`` or ``bands``.
            name: such as ``blur_flaw`` or ``fine``.
        """
        ours, theirs = self._images(point, group, name), self._images(other, group, name)
        n = min(len(ours), len(theirs))
        differences = np.asarray(ours[:n]) - np.asarray(theirs[:n])
        return mean_interval(list(differences.ravel()), clusters=self.scenes(differences.shape[1]) * n)

    def has_images(self, point: str) -> bool:
        """Whether images of a point were made."""
        return any("metrics" in one for one in self.seeds(point))

    def level(self, point: str, group: str, name: str) -> float:
        """Mean value of the images of a point."""
        return float(np.mean(self._images(point, group, name)))

    def _images(self, point: str, group: str, name: str) -> list[list[float]]:
        return [one[group][name] for one in self.seeds(point)]

    def gap(self, point: str, base: str, kind: str) -> Interval:
        """By how much training widened loser's less winner's error, in per cent of the untrained winner's error.

        Args:
            point: such as ``unet/dpo/latent 1000``.
            base: the untrained model on pairs.
            kind: ``latent`` or ``pixel``.
        """
        winner, loser = (np.mean(self.rows(point, f"{kind}_{side}_error"), 0) for side in ("winner", "loser"))
        before, behind = (np.mean(self.rows(base, f"{kind}_{side}_error"), 0) for side in ("winner", "loser"))
        grown = (loser - winner) - (behind - before)
        return mean_interval(list(grown), clusters=self.scenes(len(grown))).scaled(100 / float(before.mean()), 0.0)

    def accuracy(self, point: str, base: str, kind: str) -> tuple[Interval, Interval]:
        """Share of held-out pairs with the larger error on the loser; and that in which training widened this gap.

        The first is SimPO's accuracy, the second DPO's; the errors are means over the five noise levels.

        Args:
            point: such as ``unet/dpo/latent 1000``.
            base: the untrained model on pairs.
            kind: ``latent`` or ``pixel``.
        """
        gap = np.asarray(self.rows(point, f"{kind}_loser_error")) - self.rows(point, f"{kind}_winner_error")
        start = np.asarray(self.rows(base, f"{kind}_loser_error")) - self.rows(base, f"{kind}_winner_error")
        scenes = self.scenes(gap.shape[1])
        shares = (gap > 0).mean(0), (gap > start).mean(0)
        first, second = (mean_interval(list(share), clusters=scenes) for share in shares)
        return first, second
