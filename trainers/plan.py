"""What a training run will cost: peak memory, arithmetic and time of a step, before anything is loaded.

The step itself is run, forward, backward, optimiser, on tensors that hold no data (:mod:`trainers.outline`), and what
its operations need is counted (:mod:`trainers.meter`). Nothing is read but the configurations of the pipeline.

Not in the figures: memory that kernels take for themselves, the CUDA context and fragmentation; rewards and LPIPS,
whose networks are not built (LPIPS is planned as a squared error); several processes, each of which costs this much.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixeval.errors import InputError
from pixeval.scoring.cache import default_folder
from trainers.decoder_checkpoints import checkpoint_decoder
from trainers.decoder_window import Window
from trainers.errors import KINDS, Answer, Kind, PixelTerm, add_noise, ask, errors, measure, rows_within
from trainers.image_to_image import ImageToImageConfig
from trainers.meter import Meter, Operation, size_of
from trainers.objective import DISTANCES, ObjectiveConfig, check_objective
from trainers.optimizer_step import fast_attention
from trainers.outline import Outline, read_json
from trainers.pixel_losses import pixel_sft
from trainers.preference import WITH_REFERENCE, PreferenceConfig
from trainers.throughput import Measured, Stated, Throughput
from trainers.tiny_decoder import TinyDecoder

BAND_SAMPLES = 4096
"""Times drawn to find the share of them that lies within the pixel term's band."""


@dataclass(frozen=True)
class StepCost:
    """One optimiser step, counted."""

    peak: int
    """Bytes at the worst moment: weights, gradients, moments of AdamW and activations; without copies of weights."""
    denoiser_activations: int
    """Bytes that the denoiser's forward pass leaves for its backward pass."""
    gradients: int
    moments: int
    """Bytes of the optimiser's state."""
    operations: list[Operation] = field(repr=False)

    @property
    def flops(self) -> int:
        """Of all operations."""
        return sum(operation.flops for operation in self.operations)


@dataclass(frozen=True)
class Batch:
    """What one pass is made of."""

    rows: int
    """Latents that the denoiser is asked about: samples, or twice the pairs."""
    size: tuple[int, int]
    """Height and width of the latents."""
    window: Window | None


def plan(config: ObjectiveConfig) -> dict[str, Any]:
    """Predict peak memory, FLOPs and time per step; loads no weights and reads no data.

    Args:
        config: as it would be trained.

    Returns:
        Sizes in bytes, arithmetic in floating-point operations and times in seconds, as JSON can hold them.

    Raises:
        InputError: settings that contradict each other, or a model that is not understood.
    """
    check_objective(config)
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    outline = Outline(config.model)
    model = outline.model
    if config.lora_rank is not None:
        model.adapt(config.lora_rank, config.lora_alpha, config.lora_targets, config.seed)
    batch = _batch(config, outline)
    if config.decoder_checkpointing:
        checkpoint_decoder(model.vae)
    tiny = _tiny(config.tiny_decoder)
    outline.settle(model.vae, model.denoiser, *([] if tiny is None else [tiny]))
    model.denoiser.train()
    pixel = _pixel(config, tiny)
    kinds = KINDS[config.objective]
    full = simulate(outline, config, batch, kinds, pixel, cuda)
    latent = simulate(outline, config, batch, ("latent",), pixel, cuda) if "pixel" in kinds else full
    weights = _weights(outline, config, cuda, tiny)
    copies = weights["reference"] + weights["average"] + (0 if cuda else weights["text_encoders"])
    peak = full.peak + copies
    start = sum(weights[part] for part in ("denoiser", "vae", "tiny_decoder", "text_encoders"))
    speed = _speed(config, cuda)
    share = _share(config, outline)
    with _as_trained(config, cuda):
        latent_seconds, full_seconds = speed.seconds(latent.operations), speed.seconds(full.operations)
    times = {"step": _mean(config, full_seconds, latent_seconds, share), "latent_step": latent_seconds}
    return {
        "model": str(config.model),
        "family": outline.name,
        "device": "cuda" if cuda else "cpu",
        "precision": "float32" if config.mixed_precision == "no" else f"{config.mixed_precision} autocast",
        "objective": config.objective,
        "image": [side * int(model.pipeline.vae_scale_factor) for side in batch.size],
        "latents_per_pass": batch.rows,
        "passes_per_step": config.accumulate,
        "prompt_tokens": outline.prompt_length,
        "parameters": {
            "denoiser": sum(p.numel() for p in model.denoiser.parameters()),
            "trained": sum(p.numel() for p in model.denoiser.parameters() if p.requires_grad),
            "vae": sum(p.numel() for p in model.vae.parameters()),
        },
        "memory": {
            **weights,
            "gradients": full.gradients,
            "optimiser": full.moments,
            "denoiser_activations": full.denoiser_activations,
            "pixel_term": max(0, full.peak - latent.peak),
        },
        "decoder_activations": decoder_activations(outline, config, batch, cuda, tiny) if "pixel" in kinds else {},
        "peak_memory": max(peak, start),
        "peak_of_a_latent_step": max(latent.peak + copies, start),
        "flops": {"step": _mean(config, full.flops, latent.flops, share), "latent_step": latent.flops},
        "seconds": times,
        "latent_steps_per_step": times["step"] / times["latent_step"],
        "throughput": speed.source,
    }


