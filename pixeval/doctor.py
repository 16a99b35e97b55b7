"""``pixeval doctor``: what is installed, what is missing, and what to do about it."""

import importlib
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pixeval import __version__
from pixeval.errors import InputError
from pixeval.pipelines import check_pipeline_folder, check_safetensors
from pixeval.zoo import BUNDLED, CLIP

IMPORTED = ("torch", "torchvision", "diffusers", "transformers", "open_clip", "torchmetrics", "gradio", "datasets")


@dataclass(frozen=True)
class DoctorConfig:
    """Look at this installation."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    good: bool
    says: str


def doctor(config: DoctorConfig) -> dict[str, Any]:
    """Every finding, and whether all are good."""
    findings = [Finding("pixeval", True, f"{__version__}, Python {platform.python_version()}")]
    findings += [_import(name) for name in IMPORTED]
    findings.append(_device())
    findings += [_model(name, folder) for name, folder in BUNDLED.items()]
    findings.append(_clip())
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    findings.append(Finding("disk", free > 2, f"{free:.0f} GB free here"))
    return {"good": all(f.good for f in findings), "findings": [vars(f) for f in findings]}


def render(result: dict[str, Any]) -> str:
    """The findings for a terminal."""
    width = max(len(row["what"]) for row in result["findings"])
    lines = [f"{'ok ' if row['good'] else 'BAD'}  {row['what']:{width}}  {row['says']}" for row in result["findings"]]
    return "\n".join([*lines, "", "everything is in order" if result["good"] else "mend what is marked BAD"])


def _import(name: str) -> Finding:
    try:
        importlib.import_module(name)
        distribution = {"open_clip": "open_clip_torch"}.get(name, name)
        return Finding(name, True, metadata.version(distribution))
    except Exception as error:  # a broken installation may raise anything, and doctor must live to say so
        return Finding(name, False, f"{type(error).__name__}: {str(error).splitlines()[0]}; install pixeval again")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", True, f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})")
    return Finding("device", True, f"CPU with {torch.get_num_threads()} threads; large models want a GPU")


def _model(name: str, folder: Path) -> Finding:
    try:
        check_pipeline_folder(folder)
    except InputError as error:
        return Finding(name, False, str(error))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    return Finding(name, True, f"complete, {size:.0f} MB")


def _clip() -> Finding:
    weights = CLIP / "open_clip_model.safetensors"
    if not weights.exists():
        return Finding("zoo:clip", False, f"{weights} is missing; get the repository again")
    try:
        check_safetensors(weights)
    except InputError as error:
        return Finding("zoo:clip", False, str(error))
    return Finding("zoo:clip", True, f"complete, {weights.stat().st_size / 1e6:.0f} MB")
