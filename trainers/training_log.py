"""``metrics.jsonl`` and its like: one JSON object per line, each with its step; a killed run leaves a cut-off line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixeval.errors import InputError
from pixeval.runs import Run

Line = dict[str, Any]


def read_log(run: Run) -> list[Line]:
    """The lines of ``metrics.jsonl``, in order of steps."""
    return read_lines(run.path / "metrics.jsonl")


def read_lines(file: Path) -> list[Line]:
    """The lines of a log; none where there is no file; a line that was cut off ends them."""
    lines: list[Line] = []
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def append(log: Path, line: Mapping[str, Any]) -> None:
    """Add a line.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {log} ({error}). Make room and run the same command again.") from error


def truncate_log(log: Path, step: int) -> None:
    """Drop the lines of steps after ``step``, which will be done again; a log without lines is no file."""
    kept = [line for line in read_lines(log) if line["step"] <= step]
    if not kept:
        log.unlink(missing_ok=True)
        return
    partial = log.with_name(log.name + ".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
    os.replace(partial, log)
