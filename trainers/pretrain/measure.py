"""Measure the zoo on training and held-out captions, and write the figures and sample grids beside the models."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from pixeval.images import to_uint8
from pixeval.pipelines import Sampler, load_generator
from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from pixeval.stats.proportions import wilson
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


def measure_zoo(zoo: Path, device: str, captions: int, seed: int) -> dict[str, Interval]:
    """Measure everything in ``FLOORS`` with the default sampler of ``pixeval generate``; print it, write it into
    ``figures.json`` and the model card, and write a grid of samples beside each model."""
    chosen = {split: _chosen(split, captions, seed) for split in ("train", "heldout")}
    clip = Ranker(zoo / "clip", device)
    vae = AutoencoderKL.from_pretrained(zoo / "unet" / "vae", dtype=torch.float32).to(device).eval()
    images = torch.from_numpy(load_icons("heldout").images).permute(0, 3, 1, 2)
    texts, pixels = chosen["heldout"]
    similarity = clip.similarity(pixels, texts)
    figures = {
        "vae_psnr_heldout": mean_interval(reconstruction_psnr(vae, images).tolist()),
        "clip_of_two_heldout": mean_interval(of_two(similarity).tolist()),
        "clip_of_hundred_heldout": share(of_all(similarity)),
    }
    for model in ("unet", "dit"):
        generator = load_generator(str(zoo / model), Sampler(), device)
        grid: list[Tensor] = []
        for split, (texts, _) in chosen.items():
            batches = [range(i, min(i + 25, len(texts))) for i in range(0, len(texts), 25)]
            made = torch.cat([generator([texts[i] for i in batch], [seed + i for i in batch]) for batch in batches])
            figures[f"{model}_of_hundred_{split}"] = share(of_all(clip.similarity(made, texts)))
            grid.append(made[:32])
        contact_sheet(torch.cat(grid)).save(zoo / model / "samples.webp", quality=85)
    report = {"captions": captions, "seed": seed, "figures": {name: asdict(value) for name, value in figures.items()}}
    (zoo / "figures.json").write_text(json.dumps(report, indent=2) + "\n")
    write_card(zoo / "README.md", figures)
    return figures


def write_card(card: Path, figures: dict[str, Interval]) -> None:
    """Print the figures, and put them as a table between the marks of the model card."""
    rows = ["| figure | measured | 95 % interval | n | floor | |", "|---|---|---|---|---|---|"]
    for name, found in figures.items():
        gap = FLOORS[name] - found.value
        verdict = "reached" if gap <= 0 else f"**short by {gap:.2g}**"
        bounds = f"{found.low:.3f} to {found.high:.3f}" if found.low is not None else "none"
        rows.append(f"| `{name}` | {found.value:.3f} | {bounds} | {found.n} | {FLOORS[name]:g} | {verdict} |")
    print("\n".join(rows))
    before, rest = card.read_text().split("<!-- figures -->")
    after = rest.split("<!-- /figures -->")[1]
    card.write_text("\n".join([before + "<!-- figures -->", "", *rows, "", "<!-- /figures -->" + after]))


def share(right: Tensor) -> Interval:
    """The share of true values, with Wilson's interval."""
    return wilson(float(right.sum()), len(right))


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


def of_all(similarity: Tensor) -> Tensor:
    """For each image whether its own caption ranks first among all."""
    return similarity.argmax(1) == torch.arange(len(similarity))


def of_two(similarity: Tensor) -> Tensor:
    """For each image the share of other captions that its own caption beats."""
    own = similarity.diagonal()[:, None]
    return (own > similarity).float().sum(1) / (len(similarity) - 1)


def contact_sheet(images: Tensor, columns: int = 8) -> Image.Image:
    """N images as one picture, row by row."""
    array = to_uint8(images)
    n, height, width, _ = array.shape
    sheet = Image.new("RGB", (columns * width, -(-n // columns) * height), "white")
    for index, tile in enumerate(array):
        sheet.paste(Image.fromarray(tile), (index % columns * width, index // columns * height))
    return sheet
