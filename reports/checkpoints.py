"""Checkpoints as they lie in a folder: which are complete, and which are still being written."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pixeval.errors import InputError
from pixeval.pipelines import check_pipeline_folder

STEP = re.compile(r"(\d+)(?!.*\d)")


@dataclass(frozen=True)
class Found:
    """A folder that may be a checkpoint."""

    label: str
    """``step-000500``, whatever the folder is called."""
    step: int
    path: Path
    stamp: str
    """Changes when a file of it changes: newest time and total size."""
    problem: str | None
    """Why it cannot be scored, or not yet."""


def find_checkpoints(folder: Path, now: float, settle: float) -> list[Found]:
    """Pipelines in ``folder``, by step; folders without a number in their names are passed over.

    Args:
        now: seconds since 1970.
        settle: a checkpoint is taken to be complete when none of its files changed for so many seconds.

    Raises:
        InputError: two folders stand for one step.
    """
    found: dict[int, Found] = {}
    for path in sorted(_folders(folder)):
        match = STEP.search(path.name)
        if match is None or path.name.endswith((".partial", ".removed", ".old")):
            continue
        step = int(match[1])
        if step in found:
            raise InputError(f"{found[step].path} and {path} both stand for step {step}; move one of them away")
        newest, stamp = _stamp(path)
        problem = "still being written" if now - newest < settle else _problem(path)
        found[step] = Found(f"step-{step:06d}", step, path, stamp, problem)
    return [found[step] for step in sorted(found)]


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        return


def _problem(path: Path) -> str | None:
    try:
        check_pipeline_folder(path)
    except (InputError, OSError) as error:
        return str(error)
    return None


def _stamp(path: Path) -> tuple[float, str]:
    newest, size = 0.0, 0
    for file in path.rglob("*"):
        try:
            held = file.stat()
        except FileNotFoundError:  # removed since
            continue
        newest = max(newest, held.st_mtime)
        size += held.st_size if file.is_file() else 0
    return newest, f"{newest:.6f}/{size}"
