"""Supervised fine-tuning on captioned images, in latent space, in pixel space, or both: (1), (2), (3)."""

from dataclasses import dataclass

import torch
from torch import nn

from pixeval.errors import InputError
from pixeval.protocols import Scorer
from pixeval.runs import Run
from trainers.data import CaptionedLatents, captioned_latents, mirrored_rows
from trainers.data_order import Order, drawn
from trainers.errors import Answer, Noised, add_noise, ask, measure
from trainers.flaw_maps import rows_of
from trainers.held_out import HeldOut, Judged
from trainers.latent_diffusion import LatentDiffusion
from trainers.loop import OnCheckpoint, Probe, train
from trainers.losses import min_snr_weight
from trainers.objective import Composition, ObjectiveConfig
from trainers.optimizer_step import Loss, Terms
from trainers.pixel_losses import emphasis
from trainers.start import start

TRAINER = "sft"


@dataclass(frozen=True)
class SftConfig(ObjectiveConfig):
    """Supervised fine-tuning. Data: a folder or Parquet file of images with captions."""

    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    min_snr: float | None = None
    """Weigh (1) by min-SNR with this gamma, 5 in arXiv 2303.09556: low noise counts less; none for not."""


def train_sft(config: SftConfig, on_checkpoint: OnCheckpoint | None = None, reward: Scorer | None = None) -> Run:
    """Fine-tune, or continue; returns the run, with its checkpoints in ``checkpoints/``.

    Args:
        config: all settings.
        on_checkpoint: called with (step, pipeline folder) when a checkpoint is complete, and again for the last one
            when a run is continued, because it may have been killed in between.
        reward: a differentiable Scorer, on the model's device, that is maximised as ``config.reward`` says; in the
            place of ``config.reward.metric``.

    Raises:
        InputError: unusable model, data, settings or disk.
        FloatingPointError: the loss is no longer finite.
    """
    check_sft(config)
    begun = start(config, TRAINER, captioned_latents, reward)
    model, composition = begun.model, begun.composition
    loss = sft_loss(model, begun.data, config, composition)
    probe = None if begun.held_out is None else sft_probe(model, begun.held_out, config, composition)
    run, weight = begun.run, composition.weight
    train(model, loss, begun.config, run, begun.accelerator, on_checkpoint, weight, begun.describe, probe)
    return run


def check_sft(config: SftConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        InputError: naming the setting.
    """
    if not 0 <= config.caption_dropout <= 1:
        raise InputError(f"caption_dropout is a share between 0 and 1, got {config.caption_dropout}")
    if config.min_snr is not None and not config.min_snr > 0:
        raise InputError(f"min_snr is gamma and must be positive, got {config.min_snr}")


def sft_probe(model: LatentDiffusion, data: CaptionedLatents, config: SftConfig, composition: Composition) -> Probe:
    """The look at held-out samples."""
    sides = {"": data.posterior}
    held_out = HeldOut(model, sides, data.prompt, data.buckets, data.texts, composition, config.seed, config.batch_size)

    def judge(answer: Answer, noised: Noised, number: int) -> Judged:
        found = measure(model, answer, noised, composition.kinds, composition.pixel)
        return Judged([error.mean() for error in found.values()], {})

    return lambda denoiser: held_out.look(denoiser, judge)


def sft_loss(model: LatentDiffusion, data: CaptionedLatents, config: SftConfig, composition: Composition) -> Loss:
    """The objective of ``config`` on batches of ``data``, as the loop calls it."""

    order = Order(data.buckets, config.batch_size, config.seed)

    def loss(denoiser: nn.Module, batch: int, generator: torch.Generator) -> Terms:
        read = order.batch(batch)
        rows = read.rows
        flips = drawn("flip", 0.5 if config.dataset.flip else 0.0, config.seed, read)
        posterior = mirrored_rows(data.posterior, data.mirrored, rows, flips)
        shape = posterior.mean.shape
        z = posterior.sample(torch.randn(shape, generator=generator))
        eps = torch.randn(shape, generator=generator)
        t = model.sample_timesteps(len(rows), generator, (shape[-2], shape[-1]))
        dropped = drawn("caption", config.caption_dropout, config.seed, read)
        kinds = composition.kinds_at(batch)
        window = composition.window(len(rows), shape[-2:], generator)
        prompt = data.prompt[rows].masked_fill(dropped, 0)
        marks = rows_of(data.flaws, rows, flips)
        noised = add_noise(
            model,
            z.to(model.device),
            eps.to(model.device),
            t.to(model.device),
            data.texts.rows(prompt, model.device),
            kinds,
            composition.pixel,
            None if marks is None else emphasis(marks.to(model.device), config.flaws.kappa),
            window,
        )
        answer = ask(model, denoiser, noised)
        found = measure(model, answer, noised, kinds, composition.pixel)
        means = {kind: error.mean() for kind, error in found.items()}
        weighted = dict(means)
        if config.min_snr is not None and "latent" in found:
            a, s = model.coefficients(noised.t, 1)
            weighted["latent"] = (min_snr_weight(a, s, config.min_snr) * found["latent"]).mean()
        terms = composition.total(list(weighted.values()), answer)
        prompts = [data.texts.prompts[row] for row in prompt.tolist()]
        terms = composition.rewarded(terms, model, answer, noised, prompts)
        return {**terms, **{f"{kind}_error": mean for kind, mean in means.items()}}

    return loss
