"""The one training loop: accelerate, AdamW, a log, checkpoints that are pipelines, and exact resumption.

A run folder gets ``metrics.jsonl`` (one line per step), ``checkpoints/step-000050/`` (complete pipelines) and
``state/`` (weights and optimiser of the last checkpoint). Everything random in a step is seeded by (seed, step), so
a killed run that is started again ends, on the CPU, in the bits of an uninterrupted one.
"""

import copy
import json
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from pixeval.errors import InputError
from pixeval.rescore import Evaluation
from pixeval.runs import Run
from trainers.checkpoint import load_state, recover_directory, save_state
from trainers.data import seeded
from trainers.latent_diffusion import LatentDiffusion

Terms = dict[str, Tensor]
"""Scalars of one batch; ``loss`` is minimised, the rest are logged."""
Loss = Callable[[nn.Module, int, torch.Generator], Terms]
"""(denoiser, number of the batch, generator of this batch) -> terms."""
OnCheckpoint = Callable[[int, Path], None]
"""(step, pipeline folder), after a checkpoint is complete; called again for the last one when a run is continued."""


class Stateful(Protocol):
    """Something that a checkpoint keeps beside weights and optimiser."""

    def state(self) -> dict[str, Any]:
        """What is kept, as JSON can hold it."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` gave."""
        ...


