"""``pixeval watch``: score checkpoints as they land, keep the trend, name the best, and raise the tripwire."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from pixeval.catalog import CATALOG, find
from pixeval.errors import InputError
from pixeval.metric_spec import FAMILIES
from pixeval.pipelines import resolve_model
from pixeval.records import Sample
from pixeval.rescore import Evaluation, rescore
from pixeval.runs import Run
from pixeval.suites import load_prompts
from reports.arms import Arm, step_of
from reports.checkpoints import Found, find_checkpoints
from reports.files import finite, to_json, write_text
from reports.hacking import Tripwire, training_rewards, tripwire
from reports.score_table import score_rows, score_table
from reports.tables import score_changes
from reports.trend import Trend, trend

FAILURES = (InputError, RuntimeError, ValueError)
"""What one checkpoint may fail with while the others go on."""


@dataclass(frozen=True)
class WatchConfig:
    """Look after a folder of checkpoints; Ctrl-C ends it, and the same command goes on where it stopped."""

    folder: Positional[Path]
    """A training run of pixeval, or a folder whose subfolders are diffusers pipelines (``checkpoint-500``)."""
    suite: str | None = None
    """Prompts to generate from. Without it, a training run is read as it scores itself (``--evaluate``)."""
    model: str | None = None
    """The model that training started from, to compare with; a training run knows its own."""
    out: Path | None = None
    """The run that holds images, scores and the trend; FOLDER-watch by default."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    by: str = "flaws"
    """What the best is chosen by: a metric, or a family (the mean of its metrics, in standard deviations)."""
    log: Path | None = None
    """Training log, one JSON object with ``step`` per line; a training run has its own."""
    reward: str | None = None
    """Key of the training reward in the log, higher is better; a training run has its own."""
    held_out: tuple[str, ...] = ()
    """Further metrics that must not get worse, beside flaws and alignment."""
    every: float = 60.0
    """Seconds between two looks."""
    settle: float = 10.0
    """A checkpoint is complete when none of its files changed for so many seconds."""
    once: bool = False
    """Look once and end, as for CI; exit code 1 when the last checkpoint is warned of or one cannot be scored."""
    device: str = "cpu"


@dataclass(frozen=True)
class Watched:
    """Where images and scores are, and how the training behind them is known."""

    run: Run
    training: Mapping[str, Any]
    """Configuration of the training run; empty for other folders."""
    checkpoints: Path
    log: Path
    generates: bool
    """False where the training run scores itself."""


def watch(config: WatchConfig) -> dict[str, Any]:
    """Look until interrupted, or once; the last look, as JSON-ready values.

    Raises:
        InputError: no such folder, suite, model or metric.
    """
    watched = open_watched(config)
    seen: str | None = None
    while True:
        found = look(config, watched)
        if config.once:
            return found
        now = to_json(found)
        if now != seen:
            print(render(found), file=sys.stderr, flush=True)
            seen = now
        last = max((row["step"] or 0 for row in found["rows"]), default=0)
        if watched.training.get("steps") and last >= watched.training["steps"]:
            return found
        time.sleep(config.every)


def open_watched(config: WatchConfig) -> Watched:
    """Find out what the folder is, and make or reopen the run that holds what is scored.

    Raises:
        InputError: no such folder, or nothing says which prompts to generate from.
    """
    folder = config.folder
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a training run or a folder of checkpoints")
    for name in (*config.held_out, *(() if config.by in FAMILIES else (config.by,))):
        find(name)
    own = Run.open(folder) if (folder / "run.json").exists() else None
    training = own.info["config"] if own is not None and own.info["kind"] == "train" else {}
    log = config.log if config.log is not None else folder / "metrics.jsonl"
    checkpoints = folder / "checkpoints" if own is not None else folder
    if config.suite is None:
        if own is not None and training.get("evaluate"):
            return Watched(own, training, checkpoints, log, generates=False)
        raise InputError(f"{folder} does not say which prompts to generate from; give --suite NAME_OR_FILE")
    load_prompts(config.suite)
    model = config.model if config.model is not None else training.get("model")
    if model is not None:
        resolve_model(model)
    out = config.out if config.out is not None else folder.resolve().with_name(f"{folder.resolve().name}-watch")
    if out.resolve() == folder.resolve():
        raise InputError(f"{folder} belongs to the training; give another folder for the scores (--out)")
    settings = {
        "folder": str(folder.resolve()),
        "prompts": config.suite,
        "model": model,
        "evaluation": asdict(config.evaluation),
    }
    return Watched(Run.create(out, "watch", settings), training, checkpoints, log, generates=True)


