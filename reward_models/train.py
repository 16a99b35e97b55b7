"""``pixeval reward train``: a reward model from votes or preference pairs.

The output folder holds the model (see :mod:`reward_models.model`), ``metrics.jsonl`` (a line every ten steps),
``settings.json``, and while training goes on ``state/``. A killed command that is given again goes on from there and,
on the CPU, ends in the same bits.
"""

import hashlib
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from pixeval.errors import InputError
from pixeval.scoring.cache import Cache, open_cache
from reward_models.adapters import Adaptation, adapter_parameters, image_side
from reward_models.bradley_terry import negative_log_likelihood
from reward_models.findings import Trained, finish, weighted_by_question
from reward_models.heads import Heads
from reward_models.inputs import Frozen, Rows, Table, Tuned, readable, tabulate, view_features
from reward_models.judgements import Judgement, read_judgements, reliabilities
from reward_models.model import HEADS, OVERALL, Design, RewardModel
from reward_models.planted import planted_judgements
from reward_models.train_folder import begin, finished
from reward_models.views import Detail, FlawView
from trainers.checkpoint import load_state, recover_directory, save_state
from trainers.training_log import append, truncate_log

LOG_EVERY = 10
BATCH, LORA_BATCH = 512, 16
"""Comparisons in a step. Adapters take all views of all images of a step into one graph: up to 34 passes of the encoder
for each comparison."""
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
    batch_size: int | None = None
    """Comparisons in a step; by default 512, with lora_rank 16."""
    learning_rate: float = 0.03
    """Of Adam for the heads, falling to zero on a cosine."""
    lora_learning_rate: float = 3e-4
    """Of Adam for the adapters."""
    penalty: float = 3e-3
    """On the squared weights of the heads."""
    planted: float = 1.0
    """Weight of each of some 5,500 bundled comparisons of clean images with planted flaws, of known truth; 0 for none.
    A vote weighs 1, so few votes are outweighed by them in the head for flaws; in that for everything they weigh
    together at most as the votes on flaws do. Which share of a head's loss is theirs is printed."""
    folds: int = 5
    """Parts of the prompts. Each is judged by heads that were trained on the others: calibration and reported
    accuracy come from these judgements. With lora_rank, one part is held out from training instead."""
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

    @property
    def batch(self) -> int:
        """Comparisons in a step."""
        return self.batch_size or (BATCH if self.lora_rank is None else LORA_BATCH)


class Diverged(InputError):
    """The weights are no numbers any more."""


