"""Heat maps over the gallery's images, computed when the page is built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.images import UnreadableImage, read_image, to_uint8
from pixeval.pictures import Picture
from pixeval.protocols import FlawScorer
from pixeval.scoring.heatmap_overlay import overlay
from reports.gallery import Exhibit
from reports.thumbnails import encode, parallel

SIDE, QUALITY = 256, 75
"""Of overlays: they show a place, not detail."""


@dataclass(frozen=True)
class FlawMaps:
    """Overlays of both images by the exhibit's key, or why there are none."""

    pictures: Mapping[str, tuple[Picture, Picture]]
    problem: str | None


def flaw_maps(exhibits: Sequence[Exhibit], metric: str | None, files: Mapping[str, Path]) -> FlawMaps:
    """Overlay heat maps; ``files`` gives the image of each sample id. What is missing is said, never raised."""
    if metric is None or not exhibits:
        return FlawMaps({}, None)
    try:
        scorer = load_flaw_scorer(metric)
    except (InputError, ImportError, AttributeError, TypeError, OSError) as error:
        return FlawMaps({}, f"The flaw metric {metric} could not be loaded ({error}), so there is no heat map.")
    full = find(metric).full_heat
    ids = sorted({sample for exhibit in exhibits for sample in exhibit.pairing.ids})
    made = dict(zip(ids, parallel(lambda sample: _overlay(scorer, files[sample], full), ids), strict=True))
    return FlawMaps({e.key: (made[e.pairing.ids[0]], made[e.pairing.ids[1]]) for e in exhibits}, None)


def load_flaw_scorer(metric: str) -> FlawScorer:
    """The metric of the catalogue, which must have heat maps.

    Raises:
        InputError: it is unknown, or has no heat map.
    """
    scorer = load(find(metric))
    if not isinstance(scorer, FlawScorer):
        raise InputError(f"metric {metric!r} has no heat map; name one of the flaws family")
    return scorer


def _overlay(scorer: FlawScorer, path: Path, full: float) -> Picture:
    try:
        image = read_image(path)
        with torch.no_grad():
            heat = scorer.heatmap(image[None])[0]
        return encode(to_uint8(overlay(image, heat, full)[None])[0], SIDE, QUALITY)
    except (UnreadableImage, ValueError, RuntimeError) as error:
        return Picture("", 1, 1, str(error))
