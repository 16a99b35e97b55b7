"""Fully sharded training: every process holds a part of each weight, gradient and moment (FSDP2 of torch).

Sharding is ours and not accelerate's, whose FSDP needs a GPU and whose optimiser loses what was restored: the same code
runs under NCCL and gloo. ZeRO-3 (Rajbhandari et al., arXiv 1910.02054) is the same idea.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module, device: torch.device) -> None:
    """Split the parameters of ``module`` over all processes, in place; each block is gathered when it is called.

    Args:
        module: the same in every process; a U-Net or a transformer of diffusers, whose blocks are in lists.
        device: of the process.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in module.children():
        for block in part if isinstance(part, nn.ModuleList) else ():
            fully_shard(block, mesh=mesh)
    # Also without a backward pass, as in probes, there are only parts of it afterwards.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)


def shard_optimizer(optimizer: torch.optim.Optimizer, before: Mapping[str, nn.Parameter], sharded: nn.Module) -> None:
    """Point an optimiser to sharded parameters, and split its moments as they are split.

    Args:
        optimizer: of parameters of ``sharded`` before it was sharded; changed in place.
        before: these parameters by name.
        sharded: by :func:`shard`.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in before.items()}
    parts = dict(sharded.named_parameters())
    moments = {parts[names[parameter]]: state for parameter, state in optimizer.state.items()}
    for group in optimizer.param_groups:
        group["params"] = [parts[names[parameter]] for parameter in group["params"]]
    optimizer.state.clear()
    for parameter, state in moments.items():
        optimizer.state[parameter] = {key: _split(value, parameter) for key, value in state.items()}


def gather(module: nn.Module, into: nn.Module | None) -> None:
    """Copy the whole weights of a sharded module into a plain one; to be called by every process.

    Args:
        module: sharded.
        into: of the same architecture; None to help the other processes only.
    """
    targets = {} if into is None else dict(into.named_parameters())
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            whole = _whole(parameter)
            if name in targets:
                targets[name].copy_(whole)
        if into is not None:
            for target, buffer in zip(into.buffers(), module.buffers(), strict=True):
                target.copy_(buffer)


def gather_moments(optimizer: torch.optim.Optimizer, into: torch.optim.Optimizer | None) -> None:
    """Copy the state of an optimiser of sharded parameters to that of plain ones; as :func:`gather`."""
    for index, group in enumerate(optimizer.param_groups):
        target = None if into is None else into.param_groups[index]
        if target is not None:
            target.update({key: value for key, value in group.items() if key != "params"})
        for number, parameter in enumerate(group["params"]):
            state = {key: _whole(value) for key, value in optimizer.state.get(parameter, {}).items()}
            if into is not None and target is not None and state:
                plain = target["params"][number]
                into.state[plain] = {key: value.to(plain.device) for key, value in state.items()}


def _split(value: Any, parameter: Tensor) -> Any:
    if isinstance(value, Tensor) and isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value
