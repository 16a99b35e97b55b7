"""A stock diffusers pipeline as a :class:`~pixeval.protocols.Generator`."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pixeval.errors import InputError, unknown_name
from pixeval.zoo import BUNDLED


@dataclass(frozen=True)
class Sampler:
    """Settings of sampling. They are part of the fingerprint: other settings, other images."""

    steps: int = 25
    """Denoising steps."""
    guidance: float = 4.0
    """Classifier-free guidance scale; 1 switches it off. For FLUX.1-dev the scale that it was distilled for."""
    width: int | None = None
    """Pixels; the model's own size when left out."""
    height: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights while sampling."""


class PipelineGenerator:
    """Any text-to-image pipeline that ``DiffusionPipeline.from_pretrained`` loads.

    Every image has its own random generator on the CPU, seeded by its seed, so it depends neither on the
    device's random numbers nor on its neighbours in the batch (up to rounding in the matrix products).
    """

    def __init__(self, pipeline: Any, fingerprint: str, sampler: Sampler, device: str = "cpu") -> None:
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.fingerprint = fingerprint
        self.sampler = sampler

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """N x 3 x H x W in [0, 1], float32 on the CPU, for N prompts and N seeds."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        output = self.pipeline(
            list(prompts),
            num_inference_steps=self.sampler.steps,
            generator=generators,
            output_type="pt",
            **self._guidance(len(prompts)),
            **self._extra(),
        )
        images: Tensor = output.images
        return images.float().clamp(0, 1).cpu()

    def _guidance(self, n: int) -> dict[str, Any]:
        """The sampler's guidance under the name and in the convention of the pipeline."""
        scale, name = self.sampler.guidance, type(self.pipeline).__name__
        if name == "ZImagePipeline":
            # Counts from 0: prediction + scale * (prediction - unconditional).
            return {"guidance_scale": scale - 1}
        if name == "QwenImagePipeline" and not self.pipeline.transformer.config.guidance_embeds:
            # A space, as the model's authors use: without a negative prompt there is no guidance.
            return {"true_cfg_scale": scale, "negative_prompt": [" "] * n if scale > 1 else None}
        return {"guidance_scale": scale}

    def _extra(self) -> dict[str, Any]:
        accepted = inspect.signature(type(self.pipeline).__call__).parameters
        extra: dict[str, Any] = {}
        if self.sampler.width and self.sampler.height:
            extra |= {"width": self.sampler.width, "height": self.sampler.height}
        elif isinstance(accepted["height"].default, int):
            # Sana's call has one size for all its models.
            side = self.pipeline.transformer.config.sample_size * self.pipeline.vae_scale_factor
            extra |= {"width": side, "height": side}
        if "use_resolution_binning" in accepted:
            # The bins exist for 256, 512 and 1024 px only; the requested size is what is wanted here.
            extra["use_resolution_binning"] = False
        if "clean_caption" in accepted:
            # Needs further packages, and would change the prompt that is scored later.
            extra["clean_caption"] = False
        if "max_sequence_length" in accepted:
            extra["max_sequence_length"] = prompt_length(self.pipeline)
        return extra


def prompt_length(pipeline: Any) -> int:
    """``max_sequence_length`` for training and sampling: the call's default, no more than the tokenizer is made for.

    It is the last tokenizer that the length is of: SD3's third and FLUX.1's second are for T5, the others for CLIP.
    """
    default: int = inspect.signature(type(pipeline).__call__).parameters["max_sequence_length"].default
    names = [name for name in ("tokenizer_3", "tokenizer_2", "tokenizer") if name in pipeline.components]
    tokenizer = pipeline.components[names[0]] if names else None
    return default if tokenizer is None else min(default, tokenizer.model_max_length)


def load_generator(model: str, sampler: Sampler, device: str = "cpu") -> PipelineGenerator:
    """Load a bundled model (``zoo:unet``, ``zoo:dit``), a local pipeline folder or a hub name.

    Raises:
        InputError: no such folder, an incomplete download, or not a text-to-image pipeline.
    """
    import diffusers
    import transformers

    # Bars for the reading of local files bury our own progress.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    folder = resolve_model(model)
    absent = check_pipeline_folder(folder) if isinstance(folder, Path) else {}
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, sampler.dtype), **absent)
    except (OSError, ValueError, RuntimeError, AttributeError, ImportError) as error:
        raise InputError(_first_line(f"cannot load {model}: {error}")) from error
    if "prompt" not in inspect.signature(type(pipeline).__call__).parameters:
        raise InputError(f"{model} is a {type(pipeline).__name__}, which takes no prompt.")
    fingerprint = model_fingerprint(folder) if isinstance(folder, Path) else _text_hash(str(model))
    return PipelineGenerator(pipeline, combine(fingerprint, sampler), sampler, device)


def resolve_model(model: str) -> Path | str:
    """The folder of a bundled or local model, or the hub name unchanged."""
    if model in BUNDLED:
        return BUNDLED[model]
    if model.startswith("zoo:"):
        raise unknown_name("bundled model", model, BUNDLED)
    path = Path(model)
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        path = path.expanduser()
        if not path.is_dir():
            raise InputError(f"{model} is not a model folder; give one, a hub name, or {', '.join(BUNDLED)}.")
        return path
    return model


def check_pipeline_folder(folder: Path) -> dict[str, None]:
    """See that a pipeline folder is complete before anything is loaded.

    Returns:
        The components that its index says it was saved without (SD3's T5, say), which diffusers wants to be told.

    Raises:
        InputError: naming the first file that is missing or cut off.
    """
    index = folder / "model_index.json"
    if not index.exists():
        raise InputError(f"{folder} has no model_index.json, so it is no diffusers pipeline.")
    try:
        components = json.loads(index.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{index} is damaged ({error}); download it again.") from error
    for name, kind in components.items():
        if not isinstance(kind, list) or kind[0] is None:
            continue
        if not (folder / name).is_dir():
            raise InputError(f"{folder} is incomplete: the folder {name}/ is missing. Download the model again.")
    for weights in sorted(folder.rglob("*.safetensors")):
        check_safetensors(weights)
    return {name: None for name, kind in components.items() if isinstance(kind, list) and kind == [None, None]}


def check_safetensors(path: Path) -> None:
    """See that a safetensors file is as long as its header says.

    Raises:
        InputError: the file is cut off, as by an interrupted download.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # Whatever is no safetensors file, say an error page, announces a header of any length.
        head = file.read(min(length, path.stat().st_size))
    try:
        tensors = json.loads(head)
        end = max((t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"), default=0)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a complete safetensors file; download it again.") from error
    expected, found = 8 + length + end, path.stat().st_size
    if expected != found:
        raise InputError(f"{path} has {found:,} bytes instead of {expected:,}; the download was cut off, get it again.")


def model_fingerprint(folder: Path) -> str:
    """Twelve hexadecimal digits over the weights and configuration of a pipeline folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")):
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:12]


def combine(model: str, sampler: Sampler) -> str:
    """Fingerprint of a generator: the model's and that of the sampler settings."""
    return f"{model}-{_text_hash(json.dumps(asdict(sampler), sort_keys=True))[:6]}"


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]
