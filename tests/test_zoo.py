"""The bundled data and models: what the model card says is so."""

import json
import re
from collections import Counter

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from scipy.stats import binomtest

from pixeval.pipelines import Sampler, load_generator
from pixeval.suites import load_prompts
from pixeval.zoo import BUNDLED, CLIP, ZOO
from pixeval.zoo.icons import load_icons
from trainers.pretrain.measure import FLOORS, Ranker, of_all, of_two
from trainers.pretrain.vae import reconstruction_psnr

FIGURES = json.loads((ZOO / "figures.json").read_text())["figures"]


def test_held_out_captions_are_new_combinations_of_seen_words() -> None:
    train, heldout = load_icons("train"), load_icons("heldout")
    seen = Counter(word for caption in train.captions for word in set(caption.split()))
    assert not set(train.captions) & set(heldout.captions)
    assert len(set(train.captions)) == len(train.captions) == 1816
    assert len(heldout.captions) == 116
    assert all(seen[word] >= 2 for caption in heldout.captions for word in caption.split())
    assert train.images.shape == (1816, 128, 128, 3)


def test_the_zoo_stays_small() -> None:
    size = sum(file.stat().st_size for file in ZOO.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    assert size < 60e6


def test_nothing_in_the_zoo_is_pickled() -> None:
    assert not [p for p in ZOO.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]


def test_the_vae_reaches_its_figure() -> None:
    vae = AutoencoderKL.from_pretrained(ZOO / "unet" / "vae", dtype=torch.float32).eval()
    images = torch.from_numpy(load_icons("heldout").images).permute(0, 3, 1, 2)[::5]
    assert float(reconstruction_psnr(vae, images).mean()) > FLOORS["vae_psnr_heldout"]
    assert (ZOO / "dit" / "vae" / "config.json").read_text() == (ZOO / "unet" / "vae" / "config.json").read_text()


def test_the_clip_reaches_its_figures() -> None:
    icons = load_icons("heldout")
    images = torch.from_numpy(icons.images[:100]).permute(0, 3, 1, 2).float() / 255
    similarity = Ranker(CLIP, "cpu").similarity(images, icons.captions[:100])
    assert float(of_two(similarity).mean()) >= FLOORS["clip_of_two_heldout"]
    assert float(of_all(similarity).float().mean()) >= FLOORS["clip_of_hundred_heldout"]


@pytest.mark.parametrize("name", BUNDLED)
def test_the_models_follow_their_captions(name: str) -> None:
    """Far better than chance on few images; the figures themselves take minutes and are in the model card."""
    captions = [p.text for p in load_prompts("icons-eval")]
    images = load_generator(name, Sampler(steps=12))(captions, list(range(len(captions))))
    right = int(of_all(Ranker(CLIP, "cpu").similarity(images, captions)).sum())
    assert binomtest(right, len(captions), 1 / len(captions), alternative="greater").pvalue < 1e-3


@pytest.mark.parametrize("name", BUNDLED)
def test_stock_diffusers_loads_and_runs_the_models(name: str) -> None:
    pipeline = DiffusionPipeline.from_pretrained(BUNDLED[name])
    pipeline.set_progress_bar_config(disable=True)
    extra = {"use_resolution_binning": False} if name == "zoo:dit" else {}
    image = pipeline("rocket", num_inference_steps=2, **extra).images[0]
    assert image.size == (128, 128)


def test_the_dit_gives_the_same_for_any_padding() -> None:
    pipeline = DiffusionPipeline.from_pretrained(BUNDLED["zoo:dit"])
    pipeline.set_progress_bar_config(disable=True)
    images = [
        pipeline(
            "rocket",
            num_inference_steps=2,
            use_resolution_binning=False,
            max_sequence_length=length,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        for length in (24, 120)
    ]
    assert torch.allclose(images[0], images[1], atol=2e-3)


def test_every_figure_of_the_card_was_measured() -> None:
    card = (ZOO / "README.md").read_text()
    for name in FLOORS:
        assert re.search(rf"`{name}` \| {FIGURES[name]['value']:.3f} ", card), name
