"""Training data: captioned images and preference pairs, brought to cached latents and text embeddings.

Every image passes the frozen VAE once and every distinct prompt the frozen text encoder once. Which rows a step
reads is a pure function of (seed, step), so that a resumed run sees what an uninterrupted one would.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, decode_image, list_images, read_image
from pixeval.pair_folder import load_pairs
from trainers.flaw_maps import FlawMaps, stacked
from trainers.latent_diffusion import Conditioning, LatentDiffusion
from trainers.latents import Posterior

CAPTIONS = ("text", "caption", "prompt")
"""Names that a column of captions may have."""
FLAW_MAP = "flaw_map"
"""The column of flaw maps."""
CHUNK = 8
"""Images or prompts encoded together; fixed, so that the cache does not depend on the batch size."""


class Entry(NamedTuple):
    """One row of captioned images."""

    name: str
    image: Tensor | str
    """3 x H x W in [0, 1], or the reason why there is none."""
    caption: str
    marks: Tensor | None = None
    """1 x h x w in [0, 1]: where flaws are, from the column flaw_map."""


class Skipped(NamedTuple):
    """An entry of the data that could not be used."""

    name: str
    reason: str


@dataclass(frozen=True)
class Texts:
    """Embeddings of distinct prompts; row 0 is the empty prompt."""

    conditioning: Conditioning
    prompts: tuple[str, ...]

    def rows(self, index: Tensor, device: torch.device) -> Conditioning:
        """The conditioning of prompts number ``index``."""
        return {name: value[index].to(device) for name, value in self.conditioning.items()}


@dataclass(frozen=True)
class CaptionedLatents:
    """What SFT reads, on the CPU; N rows."""

    posterior: Posterior
    prompt: Tensor
    """Row in ``texts`` of each caption, int64 (N,)."""
    texts: Texts
    skipped: tuple[Skipped, ...]
    flaws: Tensor | None = None
    """Flaw maps, uint8 N x 1 x H x W; None for none."""

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def good(self) -> Posterior:
        """What the model should be able to make."""
        return self.posterior


@dataclass(frozen=True)
class PairedLatents:
    """What preference tuning reads, on the CPU; N pairs."""

    winner: Posterior
    loser: Posterior
    prompt: Tensor
    soft_label: Tensor
    """Probability that the winner is preferred, float32 (N,)."""
    texts: Texts
    winner_flaws: Tensor | None = None
    """Flaw maps, uint8 N x 1 x H x W; None for none."""
    loser_flaws: Tensor | None = None
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def good(self) -> Posterior:
        """What the model should be able to make."""
        return self.winner


def seeded(seed: int, *path: object) -> torch.Generator:
    """A CPU generator of its own for every (seed, path), for example ``seeded(0, "step", 17)``."""
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def batch_rows(n: int, batch_size: int, seed: int, batch: int) -> Tensor:
    """Rows of batch number ``batch``: every epoch is a new permutation of all ``n``, and batches run across epochs."""
    positions = range(batch * batch_size, (batch + 1) * batch_size)
    order = {epoch: torch.randperm(n, generator=seeded(seed, "epoch", epoch)) for epoch in {p // n for p in positions}}
    return torch.stack([order[p // n][p % n] for p in positions])


def captioned_latents(
    model: LatentDiffusion, source: Path, resolution: tuple[int, int], flaws: FlawMaps | None = None
) -> CaptionedLatents:
    """Encode a folder or Parquet file of captioned images (see :func:`read_captioned`).

    Args:
        model: whose VAE and text encoders are used.
        source: the folder or file.
        resolution: height and width to train at.
        flaws: makes a map of the flaws of each image; None for no maps.

    Raises:
        InputError: the source is missing, not understood, holds no usable image, or none of the wanted flaw maps.
    """
    skipped: list[Skipped] = []
    captions: list[str] = []
    maps: list[Tensor] = []

    def images() -> Iterator[Tensor]:
        for entry in _usable(read_captioned(source, flaws is not None and flaws.columns), captions, skipped):
            assert isinstance(entry.image, Tensor)
            fitted = fit_image(entry.image, resolution)
            if flaws is not None:
                marks = entry.marks if flaws.columns else flaws.marks_of(entry.name)
                maps.append(flaws.map_of(fitted, fit_marks(marks, entry.image, resolution)))
            yield fitted

    posterior = encode_images(model, images())
    if posterior is None:
        reason = f" First problem: {skipped[0].name}: {skipped[0].reason}." if skipped else ""
        raise InputError(f"{source} holds no image with a caption that can be used.{reason}")
    texts, prompt = encode_texts(model, captions)
    if flaws is not None:
        flaws.check_found(source)
    return CaptionedLatents(posterior, prompt, texts, tuple(skipped), stacked(maps))


def paired_latents(
    model: LatentDiffusion, source: Path, resolution: tuple[int, int], flaws: FlawMaps | None = None
) -> PairedLatents:
    """Encode a folder of preference pairs, as ``pixeval pairs`` writes it.

    Args:
        model: whose VAE and text encoders are used.
        source: the folder.
        resolution: height and width to train at.
        flaws: makes a map of the flaws of each image; None for no maps.

    Raises:
        InputError: the folder is missing, damaged or empty, or has none of the wanted flaw maps.
    """
    prompts: list[str] = []
    labels: list[float] = []
    maps: list[Tensor] = []

    def images() -> Iterator[Tensor]:
        for pair in load_pairs(source):
            prompts.append(pair.prompt)
            labels.append(pair.soft_label)
            for side in (pair.chosen, pair.rejected):
                image = _from_uint8(side.image)
                fitted = fit_image(image, resolution)
                if flaws is not None:
                    column = None if side.flaw_map is None else _from_uint8(side.flaw_map).mean(0, keepdim=True)
                    marks = column if flaws.columns else flaws.marks_of(side.uid)
                    maps.append(flaws.map_of(fitted, fit_marks(marks, image, resolution)))
                yield fitted

    posterior = encode_images(model, images())
    if posterior is None:
        raise InputError(f"{source} holds no preference pair. Make some with 'pixeval pairs'.")
    texts, prompt = encode_texts(model, prompts)
    winner, loser = (Posterior(posterior.mean[i::2], posterior.std[i::2]) for i in (0, 1))
    if flaws is not None:
        flaws.check_found(source)
    return PairedLatents(winner, loser, prompt, torch.tensor(labels), texts, stacked(maps[0::2]), stacked(maps[1::2]))


def read_captioned(source: Path, marks: bool = False) -> Iterator[Entry]:
    """Yield the rows of captioned images.

    Understood are a Parquet file or folder of them with an ``image`` column (bytes, or a struct with bytes, as
    ``datasets`` writes it); a folder with ``metadata.jsonl`` or ``metadata.csv`` that has ``file_name``; and a folder
    of images with a ``.txt`` file of the same name beside each. The caption is ``text``, ``caption`` or ``prompt``.

    Args:
        source: the folder or file.
        marks: read the column ``flaw_map`` too, a file name or image bytes as for the image.

    Raises:
        InputError: the source is none of these.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist. Give a folder or Parquet file of images with captions.")
    tables = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    metadata = [source / name for name in ("metadata.jsonl", "metadata.csv") if (source / name).is_file()]
    if metadata:
        yield from _from_metadata(metadata[0], marks)
    elif tables:
        for table in tables:
            yield from _from_parquet(table, marks)
    else:
        yield from _from_text_files(source)


