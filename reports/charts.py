"""Which charts a report draws: metrics over checkpoints and training curves, as titled small multiples. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reports.figures import Point, Series, line_chart, number
from reports.report import Report
from reports.tables import ArmScore, MetricTable, ScoreChange
from reports.training import TrainingCurve


@dataclass(frozen=True)
class Chart:
    """A titled chart."""

    title: str
    note: str
    svg: Markup


@dataclass(frozen=True)
class ChartGroup:
    """Charts that share a legend; ``names`` in the order of their colours."""

    names: tuple[str, ...]
    charts: tuple[Chart, ...]


def metric_charts(report: Report) -> ChartGroup:
    """Each metric over the checkpoints of each training run.

    The dashed line is the baseline's mean. The line is that mean plus the paired change, and the band its interval:
    where the band leaves out the dashed line, the checkpoint differs clearly.
    """
    sources = sorted({arm.source for table in report.metrics for arm in table.arms if arm.step is not None})
    names = tuple(report.runs[source].name for source in sources)
    charts = [chart for table in report.metrics if (chart := _metric_chart(report, table, sources)) is not None]
    return ChartGroup(names, tuple(charts))


def _metric_chart(report: Report, table: MetricTable, sources: Sequence[int]) -> Chart | None:
    base = next((arm for arm in table.arms if arm.arm == report.baseline), None)
    if base is None:
        return None
    series = []
    for slot, source in enumerate(sources):
        points = [_change_point(base, arm) for arm in table.arms if arm.source == source and arm.step is not None]
        held = [point for point in points if point is not None]
        if held:
            start = [] if any(p.x == 0 for p in held) else [Point(0.0, *[base.mean.value] * 3)]
            series.append(Series(report.runs[source].name, tuple(start + held), slot))
    if not series:
        return None
    better = {True: "higher is better", False: "lower is better", None: "direction unknown"}[table.higher_is_better]
    label = f"{table.metric} over training steps, {better}; baseline {number(base.mean.value)}"
    return Chart(table.metric, better, line_chart(series, label, baseline=base.mean.value))


def _change_point(base: ArmScore, arm: ArmScore) -> Point | None:
    if arm.step is None or arm.change is None:
        return None
    change, start = arm.change, base.mean.value
    low = None if change.low is None else start + change.low
    high = None if change.high is None else start + change.high
    return Point(float(arm.step), start + change.value, low, high)


def training_charts(report: Report) -> ChartGroup:
    """Each logged quantity over the steps of each run."""
    names = tuple(log.source for log in report.training)
    keys = list(dict.fromkeys(curve.key for log in report.training for curve in log.curves))
    charts = []
    for key in keys:
        held = [
            (slot, curve)
            for slot, log in enumerate(report.training)
            for curve in log.curves
            if curve.key == key and curve.points
        ]
        if held:
            charts.append(_training_chart(key, held))
    return ChartGroup(names, tuple(charts))


def _training_chart(key: str, held: Sequence[tuple[int, TrainingCurve]]) -> Chart:
    series = [Series(c.source, tuple(Point(x, y) for x, y in c.points), slot) for slot, c in held]
    note = "; ".join(f"{number(c.first)} → {number(c.last)}" for _, c in held)
    return Chart(key, note, line_chart(series, f"{key} over training steps: {note}", dots=False))


def effect_axis(changes: Sequence[ScoreChange]) -> tuple[float, float]:
    """A symmetric axis that holds all effects and their intervals, at most three standard deviations each way."""
    bounds = [
        abs(b) for c in changes if c.effect for b in (c.effect.value, c.effect.low, c.effect.high) if b is not None
    ]
    reach = min(3.0, max([0.2, *bounds]) * 1.05)
    return -reach, reach
