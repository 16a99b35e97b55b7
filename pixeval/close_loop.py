"""``pixeval train``: training whose every checkpoint is generated from and scored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pixeval.catalog import select
from pixeval.encoders import ClipEncoder
from pixeval.folder import ImageSet
from pixeval.pipelines import resolve_model
from pixeval.rescore import evaluation_metrics, rescore
from pixeval.run_text import render as render_run
from pixeval.runs import Run
from pixeval.suites import load_prompts
from trainers.image_to_image import ImageToImageConfig, train_image_to_image
from trainers.loop import OnCheckpoint
from trainers.plan import plan
from trainers.plan_text import render as render_plan
from trainers.preference import PreferenceConfig, train_preference
from trainers.sft import SftConfig, train_sft
from trainers.train_config import TrainConfig

Config = TypeVar("Config", bound=TrainConfig)


def train_or_plan(config: SftConfig | PreferenceConfig | ImageToImageConfig) -> Run | dict[str, Any]:
    """What ``pixeval train`` does: train or, with ``plan``, only predict the cost of a step."""
    if config.plan:
        return plan(config)
    if isinstance(config, SftConfig):
        return sft(config)
    return preference(config) if isinstance(config, PreferenceConfig) else image_to_image(config)


def sft(config: SftConfig) -> Run:
    """Fine-tune and, with ``evaluate``, score the starting model and every checkpoint."""
    return close_loop(config, train_sft)


def preference(config: PreferenceConfig) -> Run:
    """Tune on preferences and, with ``evaluate``, score the starting model and every checkpoint."""
    return close_loop(config, train_preference)


def image_to_image(config: ImageToImageConfig) -> Run:
    """Train a model that turns images into images in one step."""
    return train_image_to_image(replace(config, model=Path(resolve_model(str(config.model)))))


def render(finished: Run | dict[str, Any]) -> str:
    """The finished run, or the plan, for a terminal."""
    return render_plan(finished) if isinstance(finished, dict) else render_run(finished)


def close_loop(config: Config, train: Callable[[Config, OnCheckpoint | None], Run]) -> Run:
    """Train; after each checkpoint generate from it and score, before training goes on.

    Raises:
        InputError: as the training itself, and for an unknown suite, metric or CLIP (before anything is trained).
    """
    config = replace(config, model=Path(resolve_model(str(config.model))))
    suite = config.evaluate
    if suite is None:
        return train(config, None)
    load_prompts(suite)
    select(evaluation_metrics(config.evaluation))
    ClipEncoder.load(config.evaluation.clip)
    if config.evaluation.reference is not None:
        ImageSet.open(config.evaluation.reference)
    device = "cuda" if _cuda(config.device) else "cpu"

    def evaluate(step: int, checkpoint: Path) -> None:
        run = Run.open(config.out)
        rescore(run, str(config.model), "base", suite, config.evaluation, device)
        rescore(run, str(checkpoint), checkpoint.name, suite, config.evaluation, device)

    return train(config, evaluate)


def _cuda(device: str) -> bool:
    import torch

    return device == "cuda" or (device == "auto" and torch.cuda.is_available())
