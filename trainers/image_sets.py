"""Captioned images for SFT, in whatever form they lie."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, list_images, read_image
from trainers.named_files import file_within
from trainers.tables import DatasetConfig, Table, decode_cell, is_table, limited, open_tables, text_of

CAPTIONS = ("text", "caption", "prompt")
"""Names that a column of captions may have."""
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")
"""Names that a column of images may have."""
FLAW_MAP = "flaw_map"
"""The column of flaw maps."""


class Skipped(NamedTuple):
    """A row of the data that could not be used."""

    name: str
    reason: str
    kind: str = "image"
    """What was wrong, in a word or two, for counting: image, caption, row, flaw map, tie, no label, label, equal
    images."""


class Entry(NamedTuple):
    """One row of captioned images."""

    name: str
    image: Tensor | str
    """3 x H x W in [0, 1], or the reason why there is none."""
    caption: str
    marks: Tensor | None = None
    """1 x h x w in [0, 1]: where flaws are, from the column flaw_map."""
    fault: str = "image"
    """What is wrong where there is no image, as ``Skipped.kind``."""


def read_captioned(source: Path, marks: bool = False, config: DatasetConfig | None = None) -> Iterator[Entry]:
    """Yield the rows of captioned images, those included that cannot be used.

    Understood are a folder with ``metadata.jsonl`` or ``metadata.csv`` that has ``file_name``; a Parquet file or folder
    of them, a folder saved by ``datasets``, or a data set of the hub as owner/name, with a column of images (bytes, or
    a struct with bytes) and one of captions; and a folder of images with a ``.txt`` file of the same name beside each.
    Where the columns are not named, the caption is ``text``, ``caption`` or ``prompt``. Links in a folder are followed
    wherever they lead; names in its metadata may not leave it.

    Args:
        source: the folder, file, or owner/name.
        marks: read the column ``flaw_map`` too, a file name or image bytes as for the image.
        config: which columns, and how many rows; None for the defaults.

    Raises:
        InputError: the source is none of these.
    """
    config = DatasetConfig() if config is None else config
    yield from limited(_read(source, marks, config), config)


def _read(source: Path, marks: bool, config: DatasetConfig) -> Iterator[Entry]:
    metadata = [source / name for name in ("metadata.jsonl", "metadata.csv") if (source / name).is_file()]
    if metadata:
        yield from _from_metadata(metadata[0], marks, config)
    elif is_table(source) or not source.exists():
        for table in open_tables(source, config):
            yield from _from_table(table, marks, config)
    else:
        yield from _from_text_files(source)


def _from_metadata(file: Path, marks: bool, config: DatasetConfig) -> Iterator[Entry]:
    captions = CAPTIONS if config.caption_column is None else (config.caption_column,)
    try:
        for number, row in _csv_rows(file) if file.suffix == ".csv" else _json_rows(file):
            yield _from_line(file, number, row, captions, marks)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error})") from error


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number and cells of every line, or what is wrong with it."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield number, f"is not JSON ({error})"
            else:
                yield number, row if isinstance(row, dict) else "is no JSON object"


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number of the last line and cells of every row, or what is wrong with it."""
    number = 0

    def counted(lines: Iterable[str]) -> Iterator[str]:
        nonlocal number  # the reader's own count leaves out lines that are not CSV
        for line in lines:
            number += 1
            yield line

    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.DictReader(counted(lines))
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # of this row alone: the reader goes on with the next line
                yield number, f"is not CSV ({error})"
            else:
                yield number, row


def _from_line(file: Path, number: int, row: dict[str, Any] | str, captions: Sequence[str], marks: bool) -> Entry:
    place = f"{file.name}, line {number}"
    if isinstance(row, str):
        return Entry(place, row, "", fault="row")
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        return Entry(place, "has no file_name", "", fault="row")
    column = next((column for column in captions if column in row), None)
    if column is None:
        return Entry(place, f"has no {' or '.join(captions)} for {name}", "", fault="caption")
    flaw_map = row.get(FLAW_MAP) if marks else None
    found = _read_within(file.parent, flaw_map) if isinstance(flaw_map, str) and flaw_map else None
    return _entry(name, _read_within(file.parent, name), text_of(row[column]), found)


def _from_table(table: Table, marks: bool, config: DatasetConfig) -> Iterator[Entry]:
    image = table.column(config.image_column, IMAGES, "image", "dataset.image_column")
    caption = table.column(config.caption_column, CAPTIONS, "text", "dataset.caption_column")
    mapped = [FLAW_MAP] if marks and FLAW_MAP in table.columns else []
    for name, row in table.read([image, caption, *mapped]):
        flaw_map = row.get(FLAW_MAP)
        found = None if flaw_map is None else decode_cell(flaw_map, f"{name}, {FLAW_MAP}")
        yield _entry(name, decode_cell(row[image], name), text_of(row[caption]), found)


def _from_text_files(folder: Path) -> Iterator[Entry]:
    found = list_images(folder)
    if not any(path.with_suffix(".txt").is_file() for path in found):
        raise InputError(
            f"{folder} has {len(found)} images and no captions: add metadata.jsonl with file_name and text, "
            "or a .txt file beside each image"
        )
    for path in found:
        text = path.with_suffix(".txt")
        try:
            caption = text.read_text(encoding="utf-8", errors="surrogateescape").strip() if text.is_file() else ""
        except OSError:
            caption = ""
        yield _entry(path.relative_to(folder).as_posix(), _read_or_reason(path), caption, None)


def _entry(name: str, image: Tensor | str, caption: str, marks: Tensor | str | None) -> Entry:
    if not caption and isinstance(image, Tensor):
        return Entry(name, "has no caption", "", fault="caption")
    if any("\ud800" <= letter <= "\udfff" for letter in caption):
        return Entry(name, "has a caption that is not Unicode in UTF-8", "", fault="caption")
    if isinstance(marks, str):
        # Without its map it would count as free of flaws.
        return Entry(name, f"flaw map: {marks}", caption, fault="flaw map")
    return Entry(name, image, caption, None if marks is None else marks.mean(0, keepdim=True))


def _read_within(folder: Path, name: str) -> Tensor | str:
    path = file_within(folder, name)
    return path if isinstance(path, str) else _read_or_reason(path)


def _read_or_reason(path: Path) -> Tensor | str:
    try:
        return read_image(path)
    except UnreadableImage as error:
        return str(error)
