"""The settings that all trainers share, and the run folder that they begin or continue."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch

from pixeval.errors import InputError
from pixeval.rescore import Evaluation
from pixeval.runs import Run
from trainers.tables import DatasetConfig


@dataclass(frozen=True)
class TrainConfig:
    """Settings that SFT and preference tuning share."""

    model: Path
    """Pipeline to start from: a folder that diffusers loads, or owner/name on the hub."""
    data: Path
    """What to train on."""
    out: Path
    """Run folder; given again with the same settings, the run continues."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    """What of the data is read, and how."""
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
    lora_rank: int | None = None
    """Train low-rank adapters of this rank and leave the denoiser's weights as they are; none for all weights."""
    lora_alpha: float | None = None
    """Adapters are scaled by lora_alpha / lora_rank; none for 1."""
    lora_targets: tuple[str, ...] = ()
    """Ends of the names of the layers that get adapters; none for the projections of every attention."""
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
    if config.dataset.max_rows is not None and config.dataset.max_rows < 1:
        raise InputError(f"dataset.max_rows must be at least 1, got {config.dataset.max_rows}")
    if config.lora_rank is not None and config.lora_rank < 1:
        raise InputError(f"lora_rank must be at least 1, got {config.lora_rank}")
    if config.lora_rank is None and (config.lora_alpha is not None or config.lora_targets):
        raise InputError("lora_alpha and lora_targets belong to adapters; give lora_rank as well")
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


def start_run(config: TrainConfig, trainer: str) -> Run:
    """Create or continue the run folder, with the settings in ``run.json``; after model and data proved usable."""
    return Run.create(config.out, "train", {"trainer": trainer, **asdict(config)})
