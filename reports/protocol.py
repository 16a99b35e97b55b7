"""How the votes came about, and what one must know to trust them. Pure: votes in, frozen dataclasses out.

Annotators are people: they appear as A1, A2 and so on, by their number of votes, never by name.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pixeval.records import QUESTIONS, Question, Vote, counted_votes, current_votes
from pixeval.stats.interval import Interval
from pixeval.stats.win_rates import left_share, win_rates

FAST = 1.0
"""Seconds below which an answer is too fast for two images to have been looked at."""
MAX_ANNOTATORS = 40


@dataclass(frozen=True)
class AnnotatorRow:
    """One annotator."""

    KEY: ClassVar[str] = "name"
    name: str
    votes: int
    left: Interval | None
    """Share of decisive votes for the left image."""
    neither: int
    """Ties and both bad."""
    median_seconds: float
    fast: int
    repeats: int
    """Pairs they judged twice, with the sides swapped, and how often they answered alike."""
    repeats_alike: int


@dataclass(frozen=True)
class Sensitivity:
    """The net win rate of one question under another rule of exclusion."""

    question: Question
    rule: str
    net: Interval


@dataclass(frozen=True)
class Protocol:
    """How the votes came about."""

    votes: int
    """Those that count: current ones, without training, gold pairs and repeats."""
    superseded: int
    training: int
    gold: int
    repeats: int
    repeats_alike: int
    """Repeats answered as the first time, sides undone, of ``repeats_known`` whose first answer is known."""
    repeats_known: int
    skipped: int
    rejected: int
    reasons: tuple[tuple[str, int], ...]
    """Reasons given for skipping, most frequent first."""
    simulated: int
    annotators: int
    prompts: int
    pairs: int
    """Pairs of images judged."""
    first: str
    """Time of the first and the last vote, ISO 8601."""
    last: str
    seconds: tuple[float, float, float]
    """Quartiles of the time per answer."""
    fast: int
    left: Interval | None
    """Share of decisive votes for the left image; 0.5 without side bias."""
    both_bad: int
    marks: int
    """Flaws marked."""
    other_labels: tuple[str, ...]
    """Labels voted on that this report holds no images of."""
    people: tuple[AnnotatorRow, ...]
    people_left_out: int
    """Annotators beyond those listed."""
    guidelines: tuple[str, ...]
    """SHA-256 of what annotators were told, where the studies recorded it."""


def protocol(votes: Sequence[Vote], arms: Sequence[str], studies: Sequence[Mapping[str, Any]] = ()) -> Protocol | None:
    """Facts about all votes of the report; None when there are none.

    Args:
        votes: all of them, superseded ones and those for training and quality included.
        arms: labels that the report holds images of.
        studies: what the labelling app wrote beside the votes.
    """
    counted = counted_votes(list(votes))
    if not counted:
        return None
    current = current_votes(list(votes))
    purposes = Counter(v.purpose for v in current)
    times = sorted(v.answered_at for v in counted)
    labels = {label for v in counted for label in (v.left_label, v.right_label)}
    repeats = _repeats(current)
    names = [name for name, _ in sorted(Counter(v.annotator for v in counted).items(), key=lambda x: (-x[1], x[0]))]
    people = [_annotator(f"A{i + 1}", [v for v in counted if v.annotator == name], repeats.get(name, (0, 0)))
              for i, name in enumerate(names[:MAX_ANNOTATORS])]  # fmt: skip
    reasons = Counter(v.reason for v in counted if v.reason)
    told = {study["guideline"] for study in studies if isinstance(study.get("guideline"), str) and study["guideline"]}
    prints = {hashlib.sha256(text.encode()).hexdigest() for text in told}
    return Protocol(
        votes=len(counted),
        superseded=len(votes) - len(current),
        training=purposes["training"],
        gold=purposes["gold"],
        repeats=purposes["repeat"],
        repeats_alike=sum(alike for alike, _ in repeats.values()),
        repeats_known=sum(known for _, known in repeats.values()),
        skipped=sum(v.choice == "skip" for v in counted),
        rejected=sum(v.choice == "reject" for v in counted),
        reasons=tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:8]),
        simulated=sum(v.simulated for v in counted),
        annotators=len(names),
        prompts=len({v.prompt_id for v in counted}),
        pairs=len({frozenset((v.left, v.right)) for v in counted}),
        first=times[0],
        last=times[-1],
        seconds=_quartiles([v.seconds for v in counted]),
        fast=sum(v.seconds < FAST for v in counted),
        left=left_share(counted),
        both_bad=sum(v.choice == "both_bad" for v in counted),
        marks=sum(len(v.marks) for v in counted),
        other_labels=tuple(sorted(labels - set(arms))),
        people=tuple(people),
        people_left_out=len(names) - len(people),
        guidelines=tuple(sorted(prints)),
    )


def sensitivities(votes: Sequence[Vote], baseline: str, candidate: str) -> tuple[Sensitivity, ...]:
    """The net win rates again, with answers left out that a strict or a lenient lead might leave out or in."""
    counted = [v for v in counted_votes(list(votes)) if {v.left_label, v.right_label} == {baseline, candidate}]
    rules = [
        (f"without answers under {FAST:g} s", [v for v in counted if v.seconds >= FAST]),
        ("without both bad", [v for v in counted if v.choice != "both_bad"]),
        ("without ties and both bad", [v for v in counted if v.choice not in ("both_bad", "tie")]),
    ]
    found = []
    for question in QUESTIONS:
        answered = {id(v) for v in counted if v.question == question and v.choice not in ("skip", "reject")}
        for rule, kept in rules:
            left = [v for v in kept if id(v) in answered]
            if 0 < len(left) < len(answered):
                found.append(Sensitivity(question, rule, win_rates(left, candidate, baseline, question).net))
    return tuple(found)


def _annotator(name: str, own: Sequence[Vote], repeats: tuple[int, int]) -> AnnotatorRow:
    return AnnotatorRow(
        name=name,
        votes=len(own),
        left=left_share(own),
        neither=sum(v.choice in ("tie", "both_bad") for v in own),
        median_seconds=statistics.median(v.seconds for v in own),
        fast=sum(v.seconds < FAST for v in own),
        repeats=repeats[1],
        repeats_alike=repeats[0],
    )


def _repeats(votes: Sequence[Vote]) -> dict[str, tuple[int, int]]:
    """By annotator: repeats answered alike, and repeats whose first answer is known."""
    first = {(v.annotator, v.question, frozenset((v.left, v.right))): v for v in votes if v.purpose == "work"}
    found: dict[str, tuple[int, int]] = {}
    for vote in votes:
        earlier = first.get((vote.annotator, vote.question, frozenset((vote.left, vote.right))))
        if vote.purpose == "repeat" and earlier is not None:
            alike, known = found.get(vote.annotator, (0, 0))
            found[vote.annotator] = (alike + (_chosen(vote) == _chosen(earlier)), known + 1)
    return found


def _chosen(vote: Vote) -> str:
    return {"left": vote.left, "right": vote.right}.get(vote.choice, vote.choice)


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
