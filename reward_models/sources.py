"""A reward by name: a folder of 'pixeval reward train', or a metric of the catalogue that judges image and prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pixeval.catalog import CATALOG, find, load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.protocols import SelectiveScorer
from pixeval.weights import parse_weights
from reward_models.model import Opinion
from reward_models.scorer import Reward


@dataclass(frozen=True)
class Source:
    """A reward that is loaded."""

    name: str
    scorer: Any
    sign: float
    """-1 where the metric is better when lower."""
    differentiable: bool
    device: str

    @property
    def fingerprint(self) -> str:
        """The scorer's."""
        found: str = self.scorer.fingerprint
        return found

    def values(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(N,) rewards, higher is better, for N x 3 x H x W images in [0, 1]."""
        found: Tensor = self.sign * self.scorer(images.to(self.device), list(prompts))
        return found

    def opinion(self, images: Tensor, prompts: Sequence[str]) -> Opinion | None:
        """With the deviation of the ensemble; None for metrics, which have none."""
        if not isinstance(self.scorer, Reward):
            return None
        return self.scorer.model.opinion(images.to(self.device), prompts)

    def hindrance(self, prompt: str) -> str | None:
        """Why images of this prompt have no value; a longer prompt than the model takes is one reason."""
        return self.scorer.hindrance(prompt) if isinstance(self.scorer, SelectiveScorer) else None


def open_source(model: str, weights: Sequence[str] = (), device: str = "cpu") -> Source:
    """Load ``model``: a folder, or the name of a metric, with ``NAME=PATH`` words where it needs weights.

    Raises:
        InputError: neither, or a metric that does not judge single images with their prompts.
    """
    if Path(model).is_dir():
        return Source(Path(model).resolve().name, Reward(model).to(device), 1.0, True, device)
    if "/" in model or "\\" in model:
        raise InputError(f"there is no folder {model}; give a folder of 'pixeval reward train', or a metric")
    spec = find(model)
    if "prompt" not in spec.needs or set(spec.needs) - {"prompt", "clip", "weights"}:
        raise InputError(f"{spec.name} does not judge single images with their prompts; name a metric that does")
    encoder = ClipEncoder.load(device=device) if "clip" in spec.needs else None
    scorer = load(spec, encoder=encoder, weights=parse_weights(weights, CATALOG).get(spec.name))
    if "weights" in spec.needs:
        scorer = scorer.to(device)
    return Source(spec.name, scorer, 1.0 if spec.higher_is_better else -1.0, spec.differentiable, device)
