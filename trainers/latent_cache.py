"""Latents and text embeddings on disk, each in a file of its own that is named by what it was made from.

The name of a file is a hash of the image as it is encoded (pixels, and with them size, crop and mirroring) below a hash
of the VAE; or of the prompt, below a hash of the text encoders. So a cache cannot be stale, may be shared by runs, and
may be killed at any time: files are written beside their place and renamed. They are mapped into memory when a batch
reads them, so that a data set may be larger than memory.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel

from pixeval.errors import InputError
from trainers.latent_diffusion import LatentDiffusion
from trainers.latents import Posterior

FORMAT = 1
"""Goes into every hash; raised when the same input would be encoded differently."""
COPIED = ("_name_or_path", "transformers_version")
"""What a model's configuration says of the copy of it."""


@dataclass(frozen=True)
class Folder:
    """One kind of entries, made by one model."""

    path: Path

    def place(self, content: bytes) -> Path:
        """The file for what is made from ``content``."""
        name = hashlib.sha256(content).hexdigest()
        return self.path / name[:2] / f"{name[2:]}.safetensors"

    def write(self, place: Path, tensors: dict[str, Tensor]) -> None:
        """Keep ``tensors``, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(save({name: value.cpu().contiguous() for name, value in tensors.items()}))
            os.replace(partial, place)
        except OSError as error:
            raise InputError(f"cannot write {place} ({error}). Make room and run the same command again.") from error


def read_entry(place: Path) -> dict[str, Tensor]:
    """What :meth:`Folder.write` kept.

    Raises:
        InputError: the file is gone or damaged.
    """
    try:
        with safe_open(place, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{place} is damaged ({error}). Delete it and run the same command again.") from error


def latent_folder(cache: Path, model: LatentDiffusion) -> Folder:
    """Where the latents of a model's VAE are, with its normalisation."""
    facts = [FORMAT, _plain(model.vae.config), model.normalisation]
    return Folder(cache / "latents" / _fingerprint(facts, [model.vae]))


def text_folder(cache: Path, model: LatentDiffusion) -> Folder:
    """Where the embeddings by a pipeline's text encoders are."""
    parts = {name: part for name, part in model.pipeline.components.items() if name.startswith("text_encoder")}
    modules = [part for _, part in sorted(parts.items()) if isinstance(part, nn.Module)]
    settings = {key: value for key, value in _plain(model.pipeline.config).items() if not key.startswith("_")}
    tokens = [
        (name, _tokenizer_hash(part))
        for name, part in sorted(model.pipeline.components.items())
        if name.startswith("tokenizer") and part is not None
    ]
    encoders = [_plain(part.config.to_dict()) for part in modules if isinstance(part, PreTrainedModel)]
    facts = [FORMAT, type(model).__name__, settings, encoders, tokens]
    return Folder(cache / "texts" / _fingerprint(facts, modules))


class LatentRows:
    """Posteriors of images of several sizes, or kept on disk; read when they are asked for."""

    def __init__(self, items: Sequence[Posterior | Path]) -> None:
        self.items = items

    def rows(self, index: Tensor) -> Posterior:
        """Those of some rows, which must be of one size; N x C x h x w.

        Raises:
            InputError: a file is gone or damaged.
        """
        found = [self._one(self.items[i]) for i in index.tolist()]
        return Posterior(torch.stack([one.mean for one in found]), torch.stack([one.std for one in found]))

    def _one(self, item: Posterior | Path) -> Posterior:
        return item if isinstance(item, Posterior) else Posterior(**read_entry(item))


def _fingerprint(facts: object, modules: Sequence[nn.Module]) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            data = value.detach().cpu().contiguous()
            digest.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
            digest.update(data.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _tokenizer_hash(tokenizer: Any) -> str:
    """Of all that decides how a prompt becomes numbers: vocabulary, merges, normaliser, special tokens, template."""
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    settings = [tokenizer.model_max_length, tokenizer.padding_side, tokenizer.chat_template]
    if tokenizer.is_fast:
        whole = json.loads(tokenizer.backend_tokenizer.to_str())
        # Set anew by every call, so that they tell what was encoded last.
        settings.append({key: value for key, value in whole.items() if key not in ("padding", "truncation")})
    else:
        settings.append(sorted(tokenizer.get_vocab().items()))
        settings.append({key: str(value) for key, value in tokenizer.special_tokens_map.items()})
        with TemporaryDirectory() as folder:
            for file in sorted(tokenizer.save_vocabulary(folder)):
                digest.update(Path(file).read_bytes())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def _plain(config: Any) -> dict[str, Any]:
    """A configuration without what differs between two copies of a model."""
    return {key: value for key, value in sorted(dict(config).items()) if key not in COPIED}
