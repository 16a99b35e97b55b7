"""One of two processes that score their own share of a batch; kept apart, since each new process imports it."""

import torch

from pixeval.torchmetric import as_torchmetric


def scores(batch: torch.Tensor) -> dict[str, float]:
    """What the metrics say about ``batch``, and about it against its square."""
    contrast, spread = as_torchmetric("contrast"), as_torchmetric("spectrum_distance")
    contrast.update(batch)
    spread.update(batch)
    spread.update(batch**2, real=True)
    return {name: float(value) for name, value in {**contrast.compute(), **spread.compute()}.items()}


def work(rank: int, folder: str, batch: torch.Tensor) -> None:
    """Score the share of process ``rank``: five images or the rest, since equal shares would hide a mean of means."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(scores(batch[:5] if rank == 0 else batch[5:]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
