"""How long the operations of a step take: at a stated rate, or as measured one by one on this machine."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import torch

from trainers.meter import Call, Operation

REPEATS = 3
LONG_ENOUGH = 0.2
"""Seconds after which an operation is not repeated."""
FILE = "operation-times-1.json"
"""The number is that of the layout."""
FLUSHED = 96 * 2**20
"""Bytes written before each measurement, more than a processor's last cache holds: in a step, an operation finds few of
its inputs there. Without, the steps of the bundled U-Net were predicted a third too short."""


class Throughput(Protocol):
    """Turns operations into time."""

    source: str
    """Where it is from."""

    def seconds(self, operations: Iterable[Operation]) -> float:
        """One after the other."""
        ...


class Stated:
    """Arithmetic alone at a stated rate: a lower bound of the time.

    Args:
        teraflops: per second, what the device reaches.
    """

    def __init__(self, teraflops: float) -> None:
        self._rate = teraflops * 1e12
        self.source = f"stated, {teraflops:g} TFLOP/s"

    def seconds(self, operations: Iterable[Operation]) -> float:
        return sum(operation.flops for operation in operations) / self._rate


class Measured:
    """Every distinct operation is run alone, on numbers of no meaning in tensors of the same shapes.

    Takes some times as long as a step of the training itself, and the memory of the largest operation. What was
    measured is kept in a file and not measured again on the same machine with the same torch and number of threads.

    Args:
        device: where it is run.
        folder: of the file; None to keep nothing.
    """

    def __init__(self, device: torch.device, folder: Path | None = None) -> None:
        self._device = device
        self._file = None if folder is None else folder / FILE
        self._machine = _machine(device)
        self._known = _read(self._file).get(self._machine, {})
        self._new = False
        self._flushed = torch.zeros(FLUSHED // 4, device=device)
        self.source = f"operations measured one by one on this machine's {device.type}"
        memory = torch.zeros(1 << 20, device=device)
        self._per_byte = self._time(lambda: memory.mul_(1.0)) / (2 * 4 * memory.numel())

    @torch.no_grad()
    def seconds(self, operations: Iterable[Operation]) -> float:
        total = sum(self._seconds(operation) for operation in operations)
        self._keep()
        return total

    def _seconds(self, operation: Operation) -> float:
        call = operation.call
        if call is None:
            return operation.traffic * self._per_byte
        name = call.name
        if name not in self._known:
            self._known[name] = self._run(call, operation)
            self._new = True
        return self._known[name]

    def _run(self, call: Call, operation: Operation) -> float:
        try:
            args, kwargs = call.arguments(self._device)
            return self._time(lambda: call.func(*args, **kwargs))
        except (RuntimeError, NotImplementedError):
            # Attention of the CPU standing for that of CUDA, say; it is known by its traffic alone.
            return operation.traffic * self._per_byte

    def _time(self, call: Callable[[], object]) -> float:
        """The median of a few runs after the first, in which kernels are chosen and memory is fetched."""
        found: list[float] = []
        while len(found) < 2 or (len(found) <= REPEATS and sum(found[1:]) < LONG_ENOUGH):
            self._flushed.add_(1)
            self._wait()
            started = time.perf_counter()
            call()
            self._wait()
            found.append(time.perf_counter() - started)
        return statistics.median(found[1:])

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _keep(self) -> None:
        """Write what is new; a folder that cannot be written is left alone."""
        if self._file is None or not self._new:
            return
        self._new = False
        partial = self._file.with_name(f"{self._file.name}.{os.getpid()}.partial")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({**_read(self._file), self._machine: self._known}))
            partial.replace(self._file)
        except OSError:
            partial.unlink(missing_ok=True)


def _machine(device: torch.device) -> str:
    """What the times depend on beside the operation."""
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


def _read(file: Path | None) -> dict[str, dict[str, float]]:
    """Times by machine and operation; nothing where there is no file that can be read."""
    try:
        found = {} if file is None else json.loads(file.read_text())
        return {str(m): {str(k): float(v) for k, v in times.items()} for m, times in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
