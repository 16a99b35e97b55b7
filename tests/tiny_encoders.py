"""SigLIP and DINO in small: the classes and file layouts that are published, random weights, no download."""

import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from tiny_clip import CAPTIONS
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    T5Tokenizer,
)

TOWER = "vit_tiny_patch8_siglip_32_test"
CONTEXT = 12
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


@timm.models.register_model
def vit_tiny_patch8_siglip_32_test(num_classes: int, global_pool: str, **unused: Any) -> VisionTransformer:
    """``vit_base_patch16_siglip_224`` but for its size."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return VisionTransformer(**sizes, class_token=False, num_classes=num_classes, global_pool=global_pool)


def write_siglip(folder: Path, seed: int = 0) -> Path:
    """A folder as open_clip's ``ViT-B-16-SigLIP`` is published: timm's tower, a T5 tokenizer that pads with its end."""
    letters = [(letter, -6.0) for letter in "▁abcdefghijklmnopqrstuvwxyz0123456789"]
    words = [(f"▁{word}", -2.0) for word in sorted({word for text in CAPTIONS for word in text.split()} - {"a"})]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters, ("▁a", -2.0), *words]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0, pad_token="</s>")
    config: dict[str, Any] = {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "timm_model_name": TOWER, "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(tokenizer),
            "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        }
        | {"tokenizer_kwargs": {"clean": "canonicalize"}, "width": 32, "heads": 2, "layers": 2}
        | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
    }
    torch.manual_seed(seed)
    built = {key: value for key, value in config.items() if key != "custom_text"}
    model = open_clip.CustomTextCLIP(**json.loads(json.dumps(built)))
    half = [0.5, 0.5, 0.5]
    preprocess = {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"}
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


def write_dinov2(folder: Path, seed: int = 0) -> Path:
    """As ``facebook/dinov2-base``: the shortest side to 8/7 of what is then cut out of the middle."""
    torch.manual_seed(seed)
    Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2)).save_pretrained(folder)
    crop = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=crop, **of_imagenet()).save_pretrained(folder)
    return folder


def write_dinov3(folder: Path, seed: int = 0) -> Path:
    """As ``facebook/dinov3-vitb16-pretrain-lvd1689m``: register tokens, squashed with bilinear weights."""
    torch.manual_seed(seed)
    config = DINOv3ViTConfig(**SIZES, intermediate_size=48, num_register_tokens=2)
    DINOv3ViTModel(config).save_pretrained(folder)
    DINOv3ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def of_imagenet() -> dict[str, Any]:
    """What DINOv2's processor says beside sizes."""
    return {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}
