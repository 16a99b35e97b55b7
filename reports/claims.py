"""The sentences one may write in a paper: what was asked of whom, the estimate with its interval, and no more."""

from pixeval.records import Question
from pixeval.stats.interval import Interval
from reports.tables import ScoreChange
from reports.vote_test import QuestionRanking, VoteTest

ASKED: dict[Question, str] = {
    "flaws": "asked which image has fewer flaws",
    "appeal": "asked which image they like more",
    "alignment": "asked which image fits the text better",
}


def vote_claim(test: VoteTest) -> str:
    """Of one question; it claims a preference only where that stays after Holm's adjustment."""
    rates = test.rates
    a, b = rates.a_label, rates.b_label
    who = "simulated annotators (not people)" if rates.simulated else "annotators"
    asked = f"{ASKED[test.question][0].upper()}{ASKED[test.question][1:]}, {who}"
    if test.firm:
        winner, loser = (a, b) if test.verdict == "better" else (b, a)
        said = f"{asked} preferred {winner} to {loser}"
    elif test.verdict != "unclear":
        said = f"{asked} showed no preference between {a} and {b} that stays after correction for multiple tests"
    else:
        said = f"{asked} showed no clear preference between {a} and {b}"
    weighted = ", votes weighted by inverse selection probability" if rates.weighted else ""
    shares = ", ".join(
        f"{100 * count / rates.n:.0f} % {word}"
        for count, word in (
            (rates.win, f"for {a}"),
            (rates.tie, "ties"),
            (rates.both_bad, "both bad"),
            (rates.loss, f"for {b}"),
        )
        if count or word == "ties"
    )
    p = f"p {_p(test.p_holm)}" + (f", Holm-adjusted over {test.family_size} tests" if test.family_size > 1 else "")
    text = (
        f"{said}: net win rate {points(rates.net.value)} ({_interval(rates.net, rates.annotators)}; {rates.n:,} votes "
        f"by {_count(rates.annotators, 'annotator')} on {_count(rates.prompts, 'prompt')}: {shares}{weighted}; {p})."
    )
    if test.verdict == "unclear" and test.detectable is not None:
        least = f"{100 * test.detectable:.0f} %"
        text += f" A study of this size finds a net win rate of {least} four times out of five, and smaller ones less."
    return text


def score_claim(change: ScoreChange, candidate: str, baseline: str, family: int) -> str:
    """Of one metric that changed for certain."""
    delta = change.change
    moved = "rose" if delta.value > 0 else "fell"
    good = {"better": " (better)", "worse": " (worse)"}.get(change.verdict, "")
    spread = (
        "no interval" if delta.low is None or delta.high is None else f"{_signed(delta.low)} to {_signed(delta.high)}"
    )
    adjusted = f", Holm-adjusted over {family} metrics" if family > 1 else ""
    return (
        f"{change.metric} {moved} from {change.baseline_mean:.4g} ({baseline}) to {change.candidate_mean:.4g} "
        f"({candidate}){good}: mean paired change {_signed(delta.value)} (95 % interval {spread}, BCa bootstrap over "
        f"prompts; {_count(delta.n, 'pair')} of equal prompt and seed, {_count(change.prompts, 'prompt')}; sign-flip "
        f"p {_p(change.p_holm)}{adjusted})."
    )


def ranking_claim(found: QuestionRanking) -> str:
    """Of all arms together."""
    ranking = found.ranking
    if ranking is None:
        return f"No ranking on {found.question}: {found.problem}."
    order = ", ".join(
        f"{one.label} ({_ranks(one.best_rank, one.worst_rank)})"
        for one in sorted(ranking.models, key=lambda one: (one.best_rank, one.worst_rank, -one.strength.value))
    )
    size = f"{ranking.n:,} votes by {_count(ranking.annotators, 'annotator')} on {_count(ranking.prompts, 'prompt')}"
    return (
        f"By Davidson's model with ties and side bias, ranks on {found.question} that hold together with 95 % "
        f"confidence: {order} ({size})" + (f"; without votes: {', '.join(found.unvoted)}." if found.unvoted else ".")
    )


def points(value: float) -> str:
    """A share as signed per cent with one digit."""
    text = f"{100 * value:+.1f} %".replace("-", "−")
    return "0.0 %" if text in ("+0.0 %", "−0.0 %") else text


def _interval(net: Interval, annotators: int) -> str:
    if net.low is None or net.high is None:
        return "no interval: the votes are on one prompt"
    over = "clustered by prompt and annotator" if annotators > 1 else "clustered by prompt, of this one annotator"
    return f"95 % interval {points(net.low)} to {points(net.high)}, {over}"


def _ranks(best: int, worst: int) -> str:
    return f"rank {best}" if best == worst else f"ranks {best} to {worst}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else "= 1" if value >= 0.9995 else f"= {value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
