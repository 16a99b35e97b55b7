"""What a training run will cost: peak memory, arithmetic and time of a step, before anything is loaded.

The step itself is run, forward, backward, optimiser, on tensors that hold no data (:mod:`trainers.outline`), and what
its operations need is counted (:mod:`trainers.meter`). Nothing is read but the configurations of the pipeline. For the
time, the step is rehearsed on random numbers (:mod:`trainers.rehearsal`).

Not in the figures: memory that kernels take for themselves, the CUDA context and fragmentation; rewards and LPIPS,
whose networks are not built (LPIPS is planned as a squared error); several processes, each of which costs this much,
and less memory with ``shard``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pixeval.errors import InputError
from pixeval.scoring.cache import default_folder
from trainers.decoder_checkpoints import checkpoint_decoder
from trainers.errors import KINDS, Kind, rows_within
from trainers.image_to_image import ImageToImageConfig, check_image_to_image
from trainers.meter import Meter, size_of
from trainers.objective import ObjectiveConfig, check_objective
from trainers.planned_step import PlannedStep
from trainers.preference import PreferenceConfig, check_preference
from trainers.rehearsal import Rehearsal
from trainers.sft import SftConfig, check_sft
from trainers.train_config import check_values

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
    flops: int
    """Of all products and convolutions."""
    signature: str
    """The same for the same operations in the same shapes."""


def plan(config: ObjectiveConfig) -> dict[str, Any]:
    """Predict peak memory, FLOPs and time per step; reads no weights and no data.

    Args:
        config: as it would be trained.

    Returns:
        Sizes in bytes, arithmetic in floating-point operations and times in seconds, as JSON can hold them.

    Raises:
        InputError: settings that contradict each other, or a model that is not understood.
    """
    check_objective(config)
    check_values(config)
    if isinstance(config, PreferenceConfig):
        check_preference(config)
    elif isinstance(config, ImageToImageConfig):
        check_image_to_image(config)
    elif isinstance(config, SftConfig):
        check_sft(config)
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    check_time(config, cuda)
    step = PlannedStep(config, cuda)
    model, batch, kinds = step.model, step.batch, KINDS[config.objective]
    full = simulate(step, kinds)
    latent = simulate(step, ("latent",)) if "pixel" in kinds else full
    weights = _weights(step)
    copies = weights["reference"] + weights["average"] + (0 if cuda else weights["text_encoders"])
    start = sum(weights[part] for part in ("denoiser", "vae", "cheaper_decoder", "text_encoders"))
    share = _share(step)
    seconds, source = _seconds(step, full, latent)
    times = {"step": _mean(config, *seconds, share), "latent_step": seconds[1]}
    return {
        "model": str(config.model),
        "family": step.outline.name,
        "device": "cuda" if cuda else "cpu",
        "precision": "float32" if config.mixed_precision == "no" else f"{config.mixed_precision} autocast",
        "objective": config.objective,
        "image": [side * int(model.pipeline.vae_scale_factor) for side in batch.size],
        "latents_per_pass": batch.rows,
        "passes_per_step": config.accumulate,
        "prompt_tokens": step.outline.prompt_length,
        "parameters": {
            "denoiser": sum(p.numel() for p in model.denoiser.parameters()),
            "trained": sum(p.numel() for p in step.learned),
            "vae": sum(p.numel() for p in model.vae.parameters()),
        },
        "memory": {
            **weights,
            "gradients": full.gradients,
            "optimiser": full.moments,
            "denoiser_activations": full.denoiser_activations,
            "pixel_term": max(0, full.peak - latent.peak),
        },
        "decoder_activations": decoder_activations(step) if "pixel" in kinds else {},
        "peak_memory": max(full.peak + copies, start),
        "peak_of_a_latent_step": max(latent.peak + copies, start),
        "flops": {"step": _mean(config, full.flops, latent.flops, share), "latent_step": latent.flops},
        "seconds": times,
        "latent_steps_per_step": times["step"] / times["latent_step"],
        "throughput": source,
    }


def simulate(step: PlannedStep, kinds: tuple[Kind, ...]) -> StepCost:
    """Run the passes of an optimiser step on tensors without data, and count them.

    Args:
        step: without data.
        kinds: errors that are measured.
    """
    config = step.config
    # A second pass finds the gradients of the first in memory; more of them are like the second.
    passes = min(config.accumulate, 2)
    with Meter(*step.modules) as meter:
        for _ in range(passes):
            with step.as_trained():
                noised = step.noised(kinds)
                before = meter.live
                answer = step.answer(noised)
                kept = meter.live - before
                loss = step.loss(kinds, noised, answer)
                loss.backward()  # type: ignore[no-untyped-call]
                del loss, noised, answer
    sizes = [p.grad.untyped_storage().nbytes() for p in step.learned if p.grad is not None]
    moments = 2 * sum(sizes) // (4 if config.optimizer == "adamw8bit" else 1)
    # What clipping and AdamW of torch 2.15 take meanwhile: of all parameters at once on CUDA, of each on the CPU.
    temporary = sum(sizes) if step.cuda else 2 * max(sizes)
    peak = moments + max(meter.peak, meter.live + temporary)
    for parameter in step.learned:
        parameter.grad = None
    flops = meter.flops * config.accumulate // passes
    return StepCost(peak, kept, sum(sizes), moments, flops, meter.signature)


def decoder_activations(step: PlannedStep) -> dict[str, int]:
    """Peak bytes of decoding with gradient and its backward pass, for a whole latent and for a window of a quarter of
    its area, as the decoder is and, where it can, with checkpoints; and for the window of the settings."""
    model, batch, cheaper = step.model, step.batch, step.cheaper_decoder
    height, width = batch.size
    sizes = {"whole": batch.size, "quarter_area": (max(1, height // 2), max(1, width // 2))}
    if batch.window is not None:
        sizes["decode_crop"] = batch.window.size
    found: dict[str, int] = {}
    for checkpointed in (False, True):
        if checkpointed and (cheaper is not None or step.config.decoder_checkpointing):
            break
        if checkpointed:
            try:
                checkpoint_decoder(model.vae)
            except InputError:
                break
        again = checkpointed or step.config.decoder_checkpointing
        for name, size in sizes.items():
            with Meter(*step.modules) as meter, step.as_trained():
                latents = step.outline.images(batch.rows, step.channels, *size).requires_grad_()
                before = meter.live
                meter.reset()
                image = model.decode(latents) if cheaper is None else cheaper(latents)
                image.square().mean().backward()
                del image
                found[name + ("_checkpointed" if again else "")] = meter.peak - before
    return found


def check_time(config: ObjectiveConfig, cuda: bool) -> None:
    """Refuse a plan whose time cannot be told.

    Raises:
        InputError: naming the setting.
    """
    if config.plan_tflops is not None and not config.plan_tflops > 0:
        raise InputError(f"plan_tflops must be positive, got {config.plan_tflops}")
    if config.plan_tflops is None and cuda and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here to rehearse on; give plan_tflops, what yours reaches")


def _seconds(step: PlannedStep, full: StepCost, latent: StepCost) -> tuple[tuple[float, float], str]:
    """Of a step with all terms and of a latent one, and where they are from."""
    config = step.config
    if config.plan_tflops is not None:
        rate = config.plan_tflops * 1e12
        return (full.flops / rate, latent.flops / rate), f"stated, {config.plan_tflops:g} TFLOP/s"
    rehearsal = Rehearsal(config, torch.device("cuda" if step.cuda else "cpu"), default_folder())
    kinds: Sequence[tuple[tuple[Kind, ...], StepCost]] = ((KINDS[config.objective], full), (("latent",), latent))
    times = [rehearsal.seconds(wanted, cost.signature) for wanted, cost in kinds]
    return (times[0], times[1] if full is not latent else times[0]), "rehearsed on random weights on this machine"


def _weights(step: PlannedStep) -> dict[str, int]:
    """Bytes of weights by part."""
    model, config = step.model, step.config
    # With adapters, the reference is the denoiser with its adapters switched off.
    copied = step.asks_reference and config.lora_rank is None
    return {
        "denoiser": size_of(model.denoiser),
        "vae": size_of(model.vae),
        "cheaper_decoder": size_of(step.cheaper_decoder),
        "text_encoders": size_of(*step.outline.text_encoders),
        "reference": size_of(model.denoiser) if copied else 0,
        "average": size_of(model.denoiser, trained=True) if config.ema is not None else 0,
    }


def _share(step: PlannedStep) -> float:
    """Of the training times, those within the pixel term's band."""
    t = step.model.sample_timesteps(BAND_SAMPLES, torch.Generator().manual_seed(0))
    rows = rows_within(step.model, t, step.config.pixel.band)
    return 1.0 if rows is None else len(rows) / BAND_SAMPLES


def _mean(config: ObjectiveConfig, full: float, latent: float, share: float) -> float:
    """Over steps with and without the pixel term."""
    return latent + (full - latent) * share / config.pixel_every
