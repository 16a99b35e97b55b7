"""The small loop that trains the zoo's models from scratch: cosine schedule, EMA, resumable by step.

Everything random in a step comes from a generator seeded by (seed, step), so a killed run that is
started again follows the path of an uninterrupted one.
"""

import copy
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from trainers.checkpoint import load_state, recover_directory, save_state
from trainers.optimizer_step import fast_attention, update_average

Trained = TypeVar("Trained", bound=nn.Module)
Loss = Callable[[torch.Generator, float], dict[str, Tensor]]


@dataclass(frozen=True)
class Fit:
    """Settings of one pretraining run."""

    out: Path
    """Folder of the resumable state and the log."""
    steps: int
    """Length of the schedule; may be changed when a run is continued."""
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    bf16: bool = True
    """Autocast to bfloat16 (about 1.6 times faster on CPUs with AVX512-BF16)."""
    save_every: int = 100
    seed: int = 0


def fit(module: Trained, loss: Loss, settings: Fit) -> Trained:
    """Train ``module`` and return the exponential moving average of its weights.

    Args:
        module: the parameters to train; moved nowhere, trained where it is.
        loss: (generator of this step, progress in [0, 1]) -> named terms; ``loss`` is minimised, the rest logged.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
    )
    average = copy.deepcopy(module)
    state = settings.out / "state"
    step, seconds = 0, 0.0
    if recover_directory(state):
        meta = load_state(state, {"module": module, "average": average}, optimizer)
        step, seconds = meta["step"], meta["seconds"]
    settings.out.mkdir(parents=True, exist_ok=True)
    log = settings.out / "log.jsonl"
    window: list[dict[str, float]] = []
    module.train()
    while step < settings.steps:
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(settings.seed * 10_000_019 + step)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings.warmup, settings.steps)
        optimizer.zero_grad(set_to_none=True)
        with fast_attention(device):
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
                terms = loss(generator, step / settings.steps)
            terms["loss"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        update_average(average, module, settings.ema, step)
        step += 1
        seconds += time.perf_counter() - started
        window.append({name: float(value.detach()) for name, value in terms.items()})
        if step % 25 == 0:
            means = {name: sum(w[name] for w in window) / len(window) for name in window[0]}
            line = {"step": step, "seconds": round(seconds, 1)} | {k: round(v, 5) for k, v in means.items()}
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), file=sys.stderr, flush=True)
            window = []
        if step % settings.save_every == 0 or step == settings.steps:
            meta = {"step": step, "seconds": seconds, "steps": settings.steps}
            save_state(state, {"module": module, "average": average}, optimizer, meta)
    return average.eval()


def schedule(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