def fit_image(image: Tensor, resolution: tuple[int, int]) -> Tensor:
    """3 x H x W in [0, 1], any size -> scaled to cover ``resolution`` (antialiased), centre crop, [-1, 1]."""
    height, width = resolution
    if tuple(image.shape[1:]) != resolution:
        scale = max(height / image.shape[1], width / image.shape[2])
        size = [max(height, round(image.shape[1] * scale)), max(width, round(image.shape[2] * scale))]
        image = F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        image = image[:, top : top + height, left : left + width]
    return image * 2 - 1


def fit_marks(marks: Tensor | None, image: Tensor, resolution: tuple[int, int]) -> Tensor | None:
    """1 x h x w marks on the whole of ``image`` (3 x H x W) -> the same crop as :func:`fit_image`, in [0, 1]."""
    if marks is None:
        return None
    size = [int(side) for side in image.shape[1:]]
    whole = F.interpolate(marks[None], size, mode="bilinear", antialias=True)[0]
    return (fit_image(whole, resolution) / 2 + 0.5).clamp(0, 1)


def _usable(entries: Iterable[Entry], captions: list[str], skipped: list[Skipped]) -> Iterator[Entry]:
    """The entries whose image could be read; their captions and the other entries are noted on the way."""
    for entry in entries:
        if isinstance(entry.image, str):
            skipped.append(Skipped(entry.name, entry.image))
        else:
            captions.append(entry.caption)
            yield entry


def _from_metadata(file: Path, marks: bool) -> Iterator[Entry]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        rows = list(csv.DictReader(lines)) if file.suffix == ".csv" else [json.loads(x) for x in lines if x.strip()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read ({error}). Every line must be a row with file_name and text."
        ) from error
    folder = file.parent.resolve()
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise InputError(f"{file}, row {number}: no file_name. Every row needs file_name and text.")
        caption = _caption(row, f"{file}, row {number}")
        flaw_map = row.get(FLAW_MAP) if marks else None
        yield _entry(
            row["file_name"],
            _read_within(folder, row["file_name"]),
            caption,
            _read_within(folder, flaw_map) if isinstance(flaw_map, str) and flaw_map else None,
        )


