"""Every metric of the catalogue as a ``torchmetrics.Metric``: update per batch, compute at the end, across processes.

What is gathered are values per image, or features per set, never means of means; images that cannot be scored are
counted and enter no mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pixeval.catalog import find, load
from pixeval.encoders import ClipEncoder
from pixeval.images import check_images
from pixeval.metric_spec import MetricSpec
from pixeval.protocols import Encoder, SelectiveScorer
from pixeval.records import Prompt
from pixeval.spectrum_encoder import SpectrumEncoder


def as_torchmetric(
    name: str,
    *,
    encoder: ClipEncoder | None = None,
    captions: Sequence[str] = (),
    records: Mapping[str, Prompt] | None = None,
    weights: str | None = None,
    device: str = "cpu",
) -> "ImageMetric | PairMetric | SetMetric":
    """The metric called ``name``: :class:`SetMetric` for the distribution family, :class:`PairMetric` for the
    reference family, else :class:`ImageMetric`.

    Args:
        encoder: for metrics that need CLIP; the bundled one by default.
        captions: all distinct prompts, for metrics that rank them.
        records: prompts by their text, for metrics that need questions or objects.
        weights: local path, for metrics whose weights are not bundled.
        device: where the metric, its encoder and its weights are; images are expected there.

    Raises:
        InputError: there is no such metric, or what it needs was not given.
    """
    spec = find(name)
    if "clip" in spec.needs:
        encoder = (encoder or ClipEncoder.load()).to(device)
    scorer = load(spec, encoder=encoder, captions=captions, records=records, weights=weights)
    scorer = scorer.to(device) if "weights" in spec.needs else scorer
    metric: ImageMetric | PairMetric | SetMetric
    if spec.family == "distribution":
        shared: Encoder = SpectrumEncoder(device) if "spectrum" in spec.needs or encoder is None else encoder
        metric = SetMetric(spec, scorer, shared)
    else:
        metric = (PairMetric if spec.family == "reference" else ImageMetric)(spec, scorer)
    metric.to(device)
    return metric


class _PerImage(Metric):  # type: ignore[misc]
    """Gathers one value per image; not a number where there is none."""

    full_state_update = False
    values: list[Tensor]

    def __init__(self, spec: MetricSpec, scorer: Any) -> None:
        super().__init__()
        self.spec, self.scorer = spec, scorer
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> bool:
        """The metric's direction."""
        return self.spec.higher_is_better

    @property
    def is_differentiable(self) -> bool:
        """Whether the values have gradients to the images."""
        return self.spec.differentiable

    def compute(self) -> dict[str, Tensor]:
        """``NAME``: mean over the images that have a value; ``NAME_scored`` and ``NAME_unscored``: how many have one
        and how many have none. The mean is not a number where nothing was scored."""
        values = self.per_image()
        scored = values[values.isfinite()]
        name = self.spec.name
        counts = (len(scored), len(values) - len(scored))
        return {
            name: scored.mean(),
            f"{name}_scored": torch.tensor(counts[0], device=values.device),
            f"{name}_unscored": torch.tensor(counts[1], device=values.device),
        }

    def per_image(self) -> Tensor:
        """All values so far, in the order of the updates of this process."""
        values = self.values
        if isinstance(values, Tensor):  # gathered from all processes
            return values
        return torch.cat(values) if values else torch.zeros(0, device=self.device)

    def _too_small(self, images: Tensor) -> bool:
        return min(check_images(images).shape[-2:]) < self.spec.min_side

    def _keep(self, values: Tensor) -> None:
        self.values.append(values.float().to(self.device))


class ImageMetric(_PerImage):
    """A quality, flaw or alignment metric."""

    def update(self, images: Tensor, prompts: Sequence[str] | None = None) -> None:
        """Score N x 3 x H x W images in [0, 1], with one prompt each where the metric needs them."""
        values = images.new_full((len(images),), torch.nan)
        able = list(range(len(images))) if not self._too_small(images) else []
        if isinstance(self.scorer, SelectiveScorer) and prompts is not None:
            able = [i for i in able if self.scorer.hindrance(prompts[i]) is None]
        if able:
            chosen = [prompts[i] for i in able] if prompts is not None else None
            found = self.scorer(images[able], chosen)
            values = values.index_put((torch.tensor(able, device=values.device),), found.to(values))
        self._keep(values)


class PairMetric(_PerImage):
    """A reference metric."""

    def update(self, images: Tensor, references: Tensor) -> None:
        """Compare N x 3 x H x W images in [0, 1] each with its reference."""
        check_images(references)
        if self._too_small(images):
            self._keep(images.new_full((len(images),), torch.nan))
        else:
            self._keep(self.scorer(images, references))


class SetMetric(Metric):  # type: ignore[misc]
    """A distribution metric over the features of one encoder."""

    full_state_update = False
    is_differentiable = False
    judged: list[Tensor]
    reference: list[Tensor]

    def __init__(self, spec: MetricSpec, scorer: Any, encoder: Encoder) -> None:
        super().__init__()
        self.spec, self.scorer, self.encoder = spec, scorer, encoder
        for name in ("judged", "reference"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> bool:
        """The metric's direction."""
        return self.spec.higher_is_better

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add N x 3 x H x W images in [0, 1] to the judged set, or to the reference set where ``real``."""
        with torch.no_grad():
            features = self.encoder(check_images(images)).to(self.device)
        (self.reference if real else self.judged).append(features)

    def compute(self) -> dict[str, Tensor]:
        """``NAME``: the value, not a number where a set is too small; ``NAME_n`` and ``NAME_n_reference``: how many
        images had features."""
        judged, reference = (_finite(rows) for rows in (self.judged, self.reference))
        sets = [judged, reference] if "reference_set" in self.spec.needs else [judged]
        least = self.scorer.smallest(judged.shape[1]) if len(judged) else 1
        enough = all(len(rows) >= least for rows in sets)
        value = float(self.scorer(judged, reference)) if enough else torch.nan
        found = {"": value, "_n": len(judged), "_n_reference": len(reference)}
        return {self.spec.name + ending: torch.tensor(number, device=self.device) for ending, number in found.items()}


def _finite(rows: list[Tensor] | Tensor) -> Tensor:
    features = rows if isinstance(rows, Tensor) else torch.cat(rows) if rows else torch.zeros(0, 0)
    return features[features.isfinite().all(1)] if features.ndim == 2 else torch.zeros(0, 0)
