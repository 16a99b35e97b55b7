"""The one training loop: accelerate, AdamW, a log, checkpoints that are pipelines, and exact resumption.

A run folder gets ``metrics.jsonl`` (one line per step), ``checkpoints/step-000050/`` (complete pipelines) and
``state/`` (weights and optimiser of the last checkpoint). Everything random in a step is seeded by (seed, step), so
a killed run that is started again ends, on the CPU, in the bits of an uninterrupted one.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from pixeval.runs import Run
from trainers.checkpoint import Stateful, load_state, recover_directory, save_state
from trainers.latent_diffusion import LatentDiffusion
from trainers.lora import copy_of_trained
from trainers.optimizer_step import Loss, learning_rate, optimizer_step, update_average
from trainers.train_config import TrainConfig
from trainers.training_log import append, truncate_log

OnCheckpoint = Callable[[int, Path], None]
"""(step, pipeline folder), after a checkpoint is complete; called again for the last one when a run is continued."""


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
        modules["average"] = copy_of_trained(denoiser).eval()
    state, log = run.path / "state", run.path / "metrics.jsonl"
    done = 0
    if recover_directory(state):
        meta = load_state(state, modules, optimizer)
        done = int(meta["step"])
        if remembered is not None:
            remembered.restore(meta.get("loss", {}))
        if on_checkpoint is not None and accelerator.is_main_process:
            on_checkpoint(done, checkpoint_path(run, done))
    truncate_log(log, done)
    wrapped, stepper = accelerator.prepare(denoiser, optimizer)
    progress = tqdm(total=config.steps, initial=done, unit="step", disable=not accelerator.is_main_process)
    with progress:
        for step in range(done, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            line = optimizer_step(wrapped, stepper, loss, config, step, accelerator)
            if "average" in modules:
                update_average(modules["average"], denoiser, config.ema or 0.0, step)
            if accelerator.is_main_process:
                append(log, line)
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


def checkpoint_path(run: Run, step: int) -> Path:
    """Folder of the pipeline after ``step`` steps."""
    return run.path / "checkpoints" / f"step-{step:06d}"
