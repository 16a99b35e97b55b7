"""``pixeval validate``: how far metrics can be trusted, against planted flaws and against labels of people."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pixeval.catalog import CATALOG, find, load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.images import UnreadableImage
from pixeval.metric_spec import MetricSpec
from pixeval.validation.clean_images import CleanImage, clean_images, own_images
from pixeval.validation.flaws import validate_flaws
from pixeval.validation.human_labels import LabelledImage, Rating, read_labels
from pixeval.validation.page import Tables, draw_cross_talk, draw_examples, with_tables, write_whole
from pixeval.validation.people import against_choices, against_ratings
from pixeval.weights import parse_weights

PER_IMAGE = ("quality", "flaws", "alignment")


@dataclass(frozen=True)
class ValidateConfig:
    """Measure metrics against planted flaws, or against labels of people with --labels."""

    metric: Annotated[str, tyro.conf.Positional] = "flaws"
    """One metric of the families quality and flaws, or 'flaws' for all of that family. With --labels: one metric of the
    families quality, flaws and alignment."""
    images: Path | None = None
    """A folder of clean images to plant flaws in, instead of the bundled ones; thresholds still come from those."""
    labels: Path | None = None
    """A table of human labels (.csv, .jsonl, .parquet): ratings of images, or choices between two (Pick-a-Pic)."""
    human: str | None = None
    """Column of the ratings where it is not human, rating, overall_score or rank; higher is better."""
    out: Path | None = None
    """Folder for validation.json, validation.md and the pictures; without it they are not written, the tables are only
    printed."""
    page: Path | None = None
    """A Markdown page between whose marks the tables are put; the figures go to a .json of the same name and the
    pictures to images/ beside it."""
    tuning: bool = False
    """Look at the images on which thresholds are chosen instead, and name those judged worst: for work on a detector,
    so that the others stay unseen."""
    workers: int | None = None
    """Processes for planted flaws, one core each; default all cores. The figures are the same for any number."""
    clip: str = "bundled"
    """With --labels: CLIP for metrics that need one, as in 'pixeval score'."""
    weights: tuple[str, ...] = ()
    """With --labels: NAME=PATH for a metric whose weights are not bundled."""


def validate(config: ValidateConfig) -> dict[str, Any]:
    """Carry out ``pixeval validate``; returns what is written to ``validation.json``.

    Raises:
        InputError: an unknown or unsuitable metric, bad images, labels or page.
    """
    if config.labels is not None:
        found = _against_people(config)
    elif config.human is not None:
        raise InputError("--human names a column of --labels; give the table too")
    else:
        found = _against_flaws(config)
    if config.out is not None:
        write_whole(config.out / "validation.json", _json(found))
        write_whole(config.out / "validation.md", (Tables(found).markdown() + "\n").encode())
    return found


def _against_flaws(config: ValidateConfig) -> dict[str, Any]:
    names = _metrics(config.metric)
    page = config.page
    if page is not None and (config.metric != "flaws" or config.images is not None or config.tuning):
        raise InputError("--page shows all detectors on the bundled images; leave the metric, --images, --tuning out")
    if config.tuning and config.images is not None:
        raise InputError("--tuning looks at the bundled images; leave --images out")
    if config.workers is not None and config.workers < 1:
        raise InputError(f"--workers must be at least 1, got {config.workers}")
    if page is not None:
        with_tables(page, "")  # a page without marks should fail before the work
    tune = clean_images("tune")
    others = clean_images("report") if config.images is None else own_images(config.images)
    report = None if config.tuning else others
    workers = config.workers or len(os.sched_getaffinity(0))
    found = {"against": "planted flaws", **validate_flaws(names, tune, report, workers)}
    if config.out is not None:
        _draw(found, report or tune, names, config.out)
    if page is not None:
        _draw(found, report or tune, names, page.parent / "images")
        write_whole(page.with_suffix(".json"), _json(found))
        write_whole(page, with_tables(page, Tables(found).markdown()).encode())
    return found


def _draw(found: dict[str, Any], images: Sequence[CleanImage], names: Sequence[str], folder: Path) -> None:
    draw_cross_talk(found, folder / "cross_talk.png")
    draw_examples(images, names, folder / "planted_flaws.png")


def _json(found: dict[str, Any]) -> bytes:
    return (json.dumps(found, indent=1, allow_nan=False) + "\n").encode()


def _metrics(name: str) -> list[str]:
    if name == "flaws":
        return [spec.name for spec in CATALOG if spec.family == "flaws" and "weights" not in spec.needs]
    spec = find(name)
    if spec.family not in ("quality", "flaws") or spec.needs:
        raise InputError(
            f"{name} cannot be judged by planted flaws, which are about single images without a prompt; name a "
            "metric of the quality or flaws family, or give labels of people (--labels)"
        )
    return [name]


def _against_people(config: ValidateConfig) -> dict[str, Any]:
    assert config.labels is not None
    if config.metric == "flaws":
        raise InputError("name one metric to compare with the labels: pixeval validate METRIC --labels FILE")
    spec = find(config.metric)
    if spec.family not in PER_IMAGE or set(spec.needs) - {"prompt", "clip", "weights"}:
        raise InputError(
            f"{spec.name} needs more than one image and its prompt; name another metric of {', '.join(PER_IMAGE)}"
        )
    labels = read_labels(config.labels, config.human)
    values = _Values(spec, config)
    ratings = [label for label in labels if isinstance(label, Rating)]
    choices = [label for label in labels if not isinstance(label, Rating)]
    figures = against_ratings(ratings, values) if ratings else against_choices(choices, values)
    return {"against": "people", "metric": spec.name, "table": config.labels.name, **figures}


class _Values:
    """Values of one metric, oriented so that higher is better, each image judged once."""

    def __init__(self, spec: MetricSpec, config: ValidateConfig) -> None:
        encoder = ClipEncoder.load(config.clip) if "clip" in spec.needs else None
        weights = parse_weights(config.weights, CATALOG).get(spec.name)
        self._scorer = load(spec, encoder=encoder, weights=weights)
        self._spec = spec
        self._sign = 1.0 if spec.higher_is_better else -1.0
        self._known: dict[tuple[str | bytes, str], float | str] = {}

    def __call__(self, image: LabelledImage) -> float:
        key = (image.cell, image.prompt)
        if key not in self._known:
            self._known[key] = self._judged(image)
        known = self._known[key]
        if isinstance(known, str):
            raise UnreadableImage(known)
        return known

    def _judged(self, image: LabelledImage) -> float | str:
        import torch

        if "prompt" in self._spec.needs and not image.prompt.strip():
            return "no prompt"
        try:
            pixels = image.pixels()
        except UnreadableImage as error:
            return str(error)
        if min(pixels.shape[-2:]) < self._spec.min_side:
            return f"an image is smaller than the {self._spec.min_side} pixels a side that {self._spec.name} needs"
        with torch.no_grad():
            value = float(self._scorer(pixels[None], [image.prompt])[0])
        return self._sign * value if value - value == 0 else f"the value is {value}, not a finite number"


def render(found: dict[str, Any]) -> str:
    """What was found, as text for a terminal."""
    return Tables(found).markdown()
