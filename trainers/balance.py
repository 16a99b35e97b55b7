"""The weight of the second of two terms: a number, or set by their gradients over the first batches and then frozen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pixeval.errors import InputError
from trainers.checkpoint import Stateful


@dataclass(frozen=True)
class BalanceConfig:
    """How ``pixel_weight=balance`` finds its weight."""

    ratio: float = 1.0
    """Gradient of the weighted second term relative to that of the first, as norms at the denoiser's output."""
    batches: int = 16
    """Batches that are measured before the weight is frozen."""


class TermWeight(Stateful, Protocol):
    """Weight of the second term of a sum."""

    @property
    def value(self) -> float:
        """The weight as it is now."""
        ...

    def __call__(self, first: Tensor, second: Tensor, output: Tensor) -> float:
        """The weight for this batch.

        Args:
            first: the one term, a scalar.
            second: the other.
            output: what both are functions of, the denoiser's output.
        """
        ...


class FixedWeight:
    """A number: lambda of (3) or mu of (7)."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, first: Tensor, second: Tensor, output: Tensor) -> float:
        return self.value

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class Balance:
    """``ratio |d first / d output| / |d second / d output|``, geometric mean over the first batches, then frozen.

    As the adaptive weight of VQGAN (Esser et al., arXiv 2012.09841, its eq. 7), which is taken at the last layer; the
    output of the denoiser is what all terms pass. Gradients and not values, because every preference loss starts at
    the same value (ln 2) whatever its slope. Until it is frozen the mean so far is used. Batches in which the second
    term has no gradient, for being outside its band, are not counted. Several processes agree on one weight.
    """

    def __init__(self, config: BalanceConfig, on_frozen: Callable[[float], None]) -> None:
        if not config.ratio > 0 or config.batches < 1:
            raise InputError(f"balance needs a ratio above 0 and at least 1 batch, got {config}")
        self.config, self.on_frozen = config, on_frozen
        self.logarithms: list[float] = []

    @property
    def value(self) -> float:
        """The weight as it is now; 1 before the first measurement."""
        if not self.logarithms:
            return 1.0
        return self.config.ratio * math.exp(sum(self.logarithms) / len(self.logarithms))

    def __call__(self, first: Tensor, second: Tensor, output: Tensor) -> float:
        if len(self.logarithms) < self.config.batches and first.requires_grad:
            found = _mean_over_processes(log_ratio(first, second, output))
            if found is not None:
                self.logarithms.append(found)
                if len(self.logarithms) == self.config.batches:
                    self.on_frozen(self.value)
        return self.value

    def state(self) -> dict[str, Any]:
        return {"logarithms": self.logarithms}

    def restore(self, state: dict[str, Any]) -> None:
        self.logarithms = [float(value) for value in state.get("logarithms", [])]


def log_ratio(first: Tensor, second: Tensor, output: Tensor) -> float | None:
    """Logarithm of ``|d first / d output| / |d second / d output|``; None where one of them is 0."""
    norms = [
        float(torch.autograd.grad(term, output, retain_graph=True)[0].float().norm())
        for term in (first.float(), second.float())
    ]
    return math.log(norms[0] / norms[1]) if min(norms) > 0 else None


def _mean_over_processes(value: float | None) -> float | None:
    if not torch.distributed.is_initialized():
        return value
    found: list[float | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    known = [x for x in found if x is not None]
    return sum(known) / len(known) if known else None
