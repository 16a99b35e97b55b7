"""Every number of a report as a row with an id, so that each figure on the page can be traced to ``figures.parquet``.

The id is the place of the number in the report: names of fields and, where rows have one, their own name, as in
``comparisons.0.votes.flaws.rates.net``. An interval is one row with its bounds.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from pixeval.stats.interval import Interval
from reports.report import Report
from reports.training import CurvePoint
from reports.vote_test import QuestionRanking, TagTest, VoteTest

LEFT_OUT = frozenset({"summary", "asides", "format"})
"""Fields that repeat, in words, what stands elsewhere."""
CONTEXT = ("baseline", "candidate", "arm", "metric", "question", "tag", "source")
FILES = {
    "votes": "votes/*.parquet",
    "rankings": "votes/*.parquet",
    "tags": "votes/*.parquet and prompts.parquet",
    "protocol": "votes/*.parquet",
    "sensitivity": "votes/*.parquet",
    "changes": "scores.parquet",
    "metrics": "scores.parquet",
    "unscored": "scores.parquet",
    "sets": "set_scores.parquet",
    "arms": "samples.parquet",
    "training": "metrics.jsonl, probes.jsonl or warnings.jsonl",
    "gallery": "scores.parquet and votes/*.parquet",
    "runs": "run.json",
}
"""Where the numbers of a part of the report come from, in the run's folder."""


@dataclass(frozen=True)
class Figure:
    """One number of the report."""

    id: str
    value: float | None
    """None where it is not finite."""
    low: float | None
    """95 % interval; None for numbers without one."""
    high: float | None
    n: int | None
    """Observations behind it, where the number is an estimate."""
    step: float | None
    """Of training curves."""
    baseline: str | None
    candidate: str | None
    arm: str | None
    metric: str | None
    question: str | None
    tag: str | None
    run: str | None
    file: str
    """The kind of file, in the folder of the run, that it was computed from."""


class Ledger:
    """All numbers of a report, and the id of each."""

    def __init__(self, report: Report) -> None:
        self.figures: list[Figure] = []
        self._places: dict[int, str] = {}
        self._known: set[str] = set()
        self._walk(report, "", {})

    def id_of(self, owner: object, name: str = "") -> str:
        """The id of an interval, or of the number ``name`` of a part of the report.

        Raises:
            KeyError: there is no such number.
        """
        place = self._places[id(owner)]
        found = place if isinstance(owner, Interval | CurvePoint) or not name else f"{place}.{name}"
        if name and found not in self._known:
            raise KeyError(found)
        return found

    def _walk(self, value: Any, place: str, context: Mapping[str, str]) -> None:
        if isinstance(value, bool) or value is None or isinstance(value, str):
            return
        if isinstance(value, Interval):
            self._places.setdefault(id(value), place)
            self._add(place, context, value.value, value.low, value.high, value.n)
        elif isinstance(value, CurvePoint):
            self._places.setdefault(id(value), place)
            self._add(place, context, value.value, step=value.step)
        elif isinstance(value, int | float):
            self._add(place, context, value)
        elif is_dataclass(value):
            self._places.setdefault(id(value), place)
            own = {k: v for k in CONTEXT if isinstance(v := getattr(value, k, None), str)}
            for field in fields(value):
                if field.name not in LEFT_OUT:
                    inner = getattr(value, field.name)
                    self._walk(inner, f"{place}.{field.name}" if place else field.name, {**context, **own})
        elif isinstance(value, tuple):
            for name, item in _named(value):
                self._walk(item, f"{place}.{name}", context)

    def _add(
        self,
        place: str,
        context: Mapping[str, str],
        value: float,
        low: float | None = None,
        high: float | None = None,
        n: int | None = None,
        step: float | None = None,
    ) -> None:
        self._known.add(place)
        named = {k: context.get(k) for k in CONTEXT if k != "source"}
        parts = place.split(".")
        file = next((FILES[part] for part in parts[:3] if part in FILES), "")
        finite = float(value) if math.isfinite(value) else None
        self.figures.append(Figure(place, finite, low, high, n, step, **named, run=context.get("source"), file=file))


def _named(items: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Each item with the name it goes by: its own, made safe and unique, or its place."""
    used: set[str] = set()
    for index, item in enumerate(items):
        own = _name_of(item)
        name = str(index) if own is None else re.sub(r"[^A-Za-z0-9_-]+", "-", own)[:80] or "-"
        while name in used:
            name += "~"
        used.add(name)
        yield name, item


def _name_of(item: object) -> str | None:
    if isinstance(item, TagTest):
        return f"{item.question}-{item.tag}"
    if isinstance(item, VoteTest | QuestionRanking):
        return item.question
    key = getattr(type(item), "KEY", None)
    return None if key is None else str(getattr(item, key))
