"""Quality and appeal from CLIP features: no pixels are looked at here, so the encoder's one pass serves all of them."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.weight_files import digest, read_weights

PHOTO = (("Good photo.", "Bad photo."),)
"""The pair of opposites that CLIP-IQA asks about quality with."""


def opposites(image_features: Tensor, good: Tensor, bad: Tensor, logit_scale: float) -> Tensor:
    """Probability of the good one of each pair of texts, mean over the pairs.

    Args:
        image_features: N x D, unit length.
        good: P x D, unit length; ``bad`` likewise.

    Returns:
        (N,) in [0, 1].
    """
    return (logit_scale * image_features @ (good - bad).T).sigmoid().mean(1)


class ClipIqa:
    """CLIP-IQA (Wang, Chan and Loy 2023): is the image closer to a good or to a bad photo? In [0, 1], higher is better.

    With any open_clip model and at its own preprocessing. The paper uses a ResNet-50 without position embeddings at
    the image's own size, so its published figures do not carry over.

    Args:
        pairs: opposites as (good, bad) texts; for other questions than quality give others, such as
            ``(("Sharp photo.", "Blurry photo."),)``.
    """

    def __init__(self, encoder: ClipEncoder, pairs: Sequence[tuple[str, str]] = PHOTO) -> None:
        if not pairs:
            raise InputError("clip_iqa needs at least one pair of opposite texts")
        self.encoder = encoder
        with torch.no_grad():
            self._good, self._bad = (encoder.encode_text(texts) for texts in zip(*pairs, strict=True))
        words = "" if tuple(pairs) == PHOTO else f"/{'|'.join(text for pair in pairs for text in pair)}"
        self.fingerprint = f"clip_iqa/1/{encoder.fingerprint}{words}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return self.from_features(self.encoder(images), ())

    def from_features(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        """As calling, from features that are already there; ``prompts`` are not looked at."""
        return opposites(features, self._good.to(features), self._bad.to(features), self.encoder.logit_scale)


class LaionAesthetic:
    """LAION aesthetic predictor: a linear head on unit CLIP features, trained on people's ratings from 1 to 10.

    Higher is better; mostly 3 to 7. Meant for the CLIP that the head was trained on, ViT-L/14 of OpenAI.

    Args:
        weights: safetensors file with ``weight`` (1 x D) and ``bias`` (1,), or the layers of the later head,
            ``layers.0.weight``, ``layers.0.bias``, ``layers.2.weight``, ..., all linear and applied in turn.
    """

    def __init__(self, encoder: ClipEncoder, weights: str) -> None:
        self.encoder = encoder
        tensors = read_weights(weights, "laion_aesthetic")
        self._layers = _linear_layers(tensors, weights)
        self.fingerprint = f"laion_aesthetic/1/{digest(tensors)}/{encoder.fingerprint}"

    def to(self, device: str) -> "LaionAesthetic":
        """Move the head; returns itself."""
        self._layers = [(weight.to(device), bias.to(device)) for weight, bias in self._layers]
        return self

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return self.from_features(self.encoder(images), ())

    def from_features(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        """As calling, from features that are already there; ``prompts`` are not looked at."""
        wanted = self._layers[0][0].shape[1]
        if features.shape[1] != wanted:
            raise InputError(
                f"the head of laion_aesthetic takes {wanted} features and this CLIP gives {features.shape[1]}; "
                "give the CLIP it was trained on (--clip ViT-L-14/openai for the published heads)"
            )
        for weight, bias in self._layers:
            features = F.linear(features, weight.to(features), bias.to(features))
        return features[:, 0]


def _linear_layers(tensors: dict[str, Tensor], path: str) -> list[tuple[Tensor, Tensor]]:
    names = sorted((n.removesuffix("weight") for n in tensors if n.endswith("weight")), key=lambda n: (len(n), n))
    layers = [(tensors[f"{name}weight"], tensors[f"{name}bias"]) for name in names if f"{name}bias" in tensors]
    widths = [tuple(weight.shape) for weight, _ in layers]
    fits = all(len(w) == 2 for w in widths) and all(a[0] == b[1] for a, b in pairwise(widths))
    if not layers or len(layers) < len(names) or not fits or widths[-1][0] != 1:
        raise InputError(
            f"{path} is no head of laion_aesthetic: it must hold weight (1 x D) and bias (1), or linear layers "
            "layers.N.weight and layers.N.bias that end in one value"
        )
    return layers
