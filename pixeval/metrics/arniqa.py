"""ARNIQA by torchmetrics' network, from a local safetensors file."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics.functional.image.arniqa import _ARNIQA

from pixeval.metrics.perceptual import fill
from pixeval.weight_files import digest, read_weights


class Arniqa:
    """Technical quality on a manifold of distortions (Agnolucci et al. 2024), regressor of KonIQ-10k.

    About 0 to 1, higher is better.

    Args:
        weights: safetensors file of the model inside ``torchmetrics.image.ARNIQA``; see ``docs/metrics.md``.
    """

    def __init__(self, weights: str) -> None:
        tensors = read_weights(weights, "arniqa")
        self._net = _Local()
        fill(self._net, tensors, weights, "arniqa")
        self.fingerprint = f"arniqa/1/{digest(tensors)}"

    def to(self, device: str) -> "Arniqa":
        """Move the network; returns itself."""
        self._net.to(device)
        return self

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        found: Tensor = self._net(images.float(), normalize=True)
        return found.flatten()


class _Local(_ARNIQA):  # type: ignore[misc]
    """Built without the download; the weights come afterwards."""

    def __init__(self) -> None:
        super().__init__("koniq10k")

    def _load_weights(self) -> Any:
        return None
