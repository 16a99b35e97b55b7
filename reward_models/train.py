"""``pixeval reward train``: a reward model from votes or preference pairs.

The output folder holds the model (see :mod:`reward_models.model`), ``metrics.jsonl`` (a line every ten steps),
``settings.json``, and while training goes on ``state/``. A killed command that is given again goes on from there and,
on the CPU, ends in the same bits.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from tqdm import tqdm

from pixeval.errors import InputError
from pixeval.records import QUESTIONS
from pixeval.scoring.cache import Cache, open_cache
from reward_models.adapters import Adaptation, adapter_parameters, image_side
from reward_models.bradley_terry import negative_log_likelihood
from reward_models.calibrate import LEAST, fit_calibration, folded
from reward_models.inputs import Frozen, Rows, Table, Tuned, readable, tabulate, view_features
from reward_models.judgements import Judgement, half_of, read_judgements, reliabilities, weighted
from reward_models.model import HEADS, OVERALL, Calibration, Design, RewardModel
from reward_models.views import Detail, FlawView
from trainers.checkpoint import load_state, recover_directory, save_state
from trainers.training_log import append, truncate_log

LOG_EVERY = 10
NO_TIES = -20.0
"""Logarithm of the weight of ties where none was seen."""


@dataclass(frozen=True)
class RewardTrainConfig:
    """Train a reward model on votes or preference pairs."""

    pairs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Data sets of 'pixeval pairs', runs with votes (all that were compared with each other), or tables of choices."""
    out: Path
    """Folder of the model; given again with the same settings, the training continues."""
    encoder: str = "bundled"
    """'bundled', an open_clip folder or name (CLIP, SigLIP), 'hf-hub:owner/model', or 'dino:SOURCE' for images only."""
    detail: tuple[Detail, ...] = ("crops", "flaws")
    """What is seen beside the whole image at the encoder's size: crops at full resolution, flaw detectors."""
    members: int = 5
    """Heads of the ensemble, from which the uncertainty comes."""
    hidden: int = 0
    """Width of a hidden layer in each head; 0 for linear heads."""
    lora_rank: int | None = None
    """Tune the image encoder too, by adapters of this rank; none for a frozen encoder, whose features are cached."""
    steps: int = 400
    """Optimiser steps."""
    batch_size: int = 512
    """Comparisons in a step; take far fewer with lora_rank."""
    learning_rate: float = 0.03
    """Of Adam for the heads, falling to zero on a cosine."""
    lora_learning_rate: float = 3e-4
    """Of Adam for the adapters."""
    penalty: float = 3e-3
    """On the squared weights of the heads."""
    held_out: float = 0.2
    """Share of the prompts that is not trained on: the temperature, the isotonic map and the reported accuracy are from
    it."""
    trust_annotators_alike: bool = False
    """Count all votes alike, instead of each annotator's by how often they agree with others."""
    checkpoint_every: int = 100
    """Steps between saved states."""
    seed: int = 0
    """Of bootstrap samples, order and adapters."""
    device: str = "cpu"
    """Where it is trained: cpu, cuda."""
    cache: str = "default"
    """Folder of the feature cache, shared with 'pixeval score', or 'none'."""


def train(config: RewardTrainConfig) -> dict[str, Any]:
    """Carry out ``pixeval reward train``; returns what ``reward.json`` keeps as facts, and ``out``.

    Raises:
        InputError: bad settings, pairs or encoder, or another model in the folder.
    """
    _check(config)
    begun = _begin(config)
    if begun is not None:
        return begun
    judgements = read_judgements(config.pairs)
    model = fit(judgements, config, open_cache(config.cache), config.out, progress=True)
    model.save(config.out)
    shutil.rmtree(config.out / "state", ignore_errors=True)
    return {"out": str(config.out), **model.facts}


def design_of(config: RewardTrainConfig) -> Design:
    """What is built under these settings."""
    lora = Adaptation(config.lora_rank) if config.lora_rank is not None else None
    return Design(config.encoder, config.detail, config.members, config.hidden, lora)


