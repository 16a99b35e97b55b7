"""Preference pairs as a folder that ``datasets.load_dataset`` opens, and back for the trainers.

::

    README.md                  data set card: source, tie policy, whether votes were simulated
    preference/train.parquet   prompt, chosen, rejected (images), soft_label, ...     the default configuration
    pickapic/train.parquet     the columns of pick-a-pic v2 (jpg_0, jpg_1, label_0, ...)

Images lie in the tables as PNG, decoded and encoded again so that no metadata of the files comes along. The columns
called jpg_0 and jpg_1 keep pick-a-pic's names, but JPEG would add the very flaws that preferences are about.
"""

import datetime as dt
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, read_image, to_uint8
from pixeval.records import Pair

EPOCH = dt.datetime(1970, 1, 1)
"""Stands in pick-a-pic's ``created_at``: the same pairs give the same bytes."""
ROWS_PER_GROUP = 64
FLAW_MAPS = ("chosen_flaw_map", "rejected_flaw_map")
"""Columns of the places of flaws, where there are any."""


class TrainingImage(NamedTuple):
    """One side of a pair."""

    image: NDArray[np.uint8]
    """H x W x 3, RGB."""
    uid: str
    """The sample's id."""
    flaw_map: NDArray[np.uint8] | None
    """H x W x 3, white where flaws are; from the columns chosen_flaw_map and rejected_flaw_map, where there are any."""


class TrainingPair(NamedTuple):
    """What a preference trainer reads."""

    prompt: str
    chosen: TrainingImage
    rejected: TrainingImage
    soft_label: float
    """Estimated probability in (0.5, 1] that chosen is preferred."""


def export_pairs(
    pairs: Sequence[Pair], folder: Path, policy: str, flaw_maps: Mapping[str, bytes] | None = None
) -> list[str]:
    """Write the data set; an earlier one in ``folder`` is replaced.

    Args:
        pairs: at least one.
        folder: new, empty, or written by this function before.
        policy: one sentence for the card: how ties were treated, or how scores were paired.
        flaw_maps: greyscale PNG by sample id, white where flaws are; they become the columns ``chosen_flaw_map`` and
            ``rejected_flaw_map``, which are null for images without one. None: no such columns.

    Returns:
        Reasons of pairs that were left out because an image could not be read.

    Raises:
        InputError: ``folder`` holds something else, or no pair has two readable images.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a new folder for the pairs")
    if folder.exists() and any(folder.iterdir()) and not (folder / "preference" / "train.parquet").exists():
        raise InputError(f"{folder} is not empty and not a pairs data set; give a new folder")
    encoded: dict[str, bytes] = {}
    kept: list[Pair] = []
    unreadable: list[str] = []
    for pair in pairs:
        try:
            for path in (pair.chosen_path, pair.rejected_path):
                if path not in encoded:
                    encoded[path] = _clean_png(Path(path))
        except UnreadableImage as error:
            unreadable.append(f"{pair.prompt_id}: {error}")
            continue
        kept.append(pair)
    if not kept:
        raise InputError(f"no pair has two readable images; the first reason: {(unreadable or ['no pairs given'])[0]}")
    schema, rows = _PREFERENCE, [_preference_row(pair, encoded) for pair in kept]
    if flaw_maps is not None:
        for name in FLAW_MAPS:
            schema = schema.append(pa.field(name, _PREFERENCE.field("chosen").type))
        for row, pair in zip(rows, kept, strict=True):
            row |= {FLAW_MAPS[0]: _map(flaw_maps, pair.chosen), FLAW_MAPS[1]: _map(flaw_maps, pair.rejected)}
    _write(folder / "preference" / "train.parquet", rows, schema, True)
    per_prompt = Counter(p.prompt_id for p in kept)
    rows = [_pickapic_row(p, encoded, per_prompt[p.prompt_id]) for p in kept]
    _write(folder / "pickapic" / "train.parquet", rows, _PICKAPIC, False)
    (folder / "README.md").write_text(_card(kept, policy), encoding="utf-8")
    return unreadable


def load_pairs(folder: Path) -> Sequence[TrainingPair]:
    """The pairs of a folder written by :func:`export_pairs`; images are decoded when an item is asked for.

    Raises:
        InputError: ``folder`` is not such a data set.
    """
    file = folder / "preference" / "train.parquet"
    if not file.exists():
        raise InputError(f"{folder} is not a pairs data set: it has no preference/train.parquet. Use 'pixeval pairs'.")
    try:
        known = set(pq.read_schema(file).names)
        maps = [name for name in FLAW_MAPS if name in known]
        columns = ["prompt", "chosen", "rejected", "soft_label", "chosen_uid", "rejected_uid", *maps]
        table = pq.read_table(file, columns=columns, memory_map=True)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise InputError(f"{file} is damaged ({error}); make it again with 'pixeval pairs'") from error
    return _Pairs(table)


def load_pair_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder written by :func:`export_pairs` with all their columns, images as the bytes of PNG files.

    Raises:
        InputError: ``folder`` is not such a data set.
    """
    file = folder / "preference" / "train.parquet"
    try:
        rows: list[dict[str, Any]] = pq.read_table(file, columns=_PREFERENCE.names, memory_map=True).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise InputError(f"{file} cannot be read ({error}); make it again with 'pixeval pairs'") from error
    return rows


