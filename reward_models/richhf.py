"""RichHF-18K (Liang et al. 2024, arXiv 2312.10240), where a user has it: artefact scores, and maps of artefacts.

As published (github.com/google-research-datasets/richhf-18k, read by google-research/richhf_18k): ``train.tfrecord``,
``dev.tfrecord`` and ``test.tfrecord`` with a file name of Pick-a-Pic v1, four scores (higher is better; a high artefact
score means few of them), a label for each word of the prompt, and two maps as greyscale image files of 512 x 512, white
where all annotators marked. Read are the name, the artefact score and its map; the rest is not looked at. The images
themselves come from Pick-a-Pic.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, list_images, read_image
from reward_models.flaw_examples import Marked
from reward_models.tfrecord import DamagedRecord, Feature, parse_example, read_records

Part = Literal["train", "dev", "test"]
MAP_SIDE = 4096
"""Longest side of a map that is decoded; the published ones have 512."""


@dataclass(frozen=True)
class RichHf:
    """One annotated image."""

    filename: str
    """Of Pick-a-Pic, as ``train/UID.png``; never used as a path."""
    rating: float
    """The artefact score, higher for fewer artefacts."""
    artifacts: Tensor
    """H x W in [0, 1], the map as it is."""


def read_richhf(file: Path, problems: list[str]) -> Iterator[RichHf]:
    """The records of one file; those that cannot be read are named in ``problems`` and left out.

    Raises:
        InputError: see :func:`reward_models.tfrecord.read_records`.
    """
    for number, data in enumerate(read_records(file, problems)):
        try:
            found = _record(parse_example(data))
        except DamagedRecord as error:
            problems.append(f"{file.name}: whole record {number} is no example of RichHF-18K ({error}) and left out")
            continue
        yield found


def richhf_examples(folder: Path, images: Path, part: Part, most: int, problems: list[str]) -> Iterator[Marked]:
    """Images of a part with their maps of artefacts.

    Images are found by the last part of the recorded name without its ending, among the names of the files below
    ``images``: a recorded name can never lead outside.

    Args:
        most: images that are taken, spread evenly over the part.
        problems: gets one line for every record and image that is left out.

    Raises:
        InputError: a folder or file is missing, two images have one name, or no image is there.
    """
    files = _images(images)
    source = folder / f"{part}.tfrecord"
    known = [name for name in _names(source) if name in files]
    if not known:
        raise InputError(
            f"{images} holds no image of {source}; give the folder with the images of Pick-a-Pic, named as there"
        )
    step = max(1.0, len(known) / most)
    chosen = {known[int(place * step)] for place in range(min(most, len(known)))}
    missing = 0
    for record in read_richhf(source, problems):
        name = _stem(record.filename)
        missing += name not in files
        if name not in chosen:
            continue
        try:
            pixels = read_image(files[name])
        except UnreadableImage as error:
            problems.append(f"{source.name}: {error}; left out")
            continue
        mask = F.interpolate(record.artifacts[None, None], tuple(pixels.shape[-2:]), mode="area")[0, 0]
        yield Marked(pixels, mask, name, "RichHF-18K", by_people=True, rating=record.rating)
    if missing:
        problems.append(f"{source.name}: {missing} images are not below {images.name} and left out")


def _names(file: Path) -> Iterator[str]:
    """Of the images of all records that have one; the maps, the bulk of a record, are not decoded."""
    for data in read_records(file, []):
        try:
            yield _stem(_text(parse_example(data), "filename"))
        except DamagedRecord:
            continue


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the one with the images of Pick-a-Pic")
    found: dict[str, Path] = {}
    for file in list_images(folder):
        if file.stem in found:
            raise InputError(f"{folder} holds two images named {file.stem!r}; RichHF-18K's names must be unique there")
        found[file.stem] = file
    return found


def _stem(filename: str) -> str:
    return filename.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _record(features: dict[str, Feature]) -> RichHf:
    return RichHf(_text(features, "filename"), _number(features, "artifact_score"), _map(features, "artifact_map"))


def _first(features: dict[str, Feature], name: str) -> bytes | float:
    values = features.get(name)
    if not values:
        raise DamagedRecord(f"it has no {name}")
    return values[0]


def _text(features: dict[str, Feature], name: str) -> str:
    value = _first(features, name)
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise DamagedRecord(f"{name} is not UTF-8") from error


def _number(features: dict[str, Feature], name: str) -> float:
    value = _first(features, name)
    if isinstance(value, bytes) or not np.isfinite(value):
        raise DamagedRecord(f"{name} is not a number")
    return float(value)


def _map(features: dict[str, Feature], name: str) -> Tensor:
    value = _first(features, name)
    if not isinstance(value, bytes):
        raise DamagedRecord(f"{name} is no image")
    try:
        with Image.open(io.BytesIO(value), formats=("PNG", "JPEG")) as opened:
            width, height = opened.size
            if max(width, height) <= MAP_SIDE:
                return torch.from_numpy(np.array(opened.convert("L"), dtype=np.float32)) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedRecord(f"{name} is not an image that can be read") from error
    raise DamagedRecord(f"{name} has {width}x{height} pixels; {MAP_SIDE} a side are the most")
