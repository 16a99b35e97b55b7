"""How few votes a conclusion hangs on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from pixeval.errors import InputError
from pixeval.records import Question, Vote
from pixeval.stats.clusters import Array, Codes, cells_of, clustered_mean
from pixeval.stats.vote_table import VoteTable


@dataclass(frozen=True)
class Fragility:
    """How many votes, chosen by an adversary, must go for the conclusion on two labels to change."""

    preferred: str | None
    """The label that is clearly preferred; None where the interval includes zero (or there is none)."""
    votes_to_unclear: int | None
    """Removing these few votes makes the interval include zero. At most: the search ranks votes by their influence
    and checks the removal, so another choice may need fewer. None when nothing is clear now."""
    votes_to_reverse: int | None
    """Fewest votes whose removal turns the sign of the net win rate; exact. None when it is zero."""
    annotators_to_unclear: int | None
    """Removing these few annotators altogether makes the interval include zero; at most, and None likewise."""
    leave_one_out: tuple[float, float] | None
    """Least and greatest net win rate when any one annotator is left out; None with fewer than three."""
    n: int

    @property
    def share_to_unclear(self) -> float | None:
        """``votes_to_unclear`` as a share of all."""
        return None if self.votes_to_unclear is None else self.votes_to_unclear / self.n


def fragility(votes: Sequence[Vote] | VoteTable, a_label: str, b_label: str, question: Question) -> Fragility:
    """Approximate maximum influence perturbation (Broderick, Giordano and Meager 2020) of the clustered interval.

    Raises:
        InputError: no answered vote compares the two.
    """
    table = VoteTable.of(votes).about(a_label, b_label, question)
    table = table.where(table.answered)
    if not len(table):
        raise InputError(f"no answered vote compares {a_label!r} with {b_label!r} on {question!r}")
    toward_a = table.signs(a_label)
    weights = np.ones(len(table)) if table.weights is None else table.weights
    direction = float(np.sign(weights @ toward_a))
    values = toward_a * (direction or 1.0)
    clear = _lower_bound(values, table, weights, np.ones(len(table), dtype=np.bool_)) > 0
    return Fragility(
        preferred=(a_label if direction > 0 else b_label) if clear else None,
        votes_to_unclear=_fewest(values, table, weights, _influence(values, table, weights)) if clear else None,
        votes_to_reverse=_to_reverse(values, weights) if direction else None,
        annotators_to_unclear=_fewest_annotators(values, table, weights) if clear else None,
        leave_one_out=_leave_one_out(toward_a, table, weights),
        n=len(table),
    )


def _lower_bound(values: Array, table: VoteTable, weights: Array, kept: "np.typing.NDArray[np.bool_]") -> float:
    if not kept.any():
        return -1.0
    bounds = (-1.0, 1.0)
    found = clustered_mean(values[kept], table.prompt[kept], table.annotator[kept], bounds, weights=weights[kept])
    return -1.0 if found.low is None else found.low


def _influence(values: Array, table: VoteTable, weights: Array) -> Array:
    """Derivative of the lower bound of the interval by the weight of each vote, times the weight."""
    total = float(weights.sum())
    away = values - float(weights @ values) / total
    residuals = weights * away
    both = np.unique(cells_of(table.prompt, table.annotator), return_inverse=True)[1]
    clusterings: list[tuple[Codes, float]] = [(table.prompt, 1.0)]
    if len(np.unique(table.annotator)) > 1:
        clusterings += [(table.annotator, 1.0), (both, -1.0)]
    parts = [_variance_parts(residuals, away, weights, codes, total) for codes, _ in clusterings]
    variance = sum(sign * part[0] for (_, sign), part in zip(clusterings, parts, strict=True))
    slope = np.asarray(sum(sign * part[1] for (_, sign), part in zip(clusterings, parts, strict=True)))
    if variance <= parts[0][0]:  # the interval then takes the variance over prompts
        variance, slope = parts[0]
    groups = [len(np.unique(codes)) for codes, sign in clusterings if sign > 0]
    t = float(stdtrit(min(groups) - 1, 0.975))
    influence: Array = weights * (away / total - t * slope / (2 * math.sqrt(variance))) if variance > 0 else residuals
    return influence


def _variance_parts(residuals: Array, away: Array, weights: Array, codes: Codes, total: float) -> tuple[float, Array]:
    """A cluster-robust variance and its derivative by each weight."""
    sums, sizes = np.bincount(codes, residuals), np.bincount(codes, weights)
    groups = np.count_nonzero(np.bincount(codes))
    factor = groups / (groups - 1) / total**2 if groups > 1 else 0.0
    variance = factor * float(sums @ sums)
    slope = 2 * factor * (sums[codes] * away - float(sums @ sizes) * away / total) - 2 * variance / total
    return variance, slope


def _fewest(values: Array, table: VoteTable, weights: Array, influence: Array) -> int | None:
    """Fewest votes, taken in order of influence, without which the bound is not above zero."""
    order = np.argsort(-influence, kind="stable")

    def unclear(count: int) -> bool:
        kept = np.ones(len(order), dtype=np.bool_)
        kept[order[:count]] = False
        return _lower_bound(values, table, weights, kept) <= 0

    low, high = 0, 1
    while not unclear(high):
        if high >= len(order):
            return None
        low, high = high, min(2 * high, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if unclear(middle) else (middle, high)
    return high


def _to_reverse(values: Array, weights: Array) -> int | None:
    """Removing the heaviest votes in favour reverses soonest."""
    balance = weights @ values
    gained = np.cumsum(np.sort(weights[values > 0])[::-1])
    beyond = np.flatnonzero(gained > balance * (1 + 1e-12))
    return int(beyond[0]) + 1 if beyond.size else None


def _fewest_annotators(values: Array, table: VoteTable, weights: Array) -> int | None:
    by_person = np.bincount(table.annotator, weights * (values - float(weights @ values) / float(weights.sum())))
    kept = np.ones(len(values), dtype=np.bool_)
    people = np.unique(table.annotator)
    for count, person in enumerate(people[np.argsort(-by_person[people], kind="stable")], 1):
        kept &= table.annotator != person
        if _lower_bound(values, table, weights, kept) <= 0:
            return count
    return None


def _leave_one_out(values: Array, table: VoteTable, weights: Array) -> tuple[float, float] | None:
    people = np.unique(table.annotator, return_inverse=True)[1]
    if people.max() < 2:
        return None
    rest = weights.sum() - np.bincount(people, weights)
    nets = (weights @ values - np.bincount(people, weights * values)) / rest
    return float(nets.min()), float(nets.max())
