"""ImageReward (Xu et al. 2023, arXiv 2304.05977): BLIP's image-grounded text encoder with a linear reward head.

The authors' weights are read under their own names; every dimension follows from the shapes of the tensors.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.metrics.arguments import check_pairs
from pixeval.preprocess import CLIP_MEAN, CLIP_STD, prepare
from pixeval.pretrained import PICKLED, load_processor
from pixeval.weight_files import digest, read_weights

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw reward over the authors' data; the published score is standardised with them."""
MAX_TOKENS = 35
"""Of a prompt, start and end included, that the published program reads; it drops the rest without a word."""
HEAD_WIDTH = 64
"""Of every attention head in BLIP; the one dimension that the tensors do not show."""
TOKENIZER = "google-bert/bert-base-uncased"

OUTER_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
BLOCK_NAMES = {
    "norm1": "layer_norm1",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Of the authors' vision transformer, and of the same parts in transformers. The text encoders' names are equal."""


class ImageReward:
    """Standardised reward, about -2.3 to 2, higher is better. Compares images of one prompt. Differentiable.

    A prompt of more tokens than ``max_tokens`` is refused with a reason instead of being cut.
    """

    name = "image_reward"

    def __init__(self, source: str, max_tokens: int = MAX_TOKENS) -> None:
        """Read the weights.

        Args:
            source: safetensors file of the authors' state dict, with ``vocab.txt`` or ``tokenizer.json`` of BERT
                (uncased) beside it, or else BERT's tokenizer comes from the hub.
            max_tokens: prompts up to this length are scored. The model was trained on 35; more is extrapolation.

        Raises:
            InputError: no such file, pickled weights, or tensors that are not ImageReward's.
        """
        file = _file(source)
        tensors = read_weights(file, self.name)
        self.model = build_reward_model(tensors, str(file))
        room = tensors["blip.text_encoder.embeddings.position_embeddings.weight"].shape[0]
        if not 3 <= max_tokens <= room:
            raise InputError(f"{self.name} cannot read {max_tokens} tokens; 3 is the least and {room} is the most")
        beside = any((file.parent / name).is_file() for name in ("vocab.txt", "tokenizer.json"))
        self.tokenizer = _tokenizer(file.parent) if beside else load_processor("AutoTokenizer", TOKENIZER, self.name)
        self.max_tokens = max_tokens
        self.fingerprint = f"{self.name}/1/{digest(tensors)}/{max_tokens}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32 for N x 3 x H x W images and their prompts.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`; or a prompt is too long.
        """
        texts = check_pairs(self.name, images, prompts)
        for text in texts:
            if (reason := self.hindrance(text)) is not None:
                raise InputError(reason)
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.model.device)
        settings = {"size": self.model.image_size, "mean": CLIP_MEAN, "std": CLIP_STD, "resize_mode": "shortest"}
        pixels = prepare(images.to(self.model.device), settings)
        reward: Tensor = self.model(pixels, tokens.input_ids, tokens.attention_mask)
        return (reward.float() - MEAN) / STD

    def hindrance(self, prompt: str) -> str | None:
        """Why this prompt cannot be scored, if so."""
        tokens = len(self.tokenizer(prompt, verbose=False).input_ids)
        if tokens <= self.max_tokens:
            return None
        return f"the prompt has {tokens} tokens; {self.name} was trained on {self.max_tokens} and would cut the rest"

    def to(self, device: str) -> "ImageReward":
        """Move the weights; returns itself."""
        self.model.to(device)
        return self


class RewardModel(nn.Module):
    """Images and tokens to raw rewards, with transformers' BLIP as the body."""

    def __init__(self, vision: Any, text: Any, head: nn.Module, image_size: int) -> None:
        super().__init__()
        self.vision, self.text, self.head, self.image_size = vision, text, head, image_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """N x 3 x S x S normalised, N x L, N x L -> (N,)."""
        patches = self.vision(pixel_values=pixels).last_hidden_state
        grounded = self.text(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=patches,
            encoder_attention_mask=patches.new_ones(patches.shape[:2], dtype=torch.long),
        )
        rewards: Tensor = self.head(grounded.last_hidden_state[:, 0])
        return rewards.squeeze(1)


