"""A reward by name: a metric of the catalogue that judges single images, or a folder of 'pixeval reward train'."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixeval.catalog import CATALOG, find, load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.protocols import SelectiveScorer
from pixeval.scoring.image_pass import FAILED, guarded
from pixeval.weights import parse_weights
from reward_models.scorer import Reward, addressed

TOGETHER = 16
"""Images that are decoded and scored at once, at most."""
PART_PIXELS = 16_000_000
"""Of images that are decoded before some are scored; see :func:`in_parts`."""

Valued = tuple[float, float | None]
"""A reward, and the deviation of its ensemble where it has one."""


@dataclass(frozen=True)
class Source:
    """A reward that is loaded."""

    name: str
    scorer: Any
    sign: float
    """-1 where the metric is better when lower."""
    differentiable: bool
    device: str
    takes_prompt: bool = True
    """Whether the prompt enters the value."""
    log_odds: bool = False
    """Whether a difference of two rewards is a model's own log odds that the first image is preferred."""
    least_side: int = 1
    """Smallest height and width that it takes."""

    @property
    def fingerprint(self) -> str:
        """The scorer's."""
        found: str = self.scorer.fingerprint
        return found

    def values(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(N,) rewards, higher is better, for N x 3 x H x W images in [0, 1]."""
        images = images.to(self.device)
        found: Tensor = self.scorer(images, list(prompts)) if self.takes_prompt else self.scorer(images)
        return self.sign * found

    def rewards(self, images: Sequence[Tensor], prompts: Sequence[str]) -> list[Valued | str]:
        """A reward, or why there is none, for each of the images 3 x H x W; those of one size are scored together."""
        found: list[Valued | str] = [""] * len(images)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for place, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            reason = self.hindrance(image, prompt)
            if reason is None:
                by_size.setdefault(tuple(image.shape), []).append(place)
            else:
                found[place] = reason
        for members in by_size.values():
            self._reward_part(images, prompts, members, found)
        return found

    def hindrance(self, image: Tensor, prompt: str) -> str | None:
        """Why this has no value; a longer prompt than the model takes is one reason."""
        height, width = image.shape[-2:]
        if min(height, width) < self.least_side:
            return f"the image has {width}x{height} pixels; {self.name} needs at least {self.least_side} a side"
        if not isinstance(self.scorer, SelectiveScorer):
            return None
        try:
            return self.scorer.hindrance(prompt)
        except Exception as error:  # as in guarded: one prompt must not take the others with it
            return f"{FAILED}: {type(error).__name__}: {error}"

    def trained_on(self, prompts: Iterable[str]) -> int:
        """How many of these prompts it is known to be trained on."""
        return self.scorer.model.trained_on(prompts) if isinstance(self.scorer, Reward) else 0

    def _reward_part(
        self, images: Sequence[Tensor], prompts: Sequence[str], part: Sequence[int], found: list[Valued | str]
    ) -> None:
        deviations: dict[int, float] = {}

        def compute(which: list[int]) -> Tensor:
            stacked, asked = torch.stack([images[part[k]] for k in which]), [prompts[part[k]] for k in which]
            if not isinstance(self.scorer, Reward):
                return self.values(stacked, asked)
            opinion = self.scorer.opinion(stacked.to(self.device), asked)
            deviations.update(zip(which, opinion.deviation.tolist(), strict=True))
            return self.scorer.value(opinion)

        with torch.no_grad():
            values = guarded(compute, len(part))
        for k, (value, place) in enumerate(zip(values, part, strict=True)):
            if isinstance(value, str):
                found[place] = value
            elif value - value != 0:
                found[place] = f"the reward is {value}, not a finite number"
            else:
                found[place] = (value, deviations.get(k))


def in_parts(decoded: Iterable[tuple[int, Tensor]]) -> Iterator[list[tuple[int, Tensor]]]:
    """Images with their places, in parts of ``TOGETHER`` at most; in memory are ``PART_PIXELS`` and one image."""
    part: list[tuple[int, Tensor]] = []
    pixels = 0
    for place, image in decoded:
        part.append((place, image))
        pixels += image.shape[-2] * image.shape[-1]
        if len(part) == TOGETHER or pixels >= PART_PIXELS:
            yield part
            part, pixels = [], 0
    if part:
        yield part


def trained_folder(model: str) -> bool:
    """Whether ``model`` is a folder, or the head of one question of it; names of metrics are metrics (``./NAME`` is the
    folder)."""
    return all(spec.name != model for spec in CATALOG) and Path(addressed(model)[0]).is_dir()


def open_source(model: str, weights: Sequence[str] = (), device: str = "cpu", clip: str = "bundled") -> Source:
    """Load a reward.

    Args:
        model: name of a metric; or a folder of 'pixeval reward train', with ``#QUESTION`` for the head of one question.
        weights: ``NAME=PATH`` words for metrics that need weights.
        clip: for metrics on features of a CLIP, as ``--clip`` of 'pixeval score'.

    Raises:
        InputError: neither, or a metric that needs more than one image and its prompt.
    """
    if trained_folder(model):
        folder, _ = addressed(model)
        name = f"{Path(folder).resolve().name}{model.removeprefix(folder)}"
        return Source(name, Reward(model).to(device), 1.0, True, device, log_odds=True)
    if "/" in model or "\\" in model:
        raise InputError(f"there is no folder {model}; give a folder of 'pixeval reward train', or a metric")
    spec = find(model)
    if spec.family == "distribution" or set(spec.needs) - {"prompt", "clip", "general_clip", "weights"}:
        raise InputError(f"{spec.name} does not judge single images, or needs more than their prompts; name another")
    encoder = ClipEncoder.load(clip, device) if "clip" in spec.needs else None
    scorer = load(spec, encoder=encoder, weights=parse_weights(weights, CATALOG).get(spec.name))
    if "weights" in spec.needs:
        scorer = scorer.to(device)
    return Source(
        spec.name,
        scorer,
        1.0 if spec.higher_is_better else -1.0,
        spec.differentiable,
        device,
        takes_prompt="prompt" in spec.needs,
        log_odds=spec.unit == "log odds" or spec.name == "pickscore",
        least_side=spec.min_side,
    )
