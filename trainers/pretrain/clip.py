"""Train the zoo's CLIP (open_clip, 3.4 M parameters) on icons and their captions.

Symmetric contrastive loss (2103.00020). Images are zoomed, blurred and in half of the cases passed
through the zoo's VAE, so that the model ranks captions for generated images, not only for clean ones.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from pixeval.zoo.icons import load_icons
from trainers.pretrain.fit import Fit, fit
from trainers.pretrain.vocabulary import CONTEXT, train_tokenizer

MEAN = STD = (0.5, 0.5, 0.5)


def clip_config(vocabulary: int) -> dict[str, object]:
    """The contents of ``open_clip_config.json``."""
    vision = {"image_size": 128, "layers": 5, "width": 192, "patch_size": 16, "head_width": 32}
    text: dict[str, int | str] = {"context_length": CONTEXT, "vocab_size": vocabulary, "width": 192}
    text |= {"heads": 6, "layers": 2, "hf_tokenizer_name": "bundled"}
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    return {"model_cfg": {"embed_dim": 192, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": preprocess}


def build_clip(vocabulary: int) -> nn.Module:
    """The architecture, randomly initialised."""
    config: Any = clip_config(vocabulary)["model_cfg"]
    text = {key: value for key, value in config["text_cfg"].items() if key != "hf_tokenizer_name"}
    model: nn.Module = open_clip.CLIP(embed_dim=192, vision_cfg=config["vision_cfg"], text_cfg=text)
    return model


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Zoom and shift on white, and blur; images N x 3 x H x W in [-1, 1]."""
    n, _, size, _ = images.shape
    zoom = 0.85 + 0.3 * torch.rand(n, generator=generator)
    shift = 0.1 * (torch.rand(n, 2, generator=generator) - 0.5)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = zoom
    affine[:, :, 2] = shift
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    # grid_sample pads with zeros; white is 1, so the images are shifted before and after.
    moved = F.grid_sample(images - 1, grid, align_corners=False) + 1
    blurred = F.interpolate(F.interpolate(moved, size=size // 2, mode="area"), size=size, mode="bilinear")
    amount = torch.rand(n, 1, 1, 1, generator=generator)
    return torch.lerp(moved, blurred, amount)


def train_clip(
    settings: Fit, vae: AutoencoderKL, batch: int = 256, device: str = "cpu"
) -> tuple[nn.Module, CLIPTokenizer]:
    """Train and return the averaged model and its tokenizer."""
    torch.manual_seed(settings.seed)
    icons = load_icons("train")
    tokenizer = train_tokenizer(icons.captions)
    tokens = torch.tensor(tokenizer(icons.captions, padding="max_length").input_ids)
    clean = torch.from_numpy(icons.images).permute(0, 3, 1, 2)
    restored = reconstruct(vae.to(device), clean)
    model = build_clip(len(tokenizer)).to(device)

    def loss(generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        rows = torch.randperm(len(clean), generator=generator)[:batch]
        coin = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
        images = torch.where(coin, clean[rows], restored[rows]).float() / 127.5 - 1
        images = augment(images, generator).to(device)
        image, text, scale = model(images, tokens[rows].to(device))
        logits = scale * image.float() @ text.float().T
        target = torch.arange(len(rows), device=device)
        contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return {"loss": contrastive, "accuracy": (logits.argmax(1) == target).float().mean(), "scale": scale}

    return fit(model, loss, settings), tokenizer


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 images N x 3 x H x W through the VAE."""
    device = next(vae.parameters()).device
    chunks = []
    for chunk in torch.split(images, 32):
        latents = vae.encode(chunk.to(device).float() / 127.5 - 1).latent_dist.mean
        chunks.append(((vae.decode(latents).sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu())
    return torch.cat(chunks)


def save_clip(model: nn.Module, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a folder that ``open_clip.create_model_and_transforms("local-dir:FOLDER")`` loads (fp16 weights)."""
    tokenizer.save_pretrained(folder)
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items() if value.is_floating_point()}
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(clip_config(len(tokenizer)), indent=2) + "\n")
