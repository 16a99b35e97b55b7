"""Scores in summary: one row per label and metric with mean, interval and n; and that as text for a terminal.

Works on the columns of the score table, so that a million images take no million objects.
"""

import textwrap
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pixeval.catalog import CATALOG
from pixeval.metric_spec import MetricSpec
from pixeval.records import Sample, SetScore
from pixeval.runs import Run
from pixeval.scoring.batches import UNREADABLE
from pixeval.scoring.table import ABSENT, ScoreTable

if TYPE_CHECKING:
    from pixeval.stats.interval import Interval

Mask = NDArray[np.bool_]


def summarise(run: Run, metrics: Sequence[str], left_out: dict[str, str] | None = None) -> dict[str, Any]:
    """What ``pixeval score`` reports, as JSON can hold it.

    ``images``: rows of :func:`image_rows`; ``sets``: set scores with n and interval; ``unscored``: how many values
    are missing by reason; ``left_out``: metrics that were not run, with the reason.
    """
    chosen = set(metrics)
    samples = run.samples()
    table = ScoreTable(run, samples)
    names = [name for name in table.metrics if name in chosen]
    why = _unreadable(table, names)
    return {
        "run": str(run.path),
        "images": image_rows(table, names, samples),
        "sets": [_set_row(score) for score in run.set_scores() if score.metric in chosen],
        "unreadable": [{"file": samples[position].path, "reason": why[position]} for position in sorted(why)],
        "unscored": _missing(table, names),
        "left_out": [{"metric": metric, "reason": reason} for metric, reason in (left_out or {}).items()],
    }