def look(config: WatchConfig, watched: Watched, now: float | None = None) -> dict[str, Any]:
    """Score what has landed, and say where things stand; also written to ``watch.json`` in the run.

    Args:
        now: seconds since 1970, for the age of files; the clock by default.
    """
    state = _read_state(watched.run)
    failed: dict[str, str] = {}
    waiting: list[str] = []
    for found in find_checkpoints(watched.checkpoints, time.time() if now is None else now, config.settle):
        if not watched.generates or state.get(found.label) == found.stamp:
            continue
        if found.problem == "still being written":
            waiting.append(found.label)
            continue
        problem = found.problem or _score(config, watched, found)
        if problem is None:
            state[found.label] = found.stamp
        else:
            failed[found.label] = problem
    told = {**_standing(config, watched), "waiting": waiting, "failed": failed, "state": state}
    written: dict[str, Any] = finite(told)
    if watched.generates:
        write_text(watched.run.path / "watch.json", to_json(written))
    return {key: value for key, value in written.items() if key != "state"}


def _score(config: WatchConfig, watched: Watched, found: Found) -> str | None:
    """Generate from a checkpoint and score it; the reason where that fails."""
    model = watched.run.info["config"]["model"]
    suite = config.suite or ""
    if model is not None:
        rescore(watched.run, str(resolve_model(model)), "base", suite, config.evaluation, config.device)
    try:
        rescore(watched.run, str(found.path), found.label, suite, config.evaluation, config.device)
    except FAILURES as error:
        return f"{type(error).__name__}: {error}" if not isinstance(error, InputError) else str(error)
    return None


def _read_state(run: Run) -> dict[str, str]:
    """Stamps of the checkpoints that are scored; a damaged file means only that files are looked at again."""
    try:
        held = json.loads((run.path / "watch.json").read_text(encoding="utf-8"))["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(label): str(stamp) for label, stamp in held.items()} if isinstance(held, dict) else {}


def _standing(config: WatchConfig, watched: Watched) -> dict[str, Any]:
    by_label: dict[str, list[Sample]] = {}
    for sample in watched.run.samples():
        by_label.setdefault(sample.label, []).append(sample)
    arms = {label: Arm(label, 0, label, step_of(label), tuple(own)) for label, own in by_label.items()}
    base = arms.pop("base", None)
    scored = score_table([score_rows(watched.run)])
    specs = {spec.name: spec for spec in CATALOG}
    known = [arm for arm in arms.values() if arm.step is not None]
    found = trend(known, base, scored, specs, config.by) if known else Trend("", (), None, None, "No checkpoint yet.")
    trained_on = watched.training.get("reward", {}).get("metric")
    sets = watched.run.set_scores()
    warnings: list[Tripwire] = []
    for arm in sorted(known, key=lambda arm: arm.step or 0):
        changes = score_changes(base, arm, scored, specs, {})[0] if base is not None else ()
        rewards = training_rewards(watched.log, config.reward, trained_on, arm.step)
        warning = tripwire(arm.label, arm.step, rewards, changes, sets, trained_on, config.held_out)
        warnings += [warning] if warning is not None else []
    return {**asdict(found), "warnings": [asdict(warning) for warning in warnings]}


def status(result: Mapping[str, Any]) -> int:
    """The exit code: 1 when the last checkpoint is warned of or one could not be scored, else 0."""
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    last = rows[-1]["label"] if rows else None
    return int(bool(result["failed"]) or any(warning["label"] == last for warning in result["warnings"]))


def render(result: Mapping[str, Any]) -> str:
    """The look as text for a terminal."""
    lines = [f"rule: {result['rule']}"] if result["rule"] else []
    for row in result["rows"]:
        mark = "best" if row["label"] == result["best"] else "as good" if row["tied"] else ""
        change = "" if row["change"] is None else f"  against base {_shown(row['change'], signed=True)}"
        lines.append(f"{row['label']:14} {_shown(row['value'])}{change}  {mark}".rstrip())
    lines.append(result["said"])
    lines += [f"WARNING {w['name'].replace('_', ' ')} at {w['label']}: {w['text']}" for w in result["warnings"]]
    lines += [f"{label} cannot be scored: {reason}" for label, reason in result["failed"].items()]
    lines += [f"{label} is still being written" for label in result["waiting"]]
    return "\n".join(lines)


def _shown(interval: Mapping[str, Any], signed: bool = False) -> str:
    sign = "+" if signed else ""
    low, high = interval["low"], interval["high"]
    bounds = "no interval" if low is None else f"{low:{sign}.3g} to {high:{sign}.3g}"
    return f"{interval['value']:{sign}.4g} ({bounds})"
