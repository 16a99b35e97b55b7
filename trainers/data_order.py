"""Which rows a step reads, and what is drawn for them: pure functions of (seed, number of the batch) or (seed, row).

A resumed run, and one on several processes, sees what an uninterrupted one on one process would.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor


def seeded(seed: int, *path: object) -> torch.Generator:
    """A CPU generator of its own for every (seed, path), for example ``seeded(0, "step", 17)``."""
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def batch_rows(n: int, batch_size: int, seed: int, batch: int) -> Tensor:
    """Rows of batch number ``batch``: every epoch is a new permutation of all ``n``, and batches run across epochs."""
    return Order(torch.zeros(n, dtype=torch.int64), batch_size, seed).batch(batch).rows


class Batch(NamedTuple):
    """What one pass reads."""

    rows: Tensor
    """Numbers of rows, int64 (batch size,)."""
    epochs: tuple[int, ...]
    """How often each of them was read before."""


class Order:
    """The rows of every batch; all of a batch are of one bucket.

    Within a bucket every epoch is a new permutation, and batches run across epochs. Buckets take turns at random, so
    that in as many batches as there are rows, each gets as many as it has rows: every row is read equally often.

    Args:
        buckets: number of the bucket of every row, int64 (N,).
        batch_size: rows in a batch.
        seed: of all permutations.
    """

    def __init__(self, buckets: Tensor, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        self._members = [(buckets == k).nonzero()[:, 0] for k in range(int(buckets.max()) + 1)]
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def batch(self, number: int) -> Batch:
        """Batch number ``number``, counted from 0."""
        bucket, before = self._turn(number)
        members = self._members[bucket]
        n = len(members)
        positions = range(before * self.batch_size, (before + 1) * self.batch_size)
        # Where there is one bucket only, its permutations are named as if there were none.
        name = ("epoch",) if len(self._members) == 1 else ("epoch", bucket)
        rows = torch.stack([members[self._permutation(n, *name, p // n)[p % n]] for p in positions])
        return Batch(rows, tuple(p // n for p in positions))

    def _turn(self, number: int) -> tuple[int, int]:
        """The bucket whose turn it is, and how many turns it had before."""
        if len(self._members) == 1:
            return 0, number
        sizes = [len(members) for members in self._members]
        cycle, place = divmod(number, sum(sizes))
        turns = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        turns = turns[self._permutation(sum(sizes), "buckets", cycle)]
        bucket = int(turns[place])
        return bucket, cycle * sizes[bucket] + int((turns[:place] == bucket).sum())

    def _permutation(self, n: int, *path: object) -> Tensor:
        if path not in self._kept:
            while len(self._kept) > 2 * len(self._members) + 2:
                self._kept.pop(next(iter(self._kept)))
            self._kept[path] = torch.randperm(n, generator=seeded(self.seed, *path))
        return self._kept[path]


def drawn(what: str, share: float, seed: int, batch: Batch) -> Tensor:
    """For each row of a batch whether something happens to it, bool (batch size,): a function of (seed, epoch, row).

    Args:
        what: names the draw, ``"caption"`` for example: draws of other names are independent.
        share: how probable it is, 0 to 1.
        seed: of the run.
        batch: the rows.
    """
    if not share:
        return torch.zeros(len(batch.rows), dtype=torch.bool)
    pairs = zip(batch.epochs, batch.rows.tolist(), strict=True)
    return torch.cat([torch.rand(1, generator=seeded(seed, what, epoch, row)) < share for epoch, row in pairs])
