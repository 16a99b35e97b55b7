"""The plan of a training run: what is counted, against sums by hand; every family; nothing is loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_flow_models
import torch
from diffusers import StableDiffusionPipeline
from tiny_data import save_captioned, save_pairs
from tiny_models import TINY, save_tiny
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pixeval import cli
from pixeval.errors import InputError
from trainers.latent_diffusion import LatentDiffusion
from trainers.meter import Meter, size_of
from trainers.optimizer_step import fast_attention, optimizer_step
from trainers.outline import Outline
from trainers.plan import plan
from trainers.plan_text import render
from trainers.preference import PreferenceConfig, train_preference
from trainers.rehearsal import FILE
from trainers.sft import SftConfig, train_sft

FLOWS = ("sdxl", "sd3", "flux", "sana", "lumina2", "z_image", "qwen_image")
DECODED = ("sd-epsilon", "sana", "qwen_image")
"""One of every kind of decoder."""


def strip(folder: Path) -> Path:
    """Without any weights: a plan needs the configurations alone."""
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    found = {name: strip(save_tiny(name, root / name)) for name in TINY}
    for name in FLOWS:
        getattr(tiny_flow_models, f"tiny_{name}")().save_pretrained(root / name)
        found[name] = strip(root / name)
    return found


def sft(model: Path, **changes: Any) -> SftConfig:
    config = SftConfig(
        model=model, data=Path("none"), out=Path("none"), batch_size=2, device="cpu", plan=True, plan_tflops=1.0
    )
    return replace(config, **changes)


def test_the_meter_counts_what_a_layer_needs() -> None:
    """A linear layer, 3 rows of 5 numbers to 7: forward, two products backward, and what lives meanwhile."""
    for fake in (False, True):
        with FakeTensorMode() if fake else torch.enable_grad():
            layer, x = nn.Linear(5, 7, bias=False), torch.ones(3, 5, requires_grad=True)
            with Meter(layer) as meter:
                assert meter.live == 5 * 7 * 4
                y = layer(x)
                assert meter.flops == 2 * 3 * 5 * 7
                assert meter.live == 4 * (5 * 7 + 3 * 7)
                total = y.square().sum()
                total.backward()
                assert meter.flops == 3 * 2 * 3 * 5 * 7
                del y, total
                assert layer.weight.grad is not None
                assert x.grad is not None
                live = meter.live
                layer.weight.grad = None
                assert live - meter.live == 4 * 5 * 7
                assert meter.peak >= live
    shared = nn.Linear(4, 4)
    assert size_of(shared, shared) == 4 * (16 + 4)


def test_the_time_is_that_of_real_steps_and_read_the_second_time(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the passes take longer; of a file that was damaged, nothing is read."""
    monkeypatch.setenv("PIXEVAL_CACHE", str(tmp_path))
    one, more = (sft(folders["pixart-flow"], objective="latent", plan_tflops=None, accumulate=n) for n in (1, 8))
    times = [plan(config)["seconds"]["step"] for config in (one, more)]
    assert 0 < 2 * times[0] < times[1]
    assert times == [plan(config)["seconds"]["step"] for config in (one, more)]
    file = tmp_path / FILE
    assert [len(steps) for steps in json.loads(file.read_text()).values()] == [2]
    file.write_text('{"damaged')
    assert plan(one)["seconds"]["step"] != times[0]


@pytest.mark.parametrize("name", [*TINY, *FLOWS])
def test_every_family_is_planned_from_its_configurations(name: str, folders: dict[str, Path]) -> None:
    decoded = name in DECODED
    given = {"objective": "both", "decode_crop": 16} if decoded else {"objective": "latent"}
    found = plan(sft(folders[name], resolution=32, **given))
    memory = found["memory"]
    assert memory["gradients"] == 4 * found["parameters"]["trained"]
    assert memory["optimiser"] == 2 * memory["gradients"]
    assert memory["denoiser_activations"] > 0
    assert found["flops"]["latent_step"] > 0
    assert found["peak_memory"] > memory["denoiser"] + 3 * memory["gradients"] + memory["vae"]
    if decoded:
        assert found["flops"]["step"] > found["flops"]["latent_step"]
        decoder = found["decoder_activations"]
        assert decoder["decode_crop"] == decoder["quarter_area"] < decoder["whole"] / 2
    json.dumps(found, allow_nan=False)


