"""Measure the zoo on training and held-out captions, and write the figures and sample grids beside the models."""

import json
import random
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from pixeval.images import to_uint8
from pixeval.pipelines import Sampler, load_generator
from pixeval.zoo.icons import load_icons
from trainers.pretrain.vae import reconstruction_psnr

FLOORS = {
    "vae_psnr_heldout": 26.0,
    "clip_of_two_heldout": 0.97,
    "clip_of_hundred_heldout": 0.50,
    "unet_of_hundred_train": 0.60,
    "unet_of_hundred_heldout": 0.30,
    "dit_of_hundred_train": 0.60,
    "dit_of_hundred_heldout": 0.30,
}
"""What the zoo should reach at least; higher is better for all."""


def measure_zoo(zoo: Path, device: str, captions: int, seed: int) -> dict[str, float]:
    """Print and write every figure of ``FLOORS``; the sampler is the default of ``pixeval generate``."""
    figures: dict[str, float] = {}
    chosen = {split: _chosen(split, captions, seed) for split in ("train", "heldout")}
    clip = Ranker(zoo / "clip", device)
    vae = AutoencoderKL.from_pretrained(zoo / "unet" / "vae", torch_dtype=torch.float32).to(device).eval()
    heldout = load_icons("heldout")
    images = torch.from_numpy(heldout.images).permute(0, 3, 1, 2)
    psnr = reconstruction_psnr(vae, images)
    figures["vae_psnr_heldout"] = float(psnr.mean())
    figures["vae_psnr_heldout_sd"] = float(psnr.std())
    texts, pixels = chosen["heldout"]
    similarity = clip.similarity(pixels, texts)
    figures["clip_of_two_heldout"] = of_two(similarity)
    figures["clip_of_hundred_heldout"] = of_all(similarity)
    for model in ("unet", "dit"):
        if not (zoo / model / "model_index.json").exists():
            continue
        generator = load_generator(str(zoo / model), Sampler(), device)
        grid: list[Tensor] = []
        for split, (texts, _) in chosen.items():
            batches = [texts[i : i + 25] for i in range(0, len(texts), 25)]
            made = torch.cat([generator(batch, [seed + texts.index(t) for t in batch]) for batch in batches])
            figures[f"{model}_of_hundred_{split}"] = of_all(clip.similarity(made, texts))
            grid.append(made[:32])
        contact_sheet(torch.cat(grid)).save(zoo / model / "samples.webp", quality=85)
    for name, floor in FLOORS.items():
        if name in figures:
            verdict = "reached" if figures[name] >= floor else f"short by {floor - figures[name]:.3g}"
            print(f"{name:28s} {figures[name]:7.3f}   floor {floor:5.2f}   {verdict}")
    report = {"n_captions": captions, "n_heldout_icons": len(heldout.captions), "seed": seed, "figures": figures}
    (zoo / "figures.json").write_text(json.dumps(report, indent=2) + "\n")
    return figures


def _chosen(split: str, count: int, seed: int) -> tuple[list[str], Tensor]:
    icons = load_icons(split)
    rows = random.Random(seed).sample(range(len(icons.captions)), count)
    pixels = torch.from_numpy(icons.images[rows]).permute(0, 3, 1, 2).float() / 255
    return [icons.captions[row] for row in rows], pixels


class Ranker:
    """Cosine similarities of images and captions under an open_clip folder."""

    def __init__(self, folder: Path, device: str) -> None:
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model: nn.Module = model.to(device).eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.device = device

    @torch.no_grad()
    def similarity(self, images: Tensor, texts: list[str]) -> Tensor:
        """len(images) x len(texts)."""
        image = self.model.encode_image(images.to(self.device) * 2 - 1, normalize=True)  # type: ignore[operator]
        text = self.model.encode_text(self.tokenizer(texts).to(self.device), normalize=True)  # type: ignore[operator]
        similarity: Tensor = (image @ text.T).cpu()
        return similarity


def of_all(similarity: Tensor) -> float:
    """Share of images whose own caption ranks first among all."""
    return float((similarity.argmax(1) == torch.arange(len(similarity))).float().mean())


def of_two(similarity: Tensor) -> float:
    """Share of (image, other caption) choices in which the own caption wins."""
    own = similarity.diagonal()[:, None]
    wins = (own > similarity).float().sum() / (similarity.numel() - len(similarity))
    return float(wins)


def contact_sheet(images: Tensor, columns: int = 8) -> Image.Image:
    """N images as one picture, row by row."""
    array = to_uint8(images)
    n, height, width, _ = array.shape
    sheet = Image.new("RGB", (columns * width, -(-n // columns) * height), "white")
    for index, tile in enumerate(array):
        sheet.paste(Image.fromarray(tile), (index % columns * width, index // columns * height))
    return sheet
