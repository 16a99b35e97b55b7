"""Heat maps over the images whose flaw score changed most, computed when the page is built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.images import UnreadableImage, read_image
from pixeval.pictures import Picture, inline
from pixeval.protocols import FlawScorer
from pixeval.scoring.heatmap_overlay import overlay
from reports.tables import FlawChange


@dataclass(frozen=True)
class FlawRow:
    """One pair with the heat map of each side laid over it."""

    change: FlawChange
    baseline: Picture
    candidate: Picture


@dataclass(frozen=True)
class FlawMaps:
    """The rows, or why there are none."""

    rows: tuple[FlawRow, ...]
    problem: str | None


def flaw_maps(changes: Sequence[FlawChange], files: Mapping[str, Path]) -> FlawMaps:
    """Overlay heat maps; ``files`` gives the image of each sample id. What is missing is said, never raised."""
    if not changes:
        return FlawMaps((), None)
    metric = changes[0].metric
    try:
        scorer = load_flaw_scorer(metric)
    except (InputError, ImportError, AttributeError, TypeError, OSError) as error:
        return FlawMaps((), f"The flaw metric {metric} could not be loaded ({error}), so there is no heat map.")
    rows = []
    for change in changes:
        pair = change.pairing
        sides = [_overlay(scorer, files[sample.id]) for sample in (pair.baseline, pair.candidate)]
        rows.append(FlawRow(change, sides[0], sides[1]))
    return FlawMaps(tuple(rows), None)


def load_flaw_scorer(metric: str) -> FlawScorer:
    """The metric of the catalogue, which must have heat maps.

    Raises:
        InputError: it is unknown, or has no heat map.
    """
    scorer = load(find(metric))
    if not isinstance(scorer, FlawScorer):
        raise InputError(f"metric {metric!r} has no heat map; name one of the flaws family")
    return scorer


def _overlay(scorer: FlawScorer, path: Path) -> Picture:
    try:
        image = read_image(path)
        with torch.no_grad():
            heat = scorer.heatmap(image[None])[0]
        return inline(overlay(image, heat))
    except (UnreadableImage, ValueError, RuntimeError) as error:
        return Picture("", 1, 1, str(error))
