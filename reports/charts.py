"""Which charts a report draws: metrics over checkpoints and training curves, as titled small multiples. Pure."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pixeval.stats.interval import Interval
from reports.figures import Point, Series, line_chart, number
from reports.ledger import Ledger
from reports.levels import ArmScore, MetricTable
from reports.report import Comparison, Report
from reports.tables import ScoreChange
from reports.training import TrainingCurve

HELD_OUT = "held-out "
BANDS = ("coarse", "medium", "fine", "finest")
"""Radial frequencies, as ``trainers.held_out`` names them."""


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

    def only(self, titles: Collection[str], inside: bool = True) -> "ChartGroup":
        """The charts of these titles, or the others."""
        return ChartGroup(self.names, tuple(c for c in self.charts if (c.title in titles) == inside))


def metric_charts(report: Report, ledger: Ledger) -> ChartGroup:
    """Each metric over the checkpoints of each training run.

    The dashed line is the baseline's mean. The line is that mean plus the paired change, and the band its interval:
    where the band leaves out the dashed line, the checkpoint differs clearly.
    """
    sources = sorted({arm.source for table in report.metrics for arm in table.arms if arm.step is not None})
    names = tuple(report.runs[source].name for source in sources)
    charts = [chart for table in report.metrics if (chart := _metric_chart(report, table, sources, ledger)) is not None]
    return ChartGroup(names, tuple(charts))


def _metric_chart(report: Report, table: MetricTable, sources: Sequence[int], ledger: Ledger) -> Chart | None:
    base = next((arm for arm in table.arms if arm.arm == report.baseline), None)
    if base is None:
        return None
    series = []
    for slot, source in enumerate(sources):
        own = [arm for arm in table.arms if arm.source == source and arm.step is not None]
        held = [point for arm in own if (point := _change_point(base, arm, ledger)) is not None]
        if held:
            start = Point(0.0, base.mean.value, base.mean.value, base.mean.value, ledger.id_of(base.mean))
            series.append(Series(report.runs[source].name, (*([] if held[0].x == 0 else [start]), *held), slot))
    if not series:
        return None
    better = {True: "higher is better", False: "lower is better", None: "direction unknown"}[table.higher_is_better]
    label = f"{table.metric} over training steps, {better}; baseline {number(base.mean.value)}"
    return Chart(table.metric, better, line_chart(series, label, baseline=base.mean.value))


def _change_point(base: ArmScore, arm: ArmScore, ledger: Ledger) -> Point | None:
    if arm.step is None or arm.change is None:
        return None
    change, start = arm.change, base.mean.value
    low = None if change.low is None else start + change.low
    high = None if change.high is None else start + change.high
    return Point(float(arm.step), start + change.value, low, high, ledger.id_of(change))


def training_charts(report: Report, ledger: Ledger, held_out: bool) -> ChartGroup:
    """Each logged quantity over the steps of each run: those of held-out data, or the others."""
    names = tuple(log.source for log in report.training)
    keys = dict.fromkeys(curve.key for log in report.training for curve in log.curves)
    charts = []
    for key in keys:
        held = [
            (slot, curve)
            for slot, log in enumerate(report.training)
            for curve in log.curves
            if curve.key == key and curve.points and key.startswith(HELD_OUT) == held_out
        ]
        if held:
            charts.append(_training_chart(key, held, ledger))
    return ChartGroup(names, tuple(charts))


def _training_chart(key: str, held: Sequence[tuple[int, TrainingCurve]], ledger: Ledger) -> Chart:
    series = [
        Series(c.source, tuple(Point(p.step, p.value) for p in c.points), slot, ledger.id_of(c)) for slot, c in held
    ]
    note = "; ".join(f"{number(c.first)} → {number(c.last)}" for _, c in held)
    return Chart(key.removeprefix(HELD_OUT), note, line_chart(series, f"{key} over training steps: {note}", dots=False))


def band_charts(report: Report, ledger: Ledger) -> ChartGroup:
    """Held-out pixel error by radial frequency, relative to its first value, one chart per run and kind of image."""
    charts = []
    for log in report.training:
        curves = {curve.key: curve for curve in log.curves if curve.points}
        for side in ("", "winner_", "loser_"):
            keys = [f"{HELD_OUT}pixel_{side}error_{band}" for band in BANDS]
            if not all(key in curves and curves[key].points[0].value > 0 for key in keys):
                continue
            named = enumerate(zip(BANDS, keys, strict=True))
            series = [_relative(band, curves[key], slot, ledger) for slot, (band, key) in named]
            of = {"": "all images", "winner_": "preferred images", "loser_": "rejected images"}[side]
            last = ", ".join(f"{s.name} {number(s.points[-1].y)}" for s in series)
            label = f"held-out pixel error of {of} by frequency band, relative to the start; last: {last}"
            title = of if len(report.training) == 1 else f"{log.source}: {of}"
            charts.append(Chart(title, f"last: {last}", line_chart(series, label, baseline=1.0)))
    return ChartGroup(BANDS if charts else (), tuple(charts))


def _relative(band: str, curve: TrainingCurve, slot: int, ledger: Ledger) -> Series:
    start = curve.points[0].value
    points = tuple(Point(p.step, p.value / start, id=ledger.id_of(p)) for p in curve.points)
    return Series(band, points, slot, ledger.id_of(curve))


def effect_axis(changes: Sequence[ScoreChange]) -> tuple[float, float]:
    """A symmetric axis that holds all effects and most intervals, at most three standard deviations each way."""
    held = [c.effect for c in changes if c.effect]
    values = [abs(effect.value) for effect in held]
    bounds = sorted(abs(b) for effect in held for b in (effect.low, effect.high) if b is not None)
    # One metric whose interval is very wide would press all others together; arrow heads say what lies beyond.
    most = bounds[math.ceil(0.9 * len(bounds)) - 1] if bounds else 0.0
    reach = min(3.0, max([0.2, most, *values]) * 1.05)
    return -reach, reach


def net_axis(comparison: Comparison) -> tuple[float, float]:
    """A symmetric axis for net win rates in steps of 10 %, at most ±100 %."""
    nets = [v.rates.net for v in comparison.votes] + [t.rates.net for t in comparison.tags]
    bounds = [abs(b) for net in nets for b in (net.value, net.low, net.high) if b is not None]
    reach = min(1.0, math.ceil(max([0.2, *bounds]) * 10) / 10)
    return -reach, reach


def narrower(naive: Interval, honest: Interval) -> str:
    """How the naive interval compares in width, in words."""
    if None in (naive.low, naive.high, honest.low, honest.high):
        return "–"
    width = (honest.high or 0.0) - (honest.low or 0.0)
    if width <= 0:
        return "–"
    ratio = ((naive.high or 0.0) - (naive.low or 0.0)) / width
    if 0.95 <= ratio <= 1.05:
        return "as wide"
    return f"{number(ratio)} times as wide" + (": too sure" if ratio < 1 else "")
