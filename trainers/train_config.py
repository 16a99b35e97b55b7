"""The settings that all trainers share, and the run folder that they begin or continue."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch

from pixeval.catalog import find, select
from pixeval.errors import InputError
from pixeval.rescore import Evaluation, evaluation_metrics
from pixeval.runs import Run
from trainers.optimizers import OptimizerName, check_optimizer
from trainers.tables import DatasetConfig
from trainers.tracker import TrackerName, choose_tracker


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
    keep_last: int | None = None
    """Checkpoints that stay on disk; none for all."""
    keep_best: str | None = None
    """Metric of the evaluation whose best checkpoint stays too; best.json names it."""
    probe_every: int | None = None
    """Steps between two looks at held-out data, with fixed noise, for probes.jsonl; none for never."""
    probe_data: Path | None = None
    """What to look at, in the form of data; none for rows of data, which are then not trained on."""
    probe_rows: int = 16
    """Samples (pairs) that are looked at."""
    tripwires: bool = True
    """Stop when the loss explodes, and warn of rising winner errors, reward hacking and loss of diversity."""
    device: str = "auto"
    """auto, cpu or cuda."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic of the denoiser; weights, schedules and the VAE stay in float32. fp16, for older GPUs, scales the
    gradients."""
    optimizer: OptimizerName = "adamw"
    """adamw8bit keeps the moments in 8 bits (Dettmers et al., arXiv 2110.02861) and needs bitsandbytes."""
    shard: bool = False
    """With several processes: split weights, gradients and moments of the denoiser and its average over them (FSDP2),
    instead of a copy for each. The reference of dpo and ipo stays whole."""
    tracker: TrackerName | None = None
    """Where curves are drawn while training: tensorboard, wandb, trackio or none; by default TensorBoard where it is
    installed."""
    evaluate: str | None = None
    """Suite to generate and score at every checkpoint; none for no evaluation."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """How they are generated and scored."""
    self_test: bool = True
    """Refuse a model whose prediction fits better with its sign flipped or time reversed; off for untrained models."""


def check_values(config: TrainConfig) -> None:
    """Refuse values that work on no machine.

    Raises:
        InputError: naming the setting.
    """
    for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "keep_last", "probe_every", "probe_rows"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if not config.learning_rate > 0:
        raise InputError(f"learning_rate must be positive, got {config.learning_rate}")
    if not 0 <= config.weight_decay < math.inf:
        raise InputError(f"weight_decay must not be negative, got {config.weight_decay}")
    if not config.max_gradient_norm > 0:
        raise InputError(f"max_gradient_norm must be positive, got {config.max_gradient_norm}; give inf for no limit")
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
    if config.shard and (
        config.lora_rank is not None or config.optimizer != "adamw" or config.mixed_precision == "fp16"
    ):
        raise InputError("shard is for the whole denoiser, adamw, and mixed_precision no or bf16; leave out the others")
    if config.probe_data is not None and config.probe_every is None:
        raise InputError("probe_data is looked at every probe_every steps; give that too")


def check_settings(config: TrainConfig, trainer: str) -> None:
    """Refuse settings that cannot work here, or that do not continue what is in ``config.out``; writes nothing.

    Raises:
        InputError: naming the setting.
    """
    check_values(config)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch finds no CUDA device here; use cpu or auto")
    if config.mixed_precision == "fp16" and (config.device == "cpu" or not torch.cuda.is_available()):
        raise InputError("mixed_precision fp16 needs a CUDA device; use bf16 or no")
    check_optimizer(config.optimizer)
    choose_tracker(config.tracker)
    if config.keep_best is not None:
        _check_best(config.keep_best, config)
    if config.out.exists() and not config.out.is_dir():
        raise InputError(f"{config.out} is a file; give the folder of the run")
    if config.out.exists() and any(config.out.iterdir()):
        start_run(config, trainer)


def start_run(config: TrainConfig, trainer: str) -> Run:
    """Create or continue the run folder, with the settings in ``run.json``; after model and data proved usable."""
    return Run.create(config.out, "train", {"trainer": trainer, **asdict(config)})


def _check_best(metric: str, config: TrainConfig) -> None:
    spec = find(metric)
    if config.evaluate is None:
        raise InputError(f"keep_best {metric} is a metric of the evaluation; give evaluate, the suite to generate")
    if spec not in select(evaluation_metrics(config.evaluation)):
        raise InputError(f"keep_best {metric} is not among the metrics of the evaluation; add it to evaluation.metrics")
