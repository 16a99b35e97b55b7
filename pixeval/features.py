"""Features of images, computed once and shared by all metrics that need them."""

import torch
from torch import Tensor

from pixeval.batches import Batch, chunks, decode_chunk, read_chunk
from pixeval.encoders import ClipEncoder
from pixeval.folder import ImageSet

MIN_SIDE = 8
"""Smaller images are not encoded: there is nothing in them to see."""


class FeatureStore:
    """Features by sample id, for as long as a command runs. Batches are always encoded as a whole (see ``batches``)."""

    def __init__(self, encoder: ClipEncoder) -> None:
        self.encoder = encoder
        self._rows: dict[str, Tensor] = {}

    def of(self, batch: Batch) -> Tensor:
        """N x D float32 features of a batch."""
        if not all(sample.id in self._rows for sample in batch.samples):
            with torch.no_grad():
                features = self.encoder(batch.images).cpu()
            self._rows.update((sample.id, row) for sample, row in zip(batch.samples, features, strict=True))
        return torch.stack([self._rows[sample.id] for sample in batch.samples]).to(self.encoder.device)

    def of_set(self, images: ImageSet, batch_size: int, device: str) -> dict[str, Tensor]:
        """Features by sample id of every image that can be read, is large enough, and has finite features."""
        for samples in chunks(images.samples, batch_size):
            if all(sample.id in self._rows for sample in samples):
                continue
            for batch in decode_chunk(read_chunk(images, samples), device)[0]:
                if batch.side >= MIN_SIDE:
                    self.of(batch)
        ids = [sample.id for sample in images.samples if sample.id in self._rows]
        return {i: self._rows[i] for i in ids if bool(self._rows[i].isfinite().all())}
