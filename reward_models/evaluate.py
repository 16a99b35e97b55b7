"""``pixeval reward evaluate``: a reward model or a metric against votes or choices, under every published protocol."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, decode_image
from pixeval.scoring.cache import Cache, open_cache, score_key
from pixeval.validation.pairwise_protocols import Comparison
from pixeval.validation.people import protocol_figures
from reward_models.agreement import Judged, agreement, breakdowns, human_ceiling, majorities, plain
from reward_models.calibrate import Reliability, folded, isotonic_chance, lapsing_chance, reliability
from reward_models.inputs import Frozen, readable, tabulate, view_features
from reward_models.judgements import Judgement, Picture, read_judgements
from reward_models.model import HEADS, OVERALL, Calibration, RewardModel
from reward_models.reliability_figure import draw_reliability
from reward_models.sources import Source, in_parts, open_source, trained_folder

Curves = dict[str, Reliability]


@dataclass(frozen=True)
class RewardEvaluateConfig:
    """Compare a reward model, or a metric, with people's choices."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder that 'pixeval reward train' wrote, or a metric of the catalogue that judges single images."""
    table: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Runs with votes, data sets of 'pixeval pairs', or tables of choices (Pick-a-Pic), none of them trained on."""
    out: Path | None = None
    """Folder for evaluation.json, evaluation.md and reliability-QUESTION.svg; none to print only."""
    weights: tuple[str, ...] = ()
    """NAME=PATH where the metric needs weights."""
    clip: str = "bundled"
    """CLIP of metrics that take one, as of 'pixeval score' (laion_aesthetic: ViT-L-14/openai)."""
    device: str = "cpu"
    """Where it runs."""
    cache: str = "default"
    """Folder of the cache of features and scores, or 'none'."""


def evaluate(config: RewardEvaluateConfig) -> dict[str, Any]:
    """Carry out ``pixeval reward evaluate``; returns what is written to ``evaluation.json``.

    Raises:
        InputError: no such model or table, or no comparison with two readable images.
    """
    judgements, cache = read_judgements(config.table), open_cache(config.cache)
    if trained_folder(config.model) and Path(config.model).is_dir():
        model = RewardModel.load(config.model, config.device)
        found, curves = judge(model, judgements, cache, progress=True)
        found = {"model": Path(config.model).name, "fingerprint": model.fingerprint, **found}
    else:
        source = open_source(config.model, config.weights, config.device, config.clip)
        found, curves = judge_source(source, judgements, cache, progress=True)
        found = {"model": source.name, "fingerprint": source.fingerprint, **found}
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "evaluation.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
        (config.out / "evaluation.md").write_text(render(found) + "\n")
        for question, curve in ((question, curve) for question, curve in curves.items() if curve):
            draw_reliability(curve, config.out / f"reliability-{question}.svg")
    return found


def judge(
    model: RewardModel, judgements: Sequence[Judgement], cache: Cache | None = None, progress: bool = False
) -> tuple[dict[str, Any], dict[str, Curves]]:
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
    curves: dict[str, Curves] = {}
    for question in model.questions:
        with torch.no_grad():
            rewards = model.opinion_of(inputs, question).mean.cpu()
        gaps = (rewards[table.first] - rewards[table.second]).tolist()
        judged = [Judged(j, gap) for j, gap in zip(kept, gaps, strict=True) if question in (OVERALL, j.question)]
        if judged:
            curves[question] = _reliabilities(model.calibration[question], judged)
            figures[question] = _figures(judged, curves[question], 1.0)
    told = _told(kept, dict(Counter(reasons.values())), model.trained_on(j.prompt for j in kept))
    return {**told, "questions": figures}, curves


def judge_source(
    source: Source, judgements: Sequence[Judgement], cache: Cache | None = None, progress: bool = False
) -> tuple[dict[str, Any], dict[str, Curves]]:
    """As :func:`judge`, for a reward that gives one value whatever was asked.

    Where its values are no log odds there are no probabilities, and so no calibration; PickScore's protocol, which asks
    for some, divides by the standard deviation of the values.

    Raises:
        InputError: no comparison has two images with a value.
    """
    values, reasons = _values(source, judgements, cache, progress)
    judged = []
    for j in judgements:
        first, second = (values.get(_row(source, picture, j)) for picture in (j.first, j.second))
        if first is not None and second is not None:
            judged.append(Judged(j, first - second))
    if not judged:
        raise InputError(f"no comparison has two images with a value; the first reason: {next(iter(reasons.values()))}")
    figures: dict[str, Any] = {}
    curves: dict[str, Curves] = {}
    for question in HEADS:
        asked = [one for one in judged if question in (OVERALL, one.judgement.question)]
        if asked:
            sides = [values[_row(source, p, j)] for j in _pairs(asked) for p in (j.first, j.second)]
            curves[question] = _reliabilities(None, asked) if source.log_odds else {}
            figures[question] = _figures(asked, curves[question], 1.0 if source.log_odds else _inverse_spread(sides))
    kept = [one.judgement for one in judged]
    told = _told(kept, dict(Counter(reasons.values())), source.trained_on(j.prompt for j in kept))
    return {**told, "questions": figures}, curves


def _pairs(judged: Sequence[Judged]) -> list[Judgement]:
    return [one.judgement for one in majorities(judged)]


def _inverse_spread(values: Sequence[float]) -> float:
    spread = float(np.std(values))
    return 1 / spread if spread > 0 else 1.0


Row = tuple[str, str]
"""SHA-256 of an image, and its prompt where that enters the value."""


def _row(source: Source, picture: Picture, judgement: Judgement) -> Row:
    return picture.sha256, judgement.prompt if source.takes_prompt else ""


def _values(
    source: Source, judgements: Sequence[Judgement], cache: Cache | None, progress: bool
) -> tuple[dict[Row, float], dict[Row, str]]:
    """Rewards, and why others have none; values are kept under the keys of 'pixeval score'."""
    pictures = {_row(source, picture, j): picture for j in judgements for picture in (j.first, j.second)}
    keys = {row: score_key(row[0], row[1] if source.takes_prompt else None, source.fingerprint) for row in pictures}
    known = cache.scores(list(keys.values())) if cache is not None else {}
    values = {row: source.sign * known[key] for row, key in keys.items() if key in known}
    reasons: dict[Row, str] = {}
    left = [row for row in pictures if row not in values]

    def decoded() -> Iterator[tuple[int, Tensor]]:
        for place, row in enumerate(tqdm(left, desc="score", file=sys.stderr, disable=not progress)):
            try:
                yield place, decode_image(pictures[row].contents(), pictures[row].name)
            except UnreadableImage as error:
                reasons[row] = str(error)

    for part in in_parts(decoded()):
        rows = [left[place] for place, _ in part]
        found = source.rewards([image for _, image in part], [prompt for _, prompt in rows])
        new = {row: one[0] for row, one in zip(rows, found, strict=True) if not isinstance(one, str)}
        reasons |= {row: one for row, one in zip(rows, found, strict=True) if isinstance(one, str)}
        values |= new
        if cache is not None:
            cache.put_scores((keys[row], source.sign * value, source.name) for row, value in new.items())
    return values, reasons


def _told(kept: Sequence[Judgement], unreadable: dict[str, int], trained_on: int) -> dict[str, Any]:
    prompts = len({j.prompt for j in kept})
    return {"judgements": len(kept), "prompts": prompts, "trained_on": trained_on, "unreadable": unreadable}


def _figures(judged: Sequence[Judged], curves: Curves, scale: float) -> dict[str, Any]:
    by_pair = majorities(judged)
    return {
        "protocols": protocol_figures([_comparison(one) for one in by_pair], scale),
        "agreement": plain(agreement(judged, by_pair)),
        "ceiling": plain(human_ceiling(judged)),
        "breakdowns": {name: plain(rows) for name, rows in breakdowns(judged, by_pair).items()},
        "calibration": {name: {"ece": vars(curve.ece), "floor": curve.floor} for name, curve in curves.items()},
    }


def _comparison(one: Judged) -> Comparison:
    first, _, second = one.judgement.shares
    human = 0.5 if first == second else float(first > second)
    # prompts of one text but different questions are one prompt: their images are the same
    return Comparison(one.judgement.prompt, human, one.difference, 0.0)


def _reliabilities(calibration: Calibration | None, judged: Sequence[Judged]) -> Curves:
    """Before calibration, with the temperature, and with lapses or the isotonic map on top; the first alone for a
    reward without calibration; empty without a decided vote."""
    gaps = np.array([one.difference for one in judged])
    outcomes = np.array([one.judgement.shares for one in judged])
    ones = np.ones(len(judged))
    kept = [one for one, row in zip(judged, outcomes, strict=True) if row[0] + row[2] > 0 and one.difference != 0]
    if not kept:
        return {}
    prompts = [one.judgement.prompt for one in kept]
    raw, right, _ = folded(gaps * (1.0 if calibration is None else calibration.temperature), outcomes, ones)
    found = {"raw": reliability(raw, right, prompts)}
    if calibration is None:
        return found
    tempered, _, _ = folded(gaps, outcomes, ones)
    found["temperature"] = reliability(tempered, right, prompts)
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
    lines = [f"# Reward {found['model']}", ""]
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
        if not row["calibration"]:
            lines.append("| ECE | – (no probabilities: its values are no log odds, or nothing was decided) |")
        for name, cell in row["calibration"].items():
            lines.append(f"| ECE, {name} | {_cell(cell['ece'])}; exact probabilities: {cell['floor']:.3f} |")
        lines.append("")
    return "\n".join(lines).rstrip()
