"""Encoders that several metrics share: today an open_clip model, bundled, from a folder, or by hub name."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixeval.errors import InputError
from pixeval.preprocess import prepare
from pixeval.zoo import CLIP as BUNDLED

Precision = Literal["float32", "bfloat16"]
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
PROBE = "The quick brown fox (1,234) jumps over 5 lazy dogs, naïvely."
"""Tokenised into the fingerprint, since the same weights with another tokenizer give other features."""


class ClipEncoder:
    """An open_clip model as :class:`pixeval.protocols.Encoder`, with its text side.

    Images are resized (bicubic, antialiased) and normalised as the model's own preprocessing says, on tensors and
    differentiably. Weights are frozen; the caller decides about gradients to the images.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, bundled: bool = False, precision: Precision = "float32"
    ) -> None:
        self.precision = precision
        """Arithmetic of the image side; features come as float32 in any case."""
        self.bundled = bundled
        """Whether this is the bundled model, which knows nothing but captions of icons."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocess: dict[str, Any] = dict(model.visual.preprocess_cfg)  # type: ignore[arg-type, union-attr]
        self.fingerprint = _fingerprint(self.model, tokenizer, self.preprocess)
        if precision != "float32":
            self.fingerprint += f"-{precision}"

    @classmethod
    def load(cls, name: str = "bundled", device: str = "cpu", precision: Precision = "float32") -> "ClipEncoder":
        """The bundled model, a local open_clip folder, or a published model.

        Args:
            name: ``bundled``; a folder with ``open_clip_config.json``, safetensors weights and tokenizer files;
                ``hf-hub:owner/model``; or ``ARCHITECTURE/PRETRAINED`` as open_clip lists them
                (``ViT-B-32/laion2b_s34b_b79k``). The last two download on first use.
            device: where its weights go.
            precision: of the image side. With bfloat16 the bundled CLIP's cosines times 100 moved by 0.05 on average
                and 0.26 at most (128 held-out icons, three captions; their standard deviation is 27).

        Raises:
            InputError: there is no such model, or its files are incomplete.
        """
        path = BUNDLED if name == "bundled" else Path(name)
        if name == "bundled" or path.is_dir():
            _check_folder(path)
            created = _create(f"local-dir:{path}", None, name)
            return cls(*created, bundled=name == "bundled", precision=precision).to(device)
        if name.startswith("hf-hub:"):
            return cls(*_create(name, None, name), precision=precision).to(device)
        architecture, _, tag = name.partition("/")
        if not tag or not _is_published(architecture, tag):
            raise InputError(
                f"unknown CLIP {name!r}: neither a folder, nor 'hf-hub:owner/model', nor an ARCHITECTURE/PRETRAINED "
                "pair of open_clip such as 'ViT-B-32/laion2b_s34b_b79k'"
            )
        return cls(*_create(architecture, tag, name), precision=precision).to(device)

    def to(self, device: str) -> "ClipEncoder":
        """Move the weights; returns itself."""
        self.model.to(device)
        return self

    @property
    def context_length(self) -> int:
        """Tokens in one text, start and end included."""
        return int(self.model.context_length)  # type: ignore[arg-type]

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature."""
        scale = self.model.logit_scale
        assert isinstance(scale, Tensor)
        return float(scale.exp())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def __call__(self, images: Tensor) -> Tensor:
        """N x 3 x H x W in [0, 1] -> N x D float32 of unit length."""
        prepared = self.prepare(images.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            features = self.model.encode_image(prepared)  # type: ignore[operator]
        return F.normalize(features.float(), dim=-1)

    def prepare(self, images: Tensor) -> Tensor:
        """Resize, crop or pad, and normalise as ``open_clip.image_transform`` does for PIL images."""
        return prepare(images, self.preprocess)

    def encode_text(self, prompts: Sequence[str], batch_size: int = 256) -> Tensor:
        """N x D float32; of unit length for prompts that fit the context.

        A longer prompt is split at words into parts that fit; its feature is the mean of the parts' unit features
        weighted by their tokens, so that a dot product with it is the weighted mean of the cosines.
        """
        parts = [self.split(prompt) for prompt in prompts]
        texts = [text for part in parts for text, _ in part]
        batches = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
        encoded = [self.model.encode_text(self.tokenizer(b).to(self.device)) for b in batches]  # type: ignore[operator]
        features = F.normalize(torch.cat(encoded).float(), dim=-1)
        rows, start = [], 0
        for part in parts:
            weights = features.new_tensor([max(tokens, 1) for _, tokens in part])
            rows.append((weights / weights.sum()) @ features[start : start + len(part)])
            start += len(part)
        return torch.stack(rows)

    def split(self, prompt: str) -> list[tuple[str, int]]:
        """Parts of a prompt that each fit the context, with their numbers of tokens; one part for most prompts."""
        room = self.context_length - 2
        total = self.count_tokens(prompt)
        if total <= room:
            return [(prompt, total)]
        parts: list[tuple[str, int]] = []
        for piece in self._pieces(prompt, room):
            joined = f"{parts[-1][0]} {piece}" if parts else piece
            tokens = self.count_tokens(joined)
            if parts and tokens <= room:
                parts[-1] = (joined, tokens)
            else:
                parts.append((piece, self.count_tokens(piece)))
        return parts

    def _pieces(self, prompt: str, room: int) -> Iterator[str]:
        """Words; a word that is too long by itself comes in halves, quarters and so on."""
        for word in prompt.split():
            if self.count_tokens(word) <= room or len(word) == 1:
                yield word
            else:
                yield from self._pieces(f"{word[: len(word) // 2]} {word[len(word) // 2 :]}", room)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text without start and end, nothing cut off."""
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is not None:
            text = self.tokenizer.clean_fn(text)
            return len(inner(text, add_special_tokens=False, verbose=False).input_ids)
        return len(self.tokenizer.encode(self.tokenizer.clean_fn(text)))


def _check_folder(path: Path) -> None:
    if not (path / "open_clip_config.json").is_file():
        raise InputError(f"no CLIP in {path}: open_clip_config.json is missing. Give a folder written by open_clip.")
    if not any((path / name).is_file() for name in WEIGHT_FILES):
        raise InputError(f"no weights in {path}: expected {WEIGHT_FILES[0]} (pickled weights are not read)")


def _is_published(architecture: str, tag: str) -> bool:
    import open_clip

    return (architecture, tag) in open_clip.list_pretrained()


def _create(model_name: str, pretrained: str | None, shown: str) -> tuple[nn.Module, Any]:
    import open_clip

    try:
        model = open_clip.create_model(model_name, pretrained, precision="fp32", require_pretrained=True)
        return model, open_clip.get_tokenizer(model_name)
    except Exception as error:  # open_clip, safetensors, transformers and the hub each raise their own kinds
        logging.getLogger(__name__).debug("loading CLIP failed", exc_info=True)
        raise InputError(f"CLIP {shown!r} cannot be loaded: {error}. Check its files, or the network.") from error


def _fingerprint(model: nn.Module, tokenizer: Any, preprocess: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(preprocess, sort_keys=True, default=str).encode())
    digest.update(str(tokenizer([PROBE]).tolist()).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"clip-{digest.hexdigest()[:12]}"
