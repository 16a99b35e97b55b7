"""AdamW, and AdamW with its moments in 8 bits."""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch
from torch import nn

from pixeval.errors import InputError

OptimizerName = Literal["adamw", "adamw8bit"]


def check_optimizer(name: OptimizerName) -> None:
    """Refuse an optimiser that is not installed.

    Raises:
        InputError: with the remedy.
    """
    if name == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise InputError("optimizer adamw8bit needs bitsandbytes: pip install 'pixeval[eight-bit]', or use adamw")


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimiser, with the customary moments (0.9, 0.999)."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    eight_bit = import_module("bitsandbytes.optim").AdamW8bit
    made: torch.optim.Optimizer = eight_bit(parameters, lr=learning_rate, weight_decay=weight_decay)
    return made
