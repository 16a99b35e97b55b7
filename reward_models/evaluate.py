"""``pixeval reward evaluate``: a reward model against votes or choices, under every published protocol."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from pixeval.errors import InputError
from pixeval.scoring.cache import Cache, open_cache
from pixeval.validation.pairwise_protocols import Comparison
from pixeval.validation.people import protocol_figures
from reward_models.agreement import Judged, agreement, breakdowns, human_ceiling, majorities, plain
from reward_models.calibrate import Reliability, folded, isotonic_chance, lapsing_chance, reliability
from reward_models.inputs import Frozen, readable, tabulate, view_features
from reward_models.judgements import Judgement, read_judgements
from reward_models.model import OVERALL, RewardModel
from reward_models.reliability_figure import draw_reliability


@dataclass(frozen=True)
class RewardEvaluateConfig:
    """Compare a reward model with people's choices."""

    model: Annotated[Path, tyro.conf.Positional]
    """Folder that 'pixeval reward train' wrote."""
    table: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Runs with votes, data sets of 'pixeval pairs', or tables of choices (Pick-a-Pic), none of them trained on."""
    out: Path | None = None
    """Folder for evaluation.json, evaluation.md and reliability-QUESTION.svg; none to print only."""
    device: str = "cpu"
    """Where it runs."""
    cache: str = "default"
    """Folder of the feature cache, or 'none'."""


def evaluate(config: RewardEvaluateConfig) -> dict[str, Any]:
    """Carry out ``pixeval reward evaluate``; returns what is written to ``evaluation.json``.

    Raises:
        InputError: no such model or table, or no comparison with two readable images.
    """
    model = RewardModel.load(config.model, config.device)
    judgements = read_judgements(config.table)
    found, curves = judge(model, judgements, open_cache(config.cache), progress=True)
    found = {"model": config.model.name, "fingerprint": model.fingerprint, **found}
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "evaluation.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
        (config.out / "evaluation.md").write_text(render(found) + "\n")
        for question, curve in curves.items():
            draw_reliability(curve, config.out / f"reliability-{question}.svg")
    return found


def judge(
    model: RewardModel, judgements: Sequence[Judgement], cache: Cache | None = None, progress: bool = False
) -> tuple[dict[str, Any], dict[str, dict[str, Reliability]]]:
    """All figures by question, and the reliability before and after calibration.

    Judgements of a question are judged by its own head, and all of them, whatever was asked, by the overall one.

    Raises:
        InputError: no comparison has two readable images.
    """
    views = {"whole": model.encoder, **model.views}
    pictures = {p.sha256: p for j in judgements for p in (j.first, j.second)}
    features, reasons = view_features(views, pictures.values(), None if model.design.lora else cache, progress)
    kept = readable(judgements, reasons)
    if not kept:
        raise InputError(f"no comparison has two readable images; the first reason: {next(iter(reasons.values()))}")
    table = tabulate(kept)
    inputs = Frozen(model, table, features).all
    figures: dict[str, Any] = {}
    curves: dict[str, dict[str, Reliability]] = {}
    for question in model.questions:
        with torch.no_grad():
            rewards = model.opinion_of(inputs, question).mean.cpu()
        gaps = (rewards[table.first] - rewards[table.second]).tolist()
        judged = [Judged(j, gap) for j, gap in zip(kept, gaps, strict=True) if question in (OVERALL, j.question)]
        if judged:
            figures[question], curves[question] = _figures(model, question, judged)
    prompts = len({j.prompt for j in kept})
    seen = model.trained_on(j.prompt for j in kept)
    told = {
        "judgements": len(kept),
        "prompts": prompts,
        "trained_on": seen,
        "unreadable": dict(Counter(reasons.values())),
    }
    return {**told, "questions": figures}, curves


def _figures(
    model: RewardModel, question: str, judged: Sequence[Judged]
) -> tuple[dict[str, Any], dict[str, Reliability]]:
    by_pair = majorities(judged)
    curves = _reliabilities(model, question, judged)
    found = {
        "protocols": protocol_figures([_comparison(one) for one in by_pair], scale=1.0),
        "agreement": plain(agreement(judged, by_pair)),
        "ceiling": plain(human_ceiling(judged)),
        "breakdowns": {name: plain(rows) for name, rows in breakdowns(judged, by_pair).items()},
        "calibration": {name: {"ece": vars(curve.ece), "floor": curve.floor} for name, curve in curves.items()},
    }
    return found, curves


def _comparison(one: Judged) -> Comparison:
    first, _, second = one.judgement.shares
    human = 0.5 if first == second else float(first > second)
    # prompts of one text but different questions are one prompt: their images are the same
    return Comparison(one.judgement.prompt, human, one.difference, 0.0)


def _reliabilities(model: RewardModel, question: str, judged: Sequence[Judged]) -> dict[str, Reliability]:
    """Before calibration, with the temperature, and with lapses or the isotonic map on top; empty without a decided
    vote."""
    calibration = model.calibration[question]
    gaps = np.array([one.difference for one in judged])
    outcomes = np.array([one.judgement.shares for one in judged])
    ones = np.ones(len(judged))
    kept = [one for one, row in zip(judged, outcomes, strict=True) if row[0] + row[2] > 0 and one.difference != 0]
    if not kept:
        return {}
    prompts = [one.judgement.prompt for one in kept]
    raw, right, _ = folded(gaps * calibration.temperature, outcomes, ones)
    tempered, _, _ = folded(gaps, outcomes, ones)
    found = {"raw": reliability(raw, right, prompts), "temperature": reliability(tempered, right, prompts)}
    if calibration.lapses is not None:
        found["lapses"] = reliability(lapsing_chance(tempered, calibration.lapses), right, prompts)
    if calibration.knots:
        found["isotonic"] = reliability(isotonic_chance(tempered, calibration), right, prompts)
    return found


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row.get("value") is None:
        return "–" if row is None else f"– ({row['reason']})"
    if row["low"] is None:
        return f"{row['value']:.3f} (n = {row['n']})"
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] (n = {row['n']})"


def render(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"# Reward model {found['model']}", ""]
    lines += [f"{found['judgements']} judgements on {found['prompts']} prompts; 95 % intervals over prompts.", ""]
    if found["trained_on"]:
        many = f"{found['trained_on']} of these prompts"
        lines += [f"**The model was trained on {many}: the figures flatter it.** Judge it by others.", ""]
    for question, row in found["questions"].items():
        lines += [f"## {question}", "", "| figure | value |", "|---|---|"]
        lines += [f"| protocol of {name} | {_cell(cell)} |" for name, cell in row["protocols"].items()]
        lines += [f"| agreement with {name} | {_cell(cell)} |" for name, cell in row["agreement"].items()]
        lines += [f"| people: {name} | {_cell(cell)} |" for name, cell in row["ceiling"].items()]
        for kind, cells in row["breakdowns"].items():
            lines += [f"| {kind}: {name} | {_cell(cell)} |" for name, cell in cells.items()]
        for name, cell in row["calibration"].items():
            lines.append(f"| ECE, {name} | {_cell(cell['ece'])}; exact probabilities: {cell['floor']:.3f} |")
        lines.append("")
    return "\n".join(lines).rstrip()
