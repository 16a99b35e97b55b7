"""Images to latents and prompts to embeddings, once each, in memory or in a cache on disk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.latent_cache import Folder, LatentRows, latent_folder, read_entry, text_folder
from trainers.latent_diffusion import Conditioning, LatentDiffusion
from trainers.latents import Posterior

CHUNK = 8
"""Images or prompts encoded together; fixed, so that the cache does not depend on the batch size."""


class Latents(Protocol):
    """Posteriors of the latents of N images."""

    def rows(self, index: Tensor) -> Posterior:
        """Those of some images, all of one size; on the CPU."""
        ...


class Texts(Protocol):
    """Embeddings of distinct prompts; row 0 is the empty prompt."""

    @property
    def prompts(self) -> tuple[str, ...]: ...

    def rows(self, index: Tensor, device: torch.device) -> Conditioning:
        """The conditioning of prompts number ``index``."""
        ...


@dataclass(frozen=True)
class TextsInMemory:
    """Embeddings held in memory."""

    conditioning: Conditioning
    prompts: tuple[str, ...]

    def rows(self, index: Tensor, device: torch.device) -> Conditioning:
        """The conditioning of prompts number ``index``."""
        return {name: value[index].to(device) for name, value in self.conditioning.items()}


@dataclass(frozen=True)
class TextsOnDisk:
    """Embeddings in a cache, read when they are asked for."""

    files: tuple[Path, ...]
    prompts: tuple[str, ...]

    def rows(self, index: Tensor, device: torch.device) -> Conditioning:
        """The conditioning of prompts number ``index``.

        Raises:
            InputError: a file is gone or damaged.
        """
        entries = [read_entry(self.files[i]) for i in index.tolist()]
        return {name: cat_padded([entry[name] for entry in entries]).to(device) for name in entries[0]}


class ImageEncoder:
    """Encodes images one after the other, those of one size in chunks.

    Args:
        model: whose VAE is used.
        cache: folder that keeps the latents; None to hold them in memory.
    """

    def __init__(self, model: LatentDiffusion, cache: Path | None = None) -> None:
        self.model = model
        self._folder = None if cache is None else latent_folder(cache, model)
        self._items: list[Posterior | Path | None] = []
        self._waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}

    def add(self, image: Tensor) -> None:
        """Take one image, 3 x H x W in [-1, 1]."""
        waiting = self._waiting.setdefault(tuple(image.shape), [])
        waiting.append((len(self._items), image))
        self._items.append(None)
        if len(waiting) == CHUNK:
            self._encode(waiting)

    def finish(self) -> Posterior | LatentRows | None:
        """The latents of all images, in the order they came in; None when there was no image."""
        for waiting in self._waiting.values():
            if waiting:
                self._encode(waiting)
        found = [item for item in self._items if item is not None]
        held = [item for item in found if isinstance(item, Posterior)]
        if not found or len(held) < len(found) or len({item.mean.shape for item in held}) > 1:
            return LatentRows(found) if found else None
        return Posterior(torch.stack([item.mean for item in held]), torch.stack([item.std for item in held]))

    def _encode(self, waiting: list[tuple[int, Tensor]]) -> None:
        """A chunk is encoded as a whole or not at all: its last digits may depend on who is in it."""
        places = [None if self._folder is None else self._folder.place(_content(image)) for _, image in waiting]
        if any(place is None or not place.exists() for place in places):
            found = self.model.encode(torch.stack([image for _, image in waiting]))
            mean, std = found.mean.cpu(), found.std.cpu()
            for i, ((number, _), place) in enumerate(zip(waiting, places, strict=True)):
                self._items[number] = Posterior(mean[i], std[i])
                if self._folder is not None and place is not None and not place.exists():
                    self._folder.write(place, {"mean": mean[i], "std": std[i]})
        for (number, _), place in zip(waiting, places, strict=True):
            if place is not None:
                self._items[number] = place
        waiting.clear()


def encode_images(model: LatentDiffusion, images: Iterable[Tensor]) -> Posterior | None:
    """Encode images of one size, 3 x H x W in [-1, 1]; None when there is none."""
    encoder = ImageEncoder(model)
    for image in images:
        encoder.add(image)
    found = encoder.finish()
    assert not isinstance(found, LatentRows)
    return found


def encode_texts(model: LatentDiffusion, prompts: Sequence[str], cache: Path | None = None) -> tuple[Texts, Tensor]:
    """Embeddings of the distinct prompts, the empty one first, and the row of each prompt in them, int64 (N,).

    The text encoders are moved to the CPU afterwards.

    Args:
        model: whose text encoders are used.
        prompts: of the N rows.
        cache: folder that keeps the embeddings; None to hold them in memory.
    """
    distinct = list(dict.fromkeys(["", *prompts]))
    number = {prompt: i for i, prompt in enumerate(distinct)}
    chunks = [distinct[i : i + CHUNK] for i in range(0, len(distinct), CHUNK)]
    texts: Texts
    if cache is None:
        found = [model.encode_prompts(chunk) for chunk in chunks]
        conditioning = {name: cat_padded([chunk[name].cpu() for chunk in found]) for name in found[0]}
        texts = TextsInMemory(conditioning, tuple(distinct))
    else:
        folder = text_folder(cache, model)
        files = [place for chunk in chunks for place in _kept(model, folder, chunk)]
        texts = TextsOnDisk(tuple(files), tuple(distinct))
    model.release_text_encoders()
    return texts, torch.tensor([number[prompt] for prompt in prompts])


def cat_padded(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate, padding the second axis with zeros: families that do not pad their prompts give a mask as well."""
    if parts[0].dim() > 1:
        length = max(part.shape[1] for part in parts)
        parts = [F.pad(part, (0, 0) * (part.dim() - 2) + (0, length - part.shape[1])) for part in parts]
    return torch.cat(list(parts))


def _kept(model: LatentDiffusion, folder: Folder, chunk: list[str]) -> list[Path]:
    places = [folder.place(prompt.encode()) for prompt in chunk]
    if not all(place.exists() for place in places):
        found = model.encode_prompts(chunk)
        for i, place in enumerate(places):
            if not place.exists():
                folder.write(place, {name: value[i : i + 1] for name, value in found.items()})
    return places


def _content(image: Tensor) -> bytes:
    return f"{tuple(image.shape)}".encode() + image.contiguous().numpy().tobytes()
