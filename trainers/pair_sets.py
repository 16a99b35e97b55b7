"""Preference pairs: our own folders, pick-a-pic as it is published, and tables of chosen and rejected images.

Pick-a-Pic (Kirstain et al., arXiv 2305.01569; yuvalkirstain/pickapic_v1 and _v2) has the images as bytes in ``jpg_0``
and ``jpg_1``, ``caption``, and ``label_0`` and ``label_1``: 1 and 0 for the preferred image and the other, 0.5 and 0.5
for a tie. What is used is decided by the labels, as in the training of Diffusion-DPO (arXiv 2311.12908); ``has_label``
only tells whether two equal labels are a tie or no answer.
"""

import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pixeval.errors import InputError
from trainers.image_sets import CAPTIONS, Skipped
from trainers.tables import DatasetConfig, Table, decode_cell, is_table, limited, open_tables, parquet_table, text_of

OWN = Path("preference") / "train.parquet"
"""In a folder written by ``pixeval pairs``."""
PICK_A_PIC = ("jpg_0", "jpg_1", "label_0", "label_1")
CHOSEN = ("chosen", "rejected")
EXTRA = ("soft_label", "chosen_uid", "rejected_uid", "has_label", "image_0_uid", "image_1_uid")
"""Columns that are read where they are there."""


class Side(NamedTuple):
    """One image of a pair."""

    image: Tensor
    """3 x H x W in [0, 1]."""
    uid: str
    marks: Tensor | None = None
    """1 x h x w in [0, 1]: where flaws are."""


class ReadPair(NamedTuple):
    """A pair that can be used."""

    name: str
    """Its row of the table."""
    prompt: str
    chosen: Side
    rejected: Side
    soft_label: float
    """Probability that chosen is preferred, 0.5 to 1."""


def read_pairs(source: Path, marks: bool, config: DatasetConfig) -> Iterator[ReadPair | Skipped]:
    """Yield the pairs of a source, and what could not be used of it, row by row.

    Args:
        source: a folder written by ``pixeval pairs``; or a Parquet file or folder of them, a folder saved by
            ``datasets``, or owner/name of a data set of the hub, with the columns of pick-a-pic, or with chosen,
            rejected and a caption.
        marks: read the columns chosen_flaw_map and rejected_flaw_map too.
        config: which split and columns, how many rows, and what becomes of ties.

    Raises:
        InputError: the source is none of these.
    """
    yield from limited(_read(source, marks, config), config)


def _read(source: Path, marks: bool, config: DatasetConfig) -> Iterator[ReadPair | Skipped]:
    if (source / OWN).is_file():
        yield from _from_table(parquet_table(source / OWN), marks, config)
        return
    if source.exists() and not is_table(source):
        raise InputError(
            f"{source} holds no preference pairs: it has no {OWN} and no other table. Make some with 'pixeval pairs'."
        )
    for table in open_tables(source, config):
        yield from _from_table(table, marks, config)


def _from_table(table: Table, marks: bool, config: DatasetConfig) -> Iterator[ReadPair | Skipped]:
    published = set(PICK_A_PIC) <= set(table.columns)
    if not published and not set(CHOSEN) <= set(table.columns):
        raise InputError(
            f"{table.name} holds no preference pairs: it needs the columns {', '.join(PICK_A_PIC)} (pick-a-pic) or "
            f"{' and '.join(CHOSEN)}; it has {', '.join(sorted(table.columns))}. Make pairs with 'pixeval pairs'."
        )
    caption = table.column(config.caption_column, CAPTIONS, "text", "dataset.caption_column")
    maps = [f"{side}_flaw_map" for side in CHOSEN] if marks else []
    wanted = [caption, *(PICK_A_PIC if published else CHOSEN)]
    wanted += [name for name in (*EXTRA, *maps) if name in table.columns and name not in wanted]
    for name, row in table.read(wanted):
        prompt = text_of(row[caption])
        if not prompt:
            yield Skipped(name, "has no caption", "caption")
        else:
            yield _published(name, prompt, row, config) if published else _own(name, prompt, row, config)


def _published(name: str, prompt: str, row: dict[str, Any], config: DatasetConfig) -> ReadPair | Skipped:
    labels = [_number(row["label_0"]), _number(row["label_1"])]
    if labels[0] is None or labels[1] is None:
        return Skipped(name, "has no label", "no label")
    if labels[0] == labels[1] and row.get("has_label") is False:
        return Skipped(name, "has no label", "no label")
    share = _share(name, 0.5 if labels[0] == labels[1] else row.get("soft_label"), config)
    order = (0, 1) if labels[0] >= labels[1] else (1, 0)
    cells = [(row[f"jpg_{i}"], str(row.get(f"image_{i}_uid") or f"{name}, image {i}"), None) for i in order]
    return share if isinstance(share, Skipped) else _pair(name, prompt, cells, share)


def _own(name: str, prompt: str, row: dict[str, Any], config: DatasetConfig) -> ReadPair | Skipped:
    share = _share(name, row.get("soft_label"), config)
    sides = [
        (row[side], str(row.get(f"{side}_uid") or f"{name}, {side}"), row.get(f"{side}_flaw_map")) for side in CHOSEN
    ]
    return share if isinstance(share, Skipped) else _pair(name, prompt, sides, share)


def _share(name: str, cell: Any, config: DatasetConfig) -> float | Skipped:
    """The soft label of a pair, 1 where there is none, or why the pair cannot be used."""
    share = 1.0 if cell is None or cell != cell else _number(cell)
    if share is None or not 0.5 <= share <= 1:
        return Skipped(name, f"has the soft label {cell!r:.40}; it must be a number between 0.5 and 1", "label")
    if share == 0.5 and config.ties == "drop":
        return Skipped(name, "was judged a tie", "tie")
    return share


def _number(cell: Any) -> float | None:
    """A cell that holds a number; None for text, NaN and nothing."""
    number = float(cell) if isinstance(cell, int | float | Decimal) else math.nan
    return None if math.isnan(number) else number


def _pair(name: str, prompt: str, cells: list[tuple[Any, str, Any]], share: float) -> ReadPair | Skipped:
    if cells[0][0] == cells[1][0] and cells[0][0] is not None:
        return Skipped(name, "its two images are the same", "equal images")
    sides: list[Side] = []
    for cell, uid, flaw_map in cells:
        image = decode_cell(cell, name)
        marks = None if flaw_map is None else decode_cell(flaw_map, f"{name}, flaw map")
        if isinstance(image, str):
            return Skipped(name, image, "image")
        if isinstance(marks, str):
            return Skipped(name, f"flaw map: {marks}", "flaw map")
        sides.append(Side(image, uid, None if marks is None else marks.mean(0, keepdim=True)))
    return ReadPair(name, prompt, sides[0], sides[1], share)