class _Pairs(Sequence[TrainingPair]):
    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> TrainingPair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TrainingPair]: ...
    def __getitem__(self, index: int | slice) -> TrainingPair | Sequence[TrainingPair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(index)
        row = self._table.slice(position, 1).to_pylist()[0]
        chosen, rejected = (_training_image(row, side) for side in ("chosen", "rejected"))
        return TrainingPair(row["prompt"], chosen, rejected, row["soft_label"])


def _training_image(row: dict[str, Any], side: str) -> TrainingImage:
    flaw_map = row.get(f"{side}_flaw_map")
    return TrainingImage(
        _decode(row[side]["bytes"]), row[f"{side}_uid"], None if flaw_map is None else _decode(flaw_map["bytes"])
    )


_PREFERENCE = pa.schema(
    [
        ("prompt", pa.string()),
        ("chosen", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("rejected", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("soft_label", pa.float64()),
        ("prompt_id", pa.string()),
        ("chosen_uid", pa.string()),
        ("rejected_uid", pa.string()),
        ("chosen_model", pa.string()),
        ("rejected_model", pa.string()),
        ("source", pa.string()),
        ("n", pa.int64()),
        ("simulated", pa.bool_()),
    ]
)
_PICKAPIC = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_1_uid", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("soft_label", pa.float64()),
        ("source", pa.string()),
        ("simulated", pa.bool_()),
    ]
)


def _preference_row(pair: Pair, encoded: dict[str, bytes]) -> dict[str, Any]:
    return {
        "prompt": pair.prompt,
        "chosen": {"bytes": encoded[pair.chosen_path], "path": None},
        "rejected": {"bytes": encoded[pair.rejected_path], "path": None},
        "soft_label": pair.soft_label,
        "prompt_id": pair.prompt_id,
        "chosen_uid": pair.chosen,
        "rejected_uid": pair.rejected,
        "chosen_model": pair.chosen_label,
        "rejected_model": pair.rejected_label,
        "source": pair.source,
        "n": pair.n,
        "simulated": pair.simulated,
    }


def _map(flaw_maps: Mapping[str, bytes], sample: str) -> dict[str, bytes | None] | None:
    return {"bytes": flaw_maps[sample], "path": None} if sample in flaw_maps else None


def _pickapic_row(pair: Pair, encoded: dict[str, bytes], per_prompt: int) -> dict[str, Any]:
    # Sample ids are hashes, so their order says nothing about which image won.
    first = pair.chosen < pair.rejected
    images = [encoded[pair.chosen_path], encoded[pair.rejected_path]]
    models, uids = [pair.chosen_label, pair.rejected_label], [pair.chosen, pair.rejected]
    if not first:
        images, models, uids = images[::-1], models[::-1], uids[::-1]
    return {
        "are_different": images[0] != images[1],
        "best_image_uid": pair.chosen,
        "caption": pair.prompt,
        "created_at": EPOCH,
        "has_label": True,
        "image_0_uid": uids[0],
        "image_1_uid": uids[1],
        "jpg_0": images[0],
        "jpg_1": images[1],
        "label_0": 1.0 if first else 0.0,
        "label_1": 0.0 if first else 1.0,
        "model_0": models[0],
        "model_1": models[1],
        "ranking_id": 0,
        "user_id": 0,
        "num_example_per_prompt": per_prompt,
        "soft_label": pair.soft_label,
        "source": pair.source,
        "simulated": pair.simulated,
    }


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, images: bool) -> None:
    if images:
        # What `datasets` reads to show these columns as images; its format is public and plain JSON.
        kinds: dict[str, dict[str, str]] = {
            field.name: {"_type": "Image"}
            if pa.types.is_struct(field.type)
            else {"dtype": {"double": "float64"}.get(str(field.type), str(field.type)), "_type": "Value"}
            for field in schema
        }
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, row_group_size=ROWS_PER_GROUP)
    os.replace(partial, path)


def _card(pairs: Sequence[Pair], policy: str) -> str:
    sources = ", ".join(f"{source} ({count})" for source, count in sorted(Counter(p.source for p in pairs).items()))
    simulated = sum(p.simulated for p in pairs)
    origin = (
        f"**Simulated:** {simulated} of the {len(pairs)} pairs come from simulated annotators, not from people."
        if simulated
        else "No vote in it is simulated."
    )
    prompts = len({p.prompt_id for p in pairs})
    return f"""---
configs:
- config_name: preference
  default: true
  data_files: preference/*.parquet
- config_name: pickapic
  data_files: pickapic/*.parquet
---

# Preference pairs

{len(pairs)} pairs over {prompts} prompts. {origin}

- Source: {sources}. Votes: the first of flaws, appeal, alignment that prefers one image decides.
- Policy: {policy}.
- `soft_label`: estimated probability in (0.5, 1] that the chosen image is preferred.
- Images are PNG without metadata, also in the columns that pick-a-pic calls `jpg_0` and `jpg_1`.
- `created_at`, `user_id` and `ranking_id` are constants, there for programs that expect pick-a-pic's columns.

```python
from datasets import load_dataset

load_dataset("path/of/this/folder")              # prompt, chosen, rejected
load_dataset("path/of/this/folder", "pickapic")  # caption, jpg_0, jpg_1, label_0, ...
```
"""


def _clean_png(path: Path) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(read_image(path)[None])[0]).save(buffer, "PNG")
    return buffer.getvalue()


def _decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))
