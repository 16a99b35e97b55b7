"""A metric on the user's own images: how the values are spread, and the images at the lowest, the quartiles and so on.

The scoring engine and its cache do the work, so images that cannot be scored are counted with their reason.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor
from torch.nn import functional as F

from pixeval.anchor_material import contact_sheet
from pixeval.catalog import load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.folder import ImageSet, folder_run
from pixeval.images import UnreadableImage, read_image
from pixeval.metric_spec import MetricSpec
from pixeval.records import SetScore
from pixeval.runs import Run
from pixeval.scoring.cache import Cache
from pixeval.scoring.evaluate import score_run
from pixeval.scoring.image_pass import FAILED, NOT_FINITE
from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval

PLACES: dict[str, float] = {
    "lowest": 0.0,
    "lower quartile": 0.25,
    "median": 0.5,
    "upper quartile": 0.75,
    "highest": 1.0,
}
SHOWN_SIDE = 320
"""Longer side of the pictures on the page."""
BINS = 24
SHEET = 16


@dataclass(frozen=True)
class Placed:
    """The image at one place of the sorted values."""

    place: str
    name: str
    """Of the file, relative to the folder."""
    value: float
    low: float | None
    """95 % interval of the quantile; None (with ``high``) at the ends and for few images."""
    high: float | None
    pixels: Tensor | None
    """3 x H x W, reduced; None where the file could no longer be read."""
    heat: Tensor | None = None


@dataclass(frozen=True)
class OwnScores:
    """What a metric says about a folder or a run."""

    folder: str
    n: int
    """Images with a value."""
    mean: Interval | None
    placed: tuple[Placed, ...]
    counts: tuple[int, ...]
    """Histogram between the lowest and the highest value, in bins of equal width."""
    missing: tuple[tuple[str, int], ...]
    """Reasons, and how many images have no value for each; the commonest first."""
    failed: bool
    """An image could not be read, or the metric failed on one."""
    sets: tuple[tuple[SetScore, Tensor | None], ...] = ()
    """For metrics of sets: the score of each label with a contact sheet."""


def own_scores(
    spec: MetricSpec,
    folder: Path,
    *,
    prompts: Path | None = None,
    reference: Path | None = None,
    encoder: ClipEncoder | None = None,
    weights: dict[str, str] | None = None,
    device: str = "cpu",
    cache: Cache | None = None,
) -> OwnScores:
    """Score the images of a folder, or of a run, which keeps the scores.

    Args:
        prompts: for a folder, as in ``pixeval score --prompts``.
        reference: for the families reference and distribution.

    Raises:
        InputError: no images, a bad prompt file, or no reference or weights where they are needed.
    """
    is_run = (folder / "run.json").exists()
    if is_run and prompts is not None:
        raise InputError(f"--prompts is for folders of images; {folder} is a run and keeps its own")
    with tempfile.TemporaryDirectory(prefix="pixeval-show-") as temporary:
        run = Run.open(folder) if is_run else folder_run(folder, Path(temporary) / "scores", prompts)
        score_run(
            run,
            [spec.name],
            encoder=encoder,
            reference=reference,
            weights=weights or {},
            device=device,
            progress=True,
            cache=cache,
        )
        if spec.family == "distribution":
            return _of_sets(spec, run, folder)
        return _of_images(spec, run, folder, (weights or {}).get(spec.name), device)


def _of_images(spec: MetricSpec, run: Run, folder: Path, weights: str | None, device: str) -> OwnScores:
    images = ImageSet.open(run)
    samples = {sample.id: sample for sample in images.samples}
    scores = [score for score in run.scores() if score.metric == spec.name and score.sample_id in samples]
    reasons = {s.sample_id: s.reason or "" for s in scores if s.value is None}
    scored = sorted((s.value, s.sample_id) for s in scores if s.value is not None)
    values = [value for value, _ in scored]
    failed = any(FAILED in r or NOT_FINITE in r for r in reasons.values()) or any(
        not _readable(images.file(samples[identity])) for identity in reasons
    )
    scorer = load(spec, weights=weights) if spec.family == "flaws" else None
    if "weights" in spec.needs and scorer is not None:
        scorer = scorer.to(device)
    placed = []
    for place, share in PLACES.items() if values else ():
        value, identity = scored[round(share * (len(scored) - 1))]
        pixels, heat = _picture(images.file(samples[identity]), scorer, device)
        low, high = quantile_interval(values, share)
        placed.append(Placed(place, samples[identity].path, value, low, high, pixels, heat))
    clusters = [samples[identity].prompt_id or identity for _, identity in scored]
    return OwnScores(
        str(folder),
        len(values),
        mean_interval(values, clusters=clusters) if values else None,
        tuple(placed),
        tuple(np.histogram(values, BINS)[0].tolist()) if values else (),
        tuple(Counter(reasons.values()).most_common()),
        failed,
    )


def quantile_interval(values: Sequence[float], share: float) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of a quantile between two order statistics, for independent values of any distribution.

    The rank of the quantile is binomial (David and Nagaraja, Order Statistics, 2003, section 7.1).

    Args:
        values: sorted upwards.
        share: in [0, 1]; at 0 and 1, and for few values, there is no such interval.
    """
    n = len(values)
    if not 0 < share < 1 or n == 0:
        return None, None
    # X_(r) < q holds when at least r values fall below the quantile
    low, high = int(binom.ppf(0.025, n, share)), int(binom.ppf(0.975, n, share)) + 1
    return (values[low - 1], values[high - 1]) if low >= 1 and high <= n else (None, None)


def _readable(file: Path) -> bool:
    try:
        read_image(file)
    except UnreadableImage:
        return False
    return True


def _picture(file: Path, scorer: Any, device: str) -> tuple[Tensor | None, Tensor | None]:
    """The image and its heat map, reduced for the page."""
    try:
        image = read_image(file)
    except UnreadableImage:
        return None, None
    heat = None
    if scorer is not None:
        with torch.no_grad():
            heat = _reduced(scorer.heatmap(image[None].to(device)).float().cpu())[0].clamp(0, 1)
    return _reduced(image), heat


def _reduced(planes: Tensor) -> Tensor:
    """C x H x W with its longer side at most ``SHOWN_SIDE``."""
    factor = SHOWN_SIDE / max(planes.shape[-2:])
    if factor >= 1:
        return planes
    size = [max(1, round(side * factor)) for side in planes.shape[-2:]]
    return F.interpolate(planes[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _of_sets(spec: MetricSpec, run: Run, folder: Path) -> OwnScores:
    images = ImageSet.open(run)
    found = [score for score in run.set_scores() if score.metric == spec.name]
    sets, broken = [], 0
    for score in found:
        members = [sample for sample in images.samples if sample.label == score.label]
        step = max(1, len(members) // SHEET)
        tiles = []
        for sample in members[::step][:SHEET]:
            pixels, _ = _picture(images.file(sample), None, "cpu")
            if pixels is not None:
                side = F.interpolate(pixels[None], (80, 80), mode="bilinear", antialias=True)
                tiles.append(side)
        sets.append((score, contact_sheet(torch.cat(tiles), range(len(tiles))) if tiles else None))
        broken += len(members) - score.n
    missing = (("the image cannot be read, or is too small", broken),) if broken else ()
    n = sum(score.n for score, _ in sets)
    return OwnScores(str(folder), n, None, (), (), missing, broken > 0, tuple(sets))
