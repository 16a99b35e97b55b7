"""Supervised fine-tuning on captioned images, in latent space, in pixel space, or both: (1), (2), (3)."""

import json
from dataclasses import dataclass

import torch
from torch import nn

from pixeval.errors import InputError
from pixeval.runs import Run
from trainers.data import CaptionedLatents, batch_rows, captioned_latents
from trainers.errors import KINDS, PAPER_WEIGHT, Objective, add_noise, errors
from trainers.families.detect import load
from trainers.latent_diffusion import LatentDiffusion
from trainers.loop import (
    Loss,
    OnCheckpoint,
    Terms,
    TrainConfig,
    check_settings,
    make_accelerator,
    start_run,
    train,
    training_resolution,
)
from trainers.losses import weighted_sum
from trainers.probes import check_sign

TRAINER = "sft"


@dataclass(frozen=True)
class SftConfig(TrainConfig):
    """Supervised fine-tuning. Data: a folder or Parquet file of images with captions."""

    objective: Objective = "both"
    """latent is (1), pixel is (2), both is (3); control is (3) with the re-noised latents compared, not decoded."""
    pixel_weight: float | None = None
    """lambda of (3); none for the paper's: 8 for a DiT, 2 for a U-Net."""
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""


def train_sft(config: SftConfig, on_checkpoint: OnCheckpoint | None = None) -> Run:
    """Fine-tune, or continue; returns the run, with its checkpoints in ``checkpoints/``.

    Args:
        config: all settings.
        on_checkpoint: called with (step, pipeline folder) when a checkpoint is complete, and again for the last one
            when a run is continued, because it may have been killed in between.

    Raises:
        InputError: unusable model, data, settings or disk.
        FloatingPointError: the loss is no longer finite.
    """
    if not 0 <= config.caption_dropout <= 1:
        raise InputError(f"caption_dropout is a share between 0 and 1, got {config.caption_dropout}")
    check_settings(config, TRAINER)
    accelerator = make_accelerator(config)
    model = load(config.model).to(accelerator.device)
    data = captioned_latents(model, config.data, training_resolution(model, config))
    if config.self_test:
        rows = batch_rows(len(data), config.batch_size, config.seed, 0)
        check_sign(model, data.posterior.mean[rows].to(model.device), data.texts.rows(data.prompt[rows], model.device))
    run = start_run(config, TRAINER)
    (run.path / "skipped.json").write_text(json.dumps([entry._asdict() for entry in data.skipped], indent=1) + "\n")
    train(model, sft_loss(model, data, config), config, run, accelerator, on_checkpoint)
    return run


def sft_loss(model: LatentDiffusion, data: CaptionedLatents, config: SftConfig) -> Loss:
    """The objective of ``config`` on batches of ``data``, as the loop calls it."""
    kinds = KINDS[config.objective]
    weight = PAPER_WEIGHT[model.backbone] if config.pixel_weight is None else config.pixel_weight

    def loss(denoiser: nn.Module, batch: int, generator: torch.Generator) -> Terms:
        rows = batch_rows(len(data), config.batch_size, config.seed, batch)
        shape = data.posterior.mean[rows].shape
        z = data.posterior.rows(rows).sample(torch.randn(shape, generator=generator))
        eps = torch.randn(shape, generator=generator)
        t = model.sample_timesteps(len(rows), generator)
        dropped = torch.rand(len(rows), generator=generator) < config.caption_dropout
        conditioning = data.texts.rows(data.prompt[rows].masked_fill(dropped, 0), model.device)
        noised = add_noise(model, z.to(model.device), eps.to(model.device), t.to(model.device), conditioning, kinds)
        means = {kind: error.mean() for kind, error in errors(model, denoiser, noised, kinds).items()}
        first, *rest = means.values()
        total = weighted_sum(first, rest[0], weight) if rest else first
        return {"loss": total, **{f"{kind}_error": mean for kind, mean in means.items()}}

    return loss
