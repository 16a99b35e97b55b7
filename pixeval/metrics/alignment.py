"""Does the image show what the prompt says, as CLIP sees it.

No prompt is cut off: one longer than the text encoder's context is encoded in parts and the similarity is the mean
over the parts, weighted by their tokens (see ``ClipEncoder.encode_text``).
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError


def clip_score(image_features: Tensor, text_features: Tensor) -> Tensor:
    """100 max(cos, 0) of N x D and N x D features -> (N,).

    Hessel et al. (2104.14718) scale by 2.5; the factor 100 is what later papers and torchmetrics print.
    """
    return 100 * (image_features * text_features).sum(1).clamp_min(0)


def caption_rank(similarities: Tensor, own: Tensor) -> Tensor:
    """Place of the own caption among all: N x C similarities, (N,) column indices -> (N,), 1 is best."""
    return 1 + (similarities > similarities.gather(1, own[:, None])).sum(1).to(similarities.dtype)


def caption_probability(similarities: Tensor, own: Tensor, logit_scale: float) -> Tensor:
    """Softmax probability of the own caption among all -> (N,) in [0, 1]."""
    return (logit_scale * similarities).softmax(1).gather(1, own[:, None]).squeeze(1)


class ClipScore:
    """CLIPScore: 100 max(cos(image, prompt), 0). In [0, 100], higher is better. Arithmetic in :func:`clip_score`."""

    def __init__(self, encoder: ClipEncoder) -> None:
        self.encoder = encoder
        self.fingerprint = f"clip_score/1/{encoder.fingerprint}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return self.from_features(self.encoder(images), prompts or ())

    def from_features(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        """As calling, from features that are already there."""
        _need_prompts("clip_score", prompts, len(features))
        return clip_score(features, self.encoder.encode_text(prompts))


class _AmongCaptions:
    """Own caption against all captions of the run."""

    name: str

    def __init__(self, encoder: ClipEncoder, captions: Sequence[str]) -> None:
        self.encoder = encoder
        self.captions = sorted(set(captions))
        if len(self.captions) < 2:
            raise InputError(f"{self.name} tells captions apart and needs at least two; there are {len(self.captions)}")
        digest = hashlib.sha256("\x1f".join(self.captions).encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.fingerprint = f"{self.name}/1/{encoder.fingerprint}/{len(self.captions)}-{digest}"
        self._columns = {caption: column for column, caption in enumerate(self.captions)}
        self._features: Tensor | None = None

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return self.from_features(self.encoder(images), prompts or ())

    def from_features(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        """As calling, from features that are already there."""
        _need_prompts(self.name, prompts, len(features))
        if self._features is None:
            with torch.no_grad():
                self._features = self.encoder.encode_text(self.captions)
        own = torch.tensor([self._columns[prompt] for prompt in prompts], device=features.device)
        return self._value(features @ self._features.T, own)

    def _value(self, similarities: Tensor, own: Tensor) -> Tensor:
        raise NotImplementedError


class CaptionRank(_AmongCaptions):
    """Place of the own caption among the run's distinct captions by similarity. 1 is best; not differentiable."""

    name = "caption_rank"

    def _value(self, similarities: Tensor, own: Tensor) -> Tensor:
        return caption_rank(similarities, own)


class CaptionProbability(_AmongCaptions):
    """Probability of the own caption among the run's distinct captions at CLIP's own temperature. In [0, 1]."""

    name = "caption_probability"

    def _value(self, similarities: Tensor, own: Tensor) -> Tensor:
        return caption_probability(similarities, own, self.encoder.logit_scale)


def _need_prompts(name: str, prompts: Sequence[str], images: int) -> None:
    if len(prompts) != images:
        raise InputError(f"{name} needs one prompt per image; got {len(prompts)} prompts for {images} images")
