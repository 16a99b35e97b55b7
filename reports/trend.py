"""Checkpoints over time by one rule: their values, the best, and those that cannot be told from it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeval.errors import InputError, unknown_name
from pixeval.metric_spec import FAMILIES, MetricSpec
from pixeval.stats.interval import Interval
from pixeval.stats.multiplicity import holm
from pixeval.stats.permutation import sign_flip_p
from reports.arms import Arm
from reports.score_table import ScoreTable
from reports.tables import LEVEL, MIN_PROMPTS, intervals_of


@dataclass(frozen=True)
class TrendRow:
    """One checkpoint."""

    label: str
    step: int | None
    value: Interval
    """Mean over its images, whole prompts resampled; in the units that the rule names."""
    change: Interval | None
    """Against the base model, paired; positive is better, whatever the metric's direction."""
    behind: Interval | None
    """Best minus this one, paired, positive is behind; None for the best itself."""
    p_holm: float | None
    """Of "as good as the best", adjusted over all checkpoints."""
    tied: bool
    """It cannot be told from the best."""


@dataclass(frozen=True)
class Trend:
    """All checkpoints that were scored, by step."""

    rule: str
    """How the best was chosen, in words."""
    rows: tuple[TrendRow, ...]
    best: str | None
    second: str | None
    said: str
    """The best with its uncertainty, in a sentence."""


def trend(arms: Sequence[Arm], base: Arm | None, scored: ScoreTable, specs: Mapping[str, MetricSpec], by: str) -> Trend:
    """The trend of checkpoints ``arms``, by step.

    Args:
        arms: checkpoints with images, the base model left out.
        base: the model they started from, whose images scale the index of a family.
        by: a metric, or a family: the mean of its metrics, each in standard deviations of the base's images and
            turned so that higher is better.

    Raises:
        InputError: ``by`` is neither, or nothing was scored with it.
    """
    lines, rule = _lines(by, scored, specs, base)
    ordered = sorted(arms, key=lambda arm: (arm.step is None, arm.step or 0, arm.name))
    held = {arm.name: _by_pair(arm, lines, scored, specs, base) for arm in ([base] if base else []) + ordered}
    ordered = [arm for arm in ordered if held[arm.name]]
    if not ordered:
        return Trend(rule, (), None, None, "No checkpoint has been scored yet.")
    upward = by in FAMILIES or specs[by].higher_is_better
    common = set.intersection(*(set(held[arm.name]) for arm in ordered))
    means = {arm.name: float(np.mean([held[arm.name][key] for key in common])) for arm in ordered if common}
    best = max(ordered, key=lambda arm: (means.get(arm.name, -np.inf), -(arm.step or 0))) if common else None
    rows = []
    for arm in ordered:
        own = held[arm.name]
        value = _mean(own) if upward else _mean(own).negated()
        change = _difference(own, held[base.name]) if base and base.name in held else None
        behind = None if best is None or arm is best else _difference(held[best.name], own)
        rows.append(TrendRow(arm.label, arm.step, value, change, behind, None, best is not None and arm is best))
    return _told(rule, rows, best, held, means)


Values = dict[tuple[str, int], float]
"""By prompt and seed, turned so that higher is better."""


def _told(
    rule: str, rows: list[TrendRow], best: Arm | None, held: Mapping[str, Values], means: Mapping[str, float]
) -> Trend:
    if best is None:
        return Trend(rule, tuple(rows), None, None, "The checkpoints share no prompt and seed, so none is the best.")
    others = [row for row in rows if row.behind is not None]
    adjusted = dict(zip((row.label for row in others), holm([_p(held, best, row) for row in others]), strict=True))
    prompts = len({prompt for prompt, _ in held[best.name]})
    found = []
    for row in rows:
        p = adjusted.get(row.label)
        clear = p is not None and p < LEVEL and row.behind is not None and row.behind.excludes(0.0)
        tied = row.behind is None or not clear or prompts < MIN_PROMPTS
        found.append(TrendRow(row.label, row.step, row.value, row.change, row.behind, p, tied))
    ranked = sorted(others, key=lambda row: -means[row.label])
    second = ranked[0].label if ranked else None
    return Trend(rule, tuple(found), best.label, second, _sentence(found, best.label, second))


