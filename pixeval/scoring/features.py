"""Features of images, computed once and shared by all metrics that need them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pixeval.folder import ImageSet
from pixeval.protocols import Encoder
from pixeval.records import Sample
from pixeval.scoring.batches import Batch, chunks, decode_chunk, in_halves, read_chunk
from pixeval.scoring.cache import Cache, feature_key

MIN_SIDE = 8
"""Smaller images are not encoded: there is nothing in them to see."""


class FeatureStore:
    """Features by sample id, for as long as a command runs. Batches are always encoded as a whole (see ``batches``)."""

    def __init__(self, encoder: Encoder, cache: Cache | None = None) -> None:
        self.encoder = encoder
        self._cache = cache
        self._rows: dict[str, Tensor] = {}

    def of(self, batch: Batch) -> Tensor:
        """N x D float32 features of a batch."""
        self._recall(batch.samples)
        if not all(sample.id in self._rows for sample in batch.samples):
            with torch.no_grad():
                features = in_halves(self.encoder, batch.images).cpu()
            self._rows.update((sample.id, row) for sample, row in zip(batch.samples, features, strict=True))
            if self._cache is not None:
                rows = zip(batch.samples, features.numpy(), strict=True)
                self._cache.put_features(((self._key(s), row) for s, row in rows), self.encoder.fingerprint)
        return torch.stack([self._rows[sample.id] for sample in batch.samples]).to(self.encoder.device)

    def forget(self) -> None:
        """Free the memory, when no set metric will ask for the features again."""
        self._rows = {}

    def of_set(self, images: ImageSet, batch_size: int, device: str) -> dict[str, Tensor]:
        """Features by sample id of every image that can be read, is large enough, and has finite features."""
        for samples in chunks(images.samples, batch_size):
            self._recall(samples)
            if all(sample.id in self._rows for sample in samples):
                continue
            for batch in decode_chunk(read_chunk(images, samples), device)[0]:
                if batch.side >= MIN_SIDE:
                    self.of(batch)
        ids = [sample.id for sample in images.samples if sample.id in self._rows]
        return {i: self._rows[i] for i in ids if bool(self._rows[i].isfinite().all())}

    def _recall(self, samples: Sequence[Sample]) -> None:
        """Fetch from the cache what is not here."""
        absent = {s.id: self._key(s) for s in samples if s.id not in self._rows}
        if self._cache is not None and absent:
            found = self._cache.features(list(absent.values()))
            self._rows.update((i, torch.from_numpy(found[key].copy())) for i, key in absent.items() if key in found)

    def _key(self, sample: Sample) -> bytes:
        return feature_key(sample.sha256, self.encoder.fingerprint)
