"""Votes to win rates and to what one must know to trust them. Pure: records in, frozen dataclasses out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pixeval.records import QUESTIONS, Question, Vote, counted_votes
from pixeval.stats.agreement import vote_agreement
from pixeval.stats.interval import Interval
from pixeval.stats.multiplicity import holm
from pixeval.stats.win_rates import WinRates, left_share, win_rates
from reports.tables import Verdict, judge

QUESTION_TEXT: dict[Question, str] = {
    "flaws": "Fewer flaws",
    "appeal": "More appealing",
    "alignment": "Closer to the text",
}


@dataclass(frozen=True)
class VoteResult:
    """One question about candidate (a) against baseline (b)."""

    question: Question
    title: str
    rates: WinRates
    p_holm: float
    """Of ``rates.p_value``, adjusted over all questions and comparisons of the report."""
    verdict: Verdict
    """From the two-way clustered interval of the net win rate."""
    agreement: float | None
    """Krippendorff's alpha of all answers to this question about the two."""
    leave_one_out: tuple[float, float] | None
    """Lowest and highest net win rate when any one annotator is left out; None with fewer than three."""


@dataclass(frozen=True)
class Protocol:
    """How the votes came about."""

    votes: int
    """Current ones; superseded votes are not counted anywhere."""
    superseded: int
    simulated: int
    annotators: int
    prompts: int
    first: str
    """Time of the first and the last vote, ISO 8601."""
    last: str
    median_seconds: float
    left: Interval | None
    """Share of decisive votes for the left image; 0.5 without side bias."""
    no_answer: int
    """Skipped or rejected."""
    both_bad: int
    other_labels: tuple[str, ...]
    """Labels voted on that this report holds no images of."""


def vote_results(votes: Sequence[Vote], comparisons: Sequence[tuple[str, str]]) -> tuple[VoteResult, ...]:
    """All questions answered about each (baseline, candidate), with Holm's adjustment over all of them."""
    found = []
    for baseline, candidate in comparisons:
        for question in QUESTIONS:
            asked = _about(votes, baseline, candidate, question)
            if any(v.choice not in ("skip", "reject") for v in asked):
                found.append(_result(asked, baseline, candidate, question))
    adjusted = holm([result.rates.p_value for result in found])
    return tuple(replace(result, p_holm=p) for result, p in zip(found, adjusted, strict=True))


def _about(votes: Sequence[Vote], baseline: str, candidate: str, question: Question) -> list[Vote]:
    wanted = {baseline, candidate}
    return [v for v in counted_votes(list(votes)) if v.question == question and {v.left_label, v.right_label} == wanted]


def _result(votes: Sequence[Vote], baseline: str, candidate: str, question: Question) -> VoteResult:
    rates = win_rates(votes, candidate, baseline, question)
    nets = []
    annotators = sorted({v.annotator for v in votes})
    for left_out in annotators if len(annotators) >= 3 else []:
        rest = [v for v in votes if v.annotator != left_out]
        signs = [_sign(v, candidate) for v in rest if v.choice not in ("skip", "reject")]
        if signs:
            nets.append(sum(signs) / len(signs))
    agreed = vote_agreement(votes, question)
    return VoteResult(
        question=question,
        title=QUESTION_TEXT[question],
        rates=rates,
        p_holm=1.0,
        verdict=judge(rates.net, True),
        agreement=None if agreed is None else agreed.alpha.value,
        leave_one_out=(min(nets), max(nets)) if nets else None,
    )


def _sign(vote: Vote, candidate: str) -> int:
    if vote.choice not in ("left", "right"):
        return 0
    return 1 if (vote.left_label if vote.choice == "left" else vote.right_label) == candidate else -1


def protocol(votes: Sequence[Vote], arms: Sequence[str]) -> Protocol | None:
    """Facts about all votes of the report; None when there are none."""
    current = counted_votes(list(votes))
    if not current:
        return None
    times = sorted(v.answered_at for v in current)
    seconds = sorted(v.seconds for v in current)
    middle = len(seconds) // 2
    labels = {label for v in current for label in (v.left_label, v.right_label)}
    return Protocol(
        votes=len(current),
        superseded=len(votes) - len(current),
        simulated=sum(v.simulated for v in current),
        annotators=len({v.annotator for v in current}),
        prompts=len({v.prompt_id for v in current}),
        first=times[0],
        last=times[-1],
        median_seconds=seconds[middle] if len(seconds) % 2 else (seconds[middle - 1] + seconds[middle]) / 2,
        left=left_share(current),
        no_answer=sum(v.choice in ("skip", "reject") for v in current),
        both_bad=sum(v.choice == "both_bad" for v in current),
        other_labels=tuple(sorted(labels - set(arms))),
    )
