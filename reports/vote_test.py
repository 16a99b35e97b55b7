"""Two or more arms by votes: every question, with what a sceptic asks next. Pure: votes in, frozen dataclasses out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Question
from pixeval.stats.agreement import Agreement, vote_agreement
from pixeval.stats.fragility import Fragility, fragility
from pixeval.stats.multiplicity import holm_within
from pixeval.stats.power import Design, Effect, detectable, pilot
from pixeval.stats.ranking import Ranking, rank
from pixeval.stats.vote_table import VoteTable
from pixeval.stats.win_rates import WinRates, win_rates, win_rates_by_tag
from reports.tables import MIN_PROMPTS, Verdict, judge

Family = Literal["all", "question", "comparison"]
"""Which tests are claimed together, and so adjusted together by Holm's method."""
LEVEL = 0.05


@dataclass(frozen=True)
class VoteTest:
    """One question about a candidate (``rates.a_label``) against a baseline."""

    question: Question
    rates: WinRates
    p_holm: float
    """Of ``rates.p_value``, adjusted over ``family_size`` tests."""
    family_size: int
    verdict: Verdict
    """From the two-way clustered interval of the net win rate."""
    firm: bool
    """The verdict is clear and stays so after Holm's adjustment: what may be claimed."""
    agreement: Agreement | None
    fragility: Fragility
    detectable: float | None
    """Net win rate that a study of this size finds four times out of five, with these ties and correlations."""


@dataclass(frozen=True)
class TagTest:
    """One question on the prompts of one tag."""

    question: Question
    tag: str
    rates: WinRates
    p_holm: float
    """Adjusted over all tags, questions and comparisons."""
    verdict: Verdict
    firm: bool


@dataclass(frozen=True)
class QuestionRanking:
    """All arms on one question, or why there is no ranking."""

    question: Question
    ranking: Ranking | None
    problem: str | None
    unvoted: tuple[str, ...]
    """Arms without an answer to this question, which no ranking can hold."""


def vote_tests(table: VoteTable, comparisons: Sequence[tuple[str, str]], family: Family = "all") -> list[VoteTest]:
    """Every (baseline, candidate) on every question that has an answer."""
    found = [
        _test(asked, baseline, candidate, question)
        for baseline, candidate in comparisons
        for question in QUESTIONS
        if (asked := table.about(candidate, baseline, question)).answered.any()
    ]
    families = [_family_of(one.rates, family) for one in found]
    adjusted = holm_within([one.rates.p_value for one in found], families)
    return [
        replace(one, p_holm=p, family_size=families.count(own), firm=one.verdict != "unclear" and p < LEVEL)
        for one, p, own in zip(found, adjusted, families, strict=True)
    ]


def tag_tests(
    table: VoteTable, comparisons: Sequence[tuple[str, str]], tags: Mapping[str, Sequence[str]]
) -> list[TagTest]:
    """The same by tag, for tags of at least six prompts with an answer; most prompts first."""
    found = []
    for baseline, candidate in comparisons:
        for question in QUESTIONS:
            by_tag = win_rates_by_tag(table, tags, candidate, baseline, question)
            large = [(tag, rates) for tag, rates in by_tag.items() if rates.prompts >= MIN_PROMPTS]
            for tag, rates in sorted(large, key=lambda item: (-item[1].prompts, item[0])):
                found.append(TagTest(question, tag, rates, 1.0, judge(rates.net, True), False))
    adjusted = holm_within([one.rates.p_value for one in found], [""] * len(found))
    return [
        replace(one, p_holm=p, firm=one.verdict != "unclear" and p < LEVEL)
        for one, p in zip(found, adjusted, strict=True)
    ]


def rankings(table: VoteTable, arms: Sequence[str]) -> list[QuestionRanking]:
    """All arms by strength on every question that has votes on at least two of them."""
    found = []
    known = [table.label_code(arm) for arm in arms]
    for code, question in enumerate(QUESTIONS):
        asked = table.where((table.question == code) & table.answered)
        pairs = {pair for pair in _shown(asked) if pair[0] in known and pair[1] in known}
        if not pairs:
            continue
        voted = {label for pair in pairs for label in pair}
        unvoted = tuple(arm for arm, own in zip(arms, known, strict=True) if own not in voted)
        try:
            found.append(QuestionRanking(question, rank(asked, question, arms), None, unvoted))
        except InputError as error:
            found.append(QuestionRanking(question, None, str(error), unvoted))
    return found


def _shown(table: VoteTable) -> set[tuple[int, int]]:
    return set(zip(table.left_label.tolist(), table.right_label.tolist(), strict=True))


def _family_of(rates: WinRates, family: Family) -> tuple[str, ...]:
    if family == "question":
        return (rates.question,)
    return (rates.a_label, rates.b_label) if family == "comparison" else ()


def _test(asked: VoteTable, baseline: str, candidate: str, question: Question) -> VoteTest:
    rates = win_rates(asked, candidate, baseline, question)
    return VoteTest(
        question=question,
        rates=rates,
        p_holm=1.0,
        family_size=1,
        verdict=judge(rates.net, True),
        firm=False,
        agreement=vote_agreement(asked, question),
        fragility=fragility(asked, candidate, baseline, question),
        detectable=_detectable(asked, rates),
    )


def _detectable(asked: VoteTable, rates: WinRates) -> float | None:
    if rates.prompts < 2:
        return None
    try:
        effect = pilot(asked, rates.a_label)
    except InputError:  # a net win rate of exactly zero; the correlations are then taken to be the usual ones
        ties = min(0.99, (rates.tie + rates.both_bad) / rates.n)
        effect = Effect(1 - ties, ties)
    return detectable(Design(rates.prompts, max(1, round(rates.n / rates.prompts)), rates.annotators), effect)
