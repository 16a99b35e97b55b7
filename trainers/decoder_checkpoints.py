"""A frozen decoder that keeps fewer activations for the backward pass and computes them again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL
from torch import nn
from torch.utils.checkpoint import checkpoint

from pixeval.errors import InputError

SUPPORTED = (AutoencoderKL, AutoencoderDC)


def checkpoint_decoder(vae: nn.Module) -> None:
    """Let every layer group of ``vae.decoder`` (a residual block, an attention, an upsampler) forget what it computed.

    Its input is kept, and it is run again in the backward pass (Chen et al., arXiv 1604.06174). Finer than the
    checkpointing of diffusers, whose last block of up to three residual blocks at full resolution is most of the
    memory. Only where gradients are recorded, and without any change to the numbers.

    Args:
        vae: changed in place; what is saved of it stays the same.

    Raises:
        InputError: a decoder whose layers carry state from call to call (Qwen-Image's), which cannot be run twice.
    """
    if not isinstance(vae, SUPPORTED):
        names = ", ".join(kind.__name__ for kind in SUPPORTED)
        raise InputError(f"decoder_checkpointing is for {names}, this model has a {type(vae).__name__}; leave it out")
    for group in _groups(vae.decoder):
        group.forward = partial(_forgetful, group.forward)


def _groups(decoder: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    blocks = [decoder.get_submodule("mid_block")] if getattr(decoder, "mid_block", None) is not None else []
    blocks += list(decoder.get_submodule("up_blocks").children())
    for block in blocks:
        lists = [part for part in block.children() if isinstance(part, nn.ModuleList)]
        # An entry may be None: an AutoencoderKL made with mid_block_add_attention=False.
        found += [part for parts in lists for part in parts if part is not None] if lists else list(block.children())
    return found


def _forgetful(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
