"""Curves while they are drawn: TensorBoard, Weights & Biases or trackio, through accelerate."""

from importlib.util import find_spec
from typing import Any, Literal

from accelerate import Accelerator

from pixeval.errors import InputError
from pixeval.runs import Run
from trainers.training_log import Line

TrackerName = Literal["tensorboard", "wandb", "trackio", "none"]


def choose_tracker(wanted: TrackerName | None) -> TrackerName:
    """The tracker of a run: the wanted one, else TensorBoard where it is installed.

    Raises:
        InputError: it is not installed.
    """
    if wanted is None:
        return "none" if find_spec("tensorboard") is None else "tensorboard"
    if wanted != "none" and find_spec(wanted) is None:
        raise InputError(f"tracker {wanted} is not installed: pip install 'pixeval[trackers]', or use tracker none")
    return wanted


def begin_tracking(accelerator: Accelerator, run: Run) -> None:
    """Start the tracker that the accelerator was made with; TensorBoard writes to ``tensorboard/`` in the run."""
    options: dict[str, Any] = {"wandb": {"name": run.name, "dir": str(run.path)}, "trackio": {"name": run.name}}
    names = [str(tracker) for tracker in accelerator.log_with]
    if names:
        accelerator.init_trackers("tensorboard" if names == ["tensorboard"] else "pixeval", init_kwargs=options)


def track(accelerator: Accelerator, part: str, line: Line) -> None:
    """Show the numbers of a line of the log, under names that begin with ``part``."""
    if accelerator.trackers:
        numbers = {f"{part}/{k}": v for k, v in line.items() if k != "step" and isinstance(v, float)}
        accelerator.log(numbers, step=line["step"])


def end_tracking(accelerator: Accelerator) -> None:
    """Let the tracker write what it holds."""
    for tracker in accelerator.trackers:
        tracker.finish()