def fit(
    judgements: Sequence[Judgement],
    config: RewardTrainConfig,
    cache: Cache | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> RewardModel:
    """A trained and calibrated model.

    Args:
        judgements: to train on, and for the held-out part to calibrate on.
        config: its ``pairs``, ``out`` and ``cache`` are not looked at.
        cache: of features.
        folder: for the log and the state; none for neither.
        progress: shown on stderr.

    Raises:
        InputError: fewer than two prompts, or no pair whose images can both be read.
    """
    model = RewardModel.new(design_of(config), config.device, config.seed)
    views = {"whole": model.encoder, **model.views}
    if config.lora_rank is not None:  # the adapters change nothing yet; so this tells which images can be read
        views = {name: view for name, view in views.items() if name == "whole" or isinstance(view, FlawView)}
    pictures = {p.sha256: p for j in judgements for p in (j.first, j.second)}
    features, reasons = view_features(views, pictures.values(), cache, progress)
    kept = readable(judgements, reasons)
    held = [j for j in kept if half_of(j.prompt, config.held_out, "calibrate")]
    learned = [j for j in kept if not half_of(j.prompt, config.held_out, "calibrate")]
    if not learned or not held:
        raise InputError(
            f"{len({j.prompt for j in kept})} prompts with readable pairs cannot be split into a part to train on and "
            "a part to calibrate on; give more"
        )
    trust = {} if config.trust_annotators_alike else reliabilities(learned)
    ordered = [*weighted(learned, trust), *held]
    table = tabulate(ordered)
    frozen = {name: rows for name, rows in features.items() if name != "whole"}
    inputs: Rows = Frozen(model, table, features) if config.lora_rank is None else Tuned(model, table, frozen)
    training = _Training(model, ordered[: len(ordered) - len(held)], table, inputs, config, folder)
    training.run(progress)
    _finish(model, ordered, len(held), table, inputs, {"annotators": trust, "unreadable": reasons})
    return model.frozen()


class _Training:
    """The loop; every random number follows from (seed, step)."""

    def __init__(
        self,
        model: RewardModel,
        judgements: Sequence[Judgement],
        table: Table,
        inputs: Rows,
        config: RewardTrainConfig,
        folder: Path | None,
    ) -> None:
        self.model, self.table, self.inputs, self.config, self.folder = model, table, inputs, config, folder
        self.judgements = judgements
        device = model.encoder.device
        self.outcomes = torch.tensor([j.shares for j in judgements], device=device)
        self.weights = _question_weights(judgements).to(device)
        self.draws = _bootstrap([j.prompt for j in judgements], config.members, config.seed).to(device)
        self.share = (self.draws[:, :, None] * self.weights[:, None]).mean(0).clamp_min(1e-9)
        self.tied = ((self.outcomes[:, 1:2] > 0) & (self.weights > 0)).any(0)
        adapters = adapter_parameters(model.encoder)
        groups: list[dict[str, Any]] = [{"params": list(model.heads.parameters()), "lr": config.learning_rate}]
        if adapters:
            groups.append({"params": adapters, "lr": config.lora_learning_rate})
        self.optimizer = torch.optim.Adam(groups)
        self.modules: dict[str, nn.Module] = {"heads": model.heads}
        if adapters:
            self.modules["encoder"] = image_side(model.encoder)

    def run(self, progress: bool) -> None:
        """Train to the last step."""
        done = self._resume()
        if done == 0:
            with torch.no_grad():
                rows = torch.unique(torch.cat((self._rows(self.table.first), self._rows(self.table.second))))
                self.model.heads.standardise(torch.cat([self.inputs(part) for part in rows.split(256)]))
        bar = tqdm(range(done, self.config.steps), initial=done, total=self.config.steps, file=sys.stderr, unit="step")
        bar.disable = not progress
        for step in bar:
            loss = self._advance(step)
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            last = step + 1 == self.config.steps
            if self.folder is not None and ((step + 1) % LOG_EVERY == 0 or last):
                append(self.folder / "metrics.jsonl", {"step": step + 1, "loss": loss})
            if self.folder is not None and ((step + 1) % self.config.checkpoint_every == 0 or last):
                save_state(self.folder / "state", self.modules, self.optimizer, {"step": step + 1})

    def _rows(self, side: Tensor) -> Tensor:
        return side[: len(self.judgements)]

    def _resume(self) -> int:
        if self.folder is None:
            return 0
        done = 0
        recover_directory(self.folder / "state")
        if (self.folder / "state").exists():
            done = int(load_state(self.folder / "state", self.modules, self.optimizer)["step"])
        truncate_log(self.folder / "metrics.jsonl", done)
        return done

    def _advance(self, step: int) -> float:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        size = min(self.config.batch_size, len(self.judgements))
        batch = torch.randperm(len(self.judgements), generator=generator)[:size]
        both = self.inputs(torch.cat((self.table.first[batch], self.table.second[batch])))
        rewards = self.model.heads(both)
        differences = rewards[:size] - rewards[size:]
        log_nu = self.model.heads.log_nu.masked_fill(~self.tied, NO_TIES)
        losses = negative_log_likelihood(differences, log_nu, self.outcomes[batch, None, None])
        counts = self.draws[batch][:, :, None] * self.weights[batch][:, None]
        loss = (losses * counts / self.share).mean(0)[:, self.weights.sum(0) > 0].sum()
        total = loss + self.config.penalty * self.model.heads.penalty()
        for group, rate in zip(self.optimizer.param_groups, self._rates(), strict=False):
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / self.config.steps))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.model.heads.constrain()
        return float(loss.detach()) / self.config.members

    def _rates(self) -> tuple[float, float]:
        return self.config.learning_rate, self.config.lora_learning_rate


