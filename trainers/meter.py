"""What a computation costs, read off the operations it consists of: live memory, its peak, arithmetic and traffic.

Works on tensors without data (``torch._subclasses.FakeTensorMode``) as on real ones. It counts the tensors that torch
hands out; what a kernel takes for itself while it runs (workspaces of convolutions) is not seen.
"""

import hashlib
import weakref
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.flop_counter import flop_registry

FREE = (
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh", "_unsafe_view",
)  # fmt: skip
"""Operations that touch no data although torch does not call them views."""


class Shape(NamedTuple):
    """A tensor, as far as the time of an operation depends on it."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Call:
    """An operation and its arguments, tensors by their shape; equal calls take the same time."""

    def __init__(self, func: Any, args: Any, kwargs: Any) -> None:
        leaves, self._structure = tree_flatten((args, kwargs))
        self._leaves = tuple(
            Shape(tuple(leaf.shape), leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves
        )
        self.func = func

    @cached_property
    def name(self) -> str:
        """Short, and the same for equal calls, in every process."""
        text = "\n".join(map(str, (self.func, self._structure, self._leaves)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def arguments(self, device: torch.device) -> tuple[Any, Any]:
        """Positional and named arguments with tensors of the same shapes, on ``device``."""
        leaves = [
            _tensor(leaf, device) if isinstance(leaf, Shape) else device if isinstance(leaf, torch.device) else leaf
            for leaf in self._leaves
        ]
        args, kwargs = tree_unflatten(leaves, self._structure)
        return args, kwargs


class Operation(NamedTuple):
    """One operation."""

    name: str
    flops: int
    """Multiplications and additions, as torch counts them; 0 for what is neither a product nor a convolution."""
    traffic: int
    """Bytes of all its inputs and outputs."""
    call: Call | None = None
    """To run it again; None for what was not run."""


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within, every operation is counted, and so is the memory of every tensor until it is freed.

    Args:
        modules: whose parameters and buffers are there from the start.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        """Bytes in tensors now."""
        self.peak = 0
        """The most there were since :meth:`reset`."""
        self.operations: list[Operation] = []
        """Since :meth:`reset`."""
        self._known: set[int] = set()
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._track(tensor)

    def reset(self) -> None:
        """Forget the peak and the operations."""
        self.peak = self.live
        self.operations = []

    @property
    def flops(self) -> int:
        """Of all operations since :meth:`reset`."""
        return sum(operation.flops for operation in self.operations)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question about a tensor without data; most of the calls
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        packet = func._overloadpacket
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._track(tensor)
        name = str(packet).removeprefix("aten.")
        if not func.is_view and name not in FREE:
            count = flop_registry.get(packet)
            flops = 0 if count is None else int(count(*args, **kwargs, out_val=output))
            traffic = sum(_bytes(tensor) for tensor in given + made)
            self.operations.append(Operation(name, flops, traffic, Call(func, args, kwargs)))
        return output

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size).atexit = False

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _tensor(shape: Shape, device: torch.device) -> Tensor:
    length = 1 + sum((n - 1) * step for n, step in zip(shape.size, shape.stride, strict=True)) if all(shape.size) else 0
    value = 0.5 if shape.dtype.is_floating_point or shape.dtype.is_complex else 0
    return torch.full((length,), value, dtype=shape.dtype, device=device).as_strided(shape.size, shape.stride)


def _bytes(tensor: Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())


def size_of(*modules: nn.Module | None, trained: bool = False) -> int:
    """Bytes of the parameters and buffers of modules, each tensor once; or of their trained parameters only."""
    tensors = {
        id(tensor): tensor
        for module in modules
        if module is not None
        for tensor in ((p for p in module.parameters() if p.requires_grad) if trained else module.state_dict().values())
    }
    unique = {t.untyped_storage()._cdata: _bytes(t) for t in tensors.values()}
    return sum(unique.values())
