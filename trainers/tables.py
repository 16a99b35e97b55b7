"""Tables of training data, row by row: Parquet files, folders written by ``datasets``, and data sets of the hub.

Rows are read one after the other, so that a table may be larger than memory, and of any length.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from pixeval.errors import InputError, unknown_name
from pixeval.images import UnreadableImage, decode_image

ROWS_AT_ONCE = 32
ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "xz://", "zstd://", "lz4://")
"""How ``datasets`` names what is packed into another file."""
Kind = Literal["image", "text", "other"]
Row = tuple[str, dict[str, Any]]
"""What it is called in messages, and its cells by column."""


@dataclass(frozen=True)
class DatasetConfig:
    """What of the data is read, and how."""

    split: str = "train"
    """Of a data set of the hub, or of one saved by datasets."""
    subset: str | None = None
    """Configuration of a data set of the hub."""
    streaming: bool = True
    """Read a data set of the hub while it is downloaded, without keeping it on disk."""
    image_column: str | None = None
    """Column of the images; none for image, img, jpg, jpeg, png or webp, or the only one that holds images."""
    caption_column: str | None = None
    """Column of the captions; none for text, caption or prompt, or the only one that holds text."""
    max_rows: int | None = None
    """Stop after this many rows; none for all."""
    ties: Literal["drop", "half"] = "drop"
    """Pairs that were judged equal: drop leaves them out; half keeps them with a soft label of 0.5."""
    buckets: bool = False
    """Keep the shape of images, in sizes from 1:2 to 2:1 with the same number of pixels; otherwise all are cropped
    to the shape of the resolution."""
    flip: bool = False
    """Mirror half of the images, drawn anew in every epoch."""
    cache: Path | None = None
    """Folder that keeps latents and text embeddings, for this run and others; none to hold them in memory."""


@dataclass(frozen=True)
class Table:
    """One table, not yet read."""

    name: str
    columns: dict[str, Kind]
    read: Callable[[list[str]], Iterator[Row]]
    """The rows, with these columns only."""

    def column(self, given: str | None, likely: tuple[str, ...], kind: Kind, setting: str) -> str:
        """The column that was asked for, or the first likely one, or the only one of the kind.

        Raises:
            InputError: there is none; naming the setting that says which.
        """
        if given is not None:
            if given not in self.columns:
                raise unknown_name(f"column for {setting} of {self.name}", given, self.columns)
            return given
        fitting = [name for name, found in self.columns.items() if found == kind]
        named = [name for name in likely if name in self.columns]
        if named or len(fitting) == 1:
            return (named or fitting)[0]
        raise InputError(
            f"{self.name} needs a column {' or '.join(likely[:3])}; it has {', '.join(sorted(self.columns))}. "
            f"Say which holds the {kind}s by {setting}."
        )


def open_tables(source: Path, config: DatasetConfig) -> Iterator[Table]:
    """The tables of ``source``: a Parquet file, a folder of them, a folder of ``datasets``, or owner/name on the hub.

    Raises:
        InputError: none of these, damaged, or not reachable.
    """
    if _on_hub(source):
        yield _dataset_table(str(source), _load_hub(str(source), config))
    elif not source.exists():
        raise InputError(f"{source} does not exist. Give a folder, a Parquet file, or owner/name of a data set.")
    elif (source / "dataset_dict.json").is_file() or (source / "state.json").is_file():
        yield _dataset_table(str(source), _load_saved(source, config))
    else:
        for file in [source] if source.is_file() else sorted(source.rglob("*.parquet")):
            yield parquet_table(file)


def is_table(source: Path) -> bool:
    """Whether :func:`open_tables` finds any in ``source``."""
    if not source.is_dir():
        return source.is_file() or _on_hub(source)
    saved = any((source / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return saved or next(source.rglob("*.parquet"), None) is not None


def parquet_table(file: Path) -> Table:
    """A Parquet file, read in small groups of rows.

    Raises:
        InputError: it is damaged; now, or when its rows are read.
    """
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet ({error})") from error

    def read(columns: list[str]) -> Iterator[Row]:
        number = 0
        try:
            with pq.ParquetFile(file) as opened:
                for group in opened.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                    for row in _rows(group):
                        number += 1
                        yield f"{file.name}, row {number}", row
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file} cannot be read as Parquet ({error})") from error

    return Table(str(file), {field.name: _kind_of_arrow(field.type) for field in schema}, read)


def limited(rows: Iterator[Any], config: DatasetConfig) -> Iterator[Any]:
    """The first ``max_rows``."""
    return islice(rows, config.max_rows)


def decode_cell(cell: Any, name: str) -> Tensor | str:
    """An image cell, bytes or a struct of bytes and path -> 3 x H x W in [0, 1], or the reason why not."""
    try:
        data = _cell_bytes(cell)
        return decode_image(data, name) if data is not None else "holds no image"
    except UnreadableImage as error:
        return str(error)


def text_of(cell: Any) -> str:
    """A caption cell; of a list the first one; empty where there is none."""
    if isinstance(cell, list | tuple):
        cell = next((text for text in cell if isinstance(text, str) and text.strip()), "")
    return cell.strip() if isinstance(cell, str) else ""


def _rows(group: pa.RecordBatch) -> list[dict[str, Any]]:
    """The cells of each row by column; None for text that is not UTF-8, which Parquet files are not checked for."""
    try:
        rows: list[dict[str, Any]] = group.to_pylist()
    except UnicodeDecodeError:
        columns = {name: [_cell(value) for value in group[name]] for name in group.schema.names}
        rows = [{name: cells[i] for name, cells in columns.items()} for i in range(group.num_rows)]
    return rows


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None


def _on_hub(source: Path) -> bool:
    """Whether it can only be owner/name."""
    named = len(source.parts) == 2 and not source.is_absolute() and source.parts[0] not in (".", "..", "~")
    return named and not source.exists() and source.suffix != ".parquet"


def _cell_bytes(cell: Any) -> bytes | None:
    path = None
    if isinstance(cell, dict):
        cell, path = cell.get("bytes"), cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if isinstance(path, str) and _downloaded(path):
        import fsspec  # type: ignore[import-untyped]

        try:
            with fsspec.open(path, "rb") as file:
                data: bytes = file.read()
                return data
        except (OSError, ValueError, BadZipFile) as error:
            raise UnreadableImage(f"cannot read {path}: {error}") from error
    return None


def _downloaded(path: str) -> bool:
    """Whether a path in a table is one of ``datasets`` itself: another could be any file of the user's.

    Such are files on the hub and in the caches of ``datasets`` and of the hub, and members of archives that lie there:
    ``zip://images/7.png::hf://datasets/owner/name/images.zip``.
    """
    import datasets
    import huggingface_hub

    *members, place = path.split("::")
    if not all(member.startswith(ARCHIVES) for member in members):
        return False
    if place.startswith("hf://"):
        return True
    config = datasets.config
    caches = [config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH]
    caches += [config.EXTRACTED_DATASETS_PATH, huggingface_hub.constants.HF_HUB_CACHE]
    try:
        found = Path(place).resolve()
    except ValueError:  # no name that a file can have
        return False
    return any(found.is_relative_to(Path(cache).resolve()) for cache in caches)


def _kind_of_arrow(kind: pa.DataType) -> Kind:
    if pa.types.is_struct(kind):
        return "image" if kind.get_field_index("bytes") >= 0 else "other"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "image"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "text" if _kind_of_arrow(kind.value_type) == "text" else "other"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else "other"


def _load_hub(name: str, config: DatasetConfig) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, config.subset, split=config.split, streaming=config.streaming)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} is neither a folder nor a data set that can be loaded: {reason}") from error


def _load_saved(folder: Path, config: DatasetConfig) -> Any:
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise InputError(f"{folder} is no data set that datasets saved ({error})") from error
    if isinstance(found, datasets.DatasetDict):
        if config.split not in found:
            raise unknown_name(f"split of {folder}", config.split, found)
        return found[config.split]
    return found


def _dataset_table(name: str, data: Any) -> Table:
    import datasets

    if data.features is None:
        data = data._resolve_features()
    columns: dict[str, Kind] = {}
    for column, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            # Decoded by us, so that a damaged image is one bad row and not the end.
            data = data.cast_column(column, datasets.Image(decode=False))
            columns[column] = "image"
        else:
            columns[column] = _kind_of_arrow(datasets.features.Features({column: feature}).arrow_schema[0].type)

    def read(wanted: list[str]) -> Iterator[Row]:
        try:
            for number, row in enumerate(data.select_columns(wanted), 1):
                yield f"{name}, row {number}", row
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise InputError(f"{name} cannot be read any further ({error}). Run the same command again.") from error

    return Table(name, columns, read)