def train(config: RewardTrainConfig) -> dict[str, Any]:
    """Carry out ``pixeval reward train``; returns what ``reward.json`` keeps as facts, and ``out``.

    Raises:
        InputError: bad settings, pairs or encoder, another model in the folder, or one that was trained on other data.
        Diverged: the rates are too high; nothing is kept that keeps others from being tried in the same folder.
    """
    _check(config)
    judgements = read_judgements(config.pairs)
    told = finished(config.out, asdict(config), judgements)
    if told is not None:
        return told
    begin(config.out, asdict(config), judgements)
    try:
        model = fit(judgements, config, open_cache(config.cache), config.out, progress=True)
    except Diverged:
        shutil.rmtree(config.out / "state", ignore_errors=True)
        raise
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
        InputError: fewer than two prompts, no pair whose images can both be read, or nothing but votes on alignment for
            an encoder that sees no prompt.
        Diverged: the weights are no numbers any more.
    """
    model = RewardModel.new(design_of(config), config.device, config.seed)
    if len({judgement.prompt for judgement in judgements}) < 2:
        raise InputError("all comparisons are on one prompt; to train on some and calibrate on others, give more")
    asked, judgements = len(judgements), judgements if model.sees_prompts else _without_prompts(judgements, config)
    views = {"whole": model.encoder, **model.views}
    if config.lora_rank is not None:  # the adapters change nothing yet; so this tells which images can be read
        views = {name: view for name, view in views.items() if name == "whole" or isinstance(view, FlawView)}
    planted = planted_judgements(config.planted) if config.planted > 0 else []
    pictures = {p.sha256: p for j in (*judgements, *planted) for p in (j.first, j.second)}
    features, reasons = view_features(views, pictures.values(), cache, progress)
    kept = readable(judgements, reasons)
    folds = [fold_of(j.prompt, config.folds) for j in kept]
    if len(set(folds)) < 2:
        raise InputError(
            f"{len({j.prompt for j in kept})} prompts with readable pairs are too few to train on some and calibrate "
            "on others; give more"
        )
    trust = {} if config.trust_annotators_alike else reliabilities(kept)
    kept = [replace(j, weight=j.weight * trust.get(j.annotator or "", 1.0)) for j in kept]
    ordered = [*kept, *planted]
    table = tabulate(ordered)
    frozen = {name: rows for name, rows in features.items() if name != "whole"}
    inputs: Rows = Frozen(model, table, features) if config.lora_rank is None else Tuned(model, table, frozen)
    world = _World(ordered, table, inputs, config)
    rest = range(len(kept), len(ordered))
    held_out = sorted(set(folds)) if config.lora_rank is None else [min(folds)]
    chosen = [k for k, fold in enumerate(folds) if config.lora_rank is None or fold not in held_out]
    adapters = adapter_parameters(model.encoder)
    modules: dict[str, nn.Module] = {"encoder": image_side(model.encoder)} if adapters else {}
    _Training(model.heads, modules, adapters, world, [*chosen, *rest], folder).run(progress, "train")
    differences = np.full((len(kept), len(HEADS)), np.nan)
    for fold in held_out:
        own, heads = [k for k, found in enumerate(folds) if found == fold], model.heads
        if config.lora_rank is None:
            heads = Heads(model.heads.widths, config.members, len(HEADS), config.hidden, config.seed).to(config.device)
            others = [k for k, found in enumerate(folds) if found != fold]
            _Training(heads, {}, [], world, [*others, *rest], None).run(progress, f"without part {fold + 1}")
        differences[own] = world.differences(heads, own)
    facts = {
        "unreadable": sorted(set(reasons.values())),
        "left_out": {"alignment": asked - len(judgements)} if asked > len(judgements) else {},
    }
    trained = Trained(kept, [kept[k] for k in chosen], planted, trust, differences)
    finish(model, trained, table, inputs, facts)
    return model.frozen()


def _without_prompts(judgements: Sequence[Judgement], config: RewardTrainConfig) -> list[Judgement]:
    """Those that an encoder which sees no prompt can learn from."""
    kept = [judgement for judgement in judgements if judgement.question != "alignment"]
    if not kept:
        raise InputError(f"--encoder {config.encoder} sees no prompt and all votes are on alignment; take a CLIP")
    return kept


def fold_of(prompt: str, folds: int) -> int:
    """Which part a prompt belongs to, by the hash of its text."""
    data = hashlib.sha256(f"fold\x1f{prompt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(data[:7], "big") % folds


@dataclass(frozen=True)
class _World:
    """What is trained on, as numbers."""

    judgements: Sequence[Judgement]
    table: Table
    inputs: Rows
    config: RewardTrainConfig

    def differences(self, heads: Heads, rows: Sequence[int]) -> NDArray[np.float64]:
        """Mean reward of the first image less that of the second, rows x questions."""
        found = []
        for part in torch.split(torch.tensor(list(rows), dtype=torch.long), 256):
            with torch.no_grad():
                both = heads(self.inputs(torch.cat((self.table.first[part], self.table.second[part])))).mean(1)
            found.append((both[: len(part)] - both[len(part) :]).cpu().double().numpy())
        return np.concatenate(found)


class _Training:
    """The loop; every random number follows from (seed, step)."""

    def __init__(
        self,
        heads: Heads,
        modules: dict[str, nn.Module],
        adapters: list[nn.Parameter],
        world: _World,
        rows: Sequence[int],
        folder: Path | None,
    ) -> None:
        self.heads, self.config, self.inputs, self.folder = heads, world.config, world.inputs, folder
        judgements, device = [world.judgements[k] for k in rows], heads.linear.device
        self.first, self.second = (side[list(rows)] for side in (world.table.first, world.table.second))
        self.outcomes = torch.tensor([j.shares for j in judgements], device=device)
        self.weights = weighted_by_question(judgements).to(device)
        self.draws = _bootstrap([j.prompt for j in judgements], self.config.members, self.config.seed).to(device)
        self.share = (self.draws[:, :, None] * self.weights[:, None]).mean(0).clamp_min(1e-9)
        self.tied = ((self.outcomes[:, 1:2] > 0) & (self.weights > 0)).any(0)
        groups: list[dict[str, Any]] = [{"params": list(heads.parameters()), "lr": self.config.learning_rate}]
        if adapters:
            groups.append({"params": adapters, "lr": self.config.lora_learning_rate})
        self.optimizer = torch.optim.Adam(groups)
        self.modules: dict[str, nn.Module] = {"heads": heads, **modules}

    def run(self, progress: bool, name: str) -> None:
        """Train to the last step; ``name`` stands before the progress."""
        done = self._resume()
        if done == 0:
            with torch.no_grad():
                rows = torch.unique(torch.cat((self.first, self.second)))
                self.heads.standardise(torch.cat([self.inputs(part) for part in torch.split(rows, 256)]))
        steps = range(done, self.config.steps)
        told: dict[str, Any] = {"desc": name, "initial": done, "total": self.config.steps, "disable": not progress}
        bar = tqdm(steps, file=sys.stderr, unit="step", **told)
        for step in bar:
            loss = self._advance(step)
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            last = step + 1 == self.config.steps
            if self.folder is not None and ((step + 1) % LOG_EVERY == 0 or last):
                append(self.folder / "metrics.jsonl", {"step": step + 1, "loss": loss})
            if self.folder is not None and ((step + 1) % self.config.checkpoint_every == 0 or last):
                save_state(self.folder / "state", self.modules, self.optimizer, {"step": step + 1})
        if not all(value.isfinite().all() for group in self.optimizer.param_groups for value in group["params"]):
            raise self._diverged(self.config.steps)

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
        size = min(self.config.batch, len(self.first))
        batch = torch.randperm(len(self.first), generator=generator)[:size]
        rewards = self.heads(self.inputs(torch.cat((self.first[batch], self.second[batch]))))
        differences = rewards[:size] - rewards[size:]
        log_nu = self.heads.log_nu.masked_fill(~self.tied, NO_TIES)
        losses = negative_log_likelihood(differences, log_nu, self.outcomes[batch, None, None])
        counts = self.draws[batch][:, :, None] * self.weights[batch][:, None]
        loss = (losses * counts / self.share).mean(0)[:, self.weights.sum(0) > 0].sum()
        total = loss + self.config.penalty * self.heads.penalty()
        if not total.isfinite():
            raise self._diverged(step)
        for group, rate in zip(self.optimizer.param_groups, self._rates(), strict=False):
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / self.config.steps))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.heads.constrain()
        return float(loss.detach()) / self.config.members

    def _diverged(self, step: int) -> Diverged:
        rates = "--learning-rate" if self.config.lora_rank is None else "--learning-rate or --lora-learning-rate"
        return Diverged(f"after {step} steps the loss or a weight is no number; no model is kept. Lower {rates}.")

    def _rates(self) -> tuple[float, float]:
        return self.config.learning_rate, self.config.lora_learning_rate


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


def _check(config: RewardTrainConfig) -> None:
    for name in ("members", "steps", "batch_size", "checkpoint_every"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("hidden", "penalty", "planted"):
        if not 0 <= getattr(config, name) < math.inf:
            raise InputError(f"{name} must not be negative, got {getattr(config, name)}")
    for name in ("learning_rate", "lora_learning_rate"):
        if not 0 < getattr(config, name) < math.inf:
            raise InputError(f"{name} must be positive, got {getattr(config, name)}")
    if config.folds < 2:
        raise InputError(f"folds must be at least 2, got {config.folds}: calibration needs prompts not trained on")
    if not config.pairs:
        raise InputError("give at least one data set of pairs, run with votes, or table")


def render(found: dict[str, Any]) -> str:
    """What was trained, for a terminal."""
    lines = [f"reward model in {found['out']}: {found['images']} images, {found['prompts']} prompts"]
    lines += [f"  {question:10} {_told(row)}" for question, row in found["questions"].items()]
    if any(row["planted_share"] > 0.5 for row in found["questions"].values()):
        lines.append("  planted flaws outweigh the votes; --planted 0 leaves them out, another number weighs them less")
    overall = found["questions"].get(OVERALL)
    if overall is not None and overall["temperature"] is not None:
        share, slope = overall["lapses"] or (0.0, 1.0)
        labels = f"--temperature {1 / slope:.3g}" + (f" --lapses {share:.3g}" if share else "")
        lines.append(f"  soft labels as probable as it found: pixeval pairs --from score:reward {labels}")
    for question, count in found.get("left_out", {}).items():
        lines.append(f"  {count} judgements on {question} are left out: the encoder sees no prompt")
    if found["unreadable"]:
        lines.append(f"  {len(found['unreadable'])} images could not be read, as: {found['unreadable'][0]}")
    return "\n".join(lines)


def _told(row: dict[str, Any]) -> str:
    """One head in one line."""
    accuracy = "none decided" if row["held_out_accuracy"] is None else f"{row['held_out_accuracy']:.3f}"
    state = "uncalibrated: too few held out" if row["temperature"] is None else f"T {row['temperature']:.3g}"
    if row["lapses"] is not None:
        state += f", lapses {row['lapses'][0]:.3g} (slope {row['lapses'][1]:.3g})"
    if row["planted_share"]:
        state += f"; {row['planted_share']:.0%} of the loss is of planted flaws"
    return f"{row['judgements']} judgements; of {row['held_out']} unseen {accuracy} right, {state}"
