"""The folder that 'pixeval reward train' writes: begun, gone on with, or finished."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixeval.errors import InputError
from reward_models.judgements import Judgement
from reward_models.model import read_facts

LEFT = {"settings.json", "metrics.jsonl"}
"""What a training leaves that ended before its first state."""


def finished(out: Path, settings: dict[str, Any], judgements: Sequence[Judgement]) -> dict[str, Any] | None:
    """What a finished training with these settings on these judgements found, where there is one in the folder.

    Raises:
        InputError: something else is there: other settings, other judgements, no training. What ended before anything
            was trained may be replaced.
    """
    file, model, state = (out / name for name in ("settings.json", "reward.json", "state"))
    if file.exists() and (model.exists() or state.exists()):
        _check(out, _read(file), _kept(settings, judgements))
        if model.exists():
            return {"out": str(out), **read_facts(out)["facts"]}
    elif out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - LEFT):
        raise InputError(f"{out} is not empty and no reward model; give a new folder")
    return None


def begin(out: Path, settings: dict[str, Any], judgements: Sequence[Judgement]) -> None:
    """Make the folder and keep the settings, and what tells these judgements from others."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(_kept(settings, judgements), indent=1) + "\n")


def _check(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    data, others = before.get("data"), {key: value for key, value in before.items() if key != "data"}
    if others != {key: value for key, value in now.items() if key != "data"}:
        raise InputError(f"{out} holds a reward model with other settings; give another folder, or the same")
    if data != now["data"]:
        many = data.get("judgements") if isinstance(data, dict) else None
        told = "judgements that were not recorded" if many is None else f"{many} judgements"
        raise InputError(
            f"{out} was trained on other data: {told} then, {now['data']['judgements']} now, and they or their images "
            "are not the same; give another --out, or delete the folder to train again"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _kept(settings: dict[str, Any], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """As JSON gives it back."""
    data = {"judgements": len(judgements), "sha256": _digest(judgements)}
    found: dict[str, Any] = json.loads(json.dumps({**settings, "data": data}, default=str))
    return found


def _digest(judgements: Sequence[Judgement]) -> str:
    """Of all that is learned from, the contents of the images included, in order: rows are drawn by their number."""
    whole = hashlib.sha256()
    for j in judgements:
        row = [j.prompt, j.first.sha256, j.second.sha256, j.shares, j.question, j.weight, j.annotator]
        whole.update(json.dumps(row).encode())
    return whole.hexdigest()