def _sentence(rows: Sequence[TrendRow], best: str, second: str | None) -> str:
    top = next(row for row in rows if row.label == best)
    text = f"Best so far: {best}, {top.value.value:.4g}{_bounds(top.value)}"
    if second is None:
        return text + "; it is the only one."
    row = next(row for row in rows if row.label == second)
    assert row.behind is not None
    lead = f"ahead of {second} by {row.behind.value:.3g}{_bounds(row.behind)}"
    tied = [row.label for row in rows if row.tied and row.label != best]
    if second not in tied:
        return f"{text}, {lead}. It was chosen by these very numbers, which flatters it: confirm on other prompts."
    others = f"{len(tied)} checkpoints" if len(tied) > 3 else ", ".join(tied)
    return f"{text}, {lead}: it cannot be told from {others}."


def _bounds(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return " (no interval)"
    return f" ({interval.low:.3g} to {interval.high:.3g})"


def _p(held: Mapping[str, Values], best: Arm, row: TrendRow) -> float:
    top, own = held[best.name], held[row.label]
    keys = sorted(set(top) & set(own))
    return sign_flip_p([top[key] - own[key] for key in keys], [key[0] for key in keys])


def _lines(
    by: str, scored: ScoreTable, specs: Mapping[str, MetricSpec], base: Arm | None
) -> tuple[tuple[str, ...], str]:
    if by in specs:
        if by not in scored.row:
            raise InputError(f"no image was scored with {by}; score with it, or choose another with --by")
        word = "highest" if specs[by].higher_is_better else "lowest"
        return (by,), f"{word} mean {by}, over images paired by prompt and seed"
    if by not in FAMILIES:
        raise unknown_name("metric or family", by, [*FAMILIES, *specs])
    metrics = tuple(m for m in scored.metrics if m in specs and specs[m].family == by and _varies(m, scored, base))
    if not metrics:
        raise InputError(f"no metric of the {by} family differs between images; choose another with --by")
    scale = "the base model's images" if base else "all images"
    return metrics, (
        f"highest index of {by}: the mean of {len(metrics)} metrics, each in standard deviations of {scale} "
        "and turned so that higher is better"
    )


def _varies(metric: str, scored: ScoreTable, base: Arm | None) -> bool:
    return _spread(metric, scored, base)[1] > 0


def _spread(metric: str, scored: ScoreTable, base: Arm | None) -> tuple[float, float]:
    """Mean and deviation of the base's images; of all where there is no base."""
    row = scored.values[scored.row[metric]]
    if base is not None:
        row = scored.values_at(scored.columns(base.samples))[scored.row[metric]]
    row = row[np.isfinite(row)]
    return (float(row.mean()), float(row.std(ddof=1))) if row.size > 1 else (0.0, 0.0)


def _by_pair(
    arm: Arm, metrics: Sequence[str], scored: ScoreTable, specs: Mapping[str, MetricSpec], base: Arm | None
) -> Values:
    """Values of the images that have all of the metrics."""
    table = scored.values_at(scored.columns(arm.samples))
    total: NDArray[np.float64] = np.zeros(len(arm.samples))
    for metric in metrics:
        sign = 1.0 if specs[metric].higher_is_better else -1.0
        row = table[scored.row[metric]]
        if len(metrics) > 1:
            mean, spread = _spread(metric, scored, base)
            row = (row - mean) / spread / len(metrics)
        total = total + sign * row
    return {
        (sample.prompt_id or "", sample.seed or 0): float(value)
        for sample, value in zip(arm.samples, total, strict=True)
        if np.isfinite(value)
    }


def _mean(values: Values) -> Interval:
    return _interval(list(values.values()), [key[0] for key in values])


def _difference(first: Values, second: Values) -> Interval | None:
    keys = sorted(set(first) & set(second))
    return _interval([first[key] - second[key] for key in keys], [key[0] for key in keys]) if keys else None


def _interval(values: Sequence[float], prompts: Sequence[str]) -> Interval:
    numbers: dict[str, int] = {}
    clusters = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts], dtype=np.int64)
    found = intervals_of(np.array([values], dtype=np.float64), clusters)[0]
    assert found is not None
    return found
