"""How many prompts, votes and annotators a study needs, and what a study of given size can find.

The variance of a net win rate is that of one vote, ``v = (1 - ties) - net^2``, times a design effect: with P prompts
of k votes by A annotators, ``v / (P k) (1 + (k - 1) rho_p + (P k / A - 1) rho_a)``, where ``rho_p`` and ``rho_a`` are
the correlations of two votes that share a prompt or an annotator (Kish 1965; crossed as in Cameron, Gelbach and
Miller 2011). The test is the t test of :func:`pixeval.stats.clusters.clustered_mean`, its power the noncentral t's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

from pixeval.errors import InputError
from pixeval.records import Vote
from pixeval.stats.clusters import Array, Codes, cluster_sums
from pixeval.stats.interval import Interval
from pixeval.stats.vote_table import VoteTable

MOST_PROMPTS = 1_000_000


@dataclass(frozen=True)
class Effect:
    """What one expects of the votes on one question."""

    net: float
    """Net win rate to be found, win share minus loss share, in (0, 1]: 0.1 is 55 to 45 % without ties."""
    ties: float = 0.2
    """Share of ties and "both bad"."""
    prompt_icc: float = 0.2
    """Correlation of two votes on one prompt; Krippendorff's alpha of a pilot is about that."""
    annotator_icc: float = 0.02
    """Correlation of two votes of one annotator on different prompts: how far tastes differ."""

    def __post_init__(self) -> None:
        if not 0 < self.net <= 1 or not 0 <= self.ties < 1 or self.net > 1 - self.ties:
            raise InputError(
                f"a net win rate of {self.net:g} with {self.ties:g} ties is impossible; "
                "net must be above 0 and at most 1 - ties"
            )
        if not 0 <= self.prompt_icc <= 1 or not 0 <= self.annotator_icc <= 1:
            raise InputError("correlations must be in [0, 1]")

    @classmethod
    def of_decisive(cls, decisive: float, ties: float = 0.2, **correlations: float) -> "Effect":
        """From the share of wins among wins and losses, in (0.5, 1]."""
        return cls((2 * decisive - 1) * (1 - ties), ties, **correlations)


@dataclass(frozen=True)
class Design:
    """The size of a study of one question and two models."""

    prompts: int
    votes_per_prompt: int
    """Over all its seeds; :func:`plans` lets nobody vote twice on a prompt."""
    annotators: int

    def __post_init__(self) -> None:
        if self.prompts < 2 or self.votes_per_prompt < 1 or self.annotators < 1:
            raise InputError(
                f"{self.prompts} prompts, {self.votes_per_prompt} votes on each and {self.annotators} annotators make "
                "no study: it needs two prompts, a vote on each and somebody to give it"
            )

    @property
    def votes(self) -> int:
        """Answers to one question."""
        return self.prompts * self.votes_per_prompt


@dataclass(frozen=True)
class Plan:
    """A design with what it costs and finds."""

    design: Design
    votes: int
    votes_per_annotator: float
    power: float
    """Chance that the interval leaves out zero if the effect is as expected."""
    detectable: float | None
    """Least net win rate found with the power asked for; None when even unanimous votes would not do."""


def standard_error(design: Design, effect: Effect) -> float:
    """Of the net win rate; half the width of the 95 % interval is about twice that."""
    variance = max(0.0, 1 - effect.ties - effect.net**2)
    per_person = design.votes / design.annotators
    factor = 1 + (design.votes_per_prompt - 1) * effect.prompt_icc + max(0.0, per_person - 1) * effect.annotator_icc
    return math.sqrt(variance / design.votes * factor)


def power(design: Design, effect: Effect, alpha: float = 0.05) -> float:
    """Chance that the two-sided ``1 - alpha`` interval leaves out zero, in [0, 1]."""
    se = standard_error(design, effect)
    if se == 0:
        return 1.0
    groups = min(design.prompts, design.annotators) if design.annotators > 1 else design.prompts
    shift, critical = effect.net / se, float(stdtrit(groups - 1, 1 - alpha / 2))
    bounds = critical * _errors_of_error(groups - 1)
    return float((ndtr(shift - bounds) + ndtr(-shift - bounds)).mean())


def detectable(design: Design, effect: Effect, wanted: float = 0.8, alpha: float = 0.05) -> float | None:
    """The minimum detectable effect: the least net win rate found with power ``wanted``; ``effect.net`` is not used.

    None when even the greatest possible one, ``1 - ties``, is found less often.
    """
    low, high = 1e-6, 1 - effect.ties

    def found(net: float) -> bool:
        return power(design, _with_net(effect, net), alpha) >= wanted

    if not found(high):
        return None
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def detectable_change(change: Interval, wanted: float = 0.8, alpha: float = 0.05) -> float | None:
    """The least true change of a metric that a study with this standard error finds with power ``wanted``.

    In the units of ``change``, positive; None where it has no standard error.
    """
    if not change.se or change.df is None:
        return None
    bounds = float(stdtrit(change.df, 1 - alpha / 2)) * _errors_of_error(change.df)
    low, high = 0.0, 1.0
    while ndtr(high - bounds).mean() < wanted:
        high *= 2
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if ndtr(middle - bounds).mean() >= wanted else (middle, high)
    return high * change.se


