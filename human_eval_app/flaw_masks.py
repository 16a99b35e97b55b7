"""Flaw marks of annotators as images: masks for training, heat maps for reading.

A heat map is the share of annotators who marked a place (:mod:`pixeval.flaw_marks`), smoothed by a Gaussian of half the
disc's radius.

A mask is what the trainers read (``trainers.flaw_maps``): white where anybody marked a major flaw, grey where only
minor ones were marked, black elsewhere.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pixeval.flaw_marks import RADIUS, Array, mark_shape, marked_share
from pixeval.records import FlawMark

Mask = NDArray[np.uint8]

SMOOTHING = 0.5
"""Standard deviation of the Gaussian, as a share of the disc's radius."""


def heat_map(by_annotator: Mapping[str, Iterable[FlawMark]], width: int, height: int) -> Array:
    """H x W in [0, 1]: share of annotators who marked a place, smoothed; 1 where everybody did."""
    smooth: Array = gaussian_filter(marked_share(by_annotator, width, height), SMOOTHING * RADIUS * height)
    return np.clip(smooth, 0, 1)


def flaw_mask(by_annotator: Mapping[str, Iterable[FlawMark]], width: int, height: int) -> Mask:
    """uint8 H x W: 255 where anybody marked a major flaw, 128 where only minor ones were marked, 0 elsewhere."""
    every = [mark for marks in by_annotator.values() for mark in marks]
    found: Mask = np.round(mark_shape(every, width, height, weighted=True) * 255).astype(np.uint8)
    return found
