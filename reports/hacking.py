"""The reward-hacking tripwire: what is trained on gets better while what is not gets worse. Pure but for the log."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixeval.catalog import find
from pixeval.errors import InputError
from pixeval.records import SetScore
from reports.tables import ScoreChange
from trainers.tripwires import COLLAPSED, rise_of

MARGINS = ("latent_margin", "pixel_margin")
"""What preference training drives up, in ``metrics.jsonl``."""
WATCHED = ("flaws", "alignment")
"""Families whose metrics must not get worse: flaws, and the text as a held-out reward."""
DIVERSITY = "vendi_score"


@dataclass(frozen=True)
class Tripwire:
    """What a checkpoint is warned of."""

    name: str
    """``reward_hacking`` where a training reward is known to have risen, else ``regression``."""
    label: str
    step: int | None
    text: str
    risen: tuple[str, ...]
    """Training rewards that rose."""
    worse: tuple[str, ...]
    """Held-out metrics that got worse."""


def tripwire(
    label: str,
    step: int | None,
    rewards: Mapping[str, Sequence[float]],
    changes: Sequence[ScoreChange],
    sets: Sequence[SetScore],
    trained_on: str | None = None,
    held_out: Sequence[str] = (),
) -> Tripwire | None:
    """The warning of one checkpoint, if there is one.

    Args:
        rewards: training rewards by name, up to this step, higher is better; empty where none is known.
        changes: this checkpoint against the base model; only what is firm after Holm's correction counts.
        sets: scores of whole sets, of ``base`` and of this checkpoint.
        trained_on: a metric that is the reward, and so says nothing here.
        held_out: further metrics, of any family, that must not get worse.
    """
    risen = tuple(name for name, values in rewards.items() if rise_of(list(values))[1])
    worse = [
        change
        for change in changes
        if change.firm
        and change.verdict == "worse"
        and change.metric != trained_on
        and (change.family in WATCHED or change.metric in held_out)
    ]
    told = [f"{c.metric} by {c.change.value:+.3g} ({c.change.low:+.3g} to {c.change.high:+.3g})" for c in worse]
    names = [change.metric for change in worse]
    collapse = _collapse(label, sets)
    if collapse is not None:
        names.append(DIVERSITY)
        told.append(collapse)
    if not names or (rewards and not risen):
        return None
    if risen:
        text = f"{' and '.join(risen)} rises in training while held-out measures get worse than base: {', '.join(told)}"
        return Tripwire("reward_hacking", label, step, text, risen, tuple(names))
    text = f"held-out measures get worse than base: {', '.join(told)}; no training reward is known to compare with"
    return Tripwire("regression", label, step, text, (), tuple(names))


def _collapse(label: str, sets: Sequence[SetScore]) -> str | None:
    """Fewer different images than the base model makes, beyond both intervals and by a tenth."""
    scores = {score.label: score for score in sets if score.metric == DIVERSITY}
    base, now = scores.get("base"), scores.get(label)
    if base is None or now is None or base.value is None or now.value is None:
        return None
    if base.low is None or now.high is None or now.high >= base.low or now.value > COLLAPSED * base.value:
        return None
    return f"{DIVERSITY} from {base.value:.3g} to {now.value:.3g} ({now.low:.3g} to {now.high:.3g})"


def training_rewards(file: Path, key: str | None, trained_on: str | None, step: int | None) -> dict[str, list[float]]:
    """Rewards of a log with one JSON object per line, up to ``step``; turned so that higher is better.

    Args:
        file: of the log; a missing one holds none, and lines that cannot be read are passed over.
        key: the one value to look at; by default ``reward`` (of pixeval's reward term, where one was given) and the
            margins of preferences.
        trained_on: the metric that the reward is, for its direction.

    Raises:
        InputError: no line holds ``key``.
    """
    sign = -1.0 if trained_on is not None and not find(trained_on).higher_is_better else 1.0
    found: dict[str, list[float]] = {}
    for line in _lines(file):
        if step is not None and line["step"] > step:
            continue
        if key is not None:
            _add(found, key, line.get(key), 1.0)
            continue
        if line.get("rewarded", 0) > 0:
            _add(found, "reward", line.get("reward"), sign)
        for margin in MARGINS:
            _add(found, margin, line.get(margin), 1.0)
    if key is not None and key not in found and any("step" in line for line in _lines(file)):
        raise InputError(f"no line of {file} has a number {key!r}; name a key of its lines with --reward")
    return found


def _add(found: dict[str, list[float]], name: str, value: Any, sign: float) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        found.setdefault(name, []).append(sign * float(value))


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    found = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and type(line.get("step")) is int:
            found.append(line)
    return found
