"""LoRA for every family: only adapters learn, checkpoints load in stock diffusers merged and as adapters."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file
from test_training import assert_only_the_denoiser_changed
from tiny_data import paint, tree
from tiny_flow_models import save_tiny_flow
from tiny_models import CAPTIONS, RESOLUTION, save_tiny
from torch import Tensor
from training_process import StopError, stop_at

from pixeval.errors import InputError
from pixeval.pair_folder import export_pairs
from pixeval.pipelines import Sampler, load_generator
from pixeval.records import Pair
from trainers.families.detect import load
from trainers.pipeline_folder import take_component
from trainers.preference import PreferenceConfig, train_preference
from trainers.sft import SftConfig, train_sft
from trainers.training_log import read_log

FAMILIES = {
    "sd-epsilon": save_tiny, "pixart-flow": save_tiny, "sdxl": save_tiny_flow, "sd3": save_tiny_flow,
    "flux-dev": save_tiny_flow, "sana": save_tiny_flow, "lumina2": save_tiny_flow, "z-image": save_tiny_flow,
    "qwen-image": save_tiny_flow,
}  # fmt: skip
WITHOUT_LOADER = ("pixart-flow",)
"""Stock pipelines that have no load_lora_weights."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of every family, sft/ and pairs/."""
    root = tmp_path_factory.mktemp("lora")
    for name, save in FAMILIES.items():
        save(name, root / name)
    (root / "sft").mkdir()
    pairs = []
    for i, caption in enumerate(CAPTIONS[:3]):
        paint(root / "sft" / f"{i}.png", i)
        (root / "sft" / f"{i}.txt").write_text(caption)
        paint(root / f"{i}.png", 50 + i)
        pairs.append(
            Pair(f"p{i}", caption, f"c{i}", f"r{i}", str(root / "sft" / f"{i}.png"), str(root / f"{i}.png"),
                 "a", "b", 0.8, "votes:appeal")
        )  # fmt: skip
    export_pairs(pairs, root / "pairs", "test")
    return root


def sft_config(world: Path, family: str, out: Path, **changes: Any) -> SftConfig:
    config = SftConfig(
        model=world / family, data=world / "sft", out=out, steps=2, batch_size=2, learning_rate=1e-2,
        objective="latent", resolution=RESOLUTION, device="cpu", self_test=False, lora_rank=2, lora_alpha=6.0,
    )  # fmt: skip
    return replace(config, **changes)


def denoiser_weights(folder: Path) -> dict[str, Tensor]:
    (file,) = [*folder.glob("unet/*.safetensors"), *folder.glob("transformer/*.safetensors")]
    return load_file(file)


