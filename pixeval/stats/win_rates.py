"""Who is preferred: win, tie and loss shares of two labels, by question, pair and tag."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Question, Vote
from pixeval.stats.bootstrap import multiplicities, percentile_bounds
from pixeval.stats.clusters import Array, clustered_mean
from pixeval.stats.interval import Interval
from pixeval.stats.permutation import sign_flip_p
from pixeval.stats.proportions import wilson
from pixeval.stats.vote_table import BOTH_BAD, LEFT, REJECT, RIGHT, SKIP, TIE, VoteTable

DRAWS = 1000
DRAWN_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class WinRates:
    """What the votes on one question say about generator ``a`` against generator ``b``."""

    a_label: str
    b_label: str
    question: Question
    win: int
    """Votes for ``a``."""
    tie: int
    loss: int
    both_bad: int
    """Its own answer; in every rate it counts as a tie, since it prefers neither."""
    skip: int
    """Not in any rate, nor is ``reject``."""
    reject: int
    n: int
    """win + tie + loss + both_bad."""
    prompts: int
    annotators: int
    net: Interval
    """Net win rate (win - loss) / n in [-1, 1], positive when ``a`` is preferred; the headline. Its interval is
    two-way cluster-robust: it speaks about new prompts and new annotators. Where the schedule chose pairs with
    probability (``propensity`` below 1), votes are weighted by its inverse, here and in the other rates."""
    win_rate: Interval
    """(win + tie/2) / n in [0, 1], the same interval on this scale."""
    decisive: Interval | None
    """win / (win + loss); None when nobody preferred either."""
    bootstrap_net: Interval
    """Net win rate with a percentile bootstrap over prompts, as a check. It takes these annotators as given: narrower
    than ``net`` where annotators differ."""
    naive_net: Interval
    """Net win rate with Wilson's interval, as if all votes were independent. For reference: it is too narrow."""
    p_value: float
    """Two-sided, of "neither is preferred", by the t test that goes with ``net``. Not adjusted: see
    :func:`pixeval.stats.multiplicity.holm`."""
    p_sign_flip: float
    """Permutation test that flips whole prompts. Exact, and free of assumptions about the shape of the data, but it
    takes these annotators as given, so it can be small while ``net``, which allows for others, includes zero."""
    weighted: bool
    """Whether votes are weighted by inverse propensity."""
    effective_n: float
    """Votes of equal weight that would be as informative (Kish 1965); ``n`` without weights."""
    simulated: bool
    """True when any of the votes is simulated."""


def win_rates(
    votes: Sequence[Vote] | VoteTable, a_label: str, b_label: str, question: Question, seed: int = 0
) -> WinRates:
    """Count and summarise the votes between two labels; votes that do not count are dropped first.

    Raises:
        InputError: no vote on this question compares the two labels, or none gives an answer.
    """
    table = VoteTable.of(votes).about(a_label, b_label, question)
    if not table.answered.any():
        raise InputError(
            f"no answered vote compares {a_label!r} with {b_label!r} on {question!r}; label that pair first"
        )
    return _with_bootstrap([_counted(table, a_label, b_label, question, seed)], seed)[0]


def all_win_rates(
    votes: Sequence[Vote] | VoteTable, labels: Sequence[str] | None = None, seed: int = 0
) -> list[WinRates]:
    """Every question and pair of labels that has an answer, with one set of bootstrap draws for all.

    Args:
        votes: of any number of labels.
        labels: those of interest, in order; in each pair the later one is ``a``. All, sorted, by default.
        seed: of the bootstrap draws.
    """
    table = VoteTable.of(votes)
    order = list(table.labels) if labels is None else [label for label in labels if label in table.labels]
    found = []
    for (question, b, a), part in _groups(table, order):
        if part.answered.any():
            found.append(_counted(part, order[a], order[b], QUESTIONS[question], seed))
    return _with_bootstrap(found, seed)


def win_rates_by_tag(
    votes: Sequence[Vote] | VoteTable,
    tags: Mapping[str, Sequence[str]],
    a_label: str,
    b_label: str,
    question: Question,
    seed: int = 0,
) -> dict[str, WinRates]:
    """:func:`win_rates` of the prompts of every tag that has an answer; ``tags`` are those of each prompt id.

    Tags overlap and there are many: adjust them as a family of their own before calling one of them different.
    """
    table = VoteTable.of(votes).about(a_label, b_label, question)
    parts = {tag: table.where(mask) for tag, mask in table.tagged(tags).items() if (mask & table.answered).any()}
    found = _with_bootstrap([_counted(part, a_label, b_label, question, seed) for part in parts.values()], seed)
    return dict(zip(parts, found, strict=True))


