"""Which checkpoints stay on disk: the last ones, and the best by a metric of the evaluation."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from pixeval.catalog import find
from pixeval.runs import Run
from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from trainers.checkpoint import remove_directory

LABEL = re.compile(r"step-(\d{6,})")


class Rated(NamedTuple):
    """A checkpoint and its value under a metric."""

    step: int
    interval: Interval
    """Mean over the evaluation's images, clustered by prompt; or the value of a set metric."""


def checkpoint_label(step: int) -> str:
    """Name of a checkpoint's folder and of its images."""
    return f"step-{step:06d}"


def checkpoint_path(run: Run, step: int) -> Path:
    """Folder of the pipeline after ``step`` steps."""
    return run.path / "checkpoints" / checkpoint_label(step)


def keep(run: Run, last: int | None, metric: str | None, step: int) -> None:
    """Remove checkpoints up to ``step`` that are neither among the last nor the best; write ``best.json``.

    With a metric, checkpoints without a value stay as well: any of them might be the best.

    Args:
        run: the training run, with the scores of its checkpoints.
        last: how many of the last to keep; None for all.
        metric: of the catalogue; None for no best.
        step: of the newest checkpoint that counts; later ones are left from before a crash and are made again.
    """
    folder = run.path / "checkpoints"
    for left_over in folder.glob("*.removed"):
        shutil.rmtree(left_over)
    steps = sorted(int(m[1]) for path in folder.iterdir() if (m := LABEL.fullmatch(path.name)))
    steps = [found for found in steps if found <= step]
    kept = set(steps if last is None else steps[-last:])
    if metric is not None:
        rated = rate(run, metric, steps)
        if rated:
            best = best_of(rated, metric)
            _write_best(run, best, metric)
            kept |= {best.step}
        kept |= set(steps) - {one.step for one in rated}
    for found in steps:
        if found not in kept:
            remove_directory(checkpoint_path(run, found))


def rate(run: Run, metric: str, steps: list[int]) -> list[Rated]:
    """Values of the checkpoints that have one, in the order of ``steps``.

    Raises:
        InputError: the metric is unknown.
    """
    if find(metric).family == "distribution":
        sets = {score.label: score for score in run.set_scores() if score.metric == metric}
        held = [(step, sets[checkpoint_label(step)]) for step in steps if checkpoint_label(step) in sets]
        return [Rated(step, Interval(s.value, s.low, s.high, s.n)) for step, s in held if s.value is not None]
    values = {s.sample_id: s.value for s in run.scores() if s.metric == metric and s.value is not None}
    samples = [sample for sample in run.samples() if sample.id in values]
    rated = []
    for step in steps:
        own = [sample for sample in samples if sample.label == checkpoint_label(step)]
        if own:
            prompts = [sample.prompt_id for sample in own]
            rated.append(Rated(step, mean_interval([values[sample.id] or 0.0 for sample in own], clusters=prompts)))
    return rated


def best_of(rated: list[Rated], metric: str) -> Rated:
    """The one with the best value in the metric's direction; the earliest of equals."""
    sign = 1 if find(metric).higher_is_better else -1
    return max(rated, key=lambda one: (sign * one.interval.value, -one.step))


def _write_best(run: Run, best: Rated, metric: str) -> None:
    value, low, high, n = best.interval.value, best.interval.low, best.interval.high, best.interval.n
    told = {
        "checkpoint": f"checkpoints/{checkpoint_label(best.step)}",
        "step": best.step,
        "metric": metric,
        "higher_is_better": find(metric).higher_is_better,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
    }
    partial = run.path / "best.json.partial"
    partial.write_text(json.dumps(told, indent=1) + "\n")
    os.replace(partial, run.path / "best.json")
