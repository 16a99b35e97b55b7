"""Resumable training state on disk: tensors as safetensors, everything else as JSON, nothing pickled.

A state directory holds ``state.safetensors`` (module weights, optimiser moments, RNG states) and
``state.json`` (step, settings, optimiser hyperparameters). Directories are written beside their final place
and renamed, so a killed process leaves the previous complete one.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pixeval.errors import InputError


class Stateful(Protocol):
    """Something that a checkpoint keeps beside weights and optimiser."""

    def state(self) -> dict[str, Any]:
        """What is kept, as JSON can hold it."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` gave."""
        ...


def save_state(
    directory: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    meta: Mapping[str, Any],
) -> None:
    """Write the state of ``modules`` and ``optimizer`` atomically to ``directory``.

    Args:
        directory: replaced as a whole.
        modules: weights are saved under ``name/parameter``; parameters that need no gradient are left out.
        optimizer: its per-parameter tensors are saved by position.
        meta: JSON-serialisable facts, for example ``{"step": 100}``.

    Raises:
        InputError: it cannot be written (disk full); what was there before is kept.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in _trainable_state(module).items():
            # A copy, because safetensors refuses tied weights (as those of T5) that share their memory.
            tensors[f"module/{name}/{key}"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    state = optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}
    for index, moments in state["state"].items():
        for key, value in _flat(moments):
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value.detach().cpu().clone().contiguous()
            else:
                numbers.setdefault(str(index), {})[key] = value
    tensors["rng/cpu"] = torch.get_rng_state()

    def write(folder: Path) -> None:
        save_file(tensors, folder / "state.safetensors")
        facts = {**meta, "param_groups": state["param_groups"], **({"moments": numbers} if numbers else {})}
        (folder / "state.json").write_text(json.dumps(facts, indent=1))

    write_directory(directory, write)


def load_state(directory: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore what :func:`save_state` wrote, in place, and return its ``meta``.

    Raises:
        InputError: a file is missing or damaged.
    """
    try:
        tensors = load_file(directory / "state.safetensors")
        meta: dict[str, Any] = json.loads((directory / "state.json").read_text())
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{directory} is damaged ({error}); delete the run and train again") from error
    for name, module in modules.items():
        prefix = f"module/{name}/"
        weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        missing = set(_trainable_state(module)) ^ set(weights)
        if missing:
            raise ValueError(f"{directory}: weights of {name!r} do not fit, first mismatch {sorted(missing)[0]!r}")
        module.load_state_dict(weights, strict=False)
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, moment = key.split("/")
            state.setdefault(int(index), {})[moment] = value
    for index, numbers in meta.pop("moments", {}).items():
        state.setdefault(int(index), {}).update(numbers)
    optimizer.load_state_dict({"state": state, "param_groups": meta.pop("param_groups")})
    torch.set_rng_state(tensors["rng/cpu"])
    return meta


def write_directory(final: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a new directory, then put it in the place of ``final``.

    Raises:
        InputError: a file cannot be written (disk full); ``final`` is as it was.
    """
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        replace_directory(partial, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"cannot write {final} ({error}). Make room and run the same command again.") from error


def remove_directory(path: Path) -> None:
    """Remove a directory so that no half of it is left under its name."""
    doomed = path.with_name(path.name + ".removed")
    path.rename(doomed)
    shutil.rmtree(doomed)


def recover_directory(final: Path) -> bool:
    """Undo what a killed process left half done; true when ``final`` is there."""
    old = final.with_name(final.name + ".old")
    if old.exists() and not final.exists():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(final.with_name(final.name + ".partial"), ignore_errors=True)
    return final.exists()


def replace_directory(partial: Path, final: Path) -> None:
    """Move a completely written directory into place, keeping the old one until the new one is there."""
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb") as written:
                os.fsync(written.fileno())
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _flat(moments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Items of a parameter's state, with those of a dict within it: bitsandbytes wraps what it quantised."""
    for key, value in moments.items():
        if isinstance(value, Mapping):
            yield from value.items()
        else:
            yield key, value


def _trainable_state(module: nn.Module) -> dict[str, Tensor]:
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}
