"""Where the rows of the data come from: their names, and a digest that tells changed data from the same."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.runs import Run


@dataclass(frozen=True)
class Sources:
    """Of all rows that can be used, those held out included."""

    names: tuple[str, ...]
    """A file or a row of a table, for pairs with the ids of their images."""
    digest: str
    """Of pixels, captions, labels and marks in their order, whatever the files are called."""


class SourceReader:
    """Notes the rows of the data while they are read, one after the other."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._digest = hashlib.sha256()

    def row(self, name: str, *facts: str | float) -> None:
        """Begin the row called ``name``; ``facts`` are what training sees of it beside images."""
        self._names.append(name)
        self._digest.update(json.dumps(facts).encode())

    def image(self, image: Tensor | None) -> None:
        """An image or marks of the row, C x H x W in [0, 1], as they are before they are framed; None for none."""
        self._digest.update(b"none" if image is None else f"{tuple(image.shape)}".encode())
        if image is not None:
            self._digest.update(to_uint8(image[None]).tobytes())

    def finish(self) -> Sources:
        """What was noted."""
        return Sources(tuple(self._names), self._digest.hexdigest()[:16])


def check_processes(out: Path, processes: int) -> None:
    """Refuse to continue a run with another number of processes.

    Raises:
        InputError: saying how many there were.
    """
    before = _info(out).get("processes", processes)
    if before != processes:
        raise InputError(
            f"{out} was begun by {before} processes, and here are {processes}: a step would read another number of "
            f"rows, and the batches would be numbered anew. Continue it with {before}, or give another folder."
        )


def check_same_data(out: Path, read: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to continue a run with other data than it was begun with.

    Args:
        out: the folder of the run, which need not be there.
        read: what ``run.json`` would keep as ``read``: by setting, the number of rows and their digest.

    Raises:
        InputError: saying how many rows there were and are.
    """
    before = _info(out).get("read", {})
    for setting, found in read.items():
        had = before.get(setting, found)
        if had != found:
            raise InputError(
                f"{out} was begun with {had['rows']} rows of {setting} (digest {had['digest']}), and now there are "
                f"{found['rows']} (digest {found['digest']}). Order, noise and measured errors belong to the rows as "
                "they were: put them back, or give another folder."
            )


def _info(out: Path) -> dict[str, Any]:
    return Run(out).info if (out / "run.json").is_file() else {}
