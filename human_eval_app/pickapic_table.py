"""Tables with the columns of pick-a-pic (Kirstain et al. 2023, arXiv 2305.01569), as votes and as a run of images."""

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, decode_image, write_png
from pixeval.records import Choice, Question, Sample, Vote, sample_id
from pixeval.runs import Run

NEEDED = ("caption", "image_0_uid", "image_1_uid", "label_0", "label_1")
WANTED = (*NEEDED, "jpg_0", "jpg_1", "model_0", "model_1", "has_label", "user_id", "created_at", "ranking_id")
ROWS_AT_ONCE = 64


def read_pickapic(file: Path, samples: Mapping[str, Sample], question: Question) -> Iterator[Vote | tuple[str, str]]:
    """A vote for every row of a label, image 0 on the left; ``(row, why)`` for what cannot be used.

    Args:
        file: Parquet; of the columns only captions, uids and labels are needed when ``samples`` knows the uids.
        samples: by id, as uids in our own exports are, and by the SHA-256 of the image's file.
        question: what the votes are taken to answer; pick-a-pic asked for the better image of a prompt.

    Raises:
        InputError: it is no such table.
    """
    for number, row in enumerate(_rows(file), 1):
        name = f"row {number}"
        if row.get("has_label") is False:
            yield name, "it has no label"
            continue
        choice = _choice(row["label_0"], row["label_1"])
        found = [_sample(row, side, samples) for side in (0, 1)]
        left, right = found
        if choice is None:
            yield name, f"its labels are {row['label_0']} and {row['label_1']}; they must be 0, 0.5 or 1 and sum to 1"
        elif left is None or right is None:
            yield name, "its images are not those of the runs"
        elif left.id == right.id:
            yield name, "both images are the same"
        else:
            key = f"pickapic\x1f{row.get('ranking_id')}\x1f{row.get('user_id')}\x1f{left.id}\x1f{right.id}\x1f{number}"
            yield Vote(
                id=hashlib.sha256(key.encode()).hexdigest()[:16],
                annotator=f"user-{row['user_id']}" if row.get("user_id") is not None else "unknown",
                question=question,
                prompt_id=left.prompt_id or _prompt_id(row["caption"]),
                prompt=row["caption"],
                left=left.id,
                right=right.id,
                left_label=left.label,
                right_label=right.label,
                choice=choice,
                seconds=0.0,
                answered_at=_time(row.get("created_at")),
            )


def pickapic_samples(file: Path, folder: Path) -> Run:
    """A new run of the images of a table, labelled by ``model_0`` and ``model_1``; metadata of the files is dropped.

    Rows whose images cannot be read are left out; :func:`read_pickapic` names them.

    Raises:
        InputError: the folder holds something else, or no image can be read.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    run = Run.create(folder, "import", {"file": file.name, "sha256": digest})
    found: dict[str, Sample] = {}
    for row in _rows(file):
        for side in (0, 1):
            identity = _own_id(row, side)
            data = row.get(f"jpg_{side}")
            if identity in found or not isinstance(data, bytes) or not isinstance(row["caption"], str):
                continue
            path = f"images/{identity}.png"
            try:
                sha256 = write_png(decode_image(data, identity), folder / path)
            except UnreadableImage:
                continue
            label = str(row.get(f"model_{side}") or f"image_{side}")
            prompt_id = _prompt_id(row["caption"])
            found[identity] = Sample(identity, label, prompt_id, row["caption"], None, label, path, sha256)
    if not found:
        raise InputError(f"{file} holds no image that can be read, in jpg_0 and jpg_1")
    run.write_samples(list(found.values()))
    return run


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        table = pq.ParquetFile(file)
        known = set(table.schema_arrow.names)
        missing = [name for name in NEEDED if name not in known]
        if missing:
            raise InputError(f"{file} lacks the column {missing[0]} of pick-a-pic's tables")
        columns = [name for name in WANTED if name in known]
        for batch in table.iter_batches(ROWS_AT_ONCE, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read as a table ({error})") from error


def _choice(first: Any, second: Any) -> Choice | None:
    return {(1.0, 0.0): "left", (0.0, 1.0): "right", (0.5, 0.5): "tie"}.get((first, second))  # type: ignore[return-value]


def _sample(row: Mapping[str, Any], side: int, samples: Mapping[str, Sample]) -> Sample | None:
    uid, data = row[f"image_{side}_uid"], row.get(f"jpg_{side}")
    for key in (uid, hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else None, _own_id(row, side)):
        if isinstance(key, str) and key in samples:
            return samples[key]
    return None


def _own_id(row: Mapping[str, Any], side: int) -> str:
    """The id of an image that comes from a table."""
    return sample_id("pickapic", str(row["caption"]), None, str(row[f"image_{side}_uid"]))


def _prompt_id(caption: str) -> str:
    return "caption-" + hashlib.sha256(str(caption).encode()).hexdigest()[:12]


def _time(at: Any) -> str:
    at = at if isinstance(at, dt.datetime) else dt.datetime.fromtimestamp(0, dt.UTC)
    text: str = (at if at.tzinfo else at.replace(tzinfo=dt.UTC)).isoformat(timespec="milliseconds")
    return text
