"""Anchors: what low, middle and high values of a metric look like, computed by the metric itself on bundled images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixeval.anchor_material import (
    DRIFTS,
    LEAST_SET,
    SHARES,
    Graded,
    captioned_icons,
    change_of,
    contact_sheet,
    drift_titles,
    drifted,
    graded_images,
    icon_sets,
    largest_set,
    spoilt,
    titles,
)
from pixeval.catalog import load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.metric_spec import MetricSpec
from pixeval.protocols import FlawScorer, SelectiveScorer
from pixeval.records import ObjectSpec, Prompt
from pixeval.scoring.image_pass import guarded
from pixeval.spectrum_encoder import SpectrumEncoder
from pixeval.validation.planted_flaws import PlantedFlaw

ENCODED_AT_A_TIME = 32
EXAMPLES = {"photograph": 1, "drawing": 1, "generated": 1, "icon": 4, "set": 1}
"""How many series of each kind are shown."""


@dataclass(frozen=True)
class Picture:
    """One image (or contact sheet of a set) and its value."""

    title: str
    value: float | None
    reason: str | None
    """Why there is no value; None when there is one."""
    pixels: Tensor
    """3 x H x W in [0, 1]."""
    heat: Tensor | None = None
    """H x W in [0, 1] for flaw metrics."""


@dataclass(frozen=True)
class Series:
    """One image at every degree of a change; the first picture should be the best."""

    name: str
    kind: str
    pictures: tuple[Picture, ...]
    mask: Tensor | None = None
    """H x W: where a flaw was planted."""


@dataclass(frozen=True)
class Degree:
    """One degree of the change over all images; quartiles are None where no image has a value."""

    title: str
    n: int
    median: float | None
    quartiles: tuple[float, float] | None
    missing: int
    reason: str | None
    """The commonest reason of those that are missing."""


@dataclass(frozen=True)
class Anchors:
    """Values from bundled images, and a few of these to look at."""

    made_of: str
    """How, in one sentence."""
    unit: str
    """Of the numbers in the titles; empty when they have none."""
    degrees: tuple[Degree, ...]
    series: tuple[Series, ...]
    """Examples; the first is the clearest."""
    fingerprint: str
    """Of the metric."""
    higher_is_better: bool

    @property
    def follows(self) -> bool:
        """Whether the medians at the first, middle and last degree that have one are in the metric's direction."""
        medians = [degree.median for degree in self.degrees if degree.median is not None]
        chosen = [medians[0], medians[len(medians) // 2], medians[-1]] if len(medians) > 2 else medians
        falling = all(a > b for a, b in pairwise(chosen))
        rising = all(a < b for a, b in pairwise(chosen))
        return falling if self.higher_is_better else rising

    @property
    def ends(self) -> tuple[Picture, ...]:
        """Low, middle and high of the first series, by value; fewer where it has fewer values."""
        return _ends(self.series[0]) if self.series else ()


def compute_anchors(
    spec: MetricSpec, *, encoder: ClipEncoder | None = None, weights: str | None = None, device: str = "cpu"
) -> Anchors:
    """The anchors of a metric.

    Args:
        encoder: for metrics with ``clip`` among their needs; the bundled one by default.
        weights: for metrics with ``weights`` among their needs.

    Raises:
        InputError: weights are missing or bad, or the encoder's features have more dimensions than there are icons.
    """
    if "clip" in spec.needs:
        encoder = (encoder or ClipEncoder.load()).to(device)
    with torch.no_grad():
        if spec.family == "distribution":
            return _of_sets(spec, encoder, device)
        if spec.family == "alignment":
            return _of_captions(spec, encoder, weights, device)
        scorer = _to(load(spec, encoder=encoder, weights=weights), spec, device)
        return _of_images(spec, scorer, device)


def _to(scorer: Any, spec: MetricSpec, device: str) -> Any:
    return scorer.to(device) if "weights" in spec.needs else scorer


def _of_images(spec: MetricSpec, scorer: Any, device: str) -> Anchors:
    """Clean images and what becomes of them; the clean one is the reference of metrics that need one."""
    change = change_of(spec)
    names = titles(change)
    graded, series = [], []
    for image in graded_images(spec):
        versions = image.versions.to(device)
        reference = versions[:1] if spec.family == "reference" else None
        found = _values(spec, _call(scorer, versions, reference), len(versions))
        pictures = [Picture(t, *f, p) for t, f, p in zip(names, found, image.versions, strict=True)]
        graded.append(image)
        series.append(Series(image.source.name, image.source.kind, tuple(pictures), image.mask))
    where = "in an ellipse of clean images" if isinstance(change, PlantedFlaw) and change.effect else "in clean images"
    if isinstance(change, PlantedFlaw):
        made_of = f"{change.name.replace('_', ' ')} planted {where} at five strengths"
    else:
        made_of = f"clean images with {_WORSE.get(change.title, change.title)} at five strengths"
    if spec.family == "reference":
        made_of += ", each against the clean one"
    shown = [_with_heat(s, scorer, graded, device) for s in _examples(series, spec.higher_is_better)]
    degrees = _degrees(names, series)
    kinds = {one.kind for one in series}
    noun = "photographs" if kinds == {"photograph"} else "images"
    return Anchors(
        f"{made_of}; {len(series)} bundled {noun}",
        change.unit,
        degrees,
        tuple(shown),
        scorer.fingerprint,
        spec.higher_is_better,
    )


_WORSE = {"softness": "a slight blur", "contrast": "less contrast", "colour": "less colour", "darkness": "less light"}


def _call(scorer: Any, versions: Tensor, reference: Tensor | None) -> Callable[[list[int]], Tensor]:
    def compute(which: list[int]) -> Tensor:
        images = versions[which]
        found: Tensor = scorer(images) if reference is None else scorer(images, reference.expand_as(images))
        return found

    return compute


def _values(
    spec: MetricSpec, compute: Callable[[list[int]], Tensor], count: int
) -> list[tuple[float | None, str | None]]:
    """(value, None) or (None, reason) of each image."""
    found: list[tuple[float | None, str | None]] = []
    for value in guarded(compute, count):
        if isinstance(value, str):
            found.append((None, value))
        elif not np.isfinite(value):
            equal = "the two images are equal" if spec.family == "reference" else "not a finite number"
            found.append((None, spec.undefined or equal))
        else:
            found.append((value, None))
    return found


def _with_heat(series: Series, scorer: Any, graded: Sequence[Graded], device: str) -> Series:
    if not isinstance(scorer, FlawScorer):
        return series
    versions = next(image.versions for image in graded if image.source.name == series.name)
    heat = scorer.heatmap(versions.to(device)).float().cpu()
    pictures = [replace(picture, heat=heat[row]) for row, picture in enumerate(series.pictures)]
    return replace(series, pictures=tuple(pictures))


def _of_captions(spec: MetricSpec, encoder: ClipEncoder | None, weights: str | None, device: str) -> Anchors:
    """Icons with their own caption, a similar one and an unrelated one."""
    icons = captioned_icons()
    captions = sorted({caption for icon in icons for caption in icon.captions})
    records = {
        text: Prompt(f"caption-{number}", text, (), (f"Does the image show: {text}?",), (ObjectSpec(text),))
        for number, text in enumerate(captions)
    }
    scorer = load(spec, encoder=encoder, captions=captions, records=records, weights=weights)
    scorer = _to(scorer, spec, device)
    images = torch.stack([icon.pixels for icon in icons]).to(device)
    columns = []
    for place in range(3):
        prompts = [icon.captions[place] for icon in icons]
        columns.append(_prompted(spec, scorer, images, prompts))
    names = ["its own caption", "a similar caption", "an unrelated caption"]
    series = []
    for row, icon in enumerate(icons):
        pictures = tuple(
            Picture(f"“{icon.captions[place]}”, {names[place]}", *columns[place][row], icon.pixels)
            for place in range(3)
        )
        series.append(Series(icon.captions[0], "icon", pictures))
    made_of = f"{len(icons)} icons that the bundled models have not seen, with captions right and wrong"
    if "captions" in spec.needs:
        made_of += f", among {len(captions)} captions"
    shown = _examples(series, spec.higher_is_better)
    return Anchors(made_of, "", _degrees(names, series), tuple(shown), scorer.fingerprint, spec.higher_is_better)


def _prompted(
    spec: MetricSpec, scorer: Any, images: Tensor, prompts: list[str]
) -> list[tuple[float | None, str | None]]:
    hindered = [scorer.hindrance(p) if isinstance(scorer, SelectiveScorer) else None for p in prompts]
    able = [row for row, reason in enumerate(hindered) if reason is None]

    def compute(which: list[int]) -> Tensor:
        rows = [able[k] for k in which]
        found: Tensor = scorer(images[rows], [prompts[row] for row in rows])
        return found

    values = dict(zip(able, _values(spec, compute, len(able)), strict=True))
    return [values.get(row, (None, reason)) for row, reason in enumerate(hindered)]


def _of_sets(spec: MetricSpec, encoder: ClipEncoder | None, device: str) -> Anchors:
    """Sets of icons that have less and less in common with the reference set, or among themselves."""
    metric, drift = load(spec), DRIFTS[spec.name]
    features_of = encoder if encoder is not None else SpectrumEncoder(device)
    dimensions = features_of(torch.rand(1, 3, 64, 64, device=device)).shape[1]
    count = max(LEAST_SET, metric.smallest(dimensions))
    if count > largest_set():
        raise InputError(
            f"{spec.name} needs sets of {count} images with features of {dimensions} dimensions; the bundled icons are "
            f"enough for {largest_set()}. Leave --clip out, or give your own images with --images and --reference."
        )
    judged, reference = icon_sets(count)
    if drift != "repeated":
        judged = torch.cat((judged, spoilt(judged, drift)))
    features, against = (
        torch.cat([features_of(part.to(device)).cpu() for part in torch.split(images, ENCODED_AT_A_TIME)])
        for images in (judged, reference)
    )
    pictures = []
    for title, share in zip(drift_titles(drift), SHARES[drift], strict=True):
        members = drifted(count, drift, share)
        value = metric(features[members], against)
        pictures.append(Picture(title, value, None, contact_sheet(judged, members)))
    what = {
        "negative": "more and more of them turned into negatives",
        "blurred": "more and more of them blurred",
        "repeated": "ever fewer of them, repeated",
    }[drift]
    with_reference = f", against {count} others" if "reference_set" in spec.needs else ""
    series = [Series(f"{count} icons", "set", tuple(pictures))]
    degrees = _degrees(drift_titles(drift), series)
    made_of = f"sets of {count} bundled icons, {what}{with_reference}"
    return Anchors(made_of, "", degrees, tuple(series), metric.fingerprint, spec.higher_is_better)


def _degrees(names: Sequence[str], series: Sequence[Series]) -> tuple[Degree, ...]:
    found = []
    for place, name in enumerate(names):
        pictures = [one.pictures[place] for one in series]
        values = [p.value for p in pictures if p.value is not None]
        reasons = [p.reason for p in pictures if p.reason is not None]
        reason = max(reasons, key=reasons.count) if reasons else None
        if values:
            low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
            found.append(Degree(name, len(values), median, (low, high), len(reasons), reason))
        else:
            found.append(Degree(name, 0, None, None, len(reasons), reason))
    return tuple(found)


def _examples(series: Sequence[Series], higher_is_better: bool) -> list[Series]:
    """Of each kind of image the series that follow the change step by step and are nearest to the medians.

    The first is a photograph where one of them follows the change.
    """
    if not series:
        return []
    table = np.array([[np.nan if p.value is None else p.value for p in one.pictures] for one in series])
    with np.errstate(all="ignore"):
        middle = np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else 0.0 for c in table.T])
        spread = np.array([np.ptp(c[np.isfinite(c)]) if np.isfinite(c).any() else 0.0 for c in table.T])
    far = np.nanmean(np.abs(np.nan_to_num(table, nan=1e9) - middle) / np.maximum(spread, 1e-12), axis=1)
    broken = [_broken(row if higher_is_better else -row) for row in table]
    order = sorted(range(len(series)), key=lambda row: (broken[row], far[row]))
    left = dict(EXAMPLES)
    shown = []
    for row in order:
        if left[series[row].kind] > 0:
            left[series[row].kind] -= 1
            shown.append(row)
    kinds = list(EXAMPLES)
    shown.sort(key=lambda row: (broken[row] > 0, kinds.index(series[row].kind)))
    return [series[row] for row in shown]


def _broken(values: np.ndarray) -> int:
    """How many steps of a series that should fall do not, missing ones between others included."""
    finite = values[np.isfinite(values)]
    return int((np.diff(finite) >= 0).sum()) + max(0, 3 - len(finite)) * len(values)


def _ends(series: Series) -> tuple[Picture, ...]:
    scored = [picture for picture in series.pictures if picture.value is not None]
    chosen = scored if len(scored) < 3 else [scored[0], scored[len(scored) // 2], scored[-1]]
    return tuple(sorted(chosen, key=lambda picture: picture.value or 0.0))