def build_reward_model(tensors: Mapping[str, Tensor], shown: str) -> RewardModel:
    """The model of a state dict under the authors' names: ``blip.visual_encoder``, ``blip.text_encoder``, ``mlp``.

    Raises:
        InputError: a tensor is missing or of an impossible shape; ``shown`` is the file named in it.
    """
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    try:
        vision_config, text_config = _configs(tensors)
        vision = BlipVisionModel(BlipVisionConfig(**vision_config))
        text = BlipTextModel(BlipTextConfig(**text_config), add_pooling_layer=False)
        head = _head(text_config["hidden_size"])
        vision.load_state_dict(_vision_tensors(tensors))
        names = [f"blip.text_encoder.{name}" for name in text.state_dict()]
        text.load_state_dict({name.removeprefix("blip.text_encoder."): tensors[name].float() for name in names})
        layers = [name for name in tensors if name.startswith("mlp.layers.")]
        head.load_state_dict({name.removeprefix("mlp.layers."): tensors[name].float() for name in layers})
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{shown} does not hold the state dict of ImageReward: {reason}") from error
    model = RewardModel(vision, text, head, vision_config["image_size"])
    return model.eval().requires_grad_(False)


def _configs(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    patch = tensors["blip.visual_encoder.patch_embed.proj.weight"]
    patches = tensors["blip.visual_encoder.pos_embed"].shape[1] - 1
    width = patch.shape[0]
    vision = {
        "hidden_size": width,
        "intermediate_size": tensors["blip.visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _count(tensors, r"blip\.visual_encoder\.blocks\.(\d+)\."),
        "num_attention_heads": width // HEAD_WIDTH,
        "patch_size": patch.shape[-1],
        "image_size": round(patches**0.5) * patch.shape[-1],
        "layer_norm_eps": 1e-6,  # BLIP's own; the default of transformers is another
    }
    words = tensors["blip.text_encoder.embeddings.word_embeddings.weight"]
    layer = "blip.text_encoder.encoder.layer.0"
    text = {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "encoder_hidden_size": tensors[f"{layer}.crossattention.self.key.weight"].shape[1],
        "intermediate_size": tensors[f"{layer}.intermediate.dense.weight"].shape[0],
        "num_hidden_layers": _count(tensors, r"blip\.text_encoder\.encoder\.layer\.(\d+)\."),
        "num_attention_heads": words.shape[1] // HEAD_WIDTH,
        "max_position_embeddings": tensors["blip.text_encoder.embeddings.position_embeddings.weight"].shape[0],
        "is_decoder": True,  # gives it cross-attention; it is called as an encoder
    }
    return vision, text


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(found[1]) for name in tensors if (found := re.match(pattern, name)))


def _vision_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder's tensors under the names of transformers."""
    prefix = "blip.visual_encoder."
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {_vision_name(name): tensor.float() for name, tensor in own.items()}


def _vision_name(name: str) -> str:
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, block, part = name.split(".", 2)
    stem, _, kind = part.rpartition(".")
    return f"encoder.layers.{block}.{BLOCK_NAMES[stem]}.{kind}"


def _head(width: int) -> nn.Sequential:
    """Five linear maps; the authors' places of dropout are kept empty so that the names agree."""
    gap = nn.Identity
    return nn.Sequential(
        nn.Linear(width, 1024), gap(), nn.Linear(1024, 128), gap(), nn.Linear(128, 64), gap(), nn.Linear(64, 16),
        nn.Linear(16, 1),
    )  # fmt: skip


def _file(source: str) -> Path:
    path = Path(source)
    if path.suffix in PICKLED:
        raise InputError(
            f"{source} is pickled and not read; convert it to safetensors once (docs/metrics.md, 'Published models')"
        )
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise InputError(f"{source} holds {len(files)} safetensors files; give the file with ImageReward's state dict")
    return files[0]


def _tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizer

    return BertTokenizer.from_pretrained(folder)
