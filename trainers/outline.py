"""A model without its weights: built from the configurations in a pipeline folder, on no data or on random numbers."""

import inspect
import json
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from pixeval.errors import InputError
from trainers.families.detect import FAMILIES, folder_of
from trainers.latent_diffusion import Conditioning, LatentDiffusion

CONFIGURATIONS = ["model_index.json", "*/config.json", "*/scheduler_config.json", "*/tokenizer_config.json"]
SPREAD = 0.02
"""Deviation of random weights."""
WIDTHS = ("joint_attention_dim", "caption_channels", "cap_feat_dim", "cross_attention_dim")
"""Names that the width of the text's embeddings has in the configurations of denoisers."""


class Outline:
    """A family on tensors without data, which runs as the real model does and computes nothing; or on random ones.

    Args:
        model: a pipeline folder, a bundled model, or owner/name on the hub, of which the configurations are downloaded.
        device: of random tensors; None for tensors without data, which claim to be on the CPU.

    Raises:
        InputError: not a pipeline of a supported family, or a configuration is missing.
    """

    def __init__(self, model: Path, device: torch.device | None = None) -> None:
        self.folder = folder_of(model, partial(snapshot_download, allow_patterns=CONFIGURATIONS))
        self.index = read_json(self.folder / "model_index.json")
        self.name = str(self.index.get("_class_name"))
        if self.name not in FAMILIES:
            raise InputError(f"{self.folder}: a {self.name} cannot be trained; supported are {', '.join(FAMILIES)}")
        with torch.device("meta"):
            parts = {part: self._part(part, *value) for part, value in self.index.items() if isinstance(value, list)}
            options = {key: value for key, value in self.index.items() if key[0] != "_" and not isinstance(value, list)}
            self.model: LatentDiffusion = FAMILIES[self.name](getattr(diffusers, self.name)(**parts, **options))
        self.device = torch.device("cpu") if device is None else device
        self._mode: AbstractContextManager[Any] = (
            FakeTensorMode(allow_non_fake_inputs=True) if device is None else nullcontext()
        )

    def settle(self, *modules: nn.Module) -> None:
        """Give modules their tensors; to be called when they are as they will be trained."""
        for module in modules:
            trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
            with self._mode, torch.no_grad():
                module.to_empty(device=self.device)
                for tensor in (*module.parameters(), *module.buffers()):
                    _ = tensor.normal_(std=SPREAD) if tensor.is_floating_point() else tensor.zero_()
                for part in module.modules():
                    # Tables of positions that a model keeps without registering them.
                    for name, value in vars(part).items():
                        if name[0] != "_" and any(leaf.is_meta for leaf in tree_leaves(value) if _plain(leaf)):
                            setattr(part, name, tree_map(self._zeros, value))
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(trained[name])

    @property
    def text_encoders(self) -> list[nn.Module]:
        """All of them."""
        parts = self.model.pipeline.components.items()
        return [part for name, part in parts if name.startswith("text_encoder") and part is not None]

    def images(self, *shape: int) -> Tensor:
        """A float32 tensor."""
        with self._mode:
            return torch.randn(shape, device=self.device)

    def conditioning(self, n: int) -> Conditioning:
        """Embeddings of ``n`` prompts of the greatest length, as the family's own ``encode_prompts`` shapes them."""
        config = self._denoiser_config
        width = next((int(config[name]) for name in WIDTHS if config.get(name)), None)
        if width is None:
            raise InputError(f"the {self.name}'s denoiser does not say how wide its text embeddings are")
        length = self.prompt_length
        pooled = config.get("pooled_projection_dim")
        if pooled is None and config.get("projection_class_embeddings_input_dim"):
            pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        given: Conditioning = {"embeddings": self.images(n, length, width)}
        if pooled:
            given["pooled"] = self.images(n, int(pooled))
        # With data: lengths of prompts are read off it.
        given["mask"] = torch.ones(
            n, length, dtype=torch.bool if "ZImage" in self.name else torch.int64, device=self.device
        )
        return given

    @property
    def prompt_length(self) -> int:
        """Tokens of the longest prompt."""
        call = inspect.signature(getattr(diffusers, self.name).__call__).parameters
        lengths = [
            int(read_json(self.folder / part / "tokenizer_config.json").get("model_max_length", 10**9))
            for part in ("tokenizer", "tokenizer_2", "tokenizer_3")
            if (self.folder / part / "tokenizer_config.json").is_file()
        ]
        if "max_sequence_length" not in call:
            return lengths[0]
        longest = min(int(call["max_sequence_length"].default), *lengths[-1:])
        positions = self._denoiser_config.get("axes_lens")
        if positions:
            # Text and image share the first axis, in multiples of 32 in Z-Image.
            longest = min(longest, (int(positions[0]) - 2) // 32 * 32)
        return longest + lengths[0] if "StableDiffusion3" in self.name else longest

    @property
    def _denoiser_config(self) -> Any:
        return self.model.pipeline.components[self.model.denoiser_name].config

    def _zeros(self, value: Any) -> Any:
        return torch.zeros_like(value, device=self.device) if _plain(value) else value

    def _part(self, part: str, library: str | None, kind: str | None) -> Any:
        folder = self.folder / part
        if kind is None or library is None or "okenizer" in kind or "Processor" in kind or "Extractor" in kind:
            return None
        if library == "transformers":
            read_json(folder / "config.json")
            made = getattr(transformers, kind)
            return made._from_config(transformers.AutoConfig.from_pretrained(folder))
        if "Scheduler" in kind:
            read_json(folder / "scheduler_config.json")
            with torch.device("cpu"):
                return getattr(diffusers, kind).from_pretrained(folder)
        made = getattr(diffusers, kind)
        return made.from_config(read_json(folder / "config.json"))


def read_json(file: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing: the checkpoint is incomplete. Download it again.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} is damaged ({error}). Download or copy it again.") from error
    return found


def _plain(value: Any) -> bool:
    return isinstance(value, Tensor)
