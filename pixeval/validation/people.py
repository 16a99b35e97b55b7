"""A metric against human labels: correlations for ratings, the five published pairwise protocols for choices."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pixeval.errors import InputError
from pixeval.images import UnreadableImage
from pixeval.validation.human_labels import Choice, LabelledImage, Rating
from pixeval.validation.pairwise_protocols import (
    Comparison,
    hps_inversion_score,
    imagereward_accuracy,
    pickscore_accuracy,
    pickscore_threshold,
    position_consistent_accuracy,
    tie_calibrated_accuracy,
)
from pixeval.validation.rank_figures import correlation_interval, krcc, plcc, srcc

ValueOf = Callable[[LabelledImage], float]
"""Value of an image, oriented so that higher is better; raises UnreadableImage where there is none."""


def against_ratings(ratings: Sequence[Rating], value_of: ValueOf) -> dict[str, Any]:
    """SRCC, PLCC (both without a fitted mapping) and KRCC (tau-b); images of one prompt are drawn together.

    Raises:
        InputError: fewer than three images have a value, or one side is constant.
    """
    human, values, prompts, reasons = [], [], [], []
    for number, rating in enumerate(ratings):
        try:
            values.append(value_of(rating.image))
        except UnreadableImage as error:
            reasons.append(str(error))
            continue
        human.append(rating.human)
        prompts.append(rating.image.prompt or f"\x1f{number}")
    figures = {
        name: asdict(correlation_interval(figure, human, values, prompts))
        for name, figure in (("SRCC", srcc), ("PLCC", plcc), ("KRCC", krcc))
    }
    return {"labels": "ratings", "n": len(values), "without_value": _counted(reasons), "figures": figures}


def against_choices(choices: Sequence[Choice], value_of: ValueOf) -> dict[str, Any]:
    """All five protocols on the same comparisons; a protocol that cannot be applied says why.

    PickScore's tie threshold is chosen on the half of the prompts whose hash is even, and its accuracy is
    that of the other half. Values are divided by their standard deviation before the softmax.

    Raises:
        InputError: no comparison has values for both of its images.
    """
    comparisons, reasons = [], []
    for number, choice in enumerate(choices):
        try:
            first, second = value_of(choice.first), value_of(choice.second)
        except UnreadableImage as error:
            reasons.append(str(error))
            continue
        comparisons.append(Comparison(choice.first.prompt or f"\x1f{number}", choice.human, first, second))
    if not comparisons:
        raise InputError(f"no comparison has two images with a value; the first reason: {reasons[0]}")
    figures = protocol_figures(comparisons)
    return {"labels": "choices", "n": len(comparisons), "without_value": _counted(reasons), "figures": figures}


def protocol_figures(comparisons: Sequence[Comparison], scale: float | None = None) -> dict[str, Any]:
    """The five published protocols by the name of what they come from: value, interval and n, or why there is none.

    Args:
        scale: of the values before PickScore's softmax: 1 for log odds, as published; None to divide by their standard
            deviation, for metrics in other units.
    """
    return {
        "ImageReward": _or_reason(lambda: asdict(imagereward_accuracy(comparisons))),
        "HPSv2": _or_reason(lambda: asdict(hps_inversion_score(comparisons))),
        "PickScore": _or_reason(lambda: _pickscore(comparisons, scale)),
        "GenAI-Bench": _or_reason(lambda: _genai(comparisons)),
        "MMRB2": _or_reason(lambda: asdict(position_consistent_accuracy(comparisons))),
    }


def _pickscore(comparisons: Sequence[Comparison], scale: float | None) -> dict[str, Any]:
    if scale is None:
        spread = float(np.std([value for c in comparisons for value in (c.first, c.second)]))
        scale = 1 / spread if spread > 0 else 1.0
    halves: tuple[list[Comparison], list[Comparison]] = ([], [])
    for c in comparisons:
        halves[hashlib.sha256(c.prompt.encode("utf-8", "surrogatepass")).digest()[0] % 2].append(c)
    if not halves[0] or not halves[1]:
        raise InputError("needs several prompts: one half to choose the tie threshold, the other to judge")
    threshold = pickscore_threshold(halves[0], scale)
    return {**asdict(pickscore_accuracy(halves[1], threshold, scale)), "threshold": threshold}


def _genai(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    accuracy, epsilon = tie_calibrated_accuracy(comparisons)
    return {**asdict(accuracy), "epsilon": epsilon}


def _or_reason(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return compute()
    except InputError as error:
        return {"value": None, "reason": str(error)}


def _counted(reasons: Sequence[str]) -> dict[str, int]:
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
