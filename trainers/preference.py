"""Preference tuning by DPO, SimPO, IPO or MaPO, in latent space, in pixel space, or both: (4), (5), (6), (7).

Winner and loser of a pair share their noise and time, so that their errors differ by the images alone.
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.protocols import Scorer
from pixeval.runs import Run
from trainers.data import PairedLatents, mirrored_rows, paired_latents
from trainers.data_order import Order, drawn
from trainers.errors import Answer, Kind, Noised, add_noise, ask, errors, measure
from trainers.flaw_maps import rows_of
from trainers.held_out import HeldOut, Judged
from trainers.latent_diffusion import LatentDiffusion
from trainers.loop import OnCheckpoint, Probe, train
from trainers.lora import WithoutAdapters, adapted
from trainers.objective import Composition, ObjectiveConfig
from trainers.optimizer_step import Loss, Terms, fast_attention
from trainers.pair_draws import (
    REFERENCE_FILE,
    PairDraws,
    ReferenceErrors,
    draw_pairs,
    draws_of_pairs,
    reference_errors,
)
from trainers.pixel_losses import emphasis
from trainers.preference_losses import (
    CONVENTIONS,
    Preference,
    agreement,
    convert_beta,
    dpo,
    ipo,
    mapo,
    safe_loser_scale,
    scale_gradient,
    simpo,
)
from trainers.start import start

Method = Literal["dpo", "simpo", "ipo", "mapo"]

TRAINER = "preference"
BETA: dict[Method, float] = {"dpo": 1000.0, "simpo": 20.0, "ipo": 1000.0, "mapo": 0.1}
"""The paper states none. 1000 is Diffusion-DPO's 2000 for SD1.5 in our convention; SimPO's errors are not relative
to a reference and some fifty times larger, so that the same beta would saturate the sigmoid. 0.1 is that of MaPO's
code, where it is a weight."""
WITH_REFERENCE: tuple[Method, ...] = ("dpo", "ipo")


@dataclass(frozen=True)
class PreferenceConfig(ObjectiveConfig):
    """Preference tuning. Data: a folder of pairs written by ``pixeval pairs``."""

    method: Method = "simpo"
    """simpo is (5) and (6), without a reference model; dpo is (4), with the starting model as frozen reference;
    ipo is the squared form of dpo (arXiv 2310.12036); mapo is bounded and has none (arXiv 2406.06424)."""
    beta: float | None = None
    """Of the method; none for 1000 (dpo, ipo), 20 (simpo), 0.1 (mapo). The paper states none."""
    pixel_beta: float | None = None
    """Of the second term; none for the same as beta."""
    beta_convention: Literal["mean", "half_mean", "sum"] = "mean"
    """How beta is meant: for mean errors; for half of them, as in Diffusion-DPO (2000 for SD1.5, 5000 for SDXL); or
    for their sum over the elements. Means nothing to mapo."""
    margin: float = 0.0
    """What the logit must exceed to count as 0; 0 in the paper."""
    anchor: float = 0.0
    """Weight of the winner's own error beside the preference, in each space: SFT on winners; 0 in the paper."""
    loser_safety: float | None = None
    """Scale the loser's gradient so that the winner's error does not rise to first order (Diffusion-SDPO,
    arXiv 2511.03317, its mu: 0 to 1, higher is more careful); none for not, as in the paper."""
    reference_draws: int | None = None
    """For dpo and ipo: noises and times per pair, fixed for the run. The reference then answers each of them once,
    before training, and leaves memory; none for new ones at every step, and a reference that answers every time."""
    soft_labels: bool = False
    """Use the pairs' share of votes (conservative DPO); otherwise every preference is certain, as in the paper."""


class Compared(NamedTuple):
    """One term on a batch of n pairs; all of shape (n,)."""

    preference: Preference
    loss: Tensor
    """With the anchor; 0 outside the term's band."""
    winner_error: Tensor
    loser_error: Tensor


