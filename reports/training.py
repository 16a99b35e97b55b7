"""The training log to curves. Pure: lines of ``metrics.jsonl`` in, frozen dataclasses out."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

MAX_POINTS = 240
GROUPS = ("loss", "accuracy", "margin", "reward", "grad", "lr", "learning_rate")
"""The order in which curves are shown, by a part of their name."""
AT_ONE_TIME = re.compile(r"_t\d+$")


class CurvePoint(NamedTuple):
    """A place on a curve; the mean over a block of steps where there are too many to draw."""

    step: float
    value: float


@dataclass(frozen=True)
class TrainingCurve:
    """One logged quantity of one run over its steps."""

    KEY: ClassVar[str] = "key"
    source: str
    """Name of the run."""
    key: str
    points: tuple[CurvePoint, ...]
    """Means over blocks of ``block`` logged steps when there are too many to draw."""
    block: int
    first: float | None
    last: float | None
    """Mean over the first and the last tenth of the logged steps; None when no value was finite."""
    n: int
    not_finite: tuple[int, ...]
    """Steps at which the value was NaN or infinite."""


@dataclass(frozen=True)
class TrainingWarning:
    """A tripwire of one run."""

    name: str
    steps: tuple[int, ...]
    """Of the checkpoints at which it was seen."""
    text: str
    """Of the last one."""


@dataclass(frozen=True)
class TrainingLog:
    """All curves of one run."""

    KEY: ClassVar[str] = "source"
    source: str
    curves: tuple[TrainingCurve, ...]
    unreadable_lines: int
    warnings: tuple[TrainingWarning, ...] = ()


def training_log(lines: Iterable[str], source: str, prefix: str = "") -> TrainingLog:
    """Read a log with one JSON object per line, each with ``step`` and numbers.

    Curves of single times (``latent_error_t10``) are left out; their mean has a curve. ``prefix`` goes before every
    name.

    A resumed run may have logged a step twice: the later line counts. Lines that are no JSON object (the last
    one of a killed run) are counted, not fatal.
    """
    rows: dict[int, dict[str, float]] = {}
    unreadable = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (ValueError, KeyError, TypeError, OverflowError):
            unreadable += 1
            continue
        held = {k: v for k, v in row.items() if k != "step" and not AT_ONE_TIME.search(k)}
        numbers = {prefix + k: float(v) for k, v in held.items() if type(v) in (int, float)}
        rows.setdefault(step, {}).update(numbers)
    keys = sorted({key for row in rows.values() for key in row}, key=_order)
    return TrainingLog(source, tuple(_curve(rows, key, source) for key in keys), unreadable)


def training_warnings(lines: Iterable[str]) -> tuple[TrainingWarning, ...]:
    """Read ``warnings.jsonl``, one entry for each name (and term of the loss, where it says which).

    Lines that are no warnings are passed over.
    """
    found: dict[tuple[str, str], TrainingWarning] = {}
    for line in lines:
        try:
            row = json.loads(line)
            name, step, text = str(row["warning"]), int(row["step"]), str(row["text"])
        except (ValueError, KeyError, TypeError):
            continue
        key = (name, str(row.get("term", "")))
        steps = found[key].steps if key in found else ()
        found[key] = TrainingWarning(name, (*steps, step), text)
    return tuple(found.values())


def _order(key: str) -> tuple[int, str]:
    rank = next((i for i, part in enumerate(GROUPS) if part in key.lower()), len(GROUPS))
    return rank, key


def _curve(rows: dict[int, dict[str, float]], key: str, source: str) -> TrainingCurve:
    held = [(step, rows[step][key]) for step in sorted(rows) if key in rows[step]]
    finite = [(float(step), value) for step, value in held if math.isfinite(value)]
    broken = tuple(step for step, value in held if not math.isfinite(value))
    if not finite:
        return TrainingCurve(source, key, (), 1, None, None, len(held), broken)
    tenth = max(1, len(finite) // 10)
    block = math.ceil(len(finite) / MAX_POINTS)
    chunks = [finite[i : i + block] for i in range(0, len(finite), block)]
    points = tuple(CurvePoint(_mean([s for s, _ in c]), _mean([v for _, v in c])) for c in chunks)
    first, last = _mean([v for _, v in finite[:tenth]]), _mean([v for _, v in finite[-tenth:]])
    return TrainingCurve(source, key, points, block, first, last, len(held), broken)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
