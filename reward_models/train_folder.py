"""The folder that 'pixeval reward train' writes: begun, gone on with, or finished."""

import json
from pathlib import Path
from typing import Any

from pixeval.errors import InputError
from reward_models.model import read_facts

LEFT = {"settings.json", "metrics.jsonl"}
"""What a training leaves that ended before its first state."""


def finished(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a finished training with these settings found, where there is one in the folder.

    Raises:
        InputError: something else is there. Settings with which nothing was trained yet may be replaced.
    """
    file, model, state = (out / name for name in ("settings.json", "reward.json", "state"))
    if file.exists() and (model.exists() or state.exists()):
        try:
            same = json.loads(file.read_text()) == _plain(settings)
        except ValueError:
            same = False
        if not same:
            raise InputError(f"{out} holds a reward model with other settings; give another folder, or the same")
        if model.exists():
            return {"out": str(out), **read_facts(out)["facts"]}
    elif out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - LEFT):
        raise InputError(f"{out} is not empty and no reward model; give a new folder")
    return None


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder and keep the settings."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(_plain(settings), indent=1) + "\n")


def _plain(settings: dict[str, Any]) -> Any:
    return json.loads(json.dumps(settings, default=str))
