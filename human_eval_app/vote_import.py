"""Votes that were given elsewhere: Label Studio's pairwise tag, and tables of pick-a-pic.

What cannot be used is left out, counted and named; the rest becomes :class:`pixeval.records.Vote` rows of a run, which
``pixeval compare``, ``pixeval pairs`` and ``pixeval report`` read like any others. Neither tool balances sides, so look
at the side bias before believing such votes.
"""

import datetime as dt
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from human_eval_app.pickapic_table import pickapic_samples, read_pickapic
from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Choice, Question, Sample, Vote
from pixeval.runs import Run
from pixeval.tables import write_records

NAMED = 10
"""Refused rows that are named one by one."""
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the names of uploaded files."""
SAID: dict[str, Choice] = {
    "left": "left",
    "right": "right",
    "tie": "tie",
    "equal": "tie",
    "same": "tie",
    "both bad": "both_bad",
    "both_bad": "both_bad",
    "neither": "both_bad",
    "skip": "skip",
}
"""What an answer's own words mean; a tie needs a Choices tag beside the pairwise one, which has none."""


@dataclass(frozen=True)
class Refused:
    """A row that could not be used."""

    row: str
    """Its name in the file: ``task 12, annotation 3``."""
    why: str


@dataclass(frozen=True)
class Imported:
    """What a file held."""

    votes: tuple[Vote, ...]
    refused: tuple[Refused, ...]
    files: tuple[Path, ...] = ()
    """Where the votes were written."""

    def summary(self) -> str:
        """For people: how many, and which rows were left out and why."""
        lines = [f"{len(self.votes)} votes imported" + "".join(f"\n  {file}" for file in self.files)]
        if self.refused:
            reasons = Counter(refused.why for refused in self.refused)
            lines.append(f"{len(self.refused)} rows left out:")
            lines += [f"  {count} x {why}" for why, count in reasons.most_common()]
            lines += [f"  {one.row}: {one.why}" for one in self.refused[:NAMED]]
            rest = len(self.refused) - NAMED
            lines += [f"  ... and {rest} more"] if rest > 0 else []
        return "\n".join(lines)


def import_votes(file: Path, runs: Sequence[Path], question: Question, out: Path | None = None) -> Imported:
    """Read the votes of a file and write them into the first run, in the place of an earlier import of the file.

    Args:
        file: ``.json`` of Label Studio (either of its JSON exports), or ``.parquet`` with pick-a-pic's columns.
        runs: whose images were judged. None for pick-a-pic: its own images become a new run ``out``.
        question: what was asked, where the file does not say.
        out: folder of the new run.

    Raises:
        InputError: the file is neither, no row can be used, or there is no run to put votes into.
    """
    opened = [Run.open(path) for path in runs]
    if file.suffix.lower() == ".parquet":
        if not opened:
            if out is None:
                raise InputError(
                    "give the runs whose images were judged, or with --export a new folder for the images of the file"
                )
            opened = [pickapic_samples(file, out)]
        found = read_pickapic(file, _samples(opened), question)
    elif file.suffix.lower() == ".json":
        if not opened:
            raise InputError("votes of Label Studio name images; give the runs that hold them")
        found = read_label_studio(file, opened, question)
    else:
        raise InputError(f"votes are imported from .json (Label Studio) or .parquet (pick-a-pic), not from {file}")
    votes: list[Vote] = []
    refused: list[Refused] = []
    for one in found:
        if isinstance(one, Vote):
            votes.append(one)
        else:
            refused.append(Refused(*one))
    imported = Imported(tuple(votes), tuple(refused))
    if not imported.votes:
        raise InputError(f"no row of {file} can be used. {imported.summary()}")
    name = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    target = opened[0].path / "votes" / f"imported-{name}.parquet"
    write_records(target, list(imported.votes), Vote)
    return Imported(imported.votes, imported.refused, (target,))


def read_label_studio(file: Path, runs: Sequence[Run], question: Question) -> Iterator[Vote | tuple[str, str]]:
    """Votes of a JSON export with a pairwise tag, one or more to a task; ``(row, why)`` for what cannot be used.

    Images are known by the end of their path or address, as far as it takes to tell the samples of the runs apart. The
    left one is the first that the tag's ``toName`` lists, or else the first in the task's data. The name of the tag is
    the question where it is one of pixeval's.

    Raises:
        InputError: the file is no such export.
    """
    try:
        tasks = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); export from Label Studio as JSON") from error
    if not isinstance(tasks, list):
        raise InputError(f"{file} is no export of Label Studio: it holds no list of tasks")
    index = _Index(runs)
    for number, task in enumerate(tasks, 1):
        name = f"task {task.get('id', number) if isinstance(task, dict) else number}"
        if not isinstance(task, dict) or not isinstance(task.get("data", task), dict):
            yield name, "it is no task with data"
            continue
        for place, annotation in enumerate(_annotations(task), 1):
            row = f"{name}, annotation {annotation.get('id', place) if isinstance(annotation, dict) else place}"
            try:
                yield from _label_studio_votes(task, annotation, row, index, question)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                yield row, f"it is malformed ({type(error).__name__}: {error})"


