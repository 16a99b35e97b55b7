"""Every metric of every arm: its mean, and its paired change against the baseline. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pixeval.metric_spec import MetricSpec
from pixeval.stats.interval import Interval
from reports.arms import Arm
from reports.score_table import ScoreTable
from reports.tables import Paired, family_of, intervals_of, metrics_of, problems_of


@dataclass(frozen=True)
class ArmScore:
    """A metric of one arm."""

    KEY: ClassVar[str] = "arm"
    arm: str
    source: int
    step: int | None
    mean: Interval
    """Over its own images; whole prompts are resampled."""
    change: Interval | None
    """Paired difference to the baseline; None for the baseline itself or where nothing can be paired."""


@dataclass(frozen=True)
class MetricTable:
    """A metric of every arm."""

    KEY: ClassVar[str] = "metric"
    metric: str
    family: str
    summary: str
    higher_is_better: bool | None
    arms: tuple[ArmScore, ...]


def metric_tables(
    arms: Sequence[Arm], baseline: Arm | None, scored: ScoreTable, specs: Mapping[str, MetricSpec]
) -> tuple[MetricTable, ...]:
    """Every metric of every arm that was scored with it."""
    by_metric: dict[str, list[ArmScore]] = {}
    for arm in arms:
        for metric, row in _arm_scores(arm, baseline, scored).items():
            by_metric.setdefault(metric, []).append(row)
    tables = []
    for metric in metrics_of(scored, specs):
        spec = specs.get(metric)
        if metric in by_metric:
            upward = spec.higher_is_better if spec else None
            summary = spec.summary if spec else ""
            tables.append(MetricTable(metric, family_of(metric, specs), summary, upward, tuple(by_metric[metric])))
    return tuple(tables)


def _arm_scores(arm: Arm, baseline: Arm | None, scored: ScoreTable) -> dict[str, ArmScore]:
    """By metric, those that gave this arm a value."""
    if not scored.metrics:
        return {}
    columns = scored.columns(arm.samples)
    numbers: dict[str, int] = {}
    prompts = [numbers.setdefault(s.prompt_id or s.id, len(numbers)) for s in arm.samples]
    means = intervals_of(scored.values_at(columns), np.array(prompts, dtype=np.int64))
    changes: list[Interval | None] = [None] * len(scored.metrics)
    if baseline is not None and arm is not baseline:
        paired = Paired.of(baseline, arm, scored)
        problems = problems_of(baseline, arm, paired, scored)
        usable = [i for i, metric in enumerate(scored.metrics) if problems[metric] is None]
        differences = scored.values_at(paired.after)[usable] - scored.values_at(paired.before)[usable]
        for i, interval in zip(usable, intervals_of(differences, paired.prompts), strict=True):
            changes[i] = interval
    return {
        metric: ArmScore(arm.name, arm.source, arm.step, mean, changes[i])
        for i, metric in enumerate(scored.metrics)
        if (mean := means[i]) is not None
    }
