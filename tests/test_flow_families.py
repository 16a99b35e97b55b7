"""SDXL and the flow-matching families against their stock pipelines, and through training into them again."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import load_file
from tiny_data import paint
from tiny_flow_models import CHANNELS, TINY_FLOW, save_tiny_flow
from tiny_models import CAPTIONS, RESOLUTION, denoised, first_order
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.pair_folder import export_pairs
from pixeval.pipelines import Sampler, load_generator, prompt_length
from pixeval.records import Pair
from trainers.conventions import check_conventions, convention_errors
from trainers.data import captioned_latents
from trainers.families.detect import load
from trainers.families.transformer import pack, unpack
from trainers.latent_diffusion import Conditioning, LatentDiffusion
from trainers.preference import PreferenceConfig, train_preference
from trainers.schedules import FlowSchedule, schedule_of
from trainers.sft import SftConfig, train_sft

SIZE = {"height": RESOLUTION, "width": RESOLUTION}
WIDE = {"height": RESOLUTION, "width": 2 * RESOLUTION}
STEPS = 3
GUIDANCE_OFF = {"z-image": {"guidance_scale": 0.0}, "qwen-image": {"true_cfg_scale": 1.0}}
"""What switches guidance off; ``guidance_scale=1`` for the others (FLUX.1-dev has it as an input of the model)."""
LAST_TEXT = tuple(f"transformer_blocks.0.attn.{part}." for part in ("add_q_proj", "norm_added_q"))
"""The text's queries in the last block, whose answers nobody reads."""
WITHOUT_GRADIENT = {
    "sd3": ("pos_embed.pos_embed", *LAST_TEXT),
    "z-image": ("x_pad_token",),  # no image of this size is padded
    "qwen-image": (*LAST_TEXT, "transformer_blocks.0.attn.to_add_out.", "transformer_blocks.0.txt_mlp."),
}
"""Beginnings of the names of a denoiser's tensors that no training changes."""
FAMILIES = ("sdxl", "sd3", "flux-dev", "sana", "lumina2", "z-image", "qwen-image")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_tiny_flow(name, root / name) for name in TINY_FLOW}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sft/ and pairs/, of images larger than the models'."""
    root = tmp_path_factory.mktemp("data")
    (root / "sft").mkdir()
    for i, caption in enumerate(CAPTIONS[:3]):
        paint(root / "sft" / f"{i}.png", i, (RESOLUTION + 8, RESOLUTION))
        (root / "sft" / f"{i}.txt").write_text(caption)
    pairs = []
    for i, caption in enumerate(CAPTIONS[:2]):
        for side in (0, 1):
            paint(root / f"{i}-{side}.png", 10 * i + side)
        chosen, rejected = (str(root / f"{i}-{side}.png") for side in (0, 1))
        pairs.append(Pair(f"p{i}", caption, f"c{i}", f"r{i}", chosen, rejected, "a", "b", 0.8, "votes:appeal"))
    export_pairs(pairs, root / "pairs", "test")
    return root