def left_share(votes: Sequence[Vote] | VoteTable, question: Question | None = None) -> Interval | None:
    """How often the left image was preferred among decisive votes; 0.5 without side bias.

    The interval is two-way cluster-robust; None when there are no decisive votes.
    """
    table = VoteTable.of(votes)
    decisive = (table.choice == LEFT) | (table.choice == RIGHT)
    kept = table.where(decisive if question is None else decisive & (table.question == QUESTIONS.index(question)))
    if not len(kept):
        return None
    share = (kept.choice == LEFT).astype(np.float64)
    found = clustered_mean(share, kept.prompt, kept.annotator, (0.0, 1.0))
    return wilson(float(share.sum()), len(kept)) if found.low is None else found


@dataclass(frozen=True)
class _Counted:
    """A comparison with the sums that its bootstrap draws need."""

    table: VoteTable
    values: Array
    weights: Array
    rates: WinRates


def _counted(table: VoteTable, a_label: str, b_label: str, question: Question, seed: int) -> _Counted:
    answered = table.where(table.answered)
    values, weights = answered.signs(a_label), answered.weights
    bounds = (-1.0, 1.0)
    net = clustered_mean(values, answered.prompt, answered.annotator, bounds, weights=weights)
    n, win, loss = len(answered), int((values == 1).sum()), int((values == -1).sum())
    flipped = sign_flip_p(values if weights is None else values * weights, answered.prompt, seed)
    p_value = net.p_differs() if net.low is not None else None
    decisive = None
    if win + loss:
        kept = values != 0
        shares, own = (values[kept] + 1) / 2, None if weights is None else weights[kept]
        decisive = clustered_mean(shares, answered.prompt[kept], answered.annotator[kept], (0.0, 1.0), weights=own)
    weight = np.ones(n) if weights is None else weights
    rates = WinRates(
        a_label=a_label,
        b_label=b_label,
        question=question,
        win=win,
        tie=int((table.choice == TIE).sum()),
        loss=loss,
        both_bad=int((table.choice == BOTH_BAD).sum()),
        skip=int((table.choice == SKIP).sum()),
        reject=int((table.choice == REJECT).sum()),
        n=n,
        prompts=len(np.unique(answered.prompt)),
        annotators=len(np.unique(answered.annotator)),
        net=net,
        win_rate=net.scaled(0.5, 0.5),
        decisive=decisive,
        bootstrap_net=Interval(net.value, None, None, n),
        naive_net=wilson((n + win - loss) / 2, n).scaled(2.0, -1.0),
        # Without variance there is no t test; then all prompts say the same, and their signs can be counted.
        p_value=flipped if p_value is None else p_value,
        p_sign_flip=flipped,
        weighted=weights is not None,
        effective_n=float(weight.sum() ** 2 / (weight**2).sum()),
        simulated=bool(answered.simulated.any()),
    )
    return _Counted(answered, values, weight, rates)


def _with_bootstrap(found: Sequence[_Counted], seed: int) -> list[WinRates]:
    """The rates with their bootstrap intervals, from draws of the prompts of all of them together."""
    if not found:
        return []
    used = np.unique(np.concatenate([one.table.prompt for one in found]))
    sums, totals = np.zeros((len(used), len(found))), np.zeros((len(used), len(found)))
    for column, one in enumerate(found):
        place = np.searchsorted(used, one.table.prompt)
        sums[:, column] = np.bincount(place, one.weights * one.values, len(used))
        totals[:, column] = np.bincount(place, one.weights, len(used))
    drawn = []
    for times in multiplicities(len(used), DRAWS, seed, DRAWN_AT_ONCE):
        size = times @ totals
        # A draw may miss every prompt of a comparison on a few prompts; it then says nothing about it.
        drawn.append(np.divide(times @ sums, size, out=np.full_like(size, np.nan), where=size > 0))
    draws = np.concatenate(drawn)
    return [_rates(one.rates, draws[:, column]) for column, one in enumerate(found)]


def _rates(rates: WinRates, drawn: Array) -> WinRates:
    if rates.prompts < 2:
        return rates
    drawn = drawn[np.isfinite(drawn)]
    low, high = percentile_bounds(drawn)
    interval = Interval(rates.net.value, float(low), float(high), rates.n, float(drawn.std(ddof=1)))
    return WinRates(**{**vars(rates), "bootstrap_net": interval})


def _groups(table: VoteTable, order: Sequence[str]) -> Iterator[tuple[tuple[int, int, int], VoteTable]]:
    """Rows by question and pair of labels: ``((question, place of one, place of a later one), rows)``."""
    if not len(table):
        return
    places = np.full(len(table.labels) + 1, -1)
    for place, label in enumerate(order):
        places[table.label_code(label)] = place
    left, right = places[table.left_label], places[table.right_label]
    width = len(order)
    keys = (table.question * width + np.minimum(left, right)) * width + np.maximum(left, right)
    keys = np.where((left >= 0) & (right >= 0) & (left != right), keys, -1)
    sorting = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[sorting], return_index=True)
    for key, rows in zip(found, np.split(sorting, starts[1:]), strict=True):
        if key >= 0:
            yield (int(key) // width // width, int(key) // width % width, int(key) % width), table.rows(rows)
