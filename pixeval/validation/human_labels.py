"""Tables of human labels: ratings of single images, or choices between two. CSV, JSON lines or Parquet.

Recognised columns (the first that is there counts):

- pairs: ``label_0`` and ``label_1`` (1/0, 0/1 or 0.5/0.5, as in Pick-a-Pic, or shares between; rows with
  ``has_label`` false are left out), with images ``jpg_0``/``jpg_1`` or ``image_0``/``image_1`` (bytes, or file names
  relative to the table), and where 'pixeval pairs' wrote it ``soft_label``, the probability of the preferred image;
- ratings: ``human``, ``rating``, ``overall_score`` (RichHF; others by ``--human``, as ``artifact_score``), higher is
  better, or ``rank``, lower is better, with one image in ``file_name``, ``filename``, ``image`` or ``path``;
- both: ``prompt``, ``caption`` or ``text``.
"""

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, decode_image, read_image

Row = dict[str, Any]

PROMPT = ("prompt", "caption", "text")
IMAGE = ("file_name", "filename", "image", "path")
RATING = ("human", "rating", "overall_score")
SIDES = (("jpg_0", "jpg_1"), ("image_0", "image_1"))


@dataclass(frozen=True)
class LabelledImage:
    """One image as the table names it."""

    table: Path
    cell: str | bytes
    """A file name relative to the table, or the file's bytes."""
    prompt: str

    def pixels(self) -> Any:
        """3 x H x W in [0, 1].

        Raises:
            UnreadableImage: missing or damaged.
        """
        if isinstance(self.cell, bytes):
            return decode_image(self.cell, f"an image in {self.table.name}")
        file = (self.table.parent / self.cell).resolve()
        if not file.is_relative_to(self.table.parent.resolve()):
            raise UnreadableImage(f"{self.cell!r} lies outside of the folder of {self.table.name}")
        return read_image(file)


@dataclass(frozen=True)
class Rating:
    """What people think of one image; higher is better."""

    image: LabelledImage
    human: float


@dataclass(frozen=True)
class Choice:
    """What people think of two images of one prompt."""

    first: LabelledImage
    second: LabelledImage
    human: float
    """1 for the first, 0 for the second, 0.5 for a tie: what the published protocols count."""
    share: float
    """Of people for the first, or the probability of it; in [0, 1], on the same side as ``human``."""


def read_labels(path: Path, human: str | None = None) -> list[Rating] | list[Choice]:
    """The labels of a table.

    Args:
        human: column of the rating, where it has another name than those above; higher is better.

    Raises:
        InputError: a file that cannot be read, a column that is missing, or no row with a label.
    """
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path} has no rows")
    columns = set(rows[0])
    if human is None and {"label_0", "label_1"} <= columns:
        choices = [_choice(path, row, number) for number, row in enumerate(rows, 1) if row.get("has_label", True)]
        if not choices:
            raise InputError(f"{path}: no row has a label (has_label is false everywhere)")
        return choices
    column = human or next((name for name in (*RATING, "rank") if name in columns), None)
    if column is None or column not in columns:
        raise InputError(
            f"{path} has no column {human or ', '.join((*RATING, 'rank'))}, nor label_0 and label_1 (found: "
            f"{', '.join(sorted(columns))}); name the column of the rating with --human"
        )
    sign = -1.0 if column == "rank" else 1.0
    return [_rating(path, row, number, column, sign) for number, row in enumerate(rows, 1)]


def _choice(path: Path, row: Row, number: int) -> Choice:
    pair = next((sides for sides in SIDES if sides[0] in row and sides[1] in row), None)
    if pair is None:
        raise InputError(f"{path}, row {number}: no columns {' or '.join('/'.join(sides) for sides in SIDES)}")
    first, second = _number(path, row, number, "label_0"), _number(path, row, number, "label_1")
    if min(first, second) < 0 or not math.isclose(first + second, 1.0):
        raise InputError(f"{path}, row {number}: label_0 and label_1 are {first:g} and {second:g}; they must sum to 1")
    prompt = _prompt(row)
    images = [LabelledImage(path, _cell(path, row[side], number, side), prompt) for side in pair]
    human = 0.5 if first == second else float(first > second)
    return Choice(images[0], images[1], human, _share(path, row, number, first, human))


def _share(path: Path, row: Row, number: int, first: float, human: float) -> float:
    if human == 0.5 or row.get("soft_label") in (None, ""):
        return first
    soft = _number(path, row, number, "soft_label")
    if not 0.5 <= soft <= 1:
        raise InputError(f"{path}, row {number}: soft_label is {soft:g}; it is the preferred image's, from 0.5 to 1")
    return soft if human == 1 else 1 - soft


def _rating(path: Path, row: Row, number: int, column: str, sign: float) -> Rating:
    name = next((name for name in IMAGE if name in row), None)
    if name is None:
        raise InputError(f"{path}, row {number}: no column {' or '.join(IMAGE)} with the image")
    image = LabelledImage(path, _cell(path, row[name], number, name), _prompt(row))
    return Rating(image, sign * _number(path, row, number, column))


def _prompt(row: Row) -> str:
    return next((str(row[name]) for name in PROMPT if row.get(name)), "")


def _cell(path: Path, value: Any, number: int, name: str) -> str | bytes:
    if isinstance(value, dict):  # how Hugging Face data sets store an image
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str | bytes) or not value:
        raise InputError(f"{path}, row {number}: {name} holds neither a file name nor an image")
    return value


def _number(path: Path, row: Row, number: int, column: str) -> float:
    try:
        value = float(row[column])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}, row {number}: {column} is {row.get(column)!r}, not a number") from error
    if not math.isfinite(value):
        raise InputError(f"{path}, row {number}: {column} is {value}; leave out what was not judged")
    return value


def _rows(path: Path) -> list[Row]:
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            rows: list[Row] = pq.read_table(path).to_pylist()
            return rows
        text = path.read_text(encoding="utf-8-sig")
        if kind == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if kind in (".jsonl", ".ndjson"):
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise InputError(f"{path}: every line must be a JSON object")
            return rows
    except OSError as error:
        raise InputError(f"labels {path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise InputError(f"labels {path} are damaged: {error}") from error
    raise InputError(f"labels {path} must be .csv, .jsonl or .parquet")
