"""Samples to tensors: fixed chunks of a set, each cut into batches of one image size.

The cut depends on nothing but the order of the samples, so that an interrupted command computes every number in the
same company, and so to the same bit, when it is run again.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from pixeval.folder import ImageSet
from pixeval.images import UnreadableImage, decode_image
from pixeval.records import Sample
from pixeval.scoring.memory import batch_pixels

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")

UNREADABLE = "no image: "
"""Reasons that begin so are the file's fault, and hold for every metric."""
READERS = 2
"""Threads that read and decode while metrics run; each holds one chunk."""


@dataclass(frozen=True)
class Batch:
    """Samples of equal image size and their images, N x 3 x H x W."""

    samples: tuple[Sample, ...]
    images: Tensor

    @property
    def side(self) -> int:
        """The shorter side in pixels."""
        return min(self.images.shape[-2:])


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples with the contents of their files."""

    samples: tuple[Sample, ...]
    contents: dict[str, bytes]
    """By sample id; a sample without contents has a reason."""
    reasons: dict[str, str]
    """Why a sample has no image, by sample id."""


def chunks(samples: Sequence[Sample], size: int) -> Iterator[tuple[Sample, ...]]:
    """Consecutive samples, ``size`` at a time."""
    for start in range(0, len(samples), size):
        yield tuple(samples[start : start + size])


def read_chunk(images: ImageSet, samples: tuple[Sample, ...]) -> Chunk:
    """Read the files and compare them with the SHA-256 kept in the samples."""
    contents: dict[str, bytes] = {}
    reasons: dict[str, str] = {}
    for sample in samples:
        try:
            data = images.file(sample).read_bytes()
        except OSError as error:
            reasons[sample.id] = f"{UNREADABLE}cannot read {sample.path}: {error.strerror or error}"
            continue
        if hashlib.sha256(data).hexdigest() == sample.sha256:
            contents[sample.id] = data
        else:
            reasons[sample.id] = (
                f"{UNREADABLE}{sample.path} has changed since it was recorded (SHA-256 differs); restore or remake it"
            )
    return Chunk(samples, contents, reasons)


def decode_chunk(chunk: Chunk, device: str) -> tuple[list[Batch], dict[str, str]]:
    """Batches of equal size on the CPU, of as many pixels as ``device`` takes; and the reasons for the samples that are
    in none."""
    reasons = dict(chunk.reasons)
    by_size: dict[tuple[int, ...], list[tuple[Sample, Tensor]]] = {}
    for sample in chunk.samples:
        if sample.id not in chunk.contents:
            continue
        try:
            image = decode_image(chunk.contents[sample.id], sample.path)
        except UnreadableImage as error:
            reasons[sample.id] = f"{UNREADABLE}{error}"
            continue
        by_size.setdefault(tuple(image.shape), []).append((sample, image))
    batches = []
    for shape, members in by_size.items():
        step = max(1, batch_pixels(device) // (shape[1] * shape[2]))
        for start in range(0, len(members), step):
            part = members[start : start + step]
            images = torch.stack([image for _, image in part])
            batches.append(Batch(tuple(sample for sample, _ in part), images))
    return batches, reasons


def prefetch(
    items: Iterable[Item], prepare: Callable[[Item], Callable[[], Prepared]]
) -> Iterator[tuple[Item, Prepared]]:
    """Each item with what was prepared for it in another thread, in order, a few items ahead of the consumer.

    Args:
        prepare: called in the caller's thread; what it returns is called in a reading thread.
    """
    with ThreadPoolExecutor(READERS, "read") as pool:
        waiting: deque[tuple[Item, Future[Prepared]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(prepare(item))))
                if len(waiting) > READERS:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def in_halves(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``compute(images)``, in smaller and smaller parts when the device runs out of memory.

    Raises:
        torch.OutOfMemoryError: not even one image fits.
    """
    try:
        return compute(images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    # outside of the handler: there the traceback would keep the failed attempt's tensors alive
    if images.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(images) // 2
    return torch.cat([in_halves(compute, images[:half]), in_halves(compute, images[half:])])
