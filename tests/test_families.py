"""Each family against its stock pipeline; who gets gradients; checkpoints of others that are broken."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_models import CAPTIONS, CHANNELS, RESOLUTION, TINY, denoised, first_order, save_tiny
from torch import Tensor

from pixeval import cli
from pixeval.errors import InputError
from trainers.conventions import check_conventions, convention_errors
from trainers.errors import KINDS, add_noise, errors
from trainers.families.detect import FAMILIES, folder_of, load
from trainers.latent_diffusion import LatentDiffusion
from trainers.schedules import FlowSchedule
from trainers.sft import SftConfig

LATENT = (2, CHANNELS, RESOLUTION // 2, RESOLUTION // 2)
WIDE = (2, CHANNELS, RESOLUTION // 2, RESOLUTION)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_tiny(name, root / name) for name in TINY}


def draw(seed: int, shape: tuple[int, ...] = LATENT) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stock_steps(pipeline: Any, latents: Tensor, prompts: list[str]) -> list[Tensor]:
    """Latents before the first step and after each of three, of the stock pipeline called as people call it."""
    seen = [latents]
    extra: dict[str, Any]
    if hasattr(pipeline, "unet"):

        def watch(pipe: Any, i: int, t: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
            seen.append(values["latents"].clone())
            return values

        extra = {"callback_on_step_end": watch}
    else:
        extra = {"callback": lambda i, t, x: seen.append(x.clone()), "use_resolution_binning": False}
        extra["clean_caption"] = False
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompts, latents=latents.clone(), height=RESOLUTION, width=2 * RESOLUTION, num_inference_steps=3,
        guidance_scale=1.0, output_type="latent", **extra,
    )  # fmt: skip
    return seen


def our_step(model: LatentDiffusion, i: int, before: Tensor, prompts: list[str]) -> Tensor:
    """The latents after step ``i`` of the stock run, ``a' x0_hat + s' eps_hat``: DDIM, or DPM-Solver++ of order 1."""
    scheduler = model.pipeline.scheduler
    time, after = (scheduler.timesteps[k].repeat(len(before)) for k in (i, i + 1))
    if isinstance(model.schedule, FlowSchedule):
        time, after = (scheduler.sigmas[k].repeat(len(before)) * model.schedule.steps for k in (i, i + 1))
    found = denoised(model, before, time, model.encode_prompts(prompts))
    a, s = model.coefficients(after)
    return a * found.x0 + s * found.eps


@pytest.mark.parametrize("name", list(TINY))
@torch.no_grad()
def test_stock_steps_equal_the_steps_from_eps_and_x0(name: str, folders: dict[str, Path]) -> None:
    """The first step, and one away from pure noise, where every coefficient matters; images that are not square."""
    model, prompts = load(folders[name]), CAPTIONS[:2]
    latents = stock_steps(first_order(model.pipeline), draw(0, WIDE), prompts)
    for i in (0, 1):
        found = our_step(model, i, latents[i], prompts)
        assert float((found - latents[i]).abs().max()) > 0.05
        torch.testing.assert_close(found, latents[i + 1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_v_prediction_with_a_last_step_of_pure_noise(tmp_path: Path) -> None:
    """As fine-tunes of SD2.x have it: alpha_bar is 0 at the last step, where the stock sampler starts."""
    folder = save_tiny("sd-v", tmp_path / "model")
    file = folder / "scheduler" / "scheduler_config.json"
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    model, prompts = load(folder), CAPTIONS[:2]
    latents = stock_steps(model.pipeline, draw(0, WIDE), prompts)
    assert int(model.pipeline.scheduler.timesteps[0]) == 999
    torch.testing.assert_close(our_step(model, 0, latents[0], prompts), latents[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["sd-epsilon", "pixart-flow"])
@torch.no_grad()
def test_decode_is_the_stock_decode_and_encode_its_inverse_scaling(name: str, folders: dict[str, Path]) -> None:
    model, latents = load(folders[name]), draw(1)
    scale = model.pipeline.vae.config.scaling_factor
    torch.testing.assert_close(model.decode(latents), model.pipeline.vae.decode(latents / scale).sample)
    images = draw(2, (2, 3, RESOLUTION, RESOLUTION)).clamp(-1, 1)
    posterior = model.encode(images)
    torch.testing.assert_close(posterior.mean, model.pipeline.vae.encode(images).latent_dist.mean * scale)
    assert posterior.sample(draw(3)).shape == LATENT
    assert model.resolution == (RESOLUTION, RESOLUTION)


@pytest.mark.parametrize("name", ["sd-epsilon", "pixart-flow"])
def test_pixel_gradients_pass_the_decoder_and_stop_at_the_denoiser(name: str, folders: dict[str, Path]) -> None:
    model = load(folders[name])
    conditioning = model.encode_prompts(CAPTIONS[:2])
    t = model.schedule.at(0.5, 2)
    noised = add_noise(model, draw(0), draw(1), t, conditioning, KINDS["pixel"])
    assert noised.decoded is not None
    assert not noised.decoded.requires_grad
    errors(model, model.denoiser, noised, KINDS["pixel"])["pixel"].mean().backward()
    reached = [p for p in model.denoiser.parameters() if p.grad is not None and float(p.grad.abs().max()) > 0]
    assert len(reached) > 0.5 * len(list(model.denoiser.parameters()))
    for part in ("vae", "text_encoder"):
        module = model.pipeline.components[part]
        assert not module.training
        assert all(not p.requires_grad and p.grad is None for p in module.parameters())


@torch.no_grad()
def test_the_pixel_error_is_that_of_noisy_latents_decoded_twice(folders: dict[str, Path]) -> None:
    """Equation 2 written out with the stock parts: not the clean latent, not the image."""
    model = load(folders["sd-epsilon"])
    conditioning, z, eps, t = model.encode_prompts(CAPTIONS[:2]), draw(0), draw(1), torch.tensor([100, 900])
    pipeline = model.pipeline
    z_t = pipeline.scheduler.add_noise(z, eps, t)
    eps_hat = pipeline.unet(z_t, t, conditioning["embeddings"]).sample
    alpha_bar = pipeline.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    again = alpha_bar.sqrt() * z + (1 - alpha_bar).sqrt() * eps_hat
    images = [pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample for x in (z_t, again)]
    expected = (images[0] - images[1]).square().mean((1, 2, 3))
    noised = add_noise(model, z, eps, t, conditioning, KINDS["pixel"])
    found = errors(model, model.denoiser, noised, KINDS["pixel"])["pixel"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@torch.no_grad()
def test_prompts_are_told_apart_and_padding_does_not_matter(folders: dict[str, Path]) -> None:
    for name in ("sd-epsilon", "pixart-flow"):
        model = load(folders[name])
        both, one = model.encode_prompts(CAPTIONS[:2]), model.encode_prompts(CAPTIONS[:1])
        torch.testing.assert_close(both["embeddings"][:1], one["embeddings"])
        assert float((both["embeddings"][0] - both["embeddings"][1]).abs().max()) > 1e-3


def train_a_little(model: LatentDiffusion, latents: Tensor) -> None:
    """Enough steps that the model's prediction points the right way."""
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-2)
    conditioning = model.encode_prompts(CAPTIONS[:2])
    for step in range(12):
        generator = torch.Generator().manual_seed(step)
        eps, t = torch.randn(latents.shape, generator=generator), model.sample_timesteps(2, generator)
        noised = add_noise(model, latents, eps, t, conditioning, ("latent",))
        optimizer.zero_grad()
        errors(model, model.denoiser, noised, ("latent",))["latent"].mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("name", "last"), [("sd-epsilon", "conv_out"), ("pixart-flow", "proj_out")])
