"""What the parts ask of each other. Images are float32, N x 3 x H x W, RGB, in [0, 1] (see ``images``)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Generator(Protocol):
    """Turns prompts into images."""

    fingerprint: str
    """Changes whenever weights or sampler settings change."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """One image per (prompt, seed); the image of a pair does not depend on its batch."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Metric, reward and differentiable loss term in one shape. The caller decides about gradients."""

    fingerprint: str

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """One value per image, float32 of shape (N,)."""
        ...


@runtime_checkable
class SelectiveScorer(Protocol):
    """A :class:`Scorer` that cannot take every prompt: too long, or with nothing in it to check."""

    fingerprint: str

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor: ...

    def hindrance(self, prompt: str) -> str | None:
        """Why images of this prompt have no value; None when they have one. Calling with it raises an InputError."""
        ...


@runtime_checkable
class PartingScorer(Protocol):
    """A :class:`Scorer` that reads a long prompt in parts, where the published program cuts it."""

    fingerprint: str

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor: ...

    def parts(self, prompt: str) -> int:
        """How many; with more than one the value does not compare with published ones."""
        ...


@runtime_checkable
class SharingScorer(Protocol):
    """A :class:`Scorer` of images and prompts that can take the images' features from a shared encoder."""

    fingerprint: str

    @property
    def shared_encoder(self) -> "Encoder | None":
        """Whose features it takes; None for none."""
        ...

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor: ...

    def from_image_features(self, features: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """As calling."""
        ...


@runtime_checkable
class FlawScorer(Protocol):
    """A :class:`Scorer` that also shows where: values and heat maps in [0, 1], higher is worse."""

    fingerprint: str

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor: ...

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1], at the resolution of the images."""
        ...


@runtime_checkable
class ReferenceScorer(Protocol):
    """Compares each image with its own reference."""

    fingerprint: str

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        """One value per pair, shape (N,)."""
        ...


@runtime_checkable
class SetMetric(Protocol):
    """A distance between two sets of features."""

    fingerprint: str

    def __call__(self, features: Tensor, reference: Tensor) -> float:
        """``features`` N x D of the judged set, ``reference`` M x D; features, never images."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Images to features that several metrics share."""

    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the features come out."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """N x D float32."""
        ...
