"""Captioned images for SFT, in whatever form they lie."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, list_images, read_image
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
    """What was wrong, in a word or two, for counting: image, caption, flaw map, tie, no label, equal images."""


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
    Where the columns are not named, the caption is ``text``, ``caption`` or ``prompt``.

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
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        rows = list(csv.DictReader(lines)) if file.suffix == ".csv" else [json.loads(x) for x in lines if x.strip()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read ({error}). Every line must be a row with file_name and text."
        ) from error
    folder = file.parent.resolve()
    captions = CAPTIONS if config.caption_column is None else (config.caption_column,)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise InputError(f"{file}, row {number}: no file_name. Every row needs file_name and text.")
        name = row["file_name"]
        column = next((column for column in captions if column in row), None)
        if column is None:
            raise InputError(f"{file}, row {number}: no caption; expected one of {', '.join(captions)}")
        flaw_map = row.get(FLAW_MAP) if marks else None
        found = _read_within(folder, flaw_map) if isinstance(flaw_map, str) and flaw_map else None
        yield _entry(name, _read_within(folder, name), text_of(row[column]), found)


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
        caption = text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""
        yield _entry(path.relative_to(folder).as_posix(), _read_or_reason(path), caption, None)


def _entry(name: str, image: Tensor | str, caption: str, marks: Tensor | str | None) -> Entry:
    if not caption and isinstance(image, Tensor):
        return Entry(name, "has no caption", "", fault="caption")
    if isinstance(marks, str):
        # Without its map it would count as free of flaws.
        return Entry(name, f"flaw map: {marks}", caption, fault="flaw map")
    return Entry(name, image, caption, None if marks is None else marks.mean(0, keepdim=True))


def _read_within(folder: Path, name: str) -> Tensor | str:
    path = (folder / name).resolve()
    return _read_or_reason(path) if path.is_relative_to(folder) else "lies outside the folder"


def _read_or_reason(path: Path) -> Tensor | str:
    try:
        return read_image(path)
    except UnreadableImage as error:
        return str(error)