def image_rows(table: ScoreTable, metrics: Sequence[str], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Per label and metric: ``n``, ``n_unscored``, ``mean`` with 95 % interval ``low`` and ``high``, ``better``.

    The interval is a bootstrap over prompts, since images of one prompt are not independent (over images where there
    are no prompts). Mean and bounds are None where they cannot be given.
    """
    specs = {spec.name: spec for spec in CATALOG}
    labels = np.array([sample.label for sample in samples])
    rows = []
    for label in dict.fromkeys(labels.tolist()):
        here = labels == label
        counted = {name: here & table.present(name) for name in metrics}
        found = _intervals(
            table, {name: rows & np.isfinite(table.values(name)) for name, rows in counted.items()}, samples
        )
        rows += [
            _image_row(label, name, int(counted[name].sum()), found.get(name), specs.get(name))
            for name in metrics
            if counted[name].any()
        ]
    return rows


def _intervals(table: ScoreTable, scored: dict[str, Mask], samples: Sequence[Sample]) -> "dict[str, Interval]":
    """The mean of each metric over its samples with its interval; metrics of the same samples share their draws."""
    from pixeval.stats.bootstrap import mean_intervals

    together: dict[bytes, list[str]] = {}
    for name, mask in scored.items():
        if mask.any():
            together.setdefault(mask.tobytes(), []).append(name)
    found: dict[str, Interval] = {}
    for names in together.values():
        (where,) = np.nonzero(scored[names[0]])
        values = np.stack([table.values(name)[where] for name in names], 1)
        # an image without a prompt is its own cluster
        clusters: list[Hashable] = [samples[i].prompt_id or samples[i].id for i in where.tolist()]
        found |= zip(names, mean_intervals(values, clusters=clusters), strict=True)
    return found


def _image_row(label: str, metric: str, rows: int, found: "Interval | None", spec: MetricSpec | None) -> dict[str, Any]:
    n = found.n if found else 0
    return {
        "label": label,
        "metric": metric,
        "family": spec.family if spec else None,
        "better": _better(spec),
        "n": n,
        "n_unscored": rows - n,
        "mean": found.value if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
    }


def _unreadable(table: ScoreTable, metrics: Sequence[str]) -> dict[int, str]:
    """Positions of the samples whose file is to blame, with the reason."""
    found: dict[int, str] = {}
    for name in metrics:
        for position, code in zip(*_coded(table.reasons(name)), strict=True):
            if table.reason(code).startswith(UNREADABLE):
                found[position] = table.reason(code).removeprefix(UNREADABLE)
    return found


def _missing(table: ScoreTable, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """How many values are missing by metric and reason, those of unreadable files apart."""
    rows = []
    for name in sorted(metrics):
        _, codes = _coded(table.reasons(name))
        counts = {table.reason(code): n for code, n in Counter(codes).items()}
        rows += [
            {"metric": name, "reason": r, "n": n} for r, n in sorted(counts.items()) if not r.startswith(UNREADABLE)
        ]
    return rows


def _coded(reasons: NDArray[np.int32]) -> tuple[list[int], list[int]]:
    """Positions and codes of the samples that have a reason."""
    (where,) = np.nonzero(reasons != ABSENT)
    return where.tolist(), reasons[where].tolist()


def _set_row(score: SetScore) -> dict[str, Any]:
    spec = next((spec for spec in CATALOG if spec.name == score.metric), None)
    return {
        "label": score.label,
        "metric": score.metric,
        "better": _better(spec),
        "reference": score.reference,
        "n": score.n,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "reason": score.reason,
    }


def _better(spec: MetricSpec | None) -> str | None:
    return None if spec is None else "higher" if spec.higher_is_better else "lower"


def render(summary: dict[str, Any]) -> str:
    """The summary as text of at most about 100 columns."""
    blocks = [f"scores of {summary['run']}"]
    for label in dict.fromkeys(row["label"] for row in summary["images"]):
        rows = [row for row in summary["images"] if row["label"] == label]
        blocks.append(_table(label, rows))
    if summary["sets"]:
        blocks.append(_table("whole sets", summary["sets"], sets=True))
    if summary["unreadable"]:
        shown = [f"  {row['file']}: {row['reason']}" for row in summary["unreadable"][:10]]
        more = len(summary["unreadable"]) - len(shown)
        blocks.append("\n".join(["images that could not be scored", *shown, *([f"  and {more} more"] if more else [])]))
    if summary["unscored"]:
        lines = [f"{row['metric']}: {row['n']} without a value: {row['reason']}" for row in summary["unscored"]]
        blocks.append(_listed("values that are missing", lines))
    if summary.get("in_parts"):
        told = "longer than its CLIP reads and scored in parts: their values do not compare with published ones"
        lines = [f"{row['metric']}: {row['n']} of {row['prompts']} prompts are {told}" for row in summary["in_parts"]]
        blocks.append(_listed("read with care", lines))
    if summary["left_out"]:
        by_reason: dict[str, list[str]] = {}
        for row in summary["left_out"]:
            by_reason.setdefault(_brief(row["metric"], row["reason"]), []).append(row["metric"])
        blocks.append(_listed("not run", [f"{', '.join(names)}: {r}" for r, names in by_reason.items()]))
    if "heatmaps" in summary:
        made = summary["heatmaps"]
        lines = [f"  {made['written']} written, {made['there']} there before, in {made['folder']}"]
        lines += [f"  {count} missing: {reason}" for reason, count in made["failed"].items()]
        blocks.append("\n".join(["heat maps over the images", *lines]))
    return "\n\n".join(_printable(block) for block in blocks)


def _listed(title: str, lines: Sequence[str], most: int = 12) -> str:
    """A title and lines below it, wrapped; at most ``most`` of them."""
    wrapped = [textwrap.fill(line, 98, initial_indent="  ", subsequent_indent="    ") for line in lines[:most]]
    return "\n".join([title, *wrapped, *([f"  and {len(lines) - most} more"] if len(lines) > most else [])])


def _brief(metric: str, reason: str) -> str:
    """The reason without the metric's own name and file format, so that metrics can share a line."""
    if f"--weights {metric}=PATH" in reason:
        return "no weights given (--weights NAME=PATH; 'pixeval show NAME' says what PATH has to be)"
    return reason


def _table(title: str, rows: Sequence[dict[str, Any]], sets: bool = False) -> str:
    width = max(24, max(len(_row_name(row, sets)) for row in rows) + 2)
    lines = [
        f"{title[:60]}",
        f"  {'metric':{width}}{'mean' if not sets else 'value':>10}  {'95 % interval':24}{'n':>6}",
    ]
    for row in rows:
        value, low, high = row["value" if sets else "mean"], row["low"], row["high"]
        shown = "none" if value is None else f"{value:.4g}"
        bounds = "" if low is None else f"[{low:.4g}, {high:.4g}]"
        note = row.get("reason") or (f"{row['n_unscored']} unscored" if row.get("n_unscored") else "")
        lines.append(f"  {_row_name(row, sets):{width}}{shown:>10}  {bounds:24}{row['n']:>6}  {note}".rstrip())
    return "\n".join(lines)


def _row_name(row: dict[str, Any], sets: bool) -> str:
    arrow = {"higher": "↑", "lower": "↓"}.get(row["better"] or "", " ")
    return f"{arrow} {row['metric']}" + (f" ({_compared(row)})" if sets else "")


def _compared(row: dict[str, Any]) -> str:
    return f"{row['label']} vs {row['reference']}" if row["reference"] else str(row["label"])


def _printable(text: str) -> str:
    """Control characters of file names and prompts must not reach the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