def _from_parquet(file: Path, marks: bool) -> Iterator[Entry]:
    try:
        table = pq.ParquetFile(file)
        columns = set(table.schema_arrow.names)
        wanted = ["image", *(name for name in CAPTIONS if name in columns)]
        mapped = [FLAW_MAP] if marks and FLAW_MAP in columns else []
        if "image" not in columns or len(wanted) == 1:
            raise InputError(f"{file} needs the columns image and text, it has {', '.join(sorted(columns))}")
        number = 0
        for batch in table.iter_batches(batch_size=64, columns=wanted + mapped):
            for row in batch.to_pylist():
                number += 1
                name = f"{file.name}, row {number}"
                flaw_map = row.get(FLAW_MAP)
                yield _entry(
                    name,
                    _decode_cell(row["image"], name),
                    _caption(row, name),
                    None if flaw_map is None else _decode_cell(flaw_map, f"{name}, {FLAW_MAP}"),
                )
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet ({error})") from error


def _from_text_files(folder: Path) -> Iterator[Entry]:
    found = list_images(folder)
    if not any(path.with_suffix(".txt").is_file() for path in found):
        raise InputError(
            f"{folder} has {len(found)} images and no captions: add metadata.jsonl with file_name and text, "
            "or a .txt file beside each image"
        )
    for path in found:
        text = path.with_suffix(".txt")
        name = path.relative_to(folder).as_posix()
        if text.is_file():
            caption = text.read_text(encoding="utf-8", errors="replace").strip()
            yield Entry(name, _read_or_reason(path), caption)
        else:
            yield Entry(name, "has no caption", "")


def _entry(name: str, image: Tensor | str, caption: str, marks: Tensor | str | None) -> Entry:
    """An entry whose flaw map cannot be read is not usable either: it would count as free of flaws."""
    if isinstance(marks, str):
        return Entry(name, f"flaw map: {marks}", caption)
    return Entry(name, image, caption, None if marks is None else marks.mean(0, keepdim=True))


def _decode_cell(cell: Any, name: str) -> Tensor | str:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    try:
        return decode_image(data, name) if isinstance(data, bytes) else "holds no image bytes"
    except UnreadableImage as error:
        return str(error)


def _read_within(folder: Path, name: str) -> Tensor | str:
    path = (folder / name).resolve()
    return _read_or_reason(path) if path.is_relative_to(folder) else "lies outside the folder"


def _caption(row: dict[str, Any], where: str) -> str:
    for name in CAPTIONS:
        if isinstance(row.get(name), str):
            return str(row[name])
    raise InputError(f"{where}: no caption; expected one of {', '.join(CAPTIONS)}")


def _read_or_reason(path: Path) -> Tensor | str:
    try:
        return read_image(path)
    except UnreadableImage as error:
        return str(error)


def _from_uint8(image: "np.ndarray[Any, Any]") -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def encode_images(model: LatentDiffusion, images: Iterator[Tensor]) -> Posterior | None:
    """Encode in chunks; None when there is no image."""
    parts: list[Posterior] = []
    chunk: list[Tensor] = []
    for image in images:
        chunk.append(image)
        if len(chunk) == CHUNK:
            parts.append(model.encode(torch.stack(chunk)))
            chunk = []
    if chunk:
        parts.append(model.encode(torch.stack(chunk)))
    if not parts:
        return None
    return Posterior(torch.cat([p.mean.cpu() for p in parts]), torch.cat([p.std.cpu() for p in parts]))


def encode_texts(model: LatentDiffusion, prompts: list[str]) -> tuple[Texts, Tensor]:
    """Embeddings of the distinct prompts, the empty one first, and the row of each prompt in them, int64 (N,)."""
    distinct = list(dict.fromkeys(["", *prompts]))
    number = {prompt: i for i, prompt in enumerate(distinct)}
    chunks = [model.encode_prompts(distinct[i : i + CHUNK]) for i in range(0, len(distinct), CHUNK)]
    conditioning = {name: _cat_padded([chunk[name].cpu() for chunk in chunks]) for name in chunks[0]}
    model.release_text_encoders()
    return Texts(conditioning, tuple(distinct)), torch.tensor([number[prompt] for prompt in prompts])


def _cat_padded(parts: list[Tensor]) -> Tensor:
    """Concatenate, padding the second axis with zeros: families that do not pad their prompts give a mask as well."""
    if parts[0].dim() > 1:
        length = max(part.shape[1] for part in parts)
        parts = [F.pad(part, (0, 0) * (part.dim() - 2) + (0, length - part.shape[1])) for part in parts]
    return torch.cat(parts)
