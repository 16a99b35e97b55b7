"""Multi-dimensional preference score (Zhang et al. 2024, arXiv 2405.14705): CLIP patches that look at a prompt's words.

After the authors' benchmark programs (github.com/Kwai-Kolors/MPS, commit be9027f): the words of the prompt that have to
do with a condition, a list of what is to be judged, are attended to by the patches; the first row that comes out is
compared with the prompt. The authors' tensors are read under their own names; dimensions follow from their shapes.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixeval.errors import InputError
from pixeval.metrics.arguments import check_pairs
from pixeval.preprocess import prepare
from pixeval.pretrained import PICKLED, load_processor
from pixeval.transformers_clip import clip_settings
from pixeval.weight_files import digest, read_weights

HEAD_WIDTH = 64
"""Of every attention head; the one dimension that the tensors do not show."""
RELATED = 0.3
"""Words take part whose product with the condition is above this share of the largest (the authors' benchmarks; the
``forward`` of their class has 0.01)."""
AESTHETICS = "light, color, clarity, tone, style, ambiance, artistry"
DETAIL = "shape, face, hair, hands, limbs, structure, instance, texture"
ALIGNMENT = "quantity, attributes, position, number, location"
Condition = Literal["overall", "aesthetics", "detail", "alignment"]
CONDITIONS: dict[Condition, str] = {
    "overall": f"{AESTHETICS}, {DETAIL}, {ALIGNMENT}, word, things.",
    "aesthetics": AESTHETICS,
    "detail": DETAIL,
    "alignment": ALIGNMENT,
}


class Mps:
    """Logit scale times the cosine of prompt and grounded image, higher is better. Compares images of one prompt.

    A prompt longer than CLIP's context is refused with a reason instead of being cut. Differentiable.
    """

    name = "mps"

    def __init__(self, source: str, condition: Condition = "overall") -> None:
        """Read the weights.

        Args:
            source: folder with one safetensors file of the authors' whole state dict (``model.*`` and
                ``cross_model.*``) and ``config.json``, image settings and tokenizer of the CLIP that was tuned.
            condition: what is judged. Only weights trained on overall votes are published; the others are then an
                extrapolation.

        Raises:
            InputError: a file is missing, pickled, or not of this model.
        """
        from transformers import CLIPConfig

        tensors = read_weights(_file(source), self.name)
        config = load_processor("CLIPConfig", source, self.name)
        assert isinstance(config, CLIPConfig)
        self.settings = clip_settings(load_processor("CLIPImageProcessor", source, self.name), source, self.name)
        self.tokenizer = load_processor("AutoTokenizer", source, self.name)
        self.clip, self.grounding = build(config, tensors, source)
        self.context = int(config.text_config.max_position_embeddings)
        self.condition = CONDITIONS[condition]
        told = hashlib.sha256(self.condition.encode()).hexdigest()[:6]
        self.fingerprint = f"{self.name}/1/{digest(tensors)}-{told}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32 for N x 3 x H x W images and their prompts.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`; or a prompt is too long.
        """
        texts = check_pairs(self.name, images, prompts)
        for text in texts:
            if (reason := self.hindrance(text)) is not None:
                raise InputError(reason)
        distinct = list(dict.fromkeys(texts))
        words, ends, related = self._read(distinct)
        rows = [distinct.index(text) for text in texts]
        pixels = prepare(images.to(words), self.settings)
        patches = self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).last_hidden_state)
        grounded = self.grounding(patches, words[rows], related[rows])[:, 0]
        scores: Tensor = self.clip.logit_scale.exp() * F.cosine_similarity(grounded, ends[rows])
        return scores

    def hindrance(self, prompt: str) -> str | None:
        """Why this prompt cannot be scored, if so."""
        tokens = len(self.tokenizer(prompt, verbose=False).input_ids)
        if tokens <= self.context:
            return None
        return f"the prompt has {tokens} tokens; {self.name} reads {self.context} and would cut the rest"

    def to(self, device: str) -> "Mps":
        """Move the weights; returns itself."""
        self.clip.to(device)
        self.grounding.to(device)
        return self

    def _read(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """P x L x D projected tokens, padding among them; P x D of the end tokens; P x L: which tokens take part."""
        padded = {"padding": "max_length", "max_length": self.context, "truncation": True, "return_tensors": "pt"}
        tokens = self.tokenizer([*prompts, self.condition], **padded).input_ids.to(self.clip.device)
        hidden = self.clip.text_projection(self.clip.text_model(input_ids=tokens).last_hidden_state)
        words, condition = hidden[:-1], hidden[-1]
        first_end = (tokens[:-1] == self.tokenizer.eos_token_id).int().argmax(1)
        products = (words @ condition.T).amax(2)
        related = products / products.amax(1, keepdim=True) > RELATED
        return words, words[torch.arange(len(words)), first_end], related


class Grounding(nn.Module):
    """Patches look at words, then at each other, in turn."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        count = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"layers\.(\d+)\.", name)))
        self.layers = nn.ModuleList()
        for layer in range(count):
            self.layers.append(_AtWords(_under(tensors, f"layers.{layer}.0.fn.")))
            self.layers.append(_AtPatches(_under(tensors, f"layers.{layer}.1.fn.")))

    def forward(self, patches: Tensor, words: Tensor, related: Tensor) -> Tensor:
        """N x P x D, N x L x D, N x L (which words take part) -> N x P x D."""
        for layer in self.layers:
            patches = patches + (layer(patches, words, related) if isinstance(layer, _AtWords) else layer(patches))
        return patches


class _AtWords(nn.Module):
    """Attention of patches to words, one key and value for all heads; beside it a gated layer (SwiGLU)."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.norm = _norm(tensors)
        self.query, self.key_value = _linear(tensors["to_q.weight"]), _linear(tensors["to_kv.weight"])
        self.mix = _linear(tensors["to_out.weight"])
        self.widen, self.narrow = _linear(tensors["ff.0.weight"]), _linear(tensors["ff.2.weight"])

    def forward(self, patches: Tensor, words: Tensor, related: Tensor) -> Tensor:
        x = self.norm(patches)
        key, value = self.key_value(words).chunk(2, -1)
        mixed = _attend(_heads(self.query(x)), key, value, related[:, None, None])
        found: Tensor = self.mix(mixed) + self.narrow(_gated(self.widen(x)))
        return found


class _AtPatches(nn.Module):
    """Attention of patches to each other with rotary places in running order, beside a gated layer."""

    frequencies: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.norm, self.fused = _norm(tensors), _linear(tensors["fused_attn_ff_proj.weight"])
        self.mix, self.narrow = _linear(tensors["attn_out.weight"]), _linear(tensors["ff_out.1.weight"])
        inner, gated = tensors["attn_out.weight"].shape[1], 2 * tensors["ff_out.1.weight"].shape[1]
        self.widths = (inner, HEAD_WIDTH, HEAD_WIDTH, gated)
        self.register_buffer("frequencies", tensors["rotary_emb.inv_freq"].float())

    def forward(self, patches: Tensor) -> Tensor:
        query, key, value, gated = self.fused(self.norm(patches)).split(self.widths, dim=-1)
        angles = torch.arange(patches.shape[1], device=patches.device)[:, None] * self.frequencies
        angles = torch.cat((angles, angles), -1)
        mixed = _attend(_turned(_heads(query), angles), _turned(key, angles), value, None)
        found: Tensor = self.mix(mixed) + self.narrow(_gated(gated))
        return found


def build(config: Any, tensors: Mapping[str, Tensor], shown: str) -> tuple[Any, Grounding]:
    """The CLIP and the grounding of a state dict under the authors' names, frozen.

    Raises:
        InputError: a tensor is missing or of another shape; ``shown`` is the folder named in it.
    """
    from accelerate import init_empty_weights
    from transformers import CLIPModel

    # old versions of transformers saved these counts; new ones make them
    own = {name: t.float() for name, t in _under(tensors, "model.").items() if not name.endswith("position_ids")}
    try:
        with init_empty_weights(include_buffers=False):
            clip = CLIPModel(config)
        clip.load_state_dict(own, assign=True)
        grounding = Grounding(_under(tensors, "cross_model."))
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{shown} does not hold the state dict of MPS: {reason}") from error
    return clip.eval().requires_grad_(False), grounding.eval().requires_grad_(False)


def _attend(query: Tensor, key: Tensor, value: Tensor, shown: Tensor | None) -> Tensor:
    """N x H x P x W, N x L x W, N x L x W -> N x P x HW."""
    mixed = F.scaled_dot_product_attention(
        query, key[:, None].expand(-1, query.shape[1], -1, -1), value[:, None].expand(-1, query.shape[1], -1, -1), shown
    )
    return mixed.transpose(1, 2).flatten(2)


def _heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], -1, HEAD_WIDTH).transpose(1, 2)


def _gated(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, -1)
    return F.silu(gate) * value


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat((-second, first), -1) * angles.sin()


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.float())
    return layer


def _norm(tensors: Mapping[str, Tensor]) -> nn.LayerNorm:
    layer = nn.LayerNorm(len(tensors["norm.weight"]))
    layer.load_state_dict({"weight": tensors["norm.weight"].float(), "bias": tensors["norm.bias"].float()})
    return layer


def _file(source: str) -> Path:
    path = Path(source)
    if path.suffix in PICKLED:
        raise InputError(
            f"{source} is pickled and not read; convert it to safetensors once (docs/metrics.md, 'Published models')"
        )
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if len(files) != 1:
        raise InputError(
            f"{source} is no folder with one safetensors file of MPS; convert the published weights into one "
            "(docs/metrics.md, 'Published models')"
        )
    return files[0]