@dataclass(frozen=True)
class TrainConfig:
    """Settings that SFT and preference tuning share."""

    model: Path
    """Pipeline to start from: a folder that diffusers loads, or owner/name on the hub."""
    data: Path
    """What to train on."""
    out: Path
    """Run folder; given again with the same settings, the run continues."""
    steps: int = 200
    """Optimiser steps."""
    batch_size: int = 8
    """Samples (pairs, for preferences) in one pass, per process."""
    accumulate: int = 1
    """Passes per optimiser step."""
    learning_rate: float = 1e-5
    """Of AdamW, constant after the warm-up; the paper does not state one."""
    warmup: int = 0
    """Steps of linear warm-up."""
    weight_decay: float = 5e-6
    """The paper's."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights; when given, checkpoints hold the average."""
    seed: int = 0
    """Of data order, noise and times."""
    resolution: int | None = None
    """Side of the square training images in pixels; none for what the model was made for."""
    checkpoint_every: int = 50
    """Steps between checkpoints; the last step always makes one."""
    device: str = "auto"
    """auto, cpu or cuda."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Arithmetic of the denoiser; weights, schedules and the VAE stay in float32."""
    evaluate: str | None = None
    """Suite to generate and score at every checkpoint; none for no evaluation."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """How they are generated and scored."""
    self_test: bool = True
    """Refuse a model whose prediction fits better with its sign flipped; switch off for untrained models."""


def check_settings(config: TrainConfig, trainer: str) -> None:
    """Refuse settings that cannot work, or that do not continue what is in ``config.out``; writes nothing.

    Raises:
        InputError: naming the setting.
    """
    for name in ("steps", "batch_size", "accumulate", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(config, name)}")
    if not config.learning_rate > 0:
        raise InputError(f"learning_rate must be positive, got {config.learning_rate}")
    if config.ema is not None and not 0 < config.ema < 1:
        raise InputError(f"ema is a decay between 0 and 1, got {config.ema}")
    if config.resolution is not None and (config.resolution < 8 or config.resolution % 8):
        raise InputError(f"resolution must be a multiple of 8, got {config.resolution}")
    if config.device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda, got {config.device!r}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch finds no CUDA device here; use cpu or auto")
    if config.out.exists() and not config.out.is_dir():
        raise InputError(f"{config.out} is a file; give the folder of the run")
    if config.out.exists() and any(config.out.iterdir()):
        start_run(config, trainer)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """accelerate on the device of the settings; several processes when started by ``accelerate launch``."""
    # One process may train several times with different settings; accelerate keeps the first one's otherwise.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)


def training_resolution(model: LatentDiffusion, config: TrainConfig) -> tuple[int, int]:
    """Height and width of the training images.

    Raises:
        InputError: the model cannot make images of that size.
    """
    height, width = model.resolution if config.resolution is None else (config.resolution, config.resolution)
    if height % model.side_multiple or width % model.side_multiple:
        raise InputError(f"resolution must be a multiple of {model.side_multiple} for this model, got {height}x{width}")
    return height, width


def start_run(config: TrainConfig, trainer: str) -> Run:
    """Create or continue the run folder, with the settings in ``run.json``; after model and data proved usable."""
    return Run.create(config.out, "train", {"trainer": trainer, **asdict(config)})


def train(
    model: LatentDiffusion,
    loss: Loss,
    config: TrainConfig,
    run: Run,
    accelerator: Accelerator,
    on_checkpoint: OnCheckpoint | None = None,
    remembered: Stateful | None = None,
) -> None:
    """Train ``model.denoiser`` to ``config.steps``, from the last state in ``run`` where there is one.

    Args:
        model: its denoiser is trained in place.
        loss: of one batch.
        config: the settings.
        run: gets the log, the checkpoints and the state.
        accelerator: of :func:`make_accelerator`.
        on_checkpoint: called when a checkpoint is complete.
        remembered: what the loss carries from batch to batch; kept with the state and restored from it.

    Raises:
        InputError: a checkpoint or the log cannot be written.
        FloatingPointError: the loss is no longer a finite number; the last checkpoint is kept.
    """
    denoiser = model.denoiser.train()
    parameters = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    modules = {"denoiser": denoiser}
    if config.ema is not None:
        modules["average"] = copy.deepcopy(denoiser).eval()
    state, log = run.path / "state", run.path / "metrics.jsonl"
    done = 0
    if recover_directory(state):
        meta = load_state(state, modules, optimizer)
        done = int(meta["step"])
        if remembered is not None:
            remembered.restore(meta.get("loss", {}))
        if on_checkpoint is not None and accelerator.is_main_process:
            on_checkpoint(done, checkpoint_path(run, done))
    _truncate_log(log, done)
    wrapped, stepper = accelerator.prepare(denoiser, optimizer)
    progress = tqdm(total=config.steps, initial=done, unit="step", disable=not accelerator.is_main_process)
    with progress:
        for step in range(done, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            line = _optimizer_step(wrapped, stepper, loss, config, step, accelerator)
            if "average" in modules:
                update_average(modules["average"], denoiser, config.ema or 0.0, step)
            if accelerator.is_main_process:
                _append(log, line)
            progress.update()
            progress.set_postfix(loss=f"{line['loss']:.4g}", refresh=False)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                if accelerator.is_main_process:
                    path = checkpoint_path(run, step + 1)
                    model.save_pipeline(path, modules.get("average"))
                    kept = {} if remembered is None else {"loss": remembered.state()}
                    save_state(state, modules, optimizer, {"step": step + 1, **kept})
                    if on_checkpoint is not None:
                        on_checkpoint(step + 1, path)
                accelerator.wait_for_everyone()


def _optimizer_step(
    denoiser: nn.Module, stepper: Any, loss: Loss, config: TrainConfig, step: int, accelerator: Accelerator
) -> dict[str, float]:
    """One optimiser step over ``accumulate`` batches; returns the line for the log."""
    torch.manual_seed(int(seeded(config.seed, "layers", step).initial_seed()))
    stepper.zero_grad()
    collected: list[Terms] = []
    for part in range(config.accumulate):
        batch = (step * config.accumulate + part) * accelerator.num_processes + accelerator.process_index
        last = part == config.accumulate - 1
        unsynced = nullcontext() if last else accelerator.no_sync(denoiser)
        with unsynced, accelerator.autocast(), fast_attention(accelerator.device):
            terms = loss(denoiser, batch, seeded(config.seed, "batch", batch))
            if not bool(torch.isfinite(terms["loss"])):
                value = float(terms["loss"].detach())
                raise FloatingPointError(f"the loss is {value} at step {step + 1}; lower learning_rate")
            accelerator.backward(terms["loss"] / config.accumulate)
        collected.append({name: value.detach().float() for name, value in terms.items()})
    norm = accelerator.clip_grad_norm_(denoiser.parameters(), config.max_gradient_norm)
    stepper.step()
    means = torch.stack([torch.stack([terms[name] for terms in collected]).mean() for name in collected[0]])
    values = accelerator.reduce(means, reduction="mean").tolist()
    gradient_norm = math.nan if norm is None else float(norm)
    line = {"step": step + 1, **dict(zip(collected[0], values, strict=True))}
    return line | {"gradient_norm": gradient_norm, "learning_rate": learning_rate(config, step)}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then constant."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup))


def fast_attention(device: torch.device) -> AbstractContextManager[None]:
    """Plain matrix products for attention on the CPU, torch's own choice elsewhere.

    On the CPU the backward pass of torch's flash attention took 45 % of the time of a training step of the bundled DiT
    (torch 2.15, 64 tokens, 8 heads of 32).
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """``average <- decay * average + (1 - decay) * module``, with a smaller decay in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), module.parameters(), strict=True):
        mean.lerp_(value.detach(), 1 - decay)
    for copied, buffer in zip(average.buffers(), module.buffers(), strict=True):
        copied.copy_(buffer)


def checkpoint_path(run: Run, step: int) -> Path:
    """Folder of the pipeline after ``step`` steps."""
    return run.path / "checkpoints" / f"step-{step:06d}"


def read_log(run: Run) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``, in order of steps; a line that was cut off ends them."""
    file = run.path / "metrics.jsonl"
    lines: list[dict[str, float]] = []
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _append(log: Path, line: dict[str, float]) -> None:
    try:
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {log} ({error}). Make room and run the same command again.") from error


def _truncate_log(log: Path, step: int) -> None:
    """Drop the lines of steps that will be done again."""
    kept = [line for line in read_log(Run(log.parent)) if line["step"] <= step]
    partial = log.with_name(log.name + ".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
    os.replace(partial, log)