def test_a_model_with_the_opposite_sign_is_refused(name: str, last: str, folders: dict[str, Path]) -> None:
    model, latents = load(folders[name]), draw(5)
    train_a_little(model, latents)
    conditioning = model.encode_prompts(CAPTIONS[:2])
    fit = convention_errors(model, latents, conditioning)
    assert fit.plain < fit.sign_flipped
    check_conventions(model, latents, conditioning)
    with torch.no_grad():
        for parameter in getattr(model.denoiser, last).parameters():
            parameter.neg_()
    with pytest.raises(InputError, match="sign flipped") as refused:
        check_conventions(model, latents, conditioning)
    (option,) = re.findall(r"\((--.*)\)", str(refused.value))
    given = ["--model", "m", "--data", "d", "--out", "o", *option.split()]
    assert not cli.parse(SftConfig, given, "pixeval train sft", "").self_test, "what it advises can be done"


def truncate(folder: Path, name: str) -> None:
    file = folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def unsupported(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxKontextPipeline"}))


def flow_without_sigmas(folder: Path) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "flow_prediction"}))


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def no_component(folder: Path) -> None:
    (folder / "vae").rename(folder / "elsewhere")


UNET = "unet/diffusion_pytorch_model.safetensors"
BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("truncated weights", lambda f: truncate(f, UNET), "diffusion_pytorch_model.safetensors"),
    ("truncated config", lambda f: truncate(f, "unet/config.json"), "unet"),
    ("truncated index", lambda f: truncate(f, "model_index.json"), "model_index.json"),
    ("no weights", lambda f: remove(f, UNET), "unet"),
    ("no config", lambda f: remove(f, "unet/config.json"), "unet"),
    ("no index", lambda f: remove(f, "model_index.json"), "model_index.json"),
    ("no component", no_component, "vae"),
    ("no tokenizer", lambda f: remove(f, "tokenizer/tokenizer.json"), "cannot be loaded"),
    ("pickled", pickled, "pickled"),
    ("unsupported", unsupported, "a FluxKontextPipeline cannot be trained yet; supported are StableDiffusionPipeline"),
    ("flow on a diffusion schedule", flow_without_sigmas, "flow"),
]


@pytest.mark.parametrize(("spoil", "named"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_checkpoint_is_named(spoil: Callable[[Path], None], named: str, tmp_path: Path) -> None:
    folder = save_tiny("sd-epsilon", tmp_path / "model")
    spoil(folder)
    with pytest.raises(InputError, match=named):
        load(folder)


def test_a_missing_model_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["sd-v", "pixart-sigma"])
def test_a_saved_pipeline_is_a_stock_pipeline(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model = load(folders[name])
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.01)
    model.save_pipeline(tmp_path / "saved")
    stock = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert type(stock).__name__ in FAMILIES
    for key, value in model.denoiser.state_dict().items():
        assert torch.equal(value, stock.components[model.denoiser_name].state_dict()[key])
    for key, value in model.vae.state_dict().items():
        assert torch.equal(value, stock.vae.state_dict()[key])


def test_a_name_on_the_hub_is_downloaded_and_a_folder_is_not(tmp_path: Path) -> None:
    def offline(name: str) -> str:
        raise OSError("there is no network")

    assert folder_of(tmp_path, offline) == tmp_path
    assert folder_of(Path("owner/name"), lambda name: tmp_path / name) == tmp_path / "owner/name"
    with pytest.raises(InputError, match=r"owner/name is neither a folder .* \(there is no network\)"):
        folder_of(Path("owner/name"), offline)
