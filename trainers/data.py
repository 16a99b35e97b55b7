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
from trainers.latent_diffusion import Conditioning, LatentDiffusion
from trainers.latents import Posterior

CAPTIONS = ("text", "caption", "prompt")
"""Names that a column of captions may have."""
CHUNK = 8
"""Images or prompts encoded together; fixed, so that the cache does not depend on the batch size."""


class Skipped(NamedTuple):
    """An entry of the data that could not be used."""

    name: str
    reason: str


@dataclass(frozen=True)
class Texts:
    """Embeddings of distinct prompts; row 0 is the empty prompt."""

    conditioning: Conditioning

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

    def __len__(self) -> int:
        return len(self.prompt)


@dataclass(frozen=True)
class PairedLatents:
    """What preference tuning reads, on the CPU; N pairs."""

    winner: Posterior
    loser: Posterior
    prompt: Tensor
    soft_label: Tensor
    """Probability that the winner is preferred, float32 (N,)."""
    texts: Texts

    def __len__(self) -> int:
        return len(self.prompt)


def seeded(seed: int, *path: object) -> torch.Generator:
    """A CPU generator of its own for every (seed, path), for example ``seeded(0, "step", 17)``."""
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def batch_rows(n: int, batch_size: int, seed: int, batch: int) -> Tensor:
    """Rows of batch number ``batch``: every epoch is a new permutation of all ``n``, and batches run across epochs."""
    positions = range(batch * batch_size, (batch + 1) * batch_size)
    order = {epoch: torch.randperm(n, generator=seeded(seed, "epoch", epoch)) for epoch in {p // n for p in positions}}
    return torch.stack([order[p // n][p % n] for p in positions])


def captioned_latents(model: LatentDiffusion, source: Path, resolution: tuple[int, int]) -> CaptionedLatents:
    """Encode a folder or Parquet file of captioned images (see :func:`read_captioned`).

    Raises:
        InputError: the source is missing, not understood, or holds no usable image.
    """
    skipped: list[Skipped] = []
    captions: list[str] = []
    images = _usable(read_captioned(source), captions, skipped)
    posterior = _encode(model, (fit_image(image, resolution) for image in images))
    if posterior is None:
        reason = f" First problem: {skipped[0].name}: {skipped[0].reason}." if skipped else ""
        raise InputError(f"{source} holds no image with a caption that can be used.{reason}")
    texts, prompt = _encode_texts(model, captions)
    return CaptionedLatents(posterior, prompt, texts, tuple(skipped))


def paired_latents(model: LatentDiffusion, source: Path, resolution: tuple[int, int]) -> PairedLatents:
    """Encode a folder of preference pairs, as ``pixeval pairs`` writes it.

    Raises:
        InputError: the folder is missing, damaged or empty.
    """
    prompts: list[str] = []
    labels: list[float] = []

    def images() -> Iterator[Tensor]:
        for pair in load_pairs(source):
            prompts.append(pair.prompt)
            labels.append(pair.soft_label)
            yield fit_image(_from_uint8(pair.chosen), resolution)
            yield fit_image(_from_uint8(pair.rejected), resolution)

    posterior = _encode(model, images())
    if posterior is None:
        raise InputError(f"{source} holds no preference pair. Make some with 'pixeval pairs'.")
    texts, prompt = _encode_texts(model, prompts)
    winner, loser = (Posterior(posterior.mean[i::2], posterior.std[i::2]) for i in (0, 1))
    return PairedLatents(winner, loser, prompt, torch.tensor(labels), texts)


def read_captioned(source: Path) -> Iterator[tuple[str, Tensor | str, str]]:
    """Yield (name, image in [0, 1] or the reason why there is none, caption).

    Understood are a Parquet file or folder of them with an ``image`` column (bytes, or a struct with bytes, as
    ``datasets`` writes it); a folder with ``metadata.jsonl`` or ``metadata.csv`` that has ``file_name``; and a folder
    of images with a ``.txt`` file of the same name beside each. The caption is ``text``, ``caption`` or ``prompt``.

    Raises:
        InputError: the source is none of these.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist. Give a folder or Parquet file of images with captions.")
    tables = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    metadata = [source / name for name in ("metadata.jsonl", "metadata.csv") if (source / name).is_file()]
    if metadata:
        yield from _from_metadata(metadata[0])
    elif tables:
        for table in tables:
            yield from _from_parquet(table)
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


def _usable(
    entries: Iterable[tuple[str, Tensor | str, str]], captions: list[str], skipped: list[Skipped]
) -> Iterator[Tensor]:
    """The images that could be read; their captions and the other entries are noted on the way."""
    for name, image, caption in entries:
        if isinstance(image, str):
            skipped.append(Skipped(name, image))
        else:
            captions.append(caption)
            yield image


def _from_metadata(file: Path) -> Iterator[tuple[str, Tensor | str, str]]:
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
        path = (folder / row["file_name"]).resolve()
        if not path.is_relative_to(folder):
            yield row["file_name"], "lies outside the folder", caption
        else:
            yield row["file_name"], _read_or_reason(path), caption


def _from_parquet(file: Path) -> Iterator[tuple[str, Tensor | str, str]]:
    try:
        table = pq.ParquetFile(file)
        columns = set(table.schema_arrow.names)
        wanted = ["image", *(name for name in CAPTIONS if name in columns)]
        if "image" not in columns or len(wanted) == 1:
            raise InputError(f"{file} needs the columns image and text, it has {', '.join(sorted(columns))}")
        number = 0
        for batch in table.iter_batches(batch_size=64, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                name = f"{file.name}, row {number}"
                data = row["image"].get("bytes") if isinstance(row["image"], dict) else row["image"]
                try:
                    image: Tensor | str = (
                        decode_image(data, name) if isinstance(data, bytes) else "holds no image bytes"
                    )
                except UnreadableImage as error:
                    image = str(error)
                yield name, image, _caption(row, name)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet ({error})") from error


def _from_text_files(folder: Path) -> Iterator[tuple[str, Tensor | str, str]]:
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
            yield name, _read_or_reason(path), text.read_text(encoding="utf-8", errors="replace").strip()
        else:
            yield name, "has no caption", ""


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


def _encode(model: LatentDiffusion, images: Iterator[Tensor]) -> Posterior | None:
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


def _encode_texts(model: LatentDiffusion, prompts: list[str]) -> tuple[Texts, Tensor]:
    distinct = list(dict.fromkeys(["", *prompts]))
    number = {prompt: i for i, prompt in enumerate(distinct)}
    chunks = [model.encode_prompts(distinct[i : i + CHUNK]) for i in range(0, len(distinct), CHUNK)]
    conditioning = {name: _cat_padded([chunk[name].cpu() for chunk in chunks]) for name in chunks[0]}
    model.release_text_encoders()
    return Texts(conditioning), torch.tensor([number[prompt] for prompt in prompts])


def _cat_padded(parts: list[Tensor]) -> Tensor:
    """Concatenate, padding the second axis with zeros: families that do not pad their prompts give a mask as well."""
    if parts[0].dim() > 1:
        length = max(part.shape[1] for part in parts)
        parts = [F.pad(part, (0, 0) * (part.dim() - 2) + (0, length - part.shape[1])) for part in parts]
    return torch.cat(parts)
