"""Training in processes of its own, to be killed or to work with others; started by a fork server."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.tensor import DTensor

import trainers.sft
from trainers.latent_cache import Folder
from trainers.loop import Training
from trainers.sft import SftConfig, train_sft


class StopError(Exception):
    """Stands for whatever ends a process between two steps."""


def stop_at(step: int) -> Callable[[int, Path], None]:
    """What to call at checkpoints: stops at this one."""

    def callback(done: int, path: Path) -> None:
        if done == step:
            raise StopError

    return callback


def server() -> Any:
    """Where processes come from: with everything imported, and no thread of torch started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_process"])
    here, before = Path(__file__).parent, os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent)])  # the server looks nowhere else
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def start(target: Any, *arguments: Any) -> BaseProcess:
    """Run ``target`` in a new process."""
    process: BaseProcess = server().Process(target=target, args=arguments)
    process.start()
    return process


def train(config: SftConfig, threads: int, deadly_batch: int | None = None, endless_batch: int | None = None) -> None:
    """Train; die by SIGKILL when batch number ``deadly_batch`` is asked for, and wait for ever at ``endless_batch``."""
    torch.set_num_threads(threads)
    make = trainers.sft.sft_loss

    def watched(*arguments: Any) -> Any:
        loss = make(*arguments)

        def read(denoiser: Any, batch: int, generator: Any) -> Any:
            if batch == deadly_batch:
                os.kill(os.getpid(), signal.SIGKILL)
            while batch == endless_batch:
                signal.pause()
            return loss(denoiser, batch, generator)

        return read

    trainers.sft.sft_loss = watched  # type: ignore[assignment]
    train_sft(config)


def train_as(rank: int, size: int, meeting: Path, config: SftConfig, port: int) -> None:
    """Train as one of ``size`` processes, as ``torchrun`` and ``accelerate launch`` start them."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    torch.set_num_threads(1)
    train_sft(config)
    (meeting / f"done-{rank}").touch()


def train_and_count_as(rank: int, size: int, meeting: Path, config: SftConfig, port: int) -> None:
    """As :func:`train_as`; says how many entries of the cache this process wrote."""
    write, written = Folder.write, []

    def counted(folder: Folder, place: Path, tensors: Any) -> None:
        written.append(place)
        write(folder, place, tensors)

    with patch.object(Folder, "write", counted):
        train_as(rank, size, meeting, config, port)
    (meeting / f"written-{rank}").write_text(str(len(written)))


def train_twice_as(rank: int, size: int, meeting: Path, config: SftConfig, port: int, stop: int) -> None:
    """As :func:`train_as`, stopped after ``stop`` steps and begun again; says how many numbers it held, of how many."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    torch.set_num_threads(1)
    advance = Training.advance

    def stopping(training: Training, step: int) -> Any:
        line = advance(training, step)
        parameters = [p for p in training.denoiser.parameters() if isinstance(p, DTensor)]
        share = [sum(part.numel() for part in parts) for parts in ([p.to_local() for p in parameters], parameters)]
        (meeting / f"share-{rank}").write_text(" ".join(map(str, share)))
        if step + 1 == stop:
            raise StopIteration
        return line

    with suppress(StopIteration), patch.object(Training, "advance", stopping):
        train_sft(config)
    train_sft(config)