def _question_weights(judgements: Sequence[Judgement]) -> Tensor:
    """n x Q: the weight of each judgement under its own question and under the overall one."""
    rows = torch.zeros(len(judgements), len(HEADS))
    for row, judgement in zip(rows, judgements, strict=True):
        row[HEADS.index(OVERALL)] = judgement.weight
        if judgement.question in QUESTIONS:
            row[HEADS.index(judgement.question)] = judgement.weight
    return rows


def _bootstrap(prompts: Sequence[str], members: int, seed: int) -> Tensor:
    """n x K: how often each judgement is drawn for each member; whole prompts, Poisson(1) as in Oza's online bagging.

    A single member sees everything once.
    """
    if members == 1:
        return torch.ones(len(prompts), 1)
    distinct = list(dict.fromkeys(prompts))
    drawn = np.random.default_rng(seed).poisson(1.0, (len(distinct), members)).astype(np.float32)
    places = {prompt: row for row, prompt in enumerate(distinct)}
    return torch.from_numpy(drawn[[places[prompt] for prompt in prompts]])


def _finish(
    model: RewardModel, judgements: Sequence[Judgement], held: int, table: Table, inputs: Rows, facts: dict[str, Any]
) -> None:
    """Centre the rewards, calibrate every question that has enough held-out judgements, and tell what was found."""
    with torch.no_grad():
        features = torch.cat([inputs(part) for part in torch.split(torch.arange(len(table.keys)), 256)])
        learned = torch.unique(
            torch.cat((table.first[: len(judgements) - held], table.second[: len(judgements) - held]))
        )
        model.heads.centre(features[learned])
        rewards = model.heads(features).mean(1).cpu().double().numpy()
    first, second = table.first.numpy(), table.second.numpy()
    questions: dict[str, Any] = {}
    for number, question in enumerate(HEADS):
        asked = [k for k, j in enumerate(judgements) if question in (OVERALL, j.question)]
        if not asked:
            continue
        checked = [k for k in asked if k >= len(judgements) - held]
        differences = rewards[first[checked], number] - rewards[second[checked], number]
        outcomes = np.array([judgements[k].shares for k in checked]).reshape(-1, 3)
        weights = np.array([judgements[k].weight for k in checked])
        enough = len(checked) >= LEAST
        model.calibration[question] = fit_calibration(differences, outcomes, weights) if enough else Calibration()
        _, right, counts = folded(differences, outcomes, weights)
        questions[question] = {
            "trained_on": len(asked) - len(checked),
            "held_out": len(checked),
            "held_out_accuracy": float((right * counts).sum() / counts.sum()) if len(right) else None,
            "temperature": model.calibration[question].temperature if enough else None,
        }
    unreadable = facts.pop("unreadable")
    told = {"images": len({sha for sha, _ in table.keys}), "prompts": len({j.prompt for j in judgements})}
    model.facts = {**told, "questions": questions, **facts, "unreadable": sorted(set(unreadable.values()))}


def _check(config: RewardTrainConfig) -> None:
    for name in ("members", "steps", "batch_size", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.hidden < 0 or config.penalty < 0:
        raise InputError(f"hidden and penalty must not be negative, got {config.hidden} and {config.penalty}")
    if not 0 < config.held_out < 1:
        raise InputError(f"held_out is a share between 0 and 1, got {config.held_out}; calibration needs some prompts")
    if not config.pairs:
        raise InputError("give at least one data set of pairs, run with votes, or table")


def _begin(config: RewardTrainConfig) -> dict[str, Any] | None:
    """Make the folder or find it again; what a finished training found, where there is one."""
    file = config.out / "settings.json"
    settings = json.loads(json.dumps(asdict(config), default=str))
    if file.exists():
        if json.loads(file.read_text()) != settings:
            raise InputError(f"{config.out} holds a reward model with other settings; give another folder, or the same")
        if (config.out / "reward.json").exists():
            told = json.loads((config.out / "reward.json").read_text())
            return {"out": str(config.out), **told["facts"]}
        return None
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise InputError(f"{config.out} is not empty and no reward model; give a new folder")
    config.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=1) + "\n")
    return None


def render(found: dict[str, Any]) -> str:
    """What was trained, for a terminal."""
    lines = [f"reward model in {found['out']}: {found['images']} images, {found['prompts']} prompts"]
    for question, row in found["questions"].items():
        accuracy = "none decided" if row["held_out_accuracy"] is None else f"{row['held_out_accuracy']:.3f}"
        state = "uncalibrated: too few held out" if row["temperature"] is None else f"T {row['temperature']:.3g}"
        lines.append(
            f"  {question:10} {row['trained_on']} judgements; held out: {row['held_out']}, accuracy {accuracy}, {state}"
        )
    if found["unreadable"]:
        lines.append(f"  {len(found['unreadable'])} images could not be read, as: {found['unreadable'][0]}")
    return "\n".join(lines)
