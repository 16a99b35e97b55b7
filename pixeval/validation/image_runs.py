"""Images measured by several processes, with progress, and continued where a killed run stopped."""

import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from tqdm import tqdm

from pixeval.scoring.cache import default_folder
from pixeval.validation.clean_images import CleanImage
from pixeval.validation.image_figures import ImageFigures, Judge, measure

LINE_EVERY = 15.0
"""Seconds between lines of progress where stderr is no terminal."""

Task = tuple[CleanImage, bool]
"""An image, and whether cross-talk is measured on it too."""


def measure_all(tasks: Sequence[Task], names: Sequence[str], workers: int) -> list[ImageFigures]:
    """The figures of every image in the order of ``tasks``, the same for any number of workers.

    What is done is kept in the user's cache until all is, under a hash of images, metrics and code.

    Args:
        names: metrics of the families flaws or quality.
        workers: processes; each uses one core.
    """
    keys = [_key(task, names) for task in tasks]
    partial = default_folder() / "validation" / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:24]}.jsonl"
    found = _read(partial)
    missing = {key: task for key, task in zip(keys, tasks, strict=True) if key not in found}
    progress = Progress(len(tasks), len(tasks) - len(missing))
    with _kept(partial) as file:
        for key, figures in _measured(missing, names, min(workers, len(missing))):
            found[key] = figures
            file.write("\n" + json.dumps({"key": key, "figures": figures}))
            file.flush()
            progress.step()
    progress.close()
    partial.unlink(missing_ok=True)
    return [found[key] for key in keys]


def _kept(partial: Path) -> TextIO:
    """A cache that cannot be written costs the continuation only."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        return partial.open("a", encoding="utf-8")
    except OSError:
        return open(os.devnull, "a", encoding="utf-8")


def _measured(tasks: dict[str, Task], names: Sequence[str], workers: int) -> Iterator[tuple[str, ImageFigures]]:
    """As they are done."""
    if workers < 2:
        judges = [Judge.named(name) for name in names]
        for key, (image, cross_talk) in tasks.items():
            with _one_thread():
                yield key, measure(image, judges, cross_talk)
        return
    # torch's own threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (list(names),)) as pool:
        running = {pool.submit(_work, *task): key for key, task in tasks.items()}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums depend in their last digits on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_JUDGES: list[Judge] = []
"""Of this process, loaded once."""


def _start(names: list[str]) -> None:
    torch.set_num_threads(1)
    _JUDGES.extend(Judge.named(name) for name in names)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """A killed parent cannot end its workers."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(image: CleanImage, cross_talk: bool) -> ImageFigures:
    return measure(image, _JUDGES, cross_talk)


def _key(task: Task, names: Sequence[str]) -> str:
    image, cross_talk = task
    digest = hashlib.sha256(_code())
    digest.update(json.dumps([image.name, cross_talk, list(names), list(image.pixels.shape)]).encode())
    digest.update(image.pixels.numpy().tobytes())
    return digest.hexdigest()


def _code() -> bytes:
    """Hash of all that figures depend on besides images."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder in ("metrics", "validation"):
        for file in sorted((package / folder).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.digest()


def _read(partial: Path) -> dict[str, ImageFigures]:
    """Figures by key; a line that a killed run did not finish is left out."""
    found = {}
    try:
        lines = partial.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    for line in lines:
        try:
            row = json.loads(line)
            found[row["key"]] = row["figures"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


class Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, total: int, done: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total, self._first, self._done = total, done, done
        self._start = self._told = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc="validate", unit="image", file=self._stream, disable=None)

    def step(self) -> None:
        """One image more is done."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._told >= LINE_EVERY:
            self._told = now
            left = (now - self._start) / (self._done - self._first) * (self._total - self._done)
            print(f"validate: {self._done} of {self._total} images, about {left:.0f} s left", file=self._stream)

    def close(self) -> None:
        """All is done."""
        self._bar.close()