def draw(seed: int, model: LatentDiffusion, n: int = 2, size: dict[str, int] = SIZE) -> Tensor:
    height, width = (size[side] // model.pipeline.vae_scale_factor for side in ("height", "width"))
    return torch.randn(n, CHANNELS, height, width, generator=torch.Generator().manual_seed(seed))


def stock_run(name: str, model: LatentDiffusion, prompts: list[str]) -> tuple[list[Tensor], Tensor]:
    """Latents, N x C x h x w, before every step and after the last, of a stock call; and its images, not square."""
    pipeline, latents = first_order(model.pipeline), draw(0, model, size=WIDE)
    packed = hasattr(pipeline, "_pack_latents")
    seen: list[Tensor] = []

    def watch(pipe: Any, i: int, t: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        x = values["latents"]
        seen.append((pipe._unpack_latents(x, *WIDE.values(), pipe.vae_scale_factor) if packed else x).clone())
        return values

    extra: dict[str, Any] = GUIDANCE_OFF.get(name, {"guidance_scale": 1.0})
    if "use_resolution_binning" in inspect.signature(pipeline.__call__).parameters:
        extra = {**extra, "use_resolution_binning": False}
    given = pipeline._pack_latents(latents, *latents.shape) if packed else latents
    images = pipeline(
        list(prompts),  # Z-Image's writes its template into the list.
        latents=given.clone(), num_inference_steps=STEPS, output_type="pt", callback_on_step_end=watch,
        **WIDE, **extra,
    ).images  # fmt: skip
    first = latents * getattr(pipeline.scheduler, "init_noise_sigma", 1.0)  # of Euler's scheduler, with its steps set
    return [first, *(x.squeeze(2) if x.dim() == 5 else x for x in seen)], images


def our_step(model: LatentDiffusion, i: int, before: Tensor, prompts: list[str]) -> Tensor:
    """The latents after step ``i`` of the stock run, from our (eps_hat, x0_hat)."""
    scheduler, conditioning = model.pipeline.scheduler, model.encode_prompts(prompts)
    time = scheduler.timesteps[i].repeat(len(before))
    if isinstance(scheduler, EulerDiscreteScheduler):
        # Latents of Euler's scheduler are z + sigma * eps.
        sigma, sigma_next = scheduler.sigmas[i], scheduler.sigmas[i + 1]
        found = denoised(model, before / (sigma**2 + 1) ** 0.5, time.long(), conditioning)
        return found.x0 + sigma_next * found.eps
    found = denoised(model, before, time, conditioning)
    if isinstance(model.schedule, FlowSchedule):
        sigma_next = scheduler.sigmas[i + 1]
        return (1 - sigma_next) * found.x0 + sigma_next * found.eps
    a, s = model.coefficients(scheduler.timesteps[i + 1].repeat(len(before)))
    return a * found.x0 + s * found.eps


@pytest.mark.parametrize("name", list(TINY_FLOW))
@torch.no_grad()
def test_a_stock_step_and_the_stock_decode(name: str, folders: dict[str, Path]) -> None:
    """The first step, and one away from pure noise, where every coefficient matters."""
    model, prompts = load(folders[name]), CAPTIONS[2:4]
    latents, images = stock_run(name, model, prompts)
    for i in (0, 1):
        found = our_step(model, i, latents[i], prompts)
        assert float((found - latents[i]).abs().max()) > 0.05
        torch.testing.assert_close(found, latents[i + 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.decode(latents[-1]).div(2).add(0.5).clamp(0, 1), images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(TINY_FLOW))
@torch.no_grad()
def test_encoding_inverts_the_normalisation_of_decoding(name: str, folders: dict[str, Path]) -> None:
    model = load(folders[name])
    images = torch.rand(2, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(1)) * 2 - 1
    posterior = model.encode(images)
    assert posterior.mean.shape == posterior.std.shape == draw(0, model).shape
    output = model.pipeline.vae.encode(images.unsqueeze(2) if model.video_vae else images)
    mean, std = (
        (output.latent, 0 * output.latent) if name == "sana" else (output.latent_dist.mean, output.latent_dist.std)
    )
    mean, std = (x.squeeze(2) if model.video_vae else x for x in (mean, std))
    torch.testing.assert_close(model.normalisation.denormalise(posterior.mean), mean, rtol=1e-4, atol=1e-5)
    # The spread goes through without the shift.
    back = model.normalisation.denormalise(posterior.mean + posterior.std)
    torch.testing.assert_close(back, mean + std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sana", "lumina2", "sdxl"])
@torch.no_grad()
def test_the_empty_prompt_is_what_the_stock_pipeline_takes_for_guidance(name: str, folders: dict[str, Path]) -> None:
    model = load(folders[name])
    found = model.encode_prompts(["a red apple", ""])
    if name == "sdxl":
        negative, _, _ = model.pipeline.encode_prompt(["a red apple"], do_classifier_free_guidance=True)[1:]
        assert not found["pooled"][1].any()
    else:
        extra = {"negative_prompt": ""} if name == "lumina2" else {}
        _, _, negative, mask = model.pipeline.encode_prompt(["a red apple"], do_classifier_free_guidance=True, **extra)
        assert torch.equal(found["mask"][1:], mask)
    torch.testing.assert_close(found["embeddings"][1:], negative)
    assert float((found["embeddings"][0] - found["embeddings"][1]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_neighbours_in_the_cache_do_not_change_a_prediction(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Prompts of other lengths, encoded in another chunk and padded, against the prompt alone."""
    model = load(folders[name])
    for i in range(12):
        paint(tmp_path / f"{i}.png", i)
        (tmp_path / f"{i}.txt").write_text("a blue car in the snow and a yellow star" if i == 9 else f"a red {i} apple")
    cached = captioned_latents(model, tmp_path, (RESOLUTION, RESOLUTION))
    z_t, t = draw(0, model), model.schedule.at(0.6, 2)
    # Row 0 is the empty prompt; files are read by name, and 9.png is the last.
    rows = cached.texts.rows(torch.tensor([1, 12]), model.device)
    alone = model.encode_prompts(["a red 0 apple"])
    together = denoised(model, z_t, t, rows).eps[:1]
    torch.testing.assert_close(together, denoised(model, z_t[:1], t[:1], alone).eps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_changes_the_denoiser_only_and_the_checkpoint_generates(
    name: str, folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "objective": "both", "batch_size": 2, "learning_rate": 1e-3, "resolution": RESOLUTION, "device": "cpu",
        "self_test": False,
    }  # fmt: skip
    run = train_sft(SftConfig(model=folders[name], data=data / "sft", out=tmp_path / "sft", steps=2, **options))
    tuned = run.path / "checkpoints" / "step-000002"
    run = train_preference(
        PreferenceConfig(model=tuned, data=data / "pairs", out=tmp_path / "preference", steps=1, **options)
    )
    preferred = run.path / "checkpoints" / "step-000001"
    for before, after in ((folders[name], tuned), (tuned, preferred)):
        weights = {file.relative_to(before): load_file(file) for file in before.rglob("*.safetensors")}
        assert len(weights) >= 3
        for file, old in weights.items():
            new = load_file(after / file)
            if file.parts[0] in ("unet", "transformer"):
                same = [key for key in old if torch.equal(old[key], new[key])]
                assert same == [key for key in old if key.startswith(WITHOUT_GRADIENT.get(name, ()))]
            else:
                assert all(torch.equal(old[key], new[key]) for key in old)
    # Stock diffusers, called by the evaluation.
    images = load_generator(str(preferred), Sampler(steps=2, guidance=2.0, **SIZE))(CAPTIONS[:2], [1, 2])
    assert images.shape == (2, 3, RESOLUTION, RESOLUTION)
    assert bool(torch.isfinite(images).all())


@pytest.mark.parametrize("name", ["z-image", "qwen-image"])
@torch.no_grad()
def test_guidance_of_one_is_none_whatever_the_pipeline_calls_it(name: str, folders: dict[str, Path]) -> None:
    images = [
        load_generator(str(folders[name]), Sampler(steps=2, guidance=guidance, **SIZE))(CAPTIONS[:2], [1, 2])
        for guidance in (1.0, 3.0)
    ]
    assert float((images[0] - images[1]).abs().max()) > 1e-3
    pipeline = load(folders[name]).pipeline
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    stock = pipeline(
        CAPTIONS[:2], num_inference_steps=2, generator=generators, output_type="pt", **SIZE, **GUIDANCE_OFF[name]
    ).images
    torch.testing.assert_close(images[0], stock, rtol=1e-4, atol=1e-5)


def test_a_pipeline_saved_without_t5_generates(folders: dict[str, Path]) -> None:
    images = load_generator(str(folders["sd3-without-t5"]), Sampler(steps=2, **SIZE))(CAPTIONS[:1], [1])
    assert images.shape == (1, 3, RESOLUTION, RESOLUTION)


def test_prompts_are_as_long_as_the_stock_call_makes_them(folders: dict[str, Path]) -> None:
    """T5's 256 tokens of SD3 and 512 of FLUX.1 are not cut to the 16 (77) of CLIP's tokenizer."""
    found = {
        name: prompt_length(load(folders[name]).pipeline) for name in ("sd3", "sd3-without-t5", "flux-dev", "sana")
    }
    assert found == {"sd3": 256, "sd3-without-t5": 256, "flux-dev": 512, "sana": 300}


@pytest.mark.parametrize("name", ["sdxl", "sana", "qwen-image"])
def test_pixel_gradients_stop_at_the_frozen_parts(name: str, folders: dict[str, Path]) -> None:
    model = load(folders[name])
    z_t, t = draw(0, model), model.schedule.at(0.5, 2)
    model.decode(denoised(model, z_t, t, model.encode_prompts(CAPTIONS[:2])).x0).square().mean().backward()
    for part, module in model.pipeline.components.items():
        if isinstance(module, nn.Module):
            reached = sum(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
            assert (reached > 0) == (part == model.denoiser_name), part


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "lumina2", "z-image", "qwen-image"])
def test_times_are_those_of_the_stock_sampler(name: str, folders: dict[str, Path]) -> None:
    """At two resolutions; the more tokens, the more noise, where the shift is dynamic."""
    model = load(folders[name])
    if name == "lumina2":
        # Its own is static; what its pipeline would make of a dynamic one is the peculiar thing.
        model.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler, means = model.pipeline.scheduler, []
    for side in (16, 128):
        length = CHANNELS if name == "lumina2" else (side // 2) ** 2
        config = scheduler.config
        mu = calculate_shift(
            length, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        n = 1000
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / n, n), mu=mu)
        schedule = schedule_of(scheduler, model.tokens((side, side)))[0]
        found = torch.cat([schedule.at(1 - i / n, 1) for i in range(0, n, 100)])
        torch.testing.assert_close(found, scheduler.timesteps[::100].float(), rtol=0, atol=2.0)
        means.append(float(model.sample_timesteps(500, torch.Generator().manual_seed(0), (side, side)).mean()))
    dynamic = name in ("flux-dev", "qwen-image")
    assert means[1] - means[0] > 20 if dynamic else means[0] == means[1]


def test_packing_is_that_of_flux_and_inverts() -> None:
    z = torch.randn(2, 16, 8, 4, generator=torch.Generator().manual_seed(0))
    tokens = pack(z)
    assert tokens.shape == (2, 8, 64)
    # Token 3 is row 1, column 1; its 64 numbers run over channels, then rows, then columns of the patch.
    assert torch.equal(tokens[:, 3].view(2, 16, 2, 2), z[:, :, 2:4, 2:4])
    assert torch.equal(unpack(tokens, (8, 4)), z)


class Known:
    """Closed-form predictions for normal latents of standard deviation 2, read rightly or by another convention."""

    def __init__(self, model: LatentDiffusion, sign: float = 1.0, reverse: bool = False) -> None:
        self.model, self.sign, self.reverse = model, sign, reverse

    def __call__(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        a, s = self.model.coefficients(self.model.schedule.reversed(t) if self.reverse else t)
        # E[eps | z_t] = s z_t / (4 a^2 + s^2) and E[z | z_t] = 4 a z_t / (4 a^2 + s^2).
        answer = s - 4 * a if self.model.prediction == "flow_prediction" else s
        return self.sign * answer / (4 * a**2 + s**2) * z_t


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_a_model_of_the_other_convention_is_refused(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folders[name])
    z = 2 * draw(3, model, 64)
    monkeypatch.setattr(model, "predict", Known(model))
    fit = convention_errors(model, z, {})
    assert fit.plain < 0.8 * min(fit.sign_flipped, fit.time_flipped)
    check_conventions(model, z, {})
    monkeypatch.setattr(model, "predict", Known(model, sign=-1))
    assert convention_errors(model, z, {}).sign_flipped == pytest.approx(fit.plain)
    with pytest.raises(InputError, match="sign flipped"):
        check_conventions(model, z, {})
    monkeypatch.setattr(model, "predict", Known(model, reverse=True))
    assert convention_errors(model, z, {}).time_flipped == pytest.approx(fit.plain)
    with pytest.raises(InputError, match="time reversed"):
        check_conventions(model, z, {})


def edit(folder: Path, file: str, **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def another_class(name: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "model_index.json", _class_name=name)


BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("flux-dev", another_class("FluxKontextPipeline"), "a FluxKontextPipeline cannot be trained"),
    ("flux-dev", another_class("FluxInpaintPipeline"), "a FluxInpaintPipeline cannot be trained"),
    ("sd3", another_class("StableDiffusion3ControlNetPipeline"), "a StableDiffusion3ControlNetPipeline cannot be"),
    ("sdxl", another_class("StableDiffusionXLImg2ImgPipeline"), "a StableDiffusionXLImg2ImgPipeline cannot be"),
    ("sdxl", lambda f: edit(f, "model_index.json", text_encoder=[None, None], tokenizer=[None, None]), "refiner"),
    ("qwen-image", lambda f: edit(f, "transformer/config.json", zero_cond_t=True), "zero_cond_t=True"),
    ("sd3", lambda f: (f / "text_encoder_2" / "model.safetensors").unlink(), "text_encoder_2 has no weights"),
    ("sana", lambda f: (f / "vae" / "config.json").unlink(), "vae/config.json is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "named"), BROKEN, ids=[f"{b[0]}-{b[2][:24]}" for b in BROKEN])
def test_a_model_that_is_not_for_training_is_named(
    name: str, spoil: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    folder = save_tiny_flow(name, tmp_path / "model")
    spoil(folder)
    with pytest.raises(InputError, match=named):
        load(folder)


def test_a_flow_model_with_another_scheduler_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_flow("sd3", tmp_path / "model")
    edit(folder, "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    edit(folder, "scheduler/scheduler_config.json", _class_name="DDIMScheduler")
    with pytest.raises(InputError, match="predicts a flow; use FlowMatchEulerDiscreteScheduler"):
        load(folder)


def test_a_size_that_the_patches_do_not_fit_is_refused(folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    config = SftConfig(
        model=folders["lumina2"], data=data / "sft", out=tmp_path / "run", resolution=40, device="cpu", self_test=False
    )
    with pytest.raises(InputError, match="resolution must be a multiple of 16"):
        train_sft(config)
    assert isinstance(load(folders["lumina2"]).pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
