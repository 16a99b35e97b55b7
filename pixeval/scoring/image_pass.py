"""The pass over the images of a run: every per-image metric, one decoding and one encoding per image."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pixeval.folder import ImageSet
from pixeval.images import UnreadableImage, read_image
from pixeval.metric_spec import MetricSpec
from pixeval.protocols import SelectiveScorer, SharingScorer
from pixeval.records import Sample, Score
from pixeval.scoring.batches import Batch, chunks, decode_chunk, prefetch, read_chunk
from pixeval.scoring.cache import Cache, score_key
from pixeval.scoring.features import FeatureStore
from pixeval.scoring.shards import ALONE, Shard
from pixeval.scoring.table import Rows

Prepared = tuple[list[Batch], dict[str, str]]
"""Decoded batches of a chunk, and by sample id why the others have none."""
NO_PROMPT = "no prompt"
FAILED = "the metric failed"
NOT_FINITE = "not a finite number"
"""Reasons that contain one of these two are failures, not things that were not given."""


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

    def read(self, batch: Batch, which: Sequence[int]) -> tuple[dict[int, Tensor], dict[int, str]]:
        """The reference images of some of a batch, 3 x H x W, by position, and why others have none of use."""
        found, reasons = {}, {}
        for i in which:
            try:
                reference = read_image(self.images.file(self.by_sample[batch.samples[i].id]))
            except UnreadableImage as error:
                reasons[i] = f"reference: {error}"
                continue
            if reference.shape == batch.images.shape[1:]:
                found[i] = reference
            else:
                sizes = [f"{width}x{height}" for height, width in (batch.images.shape[-2:], reference.shape[-2:])]
                reasons[i] = f"the image has {sizes[0]} pixels and its reference {sizes[1]}; they must be equal"
        return found, reasons


class ImagePass:
    """Scores a set of images and puts the rows into a table; see :meth:`run`."""

    def __init__(
        self,
        images: ImageSet,
        metrics: Sequence[LoadedMetric],
        table: Rows,
        features: FeatureStore | None,
        references: References | None,
        device: str = "cpu",
        cache: Cache | None = None,
        keep_features: bool = True,
    ) -> None:
        self.images, self.metrics, self.table = images, metrics, table
        self.features, self.references, self.device = features, references, device
        self.cache, self.keep_features = cache, keep_features
        self._read: tuple[Batch, dict[int, Tensor], dict[int, str]] | None = None
        """The batch whose references were read last, and what :meth:`References.read` gave."""

    def run(self, batch_size: int, save_every: int, progress: bool, shard: Shard = ALONE) -> None:
        """Score what is missing, in fixed chunks; the table is saved every ``save_every`` images and at the end.

        Files are read and decoded in other threads meanwhile. ``shard`` takes every so many-th chunk only.
        """
        unsaved = 0
        mine = shard.part(chunks(self.images.samples, batch_size))
        with tqdm(
            total=shard.share(len(self.images.samples), batch_size),
            desc="score",
            unit="image",
            file=sys.stderr,
            disable=None if progress else True,
        ) as bar:
            for samples, prepared in prefetch(mine, self.prepare):
                unsaved += self.score_chunk(samples, prepared)
                if unsaved >= save_every:
                    self.table.save()
                    unsaved = 0
                bar.update(len(samples))
        self.table.save()

    def prepare(self, samples: tuple[Sample, ...]) -> Callable[[], Prepared]:
        """Take from the cache what is there; returns the reading and decoding that is left to do.

        Files are always read, since one that has changed loses its scores; they are decoded when a value is missing.
        """
        missing = self.recall(samples)

        def read() -> Prepared:
            chunk = read_chunk(self.images, samples)
            return decode_chunk(chunk, self.device) if missing else ([], chunk.reasons)

        return read

    def score_chunk(self, samples: tuple[Sample, ...], prepared: Prepared) -> int:
        """Score what is missing and was decoded; returns how many images that were."""
        batches, reasons = prepared
        self._put_reasons(samples, reasons)
        self.put_hindrances([sample for sample in samples if sample.id not in reasons])
        scored = sum(self._score_batch(batch) for batch in batches)
        if self.features is not None and not self.keep_features:
            self.features.forget()
        return scored

    def recall(self, samples: Sequence[Sample]) -> bool:
        """Take from the cache what is there; returns whether a value is still missing."""
        missing: dict[bytes, list[tuple[Sample, LoadedMetric]]] = {}
        for sample in samples:
            for metric in self.metrics:
                if self._hindrance(sample, metric) is None and not self._done(sample, metric):
                    missing.setdefault(self._key(sample, metric), []).append((sample, metric))
        if self.cache is not None and missing:
            for key, value in self.cache.scores(list(missing)).items():
                self.table.put(self._row(sample, metric, value) for sample, metric in missing.pop(key))
        return bool(missing)

    def _put_reasons(self, samples: Sequence[Sample], reasons: dict[str, str]) -> None:
        for sample in samples:
            if sample.id in reasons:
                self.table.put(self._nothing(sample, metric, reasons[sample.id]) for metric in self.metrics)

    def put_hindrances(self, samples: Sequence[Sample]) -> None:
        """Put down why there can be no value, where that can be told without the image."""
        for sample in samples:
            for metric in self.metrics:
                reason = self._hindrance(sample, metric)
                if reason is not None:
                    self.table.put([self._nothing(sample, metric, reason)])

    def _score_batch(self, batch: Batch) -> int:
        """Returns how many images there are."""
        batch = Batch(batch.samples, batch.images.to(self.device))
        for metric in self.metrics:
            able = [i for i, s in enumerate(batch.samples) if self._hindrance(s, metric) is None]
            missing = {i for i in able if not self._done(batch.samples[i], metric)}
            if missing:
                self._score_metric(batch, metric, able, missing)
        return len(batch.samples)

    def _score_metric(self, batch: Batch, metric: LoadedMetric, able: list[int], missing: set[int]) -> None:
        """All of ``able`` are computed, in the same company whatever is there already; ``missing`` are kept."""
        spec = metric.spec
        if batch.side < spec.min_side:
            height, width = batch.images.shape[-2:]
            reason = f"the image has {width}x{height} pixels; {spec.name} needs at least {spec.min_side} a side"
            self.table.put(self._nothing(batch.samples[i], metric, reason) for i in missing)
            return
        with torch.no_grad():
            results = self._values(batch, able, metric)
        found = {i: result for i, result in zip(able, results, strict=True) if i in missing}
        rows = {i: self._row(batch.samples[i], metric, result) for i, result in found.items()}
        self.table.put(rows.values())
        self.remember((batch.samples[i], metric, row) for i, row in rows.items())

    def remember(self, found: Iterable[tuple[Sample, LoadedMetric, Score]]) -> None:
        """Keep values in the cache."""
        if self.cache is not None:
            keyed = ((self._key(sample, metric), row.value, row.metric) for sample, metric, row in found)
            self.cache.put_scores((key, value, name) for key, value, name in keyed if value is not None)

    def _values(self, batch: Batch, able: list[int], metric: LoadedMetric) -> list[float | str]:
        """A value or a reason for each of the samples ``able``."""
        images, samples = batch.images[able], [batch.samples[i] for i in able]
        if metric.spec.family == "reference":
            return self._against_references(batch, able, metric)
        if "clip" in metric.spec.needs:
            features = self.features
            assert features is not None

            def from_features(which: list[int]) -> Tensor:
                rows = features.of(batch)[[able[i] for i in which]]
                values: Tensor = metric.scorer.from_features(rows, [samples[i].prompt or "" for i in which])
                return values

            return guarded(from_features, len(able))
        if "prompt" in metric.spec.needs:
            prompts = [sample.prompt or "" for sample in samples]
            if (store := self._shared_by(metric.scorer)) is not None:
                whole = store.of(batch)[able]
                return guarded(
                    lambda which: metric.scorer.from_image_features(
                        whole[which], images[which], [prompts[i] for i in which]
                    ),
                    len(able),
                )
            return guarded(lambda which: metric.scorer(images[which], [prompts[i] for i in which]), len(able))
        return guarded(lambda which: metric.scorer(images[which]), len(able))

    def _shared_by(self, scorer: Any) -> FeatureStore | None:
        """The store whose features the scorer can take in place of encoding the images once more."""
        if self.features is None or not isinstance(scorer, SharingScorer) or scorer.shared_encoder is None:
            return None
        return self.features if scorer.shared_encoder.fingerprint == self.features.encoder.fingerprint else None

    def _against_references(self, batch: Batch, able: list[int], metric: LoadedMetric) -> list[float | str]:
        """The references of a batch are read once for all metrics that compare with them."""
        assert self.references is not None
        if self._read is None or self._read[0] is not batch:
            self._read = (batch, *self.references.read(batch, able))
        _, found, reasons = self._read
        paired = [i for i in able if i in found]

        def compare(which: list[int]) -> Tensor:
            rows = [paired[k] for k in which]
            against = torch.stack([found[i] for i in rows]).to(self.device)
            values: Tensor = metric.scorer(batch.images[rows], against)
            return values

        values = dict(zip(paired, guarded(compare, len(paired)) if paired else [], strict=True))
        return [values[i] if i in values else reasons[i] for i in able]

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

    def _key(self, sample: Sample, metric: LoadedMetric) -> bytes:
        prompt = sample.prompt if metric.spec.needs_prompt else None
        return score_key(sample.sha256, prompt, self._fingerprint(sample, metric))

    def _done(self, sample: Sample, metric: LoadedMetric) -> bool:
        return self.table.has(sample.id, metric.spec.name, self._fingerprint(sample, metric))

    def _row(self, sample: Sample, metric: LoadedMetric, result: float | str) -> Score:
        if isinstance(result, str):
            return self._nothing(sample, metric, result)
        if not math.isfinite(result):
            return self._nothing(sample, metric, metric.spec.undefined or f"the result is {result}, {NOT_FINITE}")
        return Score(sample.id, metric.spec.name, result, None, self._fingerprint(sample, metric))

    def _nothing(self, sample: Sample, metric: LoadedMetric, reason: str) -> Score:
        return Score(sample.id, metric.spec.name, None, reason, self._fingerprint(sample, metric))


def guarded(compute: Callable[[list[int]], Tensor], count: int) -> list[float | str]:
    """Compute all at once; in halves when the device runs out of memory; one by one when it fails in another way, so
    that one image cannot take the others with it."""
    return _guarded_part(compute, list(range(count)))


def _guarded_part(compute: Callable[[list[int]], Tensor], which: list[int]) -> list[float | str]:
    try:
        return [float(value) for value in compute(which)]
    except Exception as error:  # a metric may fail in any way; the reason is kept in the scores
        if len(which) == 1:
            return [f"{FAILED}: {type(error).__name__}: {error}"]
        step = -(-len(which) // 2) if isinstance(error, torch.OutOfMemoryError) else 1
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    parts = [which[start : start + step] for start in range(0, len(which), step)]
    return [value for part in parts for value in _guarded_part(compute, part)]