def test_the_denoisers_figures_are_those_of_the_real_model(folders: dict[str, Path], tmp_path: Path) -> None:
    save_tiny("sd-epsilon", tmp_path / "whole")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "whole")
    found = plan(sft(tmp_path / "whole", objective="latent", batch_size=3))
    assert found["memory"]["denoiser"] == sum(p.numel() * 4 for p in pipeline.unet.parameters())
    z = torch.randn(3, 4, 16, 16)
    with Meter(pipeline.unet) as meter, fast_attention(z.device):
        before = meter.live
        output = pipeline.unet(z, torch.tensor([1, 2, 3]), torch.randn(3, 16, 16)).sample
        forward, kept = meter.flops, meter.live - before
        output.sum().backward()
    assert found["flops"]["latent_step"] == meter.flops
    assert forward < meter.flops < 3.1 * forward
    assert found["memory"]["denoiser_activations"] == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize(
    "changes", [{"objective": "latent"}, {"objective": "both", "decode_crop": 16}, {"method": "dpo", "accumulate": 2}]
)
def test_the_plan_is_what_a_step_of_training_then_takes(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arithmetic exactly, and, without a reference, what lives beside weights and moments up to a fiftieth."""
    model, preference = save_tiny("sd-epsilon", tmp_path / "model"), "method" in changes
    data = (save_pairs if preference else save_captioned)(tmp_path / "data")
    kind: Any = PreferenceConfig if preference else SftConfig
    config = kind(
        model=model, data=data, out=tmp_path / "run", steps=2, batch_size=2, device="cpu", self_test=False,
        plan_tflops=1.0, **changes,
    )  # fmt: skip
    planned = plan(config)
    vaes: list[nn.Module] = []
    counted: list[int] = []
    beside: list[int] = []
    encode = LatentDiffusion.encode

    def encoded(family: LatentDiffusion, images: Tensor) -> Any:
        vaes.append(family.vae)
        return encode(family, images)

    def metered(denoiser: nn.Module, stepper: Any, loss: Any, *rest: Any) -> Any:
        moments = nn.Module()
        for number, value in enumerate(v for state in stepper.state.values() for v in state.values()):
            moments.register_buffer(str(number), value)
        with Meter(denoiser, vaes[0], moments) as meter:
            there = meter.live
            line = optimizer_step(denoiser, stepper, loss, *rest)
        counted.append(meter.flops)
        beside.append(meter.peak - there)
        return line

    monkeypatch.setattr(LatentDiffusion, "encode", encoded)
    monkeypatch.setattr("trainers.loop.optimizer_step", metered)
    (train_preference if preference else train_sft)(config)
    assert counted == [planned["flops"]["step"]] * 2
    if not preference:
        kept = planned["memory"]
        weights = sum(kept[part] for part in ("denoiser", "vae", "text_encoders", "optimiser"))
        assert planned["peak_memory"] - weights == pytest.approx(beside[1], rel=0.02)


def test_what_saves_memory_saves_it_in_the_plan(folders: dict[str, Path]) -> None:
    model = folders["pixart-flow"]
    whole, cut, again = (
        plan(sft(model, batch_size=8, **changes))
        for changes in ({}, {"decode_crop": 16, "pixel_every": 3}, {"decoder_checkpointing": True})
    )
    assert cut["peak_memory"] < whole["peak_memory"]
    assert again["peak_memory"] < whole["peak_memory"]
    assert again["flops"]["step"] > whole["flops"]["step"] > cut["flops"]["step"]
    latent, decoder = whole["flops"]["latent_step"], whole["decoder_activations"]
    assert cut["flops"]["latent_step"] == latent
    quarter = (whole["flops"]["step"] - latent) / 4
    assert 0.7 < 3 * (cut["flops"]["step"] - latent) / quarter < 1, "attention costs a sixteenth of the whole"
    half = plan(sft(model, batch_size=8, bf16_decoder=True))
    assert 0.4 < half["memory"]["pixel_term"] / whole["memory"]["pixel_term"] < 0.7
    assert half["flops"] == whole["flops"]
    assert decoder["quarter_area_checkpointed"] < decoder["quarter_area"] < decoder["whole"]
    adapters = plan(sft(model, lora_rank=2, ema=0.9))
    assert adapters["memory"]["gradients"] < whole["memory"]["gradients"] / 4
    assert adapters["memory"]["average"] == adapters["memory"]["gradients"]


def test_a_reference_costs_its_weights_and_its_passes(folders: dict[str, Path]) -> None:
    config = PreferenceConfig(
        model=folders["pixart-flow"], data=Path("none"), out=Path("none"), batch_size=2, device="cpu", plan_tflops=1.0
    )
    simpo, dpo, drawn = (
        plan(replace(config, objective="latent", **changes))
        for changes in ({"method": "simpo"}, {"method": "dpo"}, {"method": "dpo", "reference_draws": 2})
    )
    assert simpo["latents_per_pass"] == 4
    assert dpo["memory"]["reference"] == dpo["memory"]["denoiser"]
    assert drawn["memory"]["reference"] == simpo["memory"]["reference"] == 0
    assert dpo["flops"]["step"] > drawn["flops"]["step"] == simpo["flops"]["step"]
    assert dpo["peak_memory"] > simpo["peak_memory"]


def test_the_command_plans_and_touches_nothing(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "sft", "--model", str(folders["pixart-flow"]), "--data", str(tmp_path / "no"), "--out"]
    words += [str(tmp_path / "run"), "--device", "cuda", "--plan", "--plan-tflops", "100", "--mixed-precision", "bf16"]
    assert cli.run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cuda"
    assert found["throughput"].startswith("stated")
    printed = render(found)
    assert "peak" in printed
    assert "TFLOP" in printed
    assert not (tmp_path / "run").exists()


def test_plans_that_cannot_be_made_say_why(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resolution"):
        plan(sft(folders["pixart-flow"], resolution=38))
    with pytest.raises(InputError, match="plan_tflops"):
        plan(sft(folders["pixart-flow"], plan_tflops=0.0))
    with pytest.raises(InputError, match="steps"):
        plan(sft(folders["pixart-flow"], steps=-5))
    with pytest.raises(InputError, match="min_snr"):
        plan(sft(folders["pixart-flow"], min_snr=-1.0))
    with pytest.raises(InputError, match="max_gradient_norm"):
        plan(sft(folders["pixart-flow"], max_gradient_norm=-1.0))
    with pytest.raises(InputError, match="loser_safety"):
        plan(PreferenceConfig(folders["pixart-flow"], tmp_path, tmp_path, method="mapo", loser_safety=0.5))
    with pytest.raises(InputError, match="model_index"):
        Outline(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxKontextPipeline"}')
    with pytest.raises(InputError, match="FluxKontextPipeline"):
        Outline(tmp_path)