def train_preference(
    config: PreferenceConfig, on_checkpoint: OnCheckpoint | None = None, reward: Scorer | None = None
) -> Run:
    """Tune on preferences, or continue; returns the run, with its checkpoints in ``checkpoints/``.

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
    check_preference(config)
    begun = start(config, TRAINER, paired_latents, reward)
    accelerator = begun.accelerator
    with accelerator.main_process_first(), accelerator.autocast(), fast_attention(accelerator.device):
        reference = measure_reference(begun.model, begun.data, config, begun.composition, begun.run.path)
    loss = preference_loss(begun.model, begun.data, config, begun.composition, reference)
    model, composition = begun.model, begun.composition
    with accelerator.autocast(), fast_attention(accelerator.device):
        probe = None if begun.held_out is None else preference_probe(model, begun.held_out, config, composition)
    train(model, loss, begun.config, begun.run, accelerator, on_checkpoint, composition.weight, begun.describe, probe)
    return begun.run


def check_preference(config: PreferenceConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        InputError: naming the setting.
    """
    for name in ("beta", "pixel_beta"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise InputError(f"{name} must be positive, got {value}")
    if config.reference_draws is not None and config.method not in WITH_REFERENCE:
        raise InputError(f"reference_draws is for {' and '.join(WITH_REFERENCE)}; {config.method} has no reference")
    if config.reference_draws is not None and config.reference_draws < 1:
        raise InputError(f"reference_draws must be at least 1, got {config.reference_draws}")
    if config.reference_draws is not None and (config.dataset.buckets or config.dataset.flip):
        raise InputError("reference_draws are measured once, at one size; leave out dataset.buckets and dataset.flip")
    if config.dataset.ties == "half" and not config.soft_labels:
        raise InputError("dataset.ties half gives ties the soft label 0.5, which soft_labels makes use of; give both")
    if config.anchor < 0:
        raise InputError(f"anchor must not be negative, got {config.anchor}")
    if config.loser_safety is not None and not 0 <= config.loser_safety <= 1:
        raise InputError(f"loser_safety lies between 0 and 1, got {config.loser_safety}")
    if config.method == "mapo" and config.loser_safety is not None:
        # Its slopes in the two errors differ, which the bound does not account for; and it bounds the loser itself.
        raise InputError("loser_safety is for dpo, simpo and ipo; mapo bounds the loser by itself")
    if config.method == "mapo" and config.beta_convention != "mean":
        raise InputError("beta of mapo is a weight and has no conventions; leave beta_convention at mean")


class Comparison:
    """Errors of a batch to preferences; holds the frozen reference where the method has one.

    Args:
        model: its denoiser as it is now becomes the reference; with adapters, the denoiser without them.
        config: the settings, checked.
        composition: the terms.
        measured: the reference's errors are known already, and no reference is kept.
    """

    def __init__(
        self, model: LatentDiffusion, config: PreferenceConfig, composition: Composition, measured: bool = False
    ) -> None:
        self.model, self.config, self.composition = model, config, composition
        needed = config.method in WITH_REFERENCE and not measured
        self.reference: nn.Module | None = None
        if needed and adapted(model.denoiser):
            self.reference = WithoutAdapters(model.denoiser)
        elif needed:
            self.reference = copy.deepcopy(model.denoiser).requires_grad_(False).eval()

    def __call__(
        self,
        answer: Answer,
        noised: Noised,
        labels: Tensor | None,
        kinds: tuple[Kind, ...],
        known: dict[Kind, Tensor] | None = None,
    ) -> dict[Kind, Compared]:
        """Preferences by kind, of winners in the first half of the batch and losers in the second.

        Args:
            answer: of the model.
            noised: what it was asked.
            labels: soft labels, (n,), or None.
            kinds: of errors.
            known: errors of the reference, where they were measured before.
        """
        pixel = self.composition.pixel
        fixed: dict[Kind, Tensor] = known or {}
        if self.reference is not None:
            with torch.no_grad():
                fixed = errors(self.model, self.reference, noised, kinds, pixel)
        compared: dict[Kind, Compared] = {}
        for kind, error in measure(self.model, answer, noised, kinds, pixel).items():
            winner, loser = error.chunk(2)
            preferred = self._prefer(kind, winner, self._careful(error, answer), fixed.get(kind), noised, labels)
            loss = preferred.loss + self.config.anchor * winner
            if kind == "pixel" and noised.rows is not None:
                inside = torch.zeros_like(error).index_fill(0, noised.rows, 1)[: len(winner)]
                loss = loss * inside
            compared[kind] = Compared(preferred, loss, winner, loser)
        return compared

    def _careful(self, error: Tensor, answer: Answer) -> Tensor:
        """The losers' errors, their gradient scaled where ``loser_safety`` asks for it."""
        loser = error.chunk(2)[1]
        if self.config.loser_safety is None or not error.requires_grad:
            return loser
        of_winner, of_loser = torch.autograd.grad(error.sum(), answer.output, retain_graph=True)[0].chunk(2)
        return scale_gradient(loser, safe_loser_scale(of_winner, of_loser, self.config.loser_safety))

    def _prefer(
        self, kind: Kind, winner: Tensor, loser: Tensor, fixed: Tensor | None, noised: Noised, labels: Tensor | None
    ) -> Preference:
        beta, margin = self._beta(kind, noised), self.config.margin
        if fixed is not None:
            fixed_winner, fixed_loser = fixed.chunk(2)
            method = dpo if self.config.method == "dpo" else ipo
            return method(winner, loser, fixed_winner, fixed_loser, beta, labels, margin)
        return (simpo if self.config.method == "simpo" else mapo)(winner, loser, beta, labels, margin)

    def _beta(self, kind: Kind, noised: Noised) -> float:
        second = kind != "latent" and self.config.pixel_beta is not None
        beta = self.config.pixel_beta if second else self.config.beta
        if beta is None:
            return BETA[self.config.method]
        decoded = noised.decoded[0] if isinstance(noised.decoded, list) else noised.decoded
        sample = decoded if kind == "pixel" and decoded is not None else noised.z_t
        elements = sample[0].numel()
        if kind == "pixel" and decoded is not None and noised.window is not None:
            # The errors' mean stands for that of the whole image.
            elements = elements * math.prod(noised.window.whole) // math.prod(noised.window.size)
        return convert_beta(beta, CONVENTIONS[self.config.beta_convention], CONVENTIONS["mean"], elements)


def preference_probe(
    model: LatentDiffusion, data: PairedLatents, config: PreferenceConfig, composition: Composition
) -> Probe:
    """The look at held-out pairs; ``accuracy`` is the share of them on which the model agrees.

    Args:
        model: before its first step: its denoiser as it is now answers as the reference, once.
        data: the pairs.
        config: the settings.
        composition: the terms.
    """
    sides = {"winner": data.winner, "loser": data.loser}
    held_out = HeldOut(model, sides, data.prompt, data.buckets, data.texts, composition, config.seed, config.batch_size)
    kinds, pixel = composition.kinds, composition.pixel
    compare = Comparison(model, config, composition, measured=True)
    known: dict[int, dict[Kind, Tensor]] = {}
    if config.method in WITH_REFERENCE:
        with torch.no_grad():
            for number in held_out.passes:
                noised = held_out.noised(number, kinds, pixel)
                known[number] = errors(model, model.denoiser, noised, kinds, pixel)

    def judge(answer: Answer, noised: Noised, number: int) -> Judged:
        compared = compare(answer, noised, None, kinds, known.get(number))
        logits = {kind: term.preference.logit for kind, term in compared.items()}
        values = {f"{kind}_accuracy": agreement(logit) for kind, logit in logits.items()}
        values |= {f"{kind}_margin": logit for kind, logit in logits.items()}
        return Judged([term.loss.mean() for term in compared.values()], values)

    return lambda denoiser: held_out.look(denoiser, judge)


def preference_loss(
    model: LatentDiffusion,
    data: PairedLatents,
    config: PreferenceConfig,
    composition: Composition,
    reference: ReferenceErrors | None = None,
) -> Loss:
    """(7), or one of its terms, on batches of ``data``, as the loop calls it.

    Args:
        model: what is trained.
        data: the pairs.
        config: the settings.
        composition: the terms.
        reference: its errors on the fixed draws of ``reference_draws``; None to ask the reference for them.
    """
    compare = Comparison(model, config, composition, reference is not None)

    order = Order(data.buckets, config.batch_size, config.seed)

    def loss(denoiser: nn.Module, batch: int, generator: torch.Generator) -> Terms:
        read = order.batch(batch)
        rows = read.rows
        flips = drawn("flip", 0.5 if config.dataset.flip else 0.0, config.seed, read)
        kinds = composition.kinds_at(batch)
        known: dict[Kind, Tensor] | None = None
        if config.reference_draws is None:
            draws = draw_pairs(model, composition, _shape(data, rows), generator)
        else:
            numbers = torch.randint(config.reference_draws, (len(rows),), generator=generator)
            draws = _fixed_draws(model, data, config, composition, rows, numbers)
            if reference is not None:
                known = reference.of(rows, numbers, kinds, model.device)
        noised = noised_pairs(model, data, config, composition, rows, draws, kinds, flips)
        labels = data.soft_label[rows].to(model.device) if config.soft_labels else None
        answer = ask(model, denoiser, noised)
        compared = compare(answer, noised, labels, kinds, known)
        terms = composition.total([term.loss.mean() for term in compared.values()], answer)
        prompts = [data.texts.prompts[row] for row in data.prompt[rows].tolist()]
        return {**composition.rewarded(terms, model, answer, noised, prompts), **logged(compared)}

    return loss


def noised_pairs(
    model: LatentDiffusion,
    data: PairedLatents,
    config: PreferenceConfig,
    composition: Composition,
    rows: Tensor,
    draws: PairDraws,
    kinds: tuple[Kind, ...],
    flips: Tensor | None = None,
) -> Noised:
    """The winners and then the losers of these pairs with noise, 2n rows; mirrored where ``flips`` says so."""
    flips = torch.zeros(len(rows), dtype=torch.bool) if flips is None else flips
    mirrored = (None, None) if data.mirrored is None else data.mirrored
    winner = mirrored_rows(data.winner, mirrored[0], rows, flips).sample(draws.winner)
    loser = mirrored_rows(data.loser, mirrored[1], rows, flips).sample(draws.loser)
    z, eps, t = (
        torch.cat(halves).to(model.device) for halves in ((winner, loser), (draws.eps, draws.eps), (draws.t, draws.t))
    )
    conditioning = data.texts.rows(data.prompt[rows].repeat(2), model.device)
    weight = pair_weights(data, rows, config, flips)
    weight = None if weight is None else weight.to(model.device)
    window = None if draws.window is None else draws.window.repeat(2)
    return add_noise(model, z, eps, t, conditioning, kinds, composition.pixel, weight, window)


def measure_reference(
    model: LatentDiffusion, data: PairedLatents, config: PreferenceConfig, composition: Composition, folder: Path
) -> ReferenceErrors | None:
    """The errors of the model as it is now on all draws; None without ``reference_draws``.

    Args:
        model: before its first step.
        data: the pairs.
        config: the settings.
        composition: the terms.
        folder: where they are kept.
    """
    if config.reference_draws is None:
        return None

    def measured(pairs: Tensor, numbers: Tensor) -> dict[Kind, Tensor]:
        draws = _fixed_draws(model, data, config, composition, pairs, numbers)
        noised = noised_pairs(model, data, config, composition, pairs, draws, composition.kinds)
        return errors(model, model.denoiser, noised, composition.kinds, composition.pixel)

    with torch.no_grad():
        return reference_errors(
            folder / REFERENCE_FILE,
            len(data),
            config.reference_draws,
            config.batch_size,
            composition.kinds,
            measured,
            data.sources.digest,
        )


def _fixed_draws(
    model: LatentDiffusion,
    data: PairedLatents,
    config: PreferenceConfig,
    composition: Composition,
    rows: Tensor,
    numbers: Tensor,
) -> PairDraws:
    return draws_of_pairs(model, composition, _shape(data, rows), config.seed, rows.tolist(), numbers.tolist())


def pair_weights(
    data: PairedLatents, rows: Tensor, config: PreferenceConfig, flips: Tensor | None = None
) -> Tensor | None:
    """Weights of the pixels of winners, then losers, 2n x 1 x H x W; None where there are no flaw maps."""
    winner, loser = (rows_of(maps, rows, flips) for maps in (data.winner_flaws, data.loser_flaws))
    if winner is None or loser is None:
        return None
    return torch.cat([emphasis(winner, config.flaws.winner_kappa), emphasis(loser, config.flaws.kappa)])


def _shape(data: PairedLatents, rows: Tensor) -> tuple[int, ...]:
    """Of the latents of these winners, n x C x h x w."""
    return (len(rows), *data.winner.rows(rows[:1]).mean.shape[1:])


def logged(compared: dict[Kind, Compared]) -> Terms:
    """What the log says of every term, as means over the batch."""
    terms: Terms = {}
    for kind, (preference, loss, winner_error, loser_error) in compared.items():
        terms[f"{kind}_loss"] = loss.mean()
        terms[f"{kind}_accuracy"] = agreement(preference.logit).mean()
        terms[f"{kind}_margin"] = preference.logit.mean()
        terms[f"{kind}_winner_error"] = winner_error.mean()
        terms[f"{kind}_loser_error"] = loser_error.mean()
    return terms
