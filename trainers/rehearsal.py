"""How long a step takes: some are run on this machine, with random weights and random data."""

import json
import os
import platform
import time
from pathlib import Path

import torch

from pixeval.errors import InputError
from trainers.errors import Kind
from trainers.lora import copy_of_trained
from trainers.objective import ObjectiveConfig
from trainers.optimizer_step import update_average
from trainers.optimizers import make_optimizer
from trainers.planned_step import PlannedStep

FILE = "step-times-1.json"
"""The number is that of the layout."""
WARM, TIMED = 1, 3
"""Steps that are run before, and for, the measurement; the shortest counts, for other work on the machine only adds."""


class Rehearsal:
    """Times of steps, run once and then read: a step of the same operations in the same shapes is not run again on the
    same machine with the same torch and number of threads.

    Needs the memory of the training itself, and nothing of the model but its configurations.

    Args:
        config: as it would be trained.
        device: where it is run.
        folder: of the file with the times.
    """

    def __init__(self, config: ObjectiveConfig, device: torch.device, folder: Path) -> None:
        self.config, self.device, self.file = config, device, folder / FILE
        self.machine = _machine(device)

    def seconds(self, kinds: tuple[Kind, ...], signature: str) -> float:
        """Of an optimiser step.

        Args:
            kinds: errors that are measured.
            signature: of the operations.

        Raises:
            InputError: there is too little memory.
        """
        config = self.config
        key = f"{signature}, {config.accumulate} passes, {config.optimizer}, {config.mixed_precision}, ema {config.ema}"
        known = _read(self.file).get(self.machine, {})
        if key not in known:
            try:
                known[key] = self._run(kinds)
            except torch.OutOfMemoryError as error:
                raise InputError("a step does not fit this device; use plan_tflops to plan without it") from error
            self._keep(known)
        return known[key]

    def _run(self, kinds: tuple[Kind, ...]) -> float:
        config = self.config
        step = PlannedStep(config, self.device.type == "cuda", self.device)
        optimizer = make_optimizer(config.optimizer, step.learned, config.learning_rate, config.weight_decay)
        average = None if config.ema is None else copy_of_trained(step.model.denoiser)
        found: list[float] = []
        for number in range(WARM + TIMED):
            self._wait()
            started = time.perf_counter()
            optimizer.zero_grad()
            for _ in range(config.accumulate):
                with step.as_trained():
                    noised = step.noised(kinds)
                    loss = step.loss(kinds, noised, step.answer(noised))
                    loss.backward()  # type: ignore[no-untyped-call]
                    del noised, loss
            torch.nn.utils.clip_grad_norm_(step.learned, config.max_gradient_norm)
            optimizer.step()
            if average is not None:
                update_average(average, step.model.denoiser, config.ema or 0.0, number)
            self._wait()
            found.append(time.perf_counter() - started)
        return min(found[WARM:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _keep(self, known: dict[str, float]) -> None:
        """Write what is known; a folder that cannot be written is left alone."""
        partial = self.file.with_name(f"{self.file.name}.{os.getpid()}.partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({**_read(self.file), self.machine: known}, indent=1) + "\n")
            partial.replace(self.file)
        except OSError:
            partial.unlink(missing_ok=True)


def _machine(device: torch.device) -> str:
    """What the times depend on beside the operations."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"{platform.machine()}, {_processor()}, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _read(file: Path) -> dict[str, dict[str, float]]:
    """Times by machine and step; nothing where there is no file that can be read."""
    try:
        found = json.loads(file.read_text())
        return {str(m): {str(k): float(v) for k, v in times.items()} for m, times in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
