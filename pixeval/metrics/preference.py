"""Which image people prefer for a prompt: CLIPs that were fine-tuned on choices of people.

No prompt is cut off: one longer than CLIP's context is encoded in parts (see ``ClipEncoder.encode_text``). The
published programs cut at 77 tokens without a word, so for longer prompts their numbers differ from these; ``pixeval
score`` tells of how many prompts that is so.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.metrics.arguments import check_pairs
from pixeval.preprocess import CLIP_MEAN, CLIP_STD
from pixeval.pretrained import PICKLED
from pixeval.transformers_clip import load_transformers_clip
from pixeval.weight_files import read_weights

HPS_ARCHITECTURE = "ViT-H-14"
PICKSCORE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class _ClipPreference:
    """A cosine in a fine-tuned CLIP, scaled."""

    name: str

    def __init__(self, encoder: ClipEncoder) -> None:
        self.encoder = encoder
        self.fingerprint = f"{self.name}/1/{encoder.fingerprint}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32 for N x 3 x H x W images and their prompts.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`.
        """
        texts = check_pairs(self.name, images, prompts)
        distinct = list(dict.fromkeys(texts))
        with self._precision():
            rows = self.encoder.encode_text(distinct)[[distinct.index(text) for text in texts]]
            cosines = (self.encoder(images) * rows).sum(1)
        return self.scale() * cosines.float()

    def to(self, device: str) -> "_ClipPreference":
        """Move the weights; returns itself."""
        self.encoder.to(device)
        return self

    def parts(self, prompt: str) -> int:
        """In how many parts a prompt is read; the authors' program reads the first and drops the others."""
        return len(self.encoder.split(prompt))

    def scale(self) -> float:
        """What the cosine is multiplied by."""
        raise NotImplementedError

    def _precision(self) -> Any:
        return torch.autocast(self.encoder.device.type, enabled=False)


class PickScore(_ClipPreference):
    """PickScore (arXiv 2305.01569): the cosine in a CLIP ViT-H/14 times its own logit scale. Higher is better.

    The published model gives about 17 to 24. Only differences between images of one prompt mean something.
    """

    name = "pickscore"

    def __init__(self, source: str) -> None:
        """``source``: folder of a transformers ``CLIPModel`` with its processor, or yuvalkirstain/PickScore_v1."""
        # the model card takes the processor from the CLIP that was fine-tuned
        processor = source if Path(source).is_dir() else PICKSCORE_PROCESSOR
        super().__init__(load_transformers_clip(source, self.name, processor))

    def scale(self) -> float:
        return self.encoder.logit_scale


class HpsV2(_ClipPreference):
    """Human preference score v2 (arXiv 2306.09341): 100 times the cosine in a CLIP ViT-H/14. Higher is better.

    In [-100, 100]; published models give about 20 to 35. Compares images of one prompt. Images are padded to squares
    with black, as the authors' program does; on CUDA it runs in half precision, as theirs.
    """

    name = "hpsv2"

    def __init__(self, source: str) -> None:
        """``source``: safetensors file of the published ViT-H-14, an open_clip folder, or ``hf-hub:owner/model``."""
        super().__init__(load_hps(source, self.name))

    def scale(self) -> float:
        return 100.0

    def _precision(self) -> Any:
        device = self.encoder.device.type
        return torch.autocast(device, torch.float16, enabled=device == "cuda")


class HpsV21(HpsV2):
    """Version 2.1 of :class:`HpsV2`, from better data. The two versions do not compare."""

    name = "hpsv2_1"


def load_hps(source: str, metric: str, architecture: str = HPS_ARCHITECTURE) -> ClipEncoder:
    """The CLIP of an HPS model, with the authors' preprocessing: the longer side resized, the rest padded.

    Args:
        source: a safetensors file with the state dict of ``architecture``, an open_clip folder, or
            ``hf-hub:owner/model``.
        metric: whose it is, for the error.

    Raises:
        InputError: no such file or folder, pickled weights, or tensors of another architecture.
    """
    if Path(source).suffix in PICKLED:
        raise InputError(
            f"{source} is pickled and not read; convert it to safetensors once (docs/metrics.md, 'Published models')"
        )
    if source.startswith("hf-hub:") or Path(source).is_dir():
        found = ClipEncoder.load(source)
        settings = {**found.preprocess, "resize_mode": "longest", "fill_color": 0}
        model: Any = found.model
        tokenizer = found.tokenizer
    else:
        model, tokenizer = _open_clip_from(source, metric, architecture)
        size = model.visual.image_size
        settings = {"size": size, "mean": CLIP_MEAN, "std": CLIP_STD, "resize_mode": "longest", "fill_color": 0}
    model.visual.preprocess_cfg = settings
    return ClipEncoder(model, tokenizer)


def _open_clip_from(file: str, metric: str, architecture: str) -> tuple[Any, Any]:
    import open_clip
    from accelerate import init_empty_weights

    weights = read_weights(file, metric)
    with init_empty_weights(include_buffers=False):
        model = open_clip.CLIP(**open_clip.get_model_config(architecture))
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file} does not hold the state dict of an open_clip {architecture}: {reason}") from error
    return model, open_clip.get_tokenizer(architecture)
