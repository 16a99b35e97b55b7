"""A small open_clip folder with random weights and a real tokenizer, as the zoo's CLIP is laid out."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from pixeval.encoders import ClipEncoder
from trainers.pretrain.vocabulary import train_tokenizer

CAPTIONS = ("a red apple", "a blue car on a road", "a green tree", "a yellow sun", "a grey cat", "a black dog")
CONTEXT = 12


def write_tiny_clip(folder: Path, seed: int = 0, size: int = 32, resize_mode: str = "shortest") -> Path:
    """Write the folder and return it."""
    tokenizer = train_tokenizer(list(CAPTIONS))
    vision = {"image_size": size, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": CONTEXT, "vocab_size": len(tokenizer), "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(seed)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=dict(text))
    preprocess = {
        "mean": [0.5, 0.4, 0.6],
        "std": [0.5, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": resize_mode,
    }
    config = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "local"}},
        "preprocess_cfg": preprocess,
    }
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def tiny_clip(folder: Path, **options: object) -> ClipEncoder:
    """Write and load."""
    return ClipEncoder.load(str(write_tiny_clip(folder, **options)))  # type: ignore[arg-type]