def prediction(pipeline: Any, folder: Path) -> Tensor:
    """Of the pipeline's denoiser, called as the family does."""
    model = load(folder)
    z_t = torch.randn(
        2, 4, *(2 * [RESOLUTION // model.pipeline.vae_scale_factor]), generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        denoiser = pipeline.components[model.denoiser_name].eval()
        return model.predict(z_t, model.schedule.at(0.6, 2), model.encode_prompts(CAPTIONS[:2]), denoiser)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_adapters_learn_and_stock_diffusers_loads_both_forms(family: str, world: Path, tmp_path: Path) -> None:
    base = world / family
    run = train_sft(sft_config(world, family, tmp_path / "run"))
    made = run.path / "checkpoints" / "step-000002"
    learned = {k.split("/", 2)[2] for k in load_file(run.path / "state/state.safetensors") if k.startswith("module/")}
    assert learned and all(".lora_A." in name or ".lora_B." in name for name in learned if "weight" in name)
    old, new = denoiser_weights(base), denoiser_weights(made)
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    adapted = {name.split(".lora_")[0] + ".weight" for name in learned if ".lora_" in name}
    assert changed and changed <= adapted and len(changed) > 0.6 * len(adapted)
    for file in base.rglob("*.safetensors"):
        frozen = file.relative_to(base)
        if frozen.parts[0] not in ("unet", "transformer"):
            assert (made / frozen).samefile(file), "the weights of frozen parts take no room"

    absent = {"text_encoder_3": None} if family == "sd3-without-t5" else {}
    merged = prediction(DiffusionPipeline.from_pretrained(made, **absent), base)
    stock = DiffusionPipeline.from_pretrained(base, **absent)
    before = prediction(stock, base)
    if family in WITHOUT_LOADER:
        assert not hasattr(stock, "load_lora_weights")
        stock.transformer = PeftModel.from_pretrained(stock.transformer, made / "lora")
    else:
        stock.load_lora_weights(made)
    torch.testing.assert_close(prediction(stock, base), merged, rtol=1e-3, atol=1e-5)
    assert float((merged - before).abs().max()) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_dpo_needs_no_second_copy(family: str, world: Path, tmp_path: Path) -> None:
    config = PreferenceConfig(
        model=world / family, data=world / "pairs", out=tmp_path / "run", steps=2, batch_size=2, learning_rate=0.1,
        method="dpo", objective="latent", resolution=RESOLUTION, device="cpu", self_test=False, lora_rank=2,
    )  # fmt: skip
    first, second = read_log(train_preference(config))
    assert first["latent_margin"] == pytest.approx(0, abs=1e-3) and first["loss"] == pytest.approx(
        math.log(2), abs=1e-4
    )
    assert abs(second["latent_margin"]) > 0.01, "the reference stays, the model moves"


def test_a_run_with_adapters_and_their_average_resumes_to_the_same_bits(world: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 4, "checkpoint_every": 2, "ema": 0.9, "accumulate": 2}
    train_sft(sft_config(world, "sdxl", tmp_path / "whole", **settings))
    with pytest.raises(StopError):
        train_sft(sft_config(world, "sdxl", tmp_path / "parts", **settings), stop_at(2))
    torch.manual_seed(99)
    train_sft(sft_config(world, "sdxl", tmp_path / "parts", **settings))
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")


def test_a_checkpoint_with_adapters_generates_and_is_trained_further(world: Path, tmp_path: Path) -> None:
    first = train_sft(sft_config(world, "sd-epsilon", tmp_path / "first")).path / "checkpoints/step-000002"
    images = load_generator(str(first), Sampler(steps=2))(CAPTIONS[:1], [1])
    assert bool(torch.isfinite(images).all())
    again = sft_config(world, "sd-epsilon", tmp_path / "again", lora_rank=None, lora_alpha=None)
    train_sft(replace(again, model=first))
    assert_only_the_denoiser_changed(first, tmp_path / "again/checkpoints/step-000002", "sd-epsilon")


def test_settings_of_adapters_that_cannot_work_are_named(world: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"lora_rank": 0}, "lora_rank must be"),
        ({"lora_alpha": -1.0}, "lora_alpha must be"),
        ({"lora_rank": None}, "give lora_rank"),
        ({"lora_targets": ("to_kk",)}, "Did you mean 'to_k'"),
    ):
        with pytest.raises(InputError, match=words):
            train_sft(sft_config(world, "sd-epsilon", tmp_path / "run", **changes))
    chosen = sft_config(world, "sd-epsilon", tmp_path / "run", lora_targets=("conv1", "ff.net.2"))
    made = train_sft(chosen).path / "checkpoints/step-000002"
    old, new = denoiser_weights(world / "sd-epsilon"), denoiser_weights(made)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed and all("conv1.weight" in name or "ff.net.2.weight" in name for name in changed)


def test_frozen_parts_are_linked_or_copied_and_other_programs_weights_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, blobs = tmp_path / "base", tmp_path / "blobs"
    (base / "parts").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1a2b").write_bytes(b"weights")
    # As the hub's cache keeps a file.
    (base / "model.safetensors").symlink_to(blobs / "1a2b")
    for name in ("config.json", "model.fp16.safetensors", "pytorch_model.bin", "parts/spiece.model"):
        (base / name).write_bytes(name.encode())
    take_component(base, tmp_path / "linked")
    kept = {path.relative_to(tmp_path / "linked").as_posix() for path in (tmp_path / "linked").rglob("*.*")}
    assert kept == {"model.safetensors", "config.json", "parts/spiece.model"}
    assert (tmp_path / "linked/model.safetensors").stat().st_ino == (blobs / "1a2b").stat().st_ino
    assert not (tmp_path / "linked/model.safetensors").is_symlink()
    (tmp_path / "linked/config.json").write_text("edited")
    assert (base / "config.json").read_text() == "config.json", "small files are copies: they are edited in place"

    def elsewhere(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("trainers.pipeline_folder.os.link", elsewhere)
    take_component(base, tmp_path / "copied")
    assert (tmp_path / "copied/model.safetensors").read_bytes() == b"weights"
