"""Preference tuning by DPO or SimPO, in latent space, in pixel space, or both: (4), (5), (6), (7).

Winner and loser of a pair share their noise and time, so that their errors differ by the images alone.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.runs import Run
from trainers.data import PairedLatents, batch_rows, paired_latents
from trainers.errors import KINDS, PAPER_WEIGHT, Kind, Noised, Objective, add_noise, errors
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
from trainers.losses import Preference, agreement, dpo, simpo, weighted_sum
from trainers.probes import check_sign

Compare = Callable[[nn.Module, Noised, Tensor | None], dict[Kind, tuple[Preference, Tensor, Tensor]]]
"""(denoiser, winners then losers, soft labels) -> by kind: preference, winner errors, loser errors."""

TRAINER = "preference"
BETA = {"dpo": 1000.0, "simpo": 20.0}
"""The paper states none. 1000 is Diffusion-DPO's 2000 for SD1.5 in our convention; SimPO's errors are not relative
to a reference and some fifty times larger, so that the same beta would saturate the sigmoid."""


@dataclass(frozen=True)
class PreferenceConfig(TrainConfig):
    """Preference tuning. Data: a folder of pairs written by ``pixeval pairs``."""

    method: Literal["dpo", "simpo"] = "simpo"
    """dpo is (4), with the starting model as frozen reference; simpo is (5) and (6), without one."""
    objective: Objective = "both"
    """latent, pixel, or both as in (7); control is (7) with the re-noised latents compared, not decoded."""
    pixel_weight: float | None = None
    """mu of (7); none for the paper's: 8 for a DiT, 2 for a U-Net."""
    beta: float | None = None
    """For errors that are means over elements; none for 1000 (dpo) or 20 (simpo). The paper states none."""
    soft_labels: bool = False
    """Use the pairs' share of votes (conservative DPO); otherwise every preference is certain, as in the paper."""


def train_preference(config: PreferenceConfig, on_checkpoint: OnCheckpoint | None = None) -> Run:
    """Tune on preferences, or continue; returns the run, with its checkpoints in ``checkpoints/``.

    Args:
        config: all settings.
        on_checkpoint: called with (step, pipeline folder) when a checkpoint is complete, and again for the last one
            when a run is continued, because it may have been killed in between.

    Raises:
        InputError: unusable model, data, settings or disk.
        FloatingPointError: the loss is no longer finite.
    """
    if config.beta is not None and not config.beta > 0:
        raise InputError(f"beta must be positive, got {config.beta}")
    check_settings(config, TRAINER)
    accelerator = make_accelerator(config)
    model = load(config.model).to(accelerator.device)
    data = paired_latents(model, config.data, training_resolution(model, config))
    if config.self_test:
        rows = batch_rows(len(data), config.batch_size, config.seed, 0)
        check_sign(model, data.winner.mean[rows].to(model.device), data.texts.rows(data.prompt[rows], model.device))
    run = start_run(config, TRAINER)
    compare = {"dpo": compare_dpo, "simpo": compare_simpo}[config.method](model, config)
    train(model, preference_loss(model, data, config, compare), config, run, accelerator, on_checkpoint)
    return run


def compare_dpo(model: LatentDiffusion, config: PreferenceConfig) -> Compare:
    """(4) on every error of the objective; the reference is a frozen copy of the model as it is now."""
    kinds = KINDS[config.objective]
    beta = BETA["dpo"] if config.beta is None else config.beta
    reference = copy.deepcopy(model.denoiser).requires_grad_(False).eval()

    def compare(
        denoiser: nn.Module, noised: Noised, labels: Tensor | None
    ) -> dict[Kind, tuple[Preference, Tensor, Tensor]]:
        with torch.no_grad():
            fixed = errors(model, reference, noised, kinds)
        compared: dict[Kind, tuple[Preference, Tensor, Tensor]] = {}
        for kind, error in errors(model, denoiser, noised, kinds).items():
            (winner, loser), (fixed_winner, fixed_loser) = error.chunk(2), fixed[kind].chunk(2)
            compared[kind] = dpo(winner, loser, fixed_winner, fixed_loser, beta, labels), winner, loser
        return compared

    return compare


def compare_simpo(model: LatentDiffusion, config: PreferenceConfig) -> Compare:
    """(5) on latent and (6) on pixel errors."""
    kinds = KINDS[config.objective]
    beta = BETA["simpo"] if config.beta is None else config.beta

    def compare(
        denoiser: nn.Module, noised: Noised, labels: Tensor | None
    ) -> dict[Kind, tuple[Preference, Tensor, Tensor]]:
        compared: dict[Kind, tuple[Preference, Tensor, Tensor]] = {}
        for kind, error in errors(model, denoiser, noised, kinds).items():
            winner, loser = error.chunk(2)
            compared[kind] = simpo(winner, loser, beta, labels), winner, loser
        return compared

    return compare


def preference_loss(model: LatentDiffusion, data: PairedLatents, config: PreferenceConfig, compare: Compare) -> Loss:
    """(7), or one of its terms, on batches of ``data``, as the loop calls it."""
    kinds = KINDS[config.objective]
    weight = PAPER_WEIGHT[model.backbone] if config.pixel_weight is None else config.pixel_weight

    def loss(denoiser: nn.Module, batch: int, generator: torch.Generator) -> Terms:
        rows = batch_rows(len(data), config.batch_size, config.seed, batch)
        shape = data.winner.mean[rows].shape
        winner, loser = (
            side.rows(rows).sample(torch.randn(shape, generator=generator)) for side in (data.winner, data.loser)
        )
        eps = torch.randn(shape, generator=generator)
        t = model.sample_timesteps(len(rows), generator)
        z, eps, t = (torch.cat(halves).to(model.device) for halves in ((winner, loser), (eps, eps), (t, t)))
        conditioning = data.texts.rows(data.prompt[rows].repeat(2), model.device)
        noised = add_noise(model, z, eps, t, conditioning, kinds)
        labels = data.soft_label[rows].to(model.device) if config.soft_labels else None
        compared = compare(denoiser, noised, labels)
        first, *rest = (preference.loss.mean() for preference, _, _ in compared.values())
        terms = {"loss": weighted_sum(first, rest[0], weight) if rest else first}
        for kind, (preference, winner_error, loser_error) in compared.items():
            terms[f"{kind}_loss"] = preference.loss.mean()
            terms[f"{kind}_accuracy"] = agreement(preference.logit).mean()
            terms[f"{kind}_margin"] = preference.logit.mean()
            terms[f"{kind}_winner_error"] = winner_error.mean()
            terms[f"{kind}_loser_error"] = loser_error.mean()
        return terms

    return loss