def _annotations(task: dict[str, Any]) -> list[Any]:
    """Of the full export; the small one (JSON-MIN) has one annotation, in the task itself."""
    found = task.get("annotations", task.get("completions"))
    if isinstance(found, list):
        return found
    data = {key: value for key, value in task.items() if key not in ("id", "annotator", "annotation_id", "lead_time")}
    answers = [
        {"from_name": key, "type": "pairwise", "value": {"selected": value["selected"]}}
        for key, value in data.items()
        if isinstance(value, dict) and "selected" in value
    ]
    answers += [
        {"from_name": key, "type": "choices", "value": {"choices": [value]}}
        for key, value in data.items()
        if isinstance(value, str) and value.strip().lower() in SAID
    ]
    annotation = {
        "id": task.get("annotation_id", 1),
        "completed_by": task.get("annotator", "unknown"),
        "lead_time": task.get("lead_time"),
        "created_at": task.get("created_at"),
        "result": answers,
    }
    return [annotation]


def _label_studio_votes(
    task: dict[str, Any], annotation: dict[str, Any], row: str, index: "_Index", question: Question
) -> Iterator[Vote | tuple[str, str]]:
    data = task.get("data", task)
    answers: dict[str, Any] = {}
    for result in annotation["result"]:
        said = _said(result)
        if said is not None:
            # A tie told by a Choices tag beside the pairwise tag comes in its place.
            answers[str(result.get("from_name"))] = (said, str(result.get("to_name", "")))
    if annotation.get("was_cancelled"):
        yield row, "it was cancelled"
        return
    if not answers:
        yield row, "it holds no pairwise answer"
        return
    for name, (choice, to_names) in answers.items():
        both = index.both(data, to_names)
        if isinstance(both, str):
            yield row, both
            continue
        left, right = both
        asked = name if name in QUESTIONS else question
        yield _vote(
            ("label-studio", str(task.get("id")), str(annotation.get("id")), name),
            _annotator(annotation.get("completed_by")),
            asked,
            left,
            right,
            choice,
            float(annotation.get("lead_time") or 0.0),
            _time(annotation.get("created_at")),
        )


def _said(result: Any) -> Choice | None:
    value = result.get("value", {})
    words = [value.get("selected"), *(value.get("choices") or [])]
    for word in words:
        if isinstance(word, str) and word.strip().lower() in SAID:
            return SAID[word.strip().lower()]
    return None


def _annotator(who: Any) -> str:
    if isinstance(who, dict):
        who = who.get("email") or who.get("username") or who.get("id")
    return "unknown" if who is None else str(who)[:64]


def _time(text: Any) -> str:
    """ISO 8601 in UTC; the beginning of 1970 where there is none.

    Raises:
        ValueError: it is no time.
    """
    at = dt.datetime.fromisoformat(str(text).replace("Z", "+00:00")) if text else dt.datetime.fromtimestamp(0, dt.UTC)
    return (at if at.tzinfo else at.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).isoformat(timespec="milliseconds")


def _vote(
    identity: tuple[str, ...],
    annotator: str,
    question: Question,
    left: Sample,
    right: Sample,
    choice: Choice,
    seconds: float,
    answered_at: str,
) -> Vote:
    return Vote(
        id=hashlib.sha256("\x1f".join(identity).encode()).hexdigest()[:16],
        annotator=annotator,
        question=question,
        prompt_id=left.prompt_id or "",
        prompt=left.prompt or "",
        left=left.id,
        right=right.id,
        left_label=left.label,
        right_label=right.label,
        choice=choice,
        seconds=seconds,
        answered_at=answered_at,
    )


def _samples(runs: Iterable[Run]) -> dict[str, Sample]:
    """Samples by id, and by the hash of their file."""
    found: dict[str, Sample] = {}
    for run in runs:
        for sample in run.samples():
            found[sample.id] = found[sample.sha256] = sample
    return found


class _Index:
    """Samples by the ends of their paths."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._by_end: dict[tuple[str, ...], set[str]] = {}
        self._samples: dict[str, Sample] = {}
        for run in runs:
            for sample in run.samples():
                self._samples[sample.id] = sample
                parts = (run.name, *sample.path.split("/"))
                for start in range(len(parts)):
                    self._by_end.setdefault(parts[start:], set()).add(sample.id)

    def both(self, data: dict[str, Any], to_names: str) -> tuple[Sample, Sample] | str:
        """The left and the right sample of a task; or why there are none."""
        keys = [key for key in to_names.split(",") if key in data]
        values = [data[key] for key in (keys if len(keys) == 2 else data)]
        found = [sample for value in values if isinstance(value, str) and (sample := self._find(value)) is not None]
        if len(found) != 2:
            return f"{len(found)} of its images are known by the runs; 2 are needed"
        left, right = found
        if left.id == right.id:
            return "both images are the same"
        if left.prompt_id != right.prompt_id:
            return "its images are of different prompts"
        return left, right

    def _find(self, address: str) -> Sample | None:
        """The one sample whose path ends as this does."""
        split = urlsplit(address)
        path = parse_qs(split.query).get("d", [unquote(split.path)])[0]
        parts = tuple(part for part in path.replace("\\", "/").split("/") if part)
        if not parts:
            return None
        for last in (parts[-1], UPLOADED.sub("", parts[-1])):
            named = (*parts[:-1], last)
            for start in range(len(named)):
                there = self._by_end.get(named[start:], set())
                if len(there) == 1:
                    return self._samples[next(iter(there))]
        return None
