"""Set metrics: the images of each label against a reference set, with bootstrap intervals."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pixeval.folder import ImageSet
from pixeval.metric_spec import MetricSpec
from pixeval.metrics.distribution import SetDistance
from pixeval.records import Sample, SetScore
from pixeval.scoring.features import FeatureStore
from pixeval.scoring.image_pass import LoadedMetric

DRAWS = 200
"""Bootstrap draws of the judged images."""


def score_sets(
    images: ImageSet,
    reference: ImageSet | None,
    metrics: Sequence[LoadedMetric],
    features: FeatureStore,
    known: Sequence[SetScore],
    batch_size: int = 16,
    device: str = "cpu",
) -> list[SetScore]:
    """One score per label and metric; rows of ``known`` under the same fingerprint are taken over.

    Args:
        reference: for metrics with ``reference_set`` among their needs; rows of the others name no reference.

    Returns all rows there should be afterwards, those of other metrics and references in ``known`` included.
    """
    rows = {(row.label, row.metric, row.reference): row for row in known}
    against: Tensor | None = None
    for label in dict.fromkeys(sample.label for sample in images.samples):
        members = tuple(sorted((s for s in images.samples if s.label == label), key=lambda s: s.id))
        judged: Tensor | None = None
        for metric in metrics:
            compared = reference if "reference_set" in metric.spec.needs else None
            name = compared.name if compared is not None else ""
            key = (label, metric.spec.name, name)
            fingerprint = _fingerprint(metric, features, members, compared.samples if compared is not None else ())
            old = rows.get(key)
            if old is not None and old.value is not None and old.fingerprint == fingerprint:
                continue
            if judged is None:
                found = features.of_set(images, batch_size, device)
                judged = _stack(found[s.id] for s in members if s.id in found)
            if against is None and compared is not None:
                # sorted, so that the order of the files cannot reach the last bit of the sums
                against = _stack(row for _, row in sorted(features.of_set(compared, batch_size, device).items()))
            other = against if compared is not None else None
            found_score = set_score(metric.scorer, judged, other, label, metric.spec.name, name, fingerprint)
            rows[key] = _within(found_score, metric.spec)
    return sorted(rows.values(), key=lambda row: (row.label, row.metric, row.reference))


def set_score(
    distance: SetDistance,
    judged: Tensor,
    against: Tensor | None,
    label: str,
    metric: str,
    reference: str,
    fingerprint: str,
) -> SetScore:
    """The distance between two feature matrices and its interval; None with a reason for sets that are too small.

    Args:
        against: None for metrics of one set.
    """
    n, m = len(judged), len(against if against is not None else judged)
    least = distance.smallest(judged.shape[1] if n else 0)
    if min(n, m) < least:
        which = f"{n} images here" if n < least else f"{m} images in {reference}"
        where = " on both sides" if against is not None else ""
        reason = f"{metric} needs at least {least} readable images{where}; there are {which}"
        return SetScore(label, metric, None, None, None, n, reference, reason, fingerprint)
    against = judged[:0] if against is None else against
    value = distance(judged, against)
    low, high = interval(distance, judged, against, value)
    return SetScore(label, metric, value, low, high, n, reference, None, fingerprint)


def interval(distance: SetDistance, judged: Tensor, against: Tensor, value: float) -> tuple[float, float]:
    """95 % bootstrap interval over the judged images; the reference set is held fixed.

    Drawing with replacement shifts these distances upwards, so the spread of the draws is laid around ``value``
    instead of around their own mean.
    """
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(judged), np.full(len(judged), 1 / len(judged)), size=DRAWS)
    draws = distance.resampled(judged, against, torch.from_numpy(counts).double())
    low, high = (draws - draws.mean()).quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return value + low, value + high


def _within(score: SetScore, spec: MetricSpec) -> SetScore:
    """The interval cut off at the ends of the metric's range."""
    if score.low is None or score.high is None:
        return score
    return replace(score, low=max(score.low, spec.low), high=min(score.high, spec.high))


def _stack(rows: Iterable[Tensor]) -> Tensor:
    found = list(rows)
    return torch.stack(found) if found else torch.zeros(0, 0)


def _fingerprint(
    metric: LoadedMetric, features: FeatureStore, members: Sequence[Sample], against: Sequence[Sample]
) -> str:
    judged = _digest(f"{s.id}{s.sha256}" for s in members)
    return f"{metric.scorer.fingerprint}/{features.encoder.fingerprint}/{judged}/{_digest(s.sha256 for s in against)}"


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(sorted(parts)).encode()).hexdigest()[:12]
