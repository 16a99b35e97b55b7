"""``metrics.jsonl`` and its like: one JSON object per line, each with its step; a killed run leaves a cut-off line."""

import json
import os
from pathlib import Path

from pixeval.errors import InputError
from pixeval.runs import Run


def read_log(run: Run) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``, in order of steps; a line that was cut off ends them."""
    file = run.path / "metrics.jsonl"
    lines: list[dict[str, float]] = []
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def append(log: Path, line: dict[str, float]) -> None:
    try:
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {log} ({error}). Make room and run the same command again.") from error


def truncate_log(log: Path, step: int) -> None:
    """Drop the lines of steps that will be done again."""
    kept = [line for line in read_log(Run(log.parent)) if line["step"] <= step]
    partial = log.with_name(log.name + ".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
    os.replace(partial, log)
