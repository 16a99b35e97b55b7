"""A CLIP of transformers as a :class:`pixeval.encoders.ClipEncoder`, so that both kinds share every line after it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.pretrained import load_model, load_processor

BILINEAR = 2
"""``resample`` of image processors is a number of PIL; any other than this one is taken for bicubic (3)."""


def load_transformers_clip(source: str, metric: str, processor: str) -> ClipEncoder:
    """The ``CLIPModel`` in a local folder or under a hub name.

    Args:
        processor: folder or hub name of the tokenizer and the image settings; mostly ``source`` again.

    Raises:
        InputError: as :func:`pixeval.pretrained.load_model`, or the image settings are not CLIP's (crop of the
            resized side).
    """
    import torch

    model = load_model("CLIPModel", source, metric, dtype=torch.float32)
    settings = clip_settings(load_processor("CLIPImageProcessor", processor, metric), processor, metric)
    tokenizer = load_processor("AutoTokenizer", processor, metric)
    return ClipEncoder(_OpenClipShape(model, settings), _Tokens(tokenizer))


class _OpenClipShape(nn.Module):
    """What ClipEncoder asks of an open_clip model."""

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.visual = SimpleNamespace(preprocess_cfg=settings)
        self.context_length = int(model.config.text_config.max_position_embeddings)

    @property
    def logit_scale(self) -> Tensor:
        scale: Tensor = self.model.logit_scale
        return scale

    def encode_image(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        # attention is causal and the feature is taken at the end token, so padding after it changes nothing
        features: Tensor = self.model.text_projection(self.model.text_model(input_ids=tokens).pooler_output)
        return features


class _Tokens:
    """What ClipEncoder asks of an open_clip tokenizer; never cuts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def clean_fn(self, text: str) -> str:
        return text

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens: Tensor = self.tokenizer(list(texts), padding=True, return_tensors="pt", verbose=False).input_ids
        return tokens


def clip_settings(processor: Any, source: str, metric: str) -> dict[str, Any]:
    """What :func:`pixeval.preprocess.prepare` needs of an image processor.

    Raises:
        InputError: it does anything else than CLIP's, which crops the centre of the resized shorter side.
    """
    size, crop = dict(processor.size), dict(processor.crop_size or {})
    shortest = size.get("shortest_edge")
    if not (processor.do_resize and shortest and crop.get("height") == crop.get("width") == shortest):
        raise InputError(
            f"{metric}: the image settings of {source} (size {size}, crop {crop}) are not those of a CLIP, which crops "
            "the centre of the resized shorter side; give a folder with CLIP's preprocessor_config.json"
        )
    return {
        "size": int(shortest),
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "interpolation": "bilinear" if int(processor.resample) == BILINEAR else "bicubic",
        "resize_mode": "shortest",
    }
