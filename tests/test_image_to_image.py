"""One-step image to image: the task and its detail preserver on tiny models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from tiny_flow_models import save_tiny_flow
from tiny_models import RESOLUTION, TINY, save_tiny

from pixeval.errors import InputError
from trainers import image_to_image
from trainers.families.detect import FAMILIES, load
from trainers.flaw_maps import FlawConfig
from trainers.image_to_image import RECONSTRUCTION, ImageToImageConfig, blurred, train_image_to_image, translate
from trainers.latent_diffusion import LatentDiffusion
from trainers.loop import train
from trainers.objective import PixelConfig
from trainers.training_log import read_log

TINY_OF = {
    "StableDiffusionPipeline": "sd-epsilon",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux-dev",
    "PixArtAlphaPipeline": "pixart-flow",
    "PixArtSigmaPipeline": "pixart-sigma",
    "SanaPipeline": "sana",
    "Lumina2Pipeline": "lumina2",
    "ZImagePipeline": "z-image",
    "QwenImagePipeline": "qwen-image",
}
"""A tiny pipeline for every family."""


def paint(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    for name in ("sd-epsilon", "pixart-flow"):
        save_tiny(name, root / name)
    lines = [json.dumps({"file_name": f"{i}.png", "text": "a red apple"}) for i in range(4)]
    for i in range(4):
        paint(root / "images" / f"{i}.png", i)
        for side in ("input", "target"):
            (root / "pairs").mkdir(exist_ok=True)
            paint(root / "pairs" / side / f"{i}.png", i if side == "target" else 100 + i)
    (root / "images" / "metadata.jsonl").write_text("\n".join(lines))
    return root


def settings(world: Path, out: Path, model: str = "sd-epsilon", **changes: Any) -> ImageToImageConfig:
    config = ImageToImageConfig(
        model=world / model, data=world / "images", out=out, steps=2, batch_size=2, learning_rate=1e-3, device="cpu",
        self_test=False, blur=2.0,
    )  # fmt: skip
    return replace(config, **changes)


@pytest.mark.parametrize("model", ["sd-epsilon", "pixart-flow"])
@pytest.mark.parametrize("objective", ["latent", "both"])
def test_two_steps_add_the_task_and_the_reconstruction(model: str, objective: Any, world: Path, tmp_path: Path) -> None:
    run = train_image_to_image(settings(world, tmp_path / "run", model, objective=objective))
    weight = {"sd-epsilon": 2.0, "pixart-flow": 8.0}[model]
    for line in read_log(run):
        latent = line["latent_error"] + line["latent_reconstruction_error"]
        pixel = line["pixel_error"] + line["pixel_reconstruction_error"] if objective == "both" else 0.0
        assert line["loss"] == pytest.approx(latent + weight * pixel, rel=1e-5)
    checkpoint = run.path / "checkpoints/step-000002"
    told = {"sd-epsilon": "sample", "pixart-flow": "flow_prediction"}[model]
    assert DiffusionPipeline.from_pretrained(checkpoint).scheduler.config.prediction_type == told
    images = torch.rand(3, 3, RESOLUTION, RESOLUTION) * 2 - 1
    found = translate(load(checkpoint), images)
    assert found.shape == images.shape and bool(torch.isfinite(found).all())
    assert not torch.equal(found, translate(load(checkpoint), images, RECONSTRUCTION)), "the prompt is the switch"


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_a_saved_model_of_every_family_translates_as_the_trained_one(
    kind: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, trained = TINY_OF[kind], []
    folder = (save_tiny if name in TINY else save_tiny_flow)(name, tmp_path / "model")

    def keeping(model: LatentDiffusion, *rest: Any) -> None:
        train(model, *rest)
        trained.append(model)

    monkeypatch.setattr(image_to_image, "train", keeping)
    config = settings(world, tmp_path / "run", steps=1, batch_size=1, resolution=RESOLUTION)
    run = train_image_to_image(replace(config, model=folder))
    (model,) = trained
    model.denoiser.eval()
    images = torch.rand(2, 3, RESOLUTION, RESOLUTION) * 2 - 1
    found = translate(load(run.path / "checkpoints/step-000001"), images)
    torch.testing.assert_close(found, translate(model, images))


def test_pairs_of_folders_are_learnt(world: Path, tmp_path: Path) -> None:
    config = settings(
        world, tmp_path / "run", data=world / "pairs", blur=None, steps=10, batch_size=4, learning_rate=1e-2,
        detail_preserver=False,
    )  # fmt: skip
    log = read_log(train_image_to_image(config))
    assert "latent_reconstruction_error" not in log[0]
    # an untrained VAE's posterior is wide: of the error, a variance of 0.24 is noise of the targets
    assert sum(line["loss"] for line in log[-3:]) < 0.9 * sum(line["loss"] for line in log[:3])


def test_blurring_keeps_the_mean_and_lowers_the_contrast() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    soft = blurred(images, 2.0)
    torch.testing.assert_close(soft.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=0.03)
    assert bool((soft.std((2, 3)) < 0.3 * images.std((2, 3))).all())


def test_what_means_nothing_here_is_named(world: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"objective": "control"}, "control"),
        ({"flaws": FlawConfig(detectors=("blur_flaw",)), "objective": "pixel"}, "leave them out"),
        ({"blur": -1.0}, "blur"),
        ({"pixel": PixelConfig(argument="x0"), "objective": "both"}, r"pixel\.argument"),
        ({"pixel": PixelConfig(band=(0.0, 0.5)), "objective": "both"}, r"pixel\.band"),
        ({"blur": None}, "input/ and target/"),
    ]
    (tmp_path / "half" / "target").mkdir(parents=True)
    paint(tmp_path / "half" / "input" / "a.png", 0)
    cases.append(({"blur": None, "data": tmp_path / "half"}, "every input needs its target"))
    for changes, words in cases:
        with pytest.raises(InputError, match=words):
            train_image_to_image(settings(world, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
