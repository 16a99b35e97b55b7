"""The pass over the images of a run: every per-image metric, one decoding and one encoding per image."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pixeval.batches import Batch, chunks, decode_chunk, read_chunk
from pixeval.features import FeatureStore
from pixeval.folder import ImageSet
from pixeval.images import UnreadableImage, read_image
from pixeval.metric_spec import MetricSpec
from pixeval.protocols import SelectiveScorer
from pixeval.records import Sample, Score
from pixeval.score_cache import ScoreTable

NO_PROMPT = "no prompt"


@dataclass(frozen=True)
class LoadedMetric:
    """A catalogue entry and the metric itself."""

    spec: MetricSpec
    scorer: Any


@dataclass(frozen=True)
class References:
    """Which reference image belongs to which sample."""

    images: ImageSet
    by_sample: dict[str, Sample]

    @classmethod
    def match(cls, images: ImageSet, reference: ImageSet) -> "References":
        """By prompt and seed where both sides have them, else by relative path, else by path without extension."""
        by_origin = {(s.prompt_id, s.seed): s for s in reversed(reference.samples) if s.seed is not None}
        by_path = {s.path: s for s in reference.samples}
        by_stem = {s.path.rpartition(".")[0]: s for s in reversed(reference.samples)}
        found = {}
        for sample in images.samples:
            origin = by_origin.get((sample.prompt_id, sample.seed)) if sample.seed is not None else None
            match = origin or by_path.get(sample.path) or by_stem.get(sample.path.rpartition(".")[0])
            if match is not None:
                found[sample.id] = match
        return cls(reference, found)


class ImagePass:
    """Scores a set of images and puts the rows into a table; see :meth:`run`."""

    def __init__(
        self,
        images: ImageSet,
        metrics: Sequence[LoadedMetric],
        table: ScoreTable,
        features: FeatureStore | None,
        references: References | None,
        device: str = "cpu",
    ) -> None:
        self.images, self.metrics, self.table = images, metrics, table
        self.features, self.references, self.device = features, references, device

    def run(self, batch_size: int, save_every: int, progress: bool) -> None:
        """Score what is missing, in fixed chunks; the table is saved every ``save_every`` images and at the end."""
        unsaved = 0
        with tqdm(
            total=len(self.images.samples),
            desc="score",
            unit="image",
            file=sys.stderr,
            disable=None if progress else True,
        ) as bar:
            for samples in chunks(self.images.samples, batch_size):
                unsaved += self._score_chunk(samples)
                if unsaved >= save_every:
                    self.table.save()
                    unsaved = 0
                bar.update(len(samples))
        self.table.save()

    def _score_chunk(self, samples: tuple[Sample, ...]) -> int:
        """Returns how many images had to be decoded: all, or none when nothing is missing."""
        chunk = read_chunk(self.images, samples)
        readable = [sample for sample in samples if sample.id in chunk.contents]
        self._put_reasons(samples, chunk.reasons)
        missing = False
        for sample in readable:
            for metric in self.metrics:
                reason = self._hindrance(sample, metric)
                if reason is not None:
                    self.table.put([self._nothing(sample, metric, reason)])
                else:
                    missing |= not self._done(sample, metric)
        if not missing:
            return 0
        batches, reasons = decode_chunk(chunk, self.device)
        self._put_reasons(samples, reasons)
        for batch in batches:
            for metric in self.metrics:
                self._score_batch(batch, metric)
        return len(samples)

    def _put_reasons(self, samples: Sequence[Sample], reasons: dict[str, str]) -> None:
        for sample in samples:
            if sample.id in reasons:
                self.table.put(self._nothing(sample, metric, reasons[sample.id]) for metric in self.metrics)

    def _score_batch(self, batch: Batch, metric: LoadedMetric) -> None:
        able = [i for i, s in enumerate(batch.samples) if self._hindrance(s, metric) is None]
        missing = {i for i in able if not self._done(batch.samples[i], metric)}
        if not missing:
            return
        spec = metric.spec
        if batch.side < spec.min_side:
            height, width = batch.images.shape[-2:]
            reason = f"the image has {width}x{height} pixels; {spec.name} needs at least {spec.min_side} a side"
            self.table.put(self._nothing(batch.samples[i], metric, reason) for i in missing)
            return
        with torch.no_grad():
            results = self._values(batch, able, metric)
        self.table.put(
            self._row(batch.samples[i], metric, result) for i, result in zip(able, results, strict=True) if i in missing
        )

    def _values(self, batch: Batch, able: list[int], metric: LoadedMetric) -> list[float | str]:
        """A value or a reason for each of the samples ``able``."""
        images, samples = batch.images[able], [batch.samples[i] for i in able]
        if metric.spec.family == "reference":
            return [self._against_reference(image, s, metric) for image, s in zip(images, samples, strict=True)]
        if "clip" in metric.spec.needs:
            features = self.features
            assert features is not None

            def from_features(which: list[int]) -> Tensor:
                rows = features.of(batch)[[able[i] for i in which]]
                values: Tensor = metric.scorer.from_features(rows, [samples[i].prompt or "" for i in which])
                return values

            return _guarded(from_features, len(able))
        if "prompt" in metric.spec.needs:
            prompts = [sample.prompt or "" for sample in samples]
            return _guarded(lambda which: metric.scorer(images[which], [prompts[i] for i in which]), len(able))
        return _guarded(lambda which: metric.scorer(images[which]), len(able))

    def _against_reference(self, image: Tensor, sample: Sample, metric: LoadedMetric) -> float | str:
        assert self.references is not None
        match = self.references.by_sample[sample.id]
        try:
            reference = read_image(self.references.images.file(match)).to(self.device)
        except UnreadableImage as error:
            return f"reference: {error}"
        if reference.shape != image.shape:
            sizes = [f"{t.shape[2]}x{t.shape[1]}" for t in (image, reference)]
            return f"the image has {sizes[0]} pixels and its reference {sizes[1]}; they must be equal"
        return _guarded(lambda _: metric.scorer(image[None], reference[None]), 1)[0]

    def _hindrance(self, sample: Sample, metric: LoadedMetric) -> str | None:
        """Why there can be no value, as far as that can be told without the image."""
        if "prompt" in metric.spec.needs and not (sample.prompt or "").strip():
            return NO_PROMPT
        if isinstance(metric.scorer, SelectiveScorer):
            return metric.scorer.hindrance(sample.prompt or "")
        if "reference_image" in metric.spec.needs:
            if self.references is None:
                return "no reference given"
            if sample.id not in self.references.by_sample:
                return f"no image in {self.references.images.name} has the same prompt and seed, or the same file name"
        return None

    def _fingerprint(self, sample: Sample, metric: LoadedMetric) -> str:
        fingerprint: str = metric.scorer.fingerprint
        if metric.spec.family == "reference" and self.references is not None:
            match = self.references.by_sample.get(sample.id)
            return f"{fingerprint}/{match.sha256[:12]}" if match is not None else fingerprint
        return fingerprint

    def _done(self, sample: Sample, metric: LoadedMetric) -> bool:
        return self.table.has(sample.id, metric.spec.name, self._fingerprint(sample, metric))

    def _row(self, sample: Sample, metric: LoadedMetric, result: float | str) -> Score:
        if isinstance(result, str):
            return self._nothing(sample, metric, result)
        if not math.isfinite(result):
            return self._nothing(sample, metric, f"the result is {result}, not a finite number")
        return Score(sample.id, metric.spec.name, result, None, self._fingerprint(sample, metric))

    def _nothing(self, sample: Sample, metric: LoadedMetric, reason: str) -> Score:
        return Score(sample.id, metric.spec.name, None, reason, self._fingerprint(sample, metric))


def _guarded(compute: Callable[[list[int]], Tensor], count: int) -> list[float | str]:
    """Compute all at once, or one by one when that fails, so that one image cannot take the others with it."""
    try:
        return [float(value) for value in compute(list(range(count)))]
    except Exception as error:  # a metric may fail in any way; the reason is kept in the scores
        if count == 1:
            return [f"the metric failed: {type(error).__name__}: {error}"]
    return [_guarded(lambda _, i=i: compute([i]), 1)[0] for i in range(count)]  # type: ignore[misc]
