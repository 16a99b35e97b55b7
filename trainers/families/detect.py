"""From a checkpoint to its family, with every file checked before anything is loaded."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from pixeval.errors import InputError
from pixeval.pipelines import check_pipeline_folder, resolve_model
from trainers.families.flux import Flux
from trainers.families.lumina2 import Lumina2
from trainers.families.pixart import PixArt
from trainers.families.qwen_image import QwenImage
from trainers.families.sana import Sana
from trainers.families.stable_diffusion import StableDiffusion
from trainers.families.stable_diffusion_3 import StableDiffusion3
from trainers.families.stable_diffusion_xl import StableDiffusionXL
from trainers.families.z_image import ZImage
from trainers.latent_diffusion import LatentDiffusion

FAMILIES: dict[str, type[LatentDiffusion]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "PixArtAlphaPipeline": PixArt,
    "PixArtSigmaPipeline": PixArt,
    "SanaPipeline": Sana,
    "Lumina2Pipeline": Lumina2,
    "ZImagePipeline": ZImage,
    "QwenImagePipeline": QwenImage,
}
"""Supported pipeline classes, by ``_class_name`` of ``model_index.json``."""


def load(model: Path) -> LatentDiffusion:
    """The model of a pipeline folder, in float32 on the CPU.

    Args:
        model: a folder that stock diffusers loads, a hub repository (``owner/name``), or a bundled ``zoo:unet``.

    Raises:
        InputError: nothing there, an unsupported family, a missing, truncated or pickled file.
    """
    folder = folder_of(model, partial(DiffusionPipeline.download, use_safetensors=True))
    name, absent = check_trainable(folder), check_pipeline_folder(folder)
    try:
        pipeline = getattr(diffusers, name).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, **absent
        )
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{folder} cannot be loaded: {reason[0]} Download or copy it again.") from error
    pipeline.set_progress_bar_config(disable=True)
    family = FAMILIES[name](pipeline)
    family.folder = folder
    return family


def folder_of(model: Path, download: Callable[[str], Any]) -> Path:
    """Where a pipeline lies: a folder, that of a bundled model, or what is downloaded of a name on the hub.

    Args:
        model: as for :func:`load`.
        download: given the name, returns the folder that it has been downloaded to.

    Raises:
        InputError: there is nothing.
    """
    found = resolve_model(str(model))
    if isinstance(found, Path):
        return found
    try:
        return Path(download(found))
    except (OSError, ValueError) as error:
        raise InputError(f"{found} is neither a folder nor a model that can be downloaded ({error})") from error


def check_trainable(folder: Path) -> str:
    """Check that a pipeline is complete and of a supported family; returns its class name.

    Raises:
        InputError: naming the first file that is missing, truncated, or pickled; or the family.
    """
    check_pipeline_folder(folder)
    index = json.loads((folder / "model_index.json").read_text())
    name = index.get("_class_name")
    if name not in FAMILIES:
        raise InputError(f"{folder}: a {name} cannot be trained yet; supported are {', '.join(FAMILIES)}")
    for part, value in index.items():
        if isinstance(value, list) and value[0] is not None and (folder / part / "config.json").exists():
            _check_weights(folder / part)
    for part in ("vae", FAMILIES[name].denoiser_name):
        if not (folder / part / "config.json").exists():
            raise InputError(
                f"{folder / part / 'config.json'} is missing: the checkpoint is incomplete. Download it again."
            )
    return str(name)


def _check_weights(folder: Path) -> None:
    try:
        json.loads((folder / "config.json").read_text())
        indices = [json.loads(file.read_text()) for file in sorted(folder.glob("*.safetensors.index.json"))]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{folder} has a damaged configuration ({error}). Download or copy it again.") from error
    for shard in sorted({file for index in indices for file in index.get("weight_map", {}).values()}):
        if not (folder / shard).exists():
            raise InputError(f"{folder / shard} is missing: the checkpoint is incomplete. Download it again.")
    if not any(folder.glob("*.safetensors")):
        pickled = [file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickled:
            raise InputError(f"{folder / pickled[0]} is pickled, which is never loaded. Convert it to safetensors.")
        raise InputError(f"{folder} has no weights (*.safetensors): the checkpoint is incomplete. Download it again.")
