"""Scores in summary: one row per label and metric with mean, interval and n; and that as text for a terminal."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from pixeval.catalog import CATALOG
from pixeval.metric_spec import MetricSpec
from pixeval.records import Sample, Score, SetScore
from pixeval.runs import Run

if TYPE_CHECKING:
    from pixeval.stats import Interval


def summarise(run: Run, metrics: Sequence[str], left_out: dict[str, str] | None = None) -> dict[str, Any]:
    """What ``pixeval score`` reports, as JSON can hold it.

    ``images``: rows of :func:`image_rows`; ``sets``: set scores with n and interval; ``unscored``: how many values
    are missing by reason; ``left_out``: metrics that were not run, with the reason.
    """
    chosen = set(metrics)
    samples = run.samples()
    scores = [score for score in run.scores() if score.metric in chosen]
    reasons = Counter((s.metric, s.reason or "") for s in scores if s.value is None)
    files = {sample.id: sample.path for sample in samples}
    broken = _unscored_images(scores)
    return {
        "run": str(run.path),
        "images": image_rows(scores, samples),
        "sets": [_set_row(score) for score in run.set_scores() if score.metric in chosen],
        "unreadable": [{"file": files[i], "reason": reason} for i, reason in broken.items()],
        "unscored": [
            {"metric": m, "reason": r, "n": n} for (m, r), n in sorted(reasons.items()) if r not in broken.values()
        ],
        "left_out": [{"metric": metric, "reason": reason} for metric, reason in (left_out or {}).items()],
    }


def image_rows(scores: Sequence[Score], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Per label and metric: ``n``, ``n_unscored``, ``mean`` with 95 % interval ``low`` and ``high``, ``better``.

    The interval is a bootstrap over prompts, since images of one prompt are not independent (over images where there
    are no prompts). Mean and bounds are None where they cannot be given.
    """
    specs = {spec.name: spec for spec in CATALOG}
    order = {name: position for position, name in enumerate(specs)}
    by_id = {sample.id: sample for sample in samples}
    labels = list(dict.fromkeys(sample.label for sample in samples))
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((by_id[score.sample_id].label, score.metric), []).append(score)
    keys = sorted(groups, key=lambda key: (labels.index(key[0]), order.get(key[1], len(order)), key[1]))
    found = _intervals([groups[key] for key in keys], by_id)
    return [
        _image_row(*key, groups[key], interval, specs.get(key[1])) for key, interval in zip(keys, found, strict=True)
    ]


def _intervals(groups: Sequence[Sequence[Score]], by_id: dict[str, Sample]) -> "list[Interval | None]":
    """The mean of each group with its interval; groups with values for the same samples share their draws."""
    import numpy as np

    from pixeval.stats import mean_intervals

    together: dict[tuple[str, ...], list[int]] = {}
    for number, scores in enumerate(groups):
        together.setdefault(tuple(s.sample_id for s in scores if s.value is not None), []).append(number)
    found: list[Interval | None] = [None] * len(groups)
    for ids, numbers in together.items():
        if not ids:
            continue
        values = np.array([[s.value for s in groups[number] if s.value is not None] for number in numbers]).T
        # an image without a prompt is its own cluster
        clusters: list[Hashable] = [by_id[i].prompt_id or i for i in ids]
        for number, interval in zip(numbers, mean_intervals(values, clusters=clusters), strict=True):
            found[number] = interval
    return found


def _image_row(
    label: str, metric: str, scores: Sequence[Score], found: "Interval | None", spec: MetricSpec | None
) -> dict[str, Any]:
    n = found.n if found else 0
    return {
        "label": label,
        "metric": metric,
        "family": spec.family if spec else None,
        "better": _better(spec),
        "n": n,
        "n_unscored": len(scores) - n,
        "mean": found.value if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
    }


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


def _unscored_images(scores: Sequence[Score]) -> dict[str, str]:
    """Samples on which every metric that works elsewhere fails for one and the same reason: the image is to blame."""
    working = {score.metric for score in scores if score.value is not None} or {score.metric for score in scores}
    found: dict[str, set[str | None]] = {}
    for score in scores:
        if score.metric in working:
            found.setdefault(score.sample_id, set()).add(score.reason)
    return {i: r for i, (r, *others) in found.items() if r is not None and not others and len(working) > 1}


def render(summary: dict[str, Any]) -> str:
    """The summary as text of at most about 100 columns."""
    blocks = [f"scores of {summary['run']}"]
    for label in dict.fromkeys(row["label"] for row in summary["images"]):
        rows = [row for row in summary["images"] if row["label"] == label]
        blocks.append(_table(label, rows))
    if summary["sets"]:
        blocks.append(_table("against a reference set", summary["sets"], sets=True))
    if summary["unreadable"]:
        shown = [f"  {row['file']}: {row['reason']}" for row in summary["unreadable"][:10]]
        more = len(summary["unreadable"]) - len(shown)
        blocks.append("\n".join(["images that could not be scored", *shown, *([f"  and {more} more"] if more else [])]))
    if summary["unscored"]:
        lines = [f"  {row['metric']}: {row['n']} without a value: {row['reason']}" for row in summary["unscored"][:12]]
        blocks.append("\n".join(["values that are missing", *lines]))
    if summary["left_out"]:
        by_reason: dict[str, list[str]] = {}
        for row in summary["left_out"]:
            by_reason.setdefault(row["reason"], []).append(row["metric"])
        blocks.append("\n".join(["not run", *(f"  {', '.join(names)}: {r}" for r, names in by_reason.items())]))
    if "heatmaps" in summary:
        made = summary["heatmaps"]
        lines = [f"  {made['written']} written, {made['there']} there before, in {made['folder']}"]
        lines += [f"  {count} missing: {reason}" for reason, count in made["failed"].items()]
        blocks.append("\n".join(["heat maps over the images", *lines]))
    return "\n\n".join(_printable(block) for block in blocks)


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
    return f"{arrow} {row['metric']}" + (f" ({row['label']} vs {row['reference']})" if sets else "")


def _printable(text: str) -> str:
    """Control characters of file names and prompts must not reach the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
