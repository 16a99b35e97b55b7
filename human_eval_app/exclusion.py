"""Whose votes do not count, by a rule said before the study; results are always told with and without them."""

import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from human_eval_app.answers import lock_project
from human_eval_app.projects import Project
from human_eval_app.quality import AnnotatorQuality
from human_eval_app.stopping import find_declaration, keep_declaration
from pixeval.errors import InputError
from pixeval.stats.interval import Interval
from pixeval.stats.vote_table import VoteTable
from pixeval.stats.win_rates import WinRates, all_win_rates

EXCLUSION = "exclusion"


@dataclass(frozen=True)
class ExclusionRule:
    """An annotator is left out when one of these holds; without any, nobody is."""

    gold_below: float | None = None
    """Share of gold pairs answered as known."""
    repeats_below: float | None = None
    """Share of repeated pairs answered the same."""
    side_above: float | None = None
    """Share of the more frequent side among left and right answers, in [0.5, 1]."""
    seconds_below: float | None = None
    """Median time per answer."""
    fewest: int = 10
    """Observations that a figure needs before somebody is judged by it."""

    def __post_init__(self) -> None:
        for name, least in (("gold_below", 0.0), ("repeats_below", 0.0), ("side_above", 0.5)):
            value = getattr(self, name)
            if value is not None and not least <= value <= 1:
                raise InputError(f"the exclusion rule's {name} is within [{least:g}, 1], got {value:g}")
        if self.fewest < 1 or (self.seconds_below is not None and not self.seconds_below > 0):
            raise InputError("the exclusion rule needs at least 1 observation, and a time above 0 s")

    @property
    def excludes(self) -> bool:
        """Whether it can leave anybody out."""
        return any(value is not None for name, value in vars(self).items() if name != "fewest")

    def reason(self, quality: AnnotatorQuality) -> str | None:
        """Why this annotator is left out; None when not."""
        shares = (
            ("gold pairs passed", quality.gold, self.gold_below),
            ("repeats the same", quality.repeats, self.repeats_below),
        )
        for what, found, least in shares:
            if found is not None and least is not None and found.n >= self.fewest and found.value < least:
                return f"{what}: {found.value:.0%} of {found.n}, below {least:.0%}"
        left = quality.left
        if left is not None and self.side_above is not None and left.n >= self.fewest:
            share = max(left.value, 1 - left.value)
            if share > self.side_above:
                return f"one side in {share:.0%} of {left.n} answers, above {self.side_above:.0%}"
        seconds, least = quality.seconds, self.seconds_below
        if seconds is not None and least is not None and quality.votes >= self.fewest and seconds < least:
            return f"{seconds:.1f} s per answer, below {least:g} s"
        return None


@dataclass(frozen=True)
class Result:
    """One comparison with everybody, and with whom the rule left."""

    rates: WinRates
    without: WinRates | None
    """Without the excluded annotators; None when nobody is excluded or nobody is left."""
    leave_one_out: tuple[float, float] | None
    """Least and greatest net win rate when any one annotator is left out; None with fewer than three."""


def excluded(rule: ExclusionRule, qualities: Sequence[AnnotatorQuality]) -> dict[str, str]:
    """Annotators whom the rule leaves out, with the reason."""
    reasons = {quality.annotator: rule.reason(quality) for quality in qualities}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def results(votes: VoteTable, left_out: Collection[str] = (), seed: int = 0) -> list[Result]:
    """Every question and pair of labels with everybody's votes, and without those of some annotators."""
    if not len(votes):
        return []
    kept = without(votes, left_out)
    fewer = {_key(rates): rates for rates in all_win_rates(kept, seed=seed)} if left_out and len(kept) else {}
    found = []
    for rates in all_win_rates(votes, seed=seed):
        found.append(Result(rates, fewer.get(_key(rates)), leave_one_out(votes, rates)))
    return found


def leave_one_out(votes: VoteTable, rates: WinRates) -> tuple[float, float] | None:
    """Least and greatest net win rate when any one annotator is left out; None with fewer than three."""
    asked = votes.about(rates.a_label, rates.b_label, rates.question)
    asked = asked.where(asked.answered)
    people, codes = np.unique(asked.annotator, return_inverse=True)
    if len(people) < 3:
        return None
    weights = np.ones(len(asked)) if asked.weights is None else asked.weights
    own = np.bincount(codes, weights)
    wins = np.bincount(codes, weights * asked.signs(rates.a_label))
    net = (wins.sum() - wins) / (own.sum() - own)
    return float(net.min()), float(net.max())


def without(votes: VoteTable, left_out: Collection[str]) -> VoteTable:
    """The votes of the other annotators."""
    codes = [code for code, name in enumerate(votes.annotators) if name in left_out]
    return votes.where(~np.isin(votes.annotator, codes))


def half_width(interval: Interval) -> float | None:
    """Half the width; None where there is no interval."""
    return None if interval.low is None or interval.high is None else (interval.high - interval.low) / 2


def declare_exclusion(connection: sa.Connection, project: Project, rule: ExclusionRule) -> None:
    """Keep a rule for a project, before its first answer; the same rule again changes nothing.

    Raises:
        InputError: there are answers already, and another rule.
    """
    chain = lock_project(connection, project.id)
    kept = declared_exclusion(connection, project.id)
    if rule == kept or (kept is None and not rule.excludes):
        return
    if chain["answers"] > 0:
        raise InputError(
            f"project {project.name!r} has {chain['answers']} answers; a rule of exclusion is declared before the "
            "first one and stays. Start another project for another rule"
        )
    keep_declaration(connection, project.id, EXCLUSION, json.dumps(dataclasses.asdict(rule)) if rule.excludes else None)


def declared_exclusion(connection: sa.Connection, project: str) -> ExclusionRule | None:
    """The rule of a project; None when it has none."""
    row = find_declaration(connection, project, EXCLUSION)
    return None if row is None else ExclusionRule(**json.loads(row["rule"]))


def _key(rates: WinRates) -> tuple[str, str, str]:
    return rates.question, rates.a_label, rates.b_label