def simulate(
    outline: Outline, config: ObjectiveConfig, batch: Batch, kinds: tuple[Kind, ...], pixel: PixelTerm, cuda: bool
) -> StepCost:
    """Run the passes of an optimiser step on tensors without data, and count them.

    Args:
        outline: settled, its denoiser with the parameters that learn.
        config: the settings.
        batch: of one pass.
        kinds: errors that are measured.
        pixel: how decoded latents are compared.
        cuda: whether it is planned for CUDA.
    """
    model = outline.model
    learned = [parameter for parameter in model.denoiser.parameters() if parameter.requires_grad]
    # A second pass finds the gradients of the first in memory; more of them are like the second.
    passes = min(config.accumulate, 2)
    with Meter(model.denoiser, model.vae, *_module_of(pixel)) as meter:
        for _ in range(passes):
            with _as_trained(config, cuda):
                loss, kept = _loss(outline, config, batch, kinds, pixel, meter)
                loss.backward()  # type: ignore[no-untyped-call]
                del loss
    # Parameters that a family does not use get no gradient and no moments.
    sizes = [p.grad.untyped_storage().nbytes() for p in learned if p.grad is not None]
    moments = 2 * sum(sizes) // (4 if config.optimizer == "adamw8bit" else 1)
    update, temporary = _adamw(sizes, cuda)
    peak = moments + max(meter.peak, meter.live + temporary)
    for parameter in learned:
        parameter.grad = None
    operations = meter.operations * (config.accumulate // passes) + update
    return StepCost(peak, kept, sum(sizes), moments, operations)


def _adamw(sizes: Sequence[int], foreach: bool) -> tuple[list[Operation], int]:
    """Operations of clipping and AdamW (torch 2.15) on parameters of these bytes, and the bytes they take meanwhile."""
    reading = [1, 2, 3, 2, 3, 3, 2, 2, 2, 4]  # norm, scale; decay, two moments in three, root, two of denominator, step
    if foreach:
        return [Operation("adamw", 0, times * sum(sizes)) for times in reading], sum(sizes)
    return [Operation("adamw", 0, times * size) for size in sizes for times in reading], 2 * max(sizes)


def decoder_activations(
    outline: Outline, config: ObjectiveConfig, batch: Batch, cuda: bool, tiny: TinyDecoder | None
) -> dict[str, int]:
    """Peak bytes of decoding with gradient and its backward pass, for a whole latent and for a window of a quarter of
    its area, as the decoder is and, where it can, with checkpoints; and for the window of the settings."""
    model = outline.model
    height, width = batch.size
    sizes = {"whole": batch.size, "quarter_area": (max(1, height // 2), max(1, width // 2))}
    if batch.window is not None:
        sizes["decode_crop"] = batch.window.size
    found: dict[str, int] = {}
    for checkpointed in (False, True):
        if checkpointed and (tiny is not None or config.decoder_checkpointing):
            break
        if checkpointed:
            try:
                checkpoint_decoder(model.vae)
            except InputError:
                break
        again = checkpointed or config.decoder_checkpointing
        for name, size in sizes.items():
            with Meter(model.vae, *([] if tiny is None else [tiny])) as meter, _as_trained(config, cuda):
                latents = outline.images(batch.rows, _channels(outline), *size).requires_grad_()
                before = meter.live
                meter.reset()
                image = model.decode(latents) if tiny is None else tiny(latents)
                image.square().mean().backward()
                del image
                found[name + ("_checkpointed" if again else "")] = meter.peak - before
    return found


def _loss(
    outline: Outline,
    config: ObjectiveConfig,
    batch: Batch,
    kinds: tuple[Kind, ...],
    pixel: PixelTerm,
    meter: Meter,
) -> tuple[Tensor, int]:
    """The loss of one pass, and the bytes that the denoiser left for its backward pass."""
    model = outline.model
    shape = (batch.rows, _channels(outline), *batch.size)
    z, eps = outline.images(*shape), outline.images(*shape)
    t = model.schedule.at(0.5, batch.rows)
    conditioning = outline.conditioning(batch.rows)
    noised = add_noise(model, z, eps, t, conditioning, kinds, pixel, None, batch.window)
    ready = meter.live
    answer = ask(model, model.denoiser, noised)
    kept = meter.live - ready
    known: dict[Kind, Tensor] = {}
    if _asks_reference(config):
        with torch.no_grad():
            known = errors(model, model.denoiser, noised, kinds, pixel)
    found = measure(model, answer, noised, kinds, pixel)
    total = outline.images(1).sum()
    for kind, error in found.items():
        if isinstance(config, PreferenceConfig):
            total = total + _preference(config, error, known.get(kind), answer)
        else:
            total = total + error.mean()
    return total, kept


def _preference(config: PreferenceConfig, error: Tensor, known: Tensor | None, answer: Answer) -> Tensor:
    """What the preference losses have in common, as far as it costs anything."""
    if config.loser_safety is not None:
        torch.autograd.grad(error.sum(), answer.output, retain_graph=True)
    winner, loser = (error if known is None else error - known).chunk(2)
    return -torch.nn.functional.logsigmoid(loser - winner).mean()


def _asks_reference(config: ObjectiveConfig) -> bool:
    return isinstance(config, PreferenceConfig) and config.method in WITH_REFERENCE and config.reference_draws is None


def _weights(outline: Outline, config: ObjectiveConfig, cuda: bool, tiny: TinyDecoder | None) -> dict[str, int]:
    """Bytes of weights by part."""
    model = outline.model
    # With adapters, the reference is the denoiser with its adapters switched off.
    copied = _asks_reference(config) and config.lora_rank is None
    return {
        "denoiser": size_of(model.denoiser),
        "vae": size_of(model.vae),
        "tiny_decoder": size_of(tiny),
        "text_encoders": size_of(*outline.text_encoders),
        "reference": size_of(model.denoiser) if copied else 0,
        "average": size_of(model.denoiser, trained=True) if config.ema is not None else 0,
    }


def _batch(config: ObjectiveConfig, outline: Outline) -> Batch:
    model = outline.model
    factor = int(model.pipeline.vae_scale_factor)
    height, width = model.resolution if config.resolution is None else (config.resolution, config.resolution)
    if height % model.side_multiple or width % model.side_multiple:
        raise InputError(f"resolution must be a multiple of {model.side_multiple} for this model, got {height}x{width}")
    size = height // factor, width // factor
    rows = config.batch_size
    if isinstance(config, PreferenceConfig) or (isinstance(config, ImageToImageConfig) and config.detail_preserver):
        rows *= 2
    window = None
    if config.decode_crop is not None:
        if not 0 < config.decode_crop <= min(height, width) or config.decode_crop % factor:
            raise InputError(
                f"decode_crop is a multiple of {factor} up to {min(height, width)}, got {config.decode_crop}"
            )
        side = config.decode_crop // factor
        if (side, side) != size:
            window = Window(torch.zeros(rows, 2, dtype=torch.int64), (side, side), size, config.crop_border)
    return Batch(rows, size, window)


def _tiny(folder: Path | None) -> TinyDecoder | None:
    if folder is None:
        return None
    with torch.device("meta"):
        return TinyDecoder(AutoencoderTiny.from_config(read_json(folder / "config.json")))


def _pixel(config: ObjectiveConfig, tiny: TinyDecoder | None) -> PixelTerm:
    if config.pixel.distance == "decoder_features":
        return PixelTerm(config.pixel.argument, None)
    return PixelTerm(config.pixel.argument, DISTANCES.get(config.pixel.distance, pixel_sft), decode=tiny)


def _module_of(pixel: PixelTerm) -> Sequence[nn.Module]:
    return [pixel.decode] if isinstance(pixel.decode, nn.Module) else []


def _channels(outline: Outline) -> int:
    config: Any = outline.model.vae.config
    return int(config.get("latent_channels") or config["z_dim"])


def _share(config: ObjectiveConfig, outline: Outline) -> float:
    """Of the training times, those within the pixel term's band."""
    t = outline.model.sample_timesteps(BAND_SAMPLES, torch.Generator().manual_seed(0))
    rows = rows_within(outline.model, t, config.pixel.band)
    return 1.0 if rows is None else len(rows) / BAND_SAMPLES


def _mean(config: ObjectiveConfig, full: float, latent: float, share: float) -> float:
    """Over steps with and without the pixel term."""
    return latent + (full - latent) * share / config.pixel_every


@contextmanager
def _as_trained(config: ObjectiveConfig, cuda: bool) -> Iterator[None]:
    """Precision and attention of the loop. Tensors without data are on the CPU, whose flash attention stands for that
    of CUDA: both keep the output and one number per query."""
    attention: AbstractContextManager[None] = fast_attention(torch.device("cpu"))
    if cuda:
        attention = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    dtype = torch.float16 if config.mixed_precision == "fp16" else torch.bfloat16
    with attention, torch.autocast("cpu", dtype, enabled=config.mixed_precision != "no"):
        yield


def _speed(config: ObjectiveConfig, cuda: bool) -> Throughput:
    if config.plan_tflops is not None:
        if not config.plan_tflops > 0:
            raise InputError(f"plan_tflops must be positive, got {config.plan_tflops}")
        return Stated(config.plan_tflops)
    if cuda and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here to measure; give plan_tflops, what yours reaches")
    return Measured(torch.device("cuda" if cuda else "cpu"), default_folder())
