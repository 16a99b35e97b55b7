"""Which part of the work is this process's, under ``accelerate launch`` or ``torchrun``."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")

PATIENCE = timedelta(days=7)
"""How long processes wait for each other: images may take very different times."""


@dataclass(frozen=True)
class Shard:
    """Process ``index`` of ``count``."""

    index: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this process does what must be done once."""
        return self.index == 0

    def part(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every ``count``-th item."""
        return islice(items, self.index, None, self.count)

    def share(self, total: int, chunk: int) -> int:
        """How many of ``total`` there are in this process's chunks."""
        return sum(min(chunk, total - start) for start in self.part(range(0, total, chunk)))

    def device(self, name: str) -> str:
        """``cuda`` becomes this process's own GPU."""
        return f"cuda:{os.environ.get('LOCAL_RANK', self.index)}" if name == "cuda" and self.count > 1 else name

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.barrier()

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """The first process runs the block, then the others do."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


ALONE = Shard(0, 1)


def current_shard() -> Shard:
    """This process's part, from the environment that the launcher sets."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE
    import torch.distributed

    if not torch.distributed.is_initialized():
        # results travel through files; the processes only wait for each other, which gloo can do beside any device
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    return Shard(torch.distributed.get_rank(), torch.distributed.get_world_size())
