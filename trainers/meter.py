"""What a computation costs, read off the operations it consists of: live memory, its peak, and arithmetic.

Works on tensors without data (``torch._subclasses.FakeTensorMode``) as on real ones. It counts the tensors that torch
hands out; what a kernel takes for itself while it runs (workspaces of convolutions) is not seen.
"""

import hashlib
import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


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
        self.flops = 0
        """Multiplications and additions of products and convolutions since :meth:`reset`, as torch counts them."""
        self._signature = hashlib.sha256()
        self._known: set[int] = set()
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._track(tensor)

    def reset(self) -> None:
        """Forget the peak and the arithmetic."""
        self.peak, self.flops = self.live, 0

    @property
    def signature(self) -> str:
        """The same for the same operations on tensors of the same shapes and types."""
        return self._signature.hexdigest()[:16]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question about a tensor without data; most of the calls
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._track(tensor)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **kwargs, out_val=output))
        self._signature.update(f"{func} {[(tuple(tensor.shape), tensor.dtype) for tensor in given]}".encode())
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


def _bytes(tensor: Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())


def size_of(*modules: nn.Module | None, trained: bool = False) -> int:
    """Bytes of the parameters and buffers of modules, each tensor once; or of their trained parameters only."""
    tensors = {
        id(tensor): tensor
        for module in modules
        if module is not None
        for tensor in (*module.parameters(), *(() if trained else module.buffers()))
        if tensor.requires_grad or not trained
    }
    unique = {t.untyped_storage()._cdata: _bytes(t) for t in tensors.values()}
    return sum(unique.values())
