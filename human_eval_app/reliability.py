"""How reliable each annotator is when nobody knows the right answers: the model of Dawid and Skene (1979).

Every item has one true label, and every annotator confuses labels with probabilities of their own. Both are estimated
together by expectation maximisation from majority votes on. Where annotators differ in taste rather than in care there
is no true label, and the figures say how close somebody is to the others' taste.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeval.errors import InputError

Array = NDArray[np.float64]

LEAST = 1e-10
"""Of a probability, so that an answer that somebody never gave is not impossible."""


@dataclass(frozen=True)
class Reliability:
    """What the model says of annotators and items."""

    annotators: tuple[Hashable, ...]
    labels: tuple[Hashable, ...]
    items: tuple[Hashable, ...]
    confusion: Array
    """Annotators x true labels x given labels: probability of the given label, rows sum to 1."""
    prior: Array
    """Share of each true label."""
    posterior: Array
    """Items x labels: probability that the label is the true one."""

    @property
    def accuracy(self) -> dict[Hashable, float]:
        """Expected share of right answers of each annotator, in [0, 1]; higher is better.

        What an annotator gives without looking counts as well: in a study where one label is the truth of most items,
        always giving it is right that often. See :attr:`beyond_chance`.
        """
        right = np.einsum("wkk,k->w", self.confusion, self.prior)
        return dict(zip(self.annotators, right.tolist(), strict=True))

    @property
    def beyond_chance(self) -> dict[Hashable, float]:
        """Of each annotator, how much their answers depend on the true label, in [0, 1]: 0 for answers given blindly.

        Youden's index for any number of labels: the mean probability of the right label less that of the same label
        when another is true.
        """
        k = len(self.labels)
        if k < 2:
            return dict.fromkeys(self.annotators, 0.0)
        hit = np.trace(self.confusion, axis1=1, axis2=2) / k
        miss = (self.confusion.sum((1, 2)) - np.trace(self.confusion, axis1=1, axis2=2)) / (k * (k - 1))
        return dict(zip(self.annotators, np.clip(hit - miss, 0, 1).tolist(), strict=True))


def dawid_skene(
    ratings: Sequence[tuple[Hashable, Hashable, Hashable]], rounds: int = 200, tolerance: float = 1e-7
) -> Reliability:
    """Fit the model.

    Args:
        ratings: ``(item, annotator, label)`` of each answer; an annotator answers an item once.
        rounds: at most so many.
        tolerance: it ends when no probability of an item's label changes by more.

    Raises:
        InputError: there are no ratings.
    """
    if not ratings:
        raise InputError("no answers to judge annotators by")
    places: list[dict[Hashable, int]] = [{}, {}, {}]
    codes = np.array(
        [[own.setdefault(word, len(own)) for own, word in zip(places, row, strict=True)] for row in ratings]
    )
    item, who, label = codes.T
    items, people, labels = (len(own) for own in places)
    posterior = np.zeros((items, labels))
    np.add.at(posterior, (item, label), 1.0)
    posterior /= posterior.sum(1, keepdims=True)
    confusion, prior = _maximise(posterior, item, who, label, people)
    for _ in range(rounds):
        before = posterior
        posterior = _expect(confusion, prior, item, who, label, items)
        confusion, prior = _maximise(posterior, item, who, label, people)
        if np.abs(posterior - before).max() < tolerance:
            break
    words = [tuple(own) for own in places]
    return Reliability(words[1], words[2], words[0], confusion, prior, posterior)


def _maximise(
    posterior: Array, item: NDArray[np.int_], who: NDArray[np.int_], label: NDArray[np.int_], people: int
) -> tuple[Array, Array]:
    """Confusion and prior from what items are."""
    labels = posterior.shape[1]
    given = np.zeros((people, labels, labels))
    np.add.at(given, (who, label), posterior[item])
    confusion = np.maximum(given.transpose(0, 2, 1), LEAST)
    return confusion / confusion.sum(2, keepdims=True), posterior.mean(0)


def _expect(
    confusion: Array,
    prior: Array,
    item: NDArray[np.int_],
    who: NDArray[np.int_],
    label: NDArray[np.int_],
    items: int,
) -> Array:
    """What items are, from confusion and prior."""
    logs = np.zeros((items, len(prior)))
    np.add.at(logs, item, np.log(confusion)[who, :, label])
    logs += np.log(np.maximum(prior, LEAST))
    likelihood = np.exp(logs - logs.max(1, keepdims=True))
    found: Array = likelihood / likelihood.sum(1, keepdims=True)
    return found