def prompts_needed(
    effect: Effect, votes_per_prompt: int, annotators: int, wanted: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Fewest prompts that find ``effect`` with power ``wanted``.

    None when a million would not: annotators who differ bound the precision, whatever the number of prompts.
    """

    def found(prompts: int) -> bool:
        return power(Design(prompts, votes_per_prompt, annotators), effect, alpha) >= wanted

    low, high = 1, 2
    while not found(high):
        if high >= MOST_PROMPTS:
            return None
        low, high = high, min(2 * high, MOST_PROMPTS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def plans(
    effect: Effect,
    votes_per_prompt: Sequence[int] = (1, 3, 5),
    annotators: Sequence[int] = (5, 10, 20, 40),
    wanted: float = 0.8,
    alpha: float = 0.05,
) -> list[Plan]:
    """Designs that find ``effect`` with power ``wanted``, fewest votes first; empty when none of them can."""
    found = []
    for votes in votes_per_prompt:
        for people in annotators:
            if people < votes:
                continue
            prompts = prompts_needed(effect, votes, people, wanted, alpha)
            if prompts is not None:
                found.append(plan_of(Design(prompts, votes, people), effect, wanted, alpha))
    return sorted(found, key=lambda plan: (plan.votes, plan.design.annotators))


def plan_of(design: Design, effect: Effect, wanted: float = 0.8, alpha: float = 0.05) -> Plan:
    """What a design costs and finds."""
    per_person = design.votes / design.annotators
    least = detectable(design, effect, wanted, alpha)
    return Plan(design, design.votes, per_person, power(design, effect, alpha), least)


def icc_of_agreement(agreeing: float, net: float, ties: float) -> float:
    """Correlation of votes on one prompt from how often two of them are the same answer.

    That is agreement beyond chance, ``(agreeing - chance) / (1 - chance)``, cut at 0, where chance follows from the
    expected shares of wins, ties and losses.
    """
    win, loss = (1 - ties + net) / 2, (1 - ties - net) / 2
    chance = win**2 + loss**2 + ties**2
    return 0.0 if chance >= 1 else min(1.0, max(0.0, (agreeing - chance) / (1 - chance)))


def pilot(votes: Sequence[Vote] | VoteTable, a_label: str) -> Effect:
    """What votes that are there, on one question and two labels, say about the next study, by moments.

    The correlations are of pairs of votes that share a prompt, or an annotator but no prompt, cut at 0.

    Raises:
        InputError: no answered vote, or a net win rate of exactly zero, which no study can find.
    """
    table = VoteTable.of(votes)
    table = table.where(table.answered)
    if not len(table):
        raise InputError("no answered vote to plan from; label some pairs first")
    values = table.signs(a_label)
    net = abs(float(values.mean()))
    if net == 0:
        raise InputError("the votes of the pilot prefer neither; give the net win rate that is worth finding")
    residuals = values - values.mean()
    variance = float((residuals**2).mean())
    if variance == 0:
        return Effect(net, 0.0, 1.0, 0.0)
    prompt = _correlation(residuals, table.prompt) / variance
    annotator = _correlation(residuals, table.annotator) / variance
    ties = float((values == 0).mean())
    return Effect(net, ties, min(1.0, max(0.0, prompt)), min(1.0, max(0.0, annotator)))


def _correlation(residuals: Array, codes: Codes) -> float:
    """Mean product of two residuals of one cluster."""
    sums, sizes = cluster_sums(residuals, codes)
    pairs = float((sizes * (sizes - 1)).sum())
    return (float(sums @ sums) - float(residuals @ residuals)) / pairs if pairs else 0.0


@lru_cache(maxsize=64)
def _errors_of_error(df: float) -> Array:
    """What estimated standard errors are relative to the true one, at even steps of their distribution.

    The noncentral t by averaging the normal over these: scipy's own is NaN far out in its lower tail (1.17).
    """
    steps = (np.arange(2000) + 0.5) / 2000
    found: Array = np.sqrt(chdtri(df, 1 - steps) / df)
    return found


def _with_net(effect: Effect, net: float) -> Effect:
    return Effect(float(np.clip(net, 1e-9, 1 - effect.ties)), effect.ties, effect.prompt_icc, effect.annotator_icc)
