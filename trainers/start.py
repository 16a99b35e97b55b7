"""How a training run begins, the same for every trainer: settings, model, data, checks, and only then the folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from pixeval.errors import InputError
from pixeval.runs import Run
from trainers.data import Skipped, Texts, batch_rows
from trainers.decoder_checkpoints import checkpoint_decoder
from trainers.families.detect import load
from trainers.flaw_maps import FlawMaps
from trainers.latent_diffusion import LatentDiffusion
from trainers.latents import Posterior
from trainers.objective import Composition, ObjectiveConfig, check_objective
from trainers.probes import check_sign
from trainers.train_config import TrainConfig, check_settings, start_run


class TrainingData(Protocol):
    """What the start of a run needs to know of its data."""

    @property
    def texts(self) -> Texts: ...
    @property
    def prompt(self) -> Tensor: ...
    @property
    def good(self) -> Posterior:
        """Latents that the model should be able to make: the images of SFT, the winners of pairs."""
        ...

    @property
    def skipped(self) -> tuple[Skipped, ...]: ...

    def __len__(self) -> int: ...


Data = TypeVar("Data", bound=TrainingData)
Read = Callable[[LatentDiffusion, Path, tuple[int, int], FlawMaps | None], Data]
"""(model, source, height and width, maker of flaw maps) -> latents and texts."""


@dataclass(frozen=True)
class Started(Generic[Data]):
    """A run that is ready to train."""

    accelerator: Accelerator
    model: LatentDiffusion
    data: Data
    run: Run
    composition: Composition


def start(config: ObjectiveConfig, trainer: str, read: Read[Data]) -> Started[Data]:
    """Check the settings, load model and data, refuse what cannot be trained, and create or continue the run folder.

    Args:
        config: all settings.
        trainer: its name in ``run.json``.
        read: of the data.

    Raises:
        InputError: unusable model, data, settings or disk; nothing is written then.
    """
    check_objective(config)
    check_settings(config, trainer)
    accelerator = make_accelerator(config)
    model = load(config.model).to(accelerator.device)
    if config.lora_rank is not None:
        model.adapt(config.lora_rank, config.lora_alpha, config.lora_targets, config.seed)
    if config.decoder_checkpointing:
        checkpoint_decoder(model.vae)
    resolution = training_resolution(model, config)
    flaws = FlawMaps(config.flaws, model.device) if config.flaws.wanted else None
    data = read(model, config.data, resolution, flaws)
    if config.self_test:
        rows = batch_rows(len(data), config.batch_size, config.seed, 0)
        check_sign(model, data.good.mean[rows].to(model.device), data.texts.rows(data.prompt[rows], model.device))
    run = Run(config.out)

    def record(weight: float) -> None:
        if accelerator.is_main_process:
            run.write_info({**run.info, "balanced_pixel_weight": weight})

    composition = Composition(config, model, data.texts.prompts, min(resolution), record, accelerator.num_processes)
    run = start_run(config, trainer)
    (run.path / "skipped.json").write_text(json.dumps([entry._asdict() for entry in data.skipped], indent=1) + "\n")
    return Started(accelerator, model, data, run, composition)


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
