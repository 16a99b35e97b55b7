"""Checkpoints as pipelines that stock diffusers loads, at the price of the denoiser.

What training cannot change (VAE, text encoders, tokenizers) comes from the folder that the model was loaded from.
Weights are hard-linked, and copied where the file system cannot (another disk); small files are copied, because people
edit configurations in place.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn

LINKED = ".safetensors"
LEFT = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb", ".xml")
"""Weights of other programs, or pickled."""


def write_pipeline(folder: Path, pipeline: Any, denoiser_name: str, denoiser: nn.Module, base: Path | None) -> None:
    """Write what ``DiffusionPipeline.from_pretrained(folder)`` loads.

    Args:
        folder: exists and is empty.
        pipeline: of diffusers.
        denoiser_name: the pipeline's attribute of the denoiser.
        denoiser: takes the place of the pipeline's own.
        base: where the pipeline was loaded from; None to write every component anew.
    """
    own = getattr(pipeline, denoiser_name)
    pipeline.register_modules(**{denoiser_name: denoiser})
    try:
        if base is None:
            pipeline.save_pretrained(folder, safe_serialization=True)
            return
        for name, part in pipeline.components.items():
            if part is None:
                continue
            if name in (denoiser_name, "scheduler") or not (base / name).is_dir():
                part.save_pretrained(folder / name)
            else:
                take_component(base / name, folder / name)
        pipeline.save_config(folder)
    finally:
        pipeline.register_modules(**{denoiser_name: own})


def take_component(source: Path, target: Path) -> None:
    """Link the weights and copy the other files of a component's folder; variants (``model.fp16.safetensors``) and
    weights of other programs are left out."""
    for path in sorted(source.rglob("*")):
        variant = path.suffix == LINKED and "." in path.stem
        if not path.is_file() or variant or path.suffix in LEFT:
            continue
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        # Files of a hub's cache are symbolic links to what they are called there.
        if path.suffix != LINKED or not _linked(path.resolve(), place):
            shutil.copyfile(path, place)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False
    return True
