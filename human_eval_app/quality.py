"""How carefully each annotator works: pure functions of votes.

None of these figures is a verdict. People who differ from the others may be the only ones who look; so everything is
told with its interval, flags say why, and results are given with and without whoever a rule said beforehand.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from scipy.stats import binomtest

from human_eval_app.reliability import dawid_skene
from pixeval.records import Question, Vote, current_votes
from pixeval.stats.interval import Interval
from pixeval.stats.multiplicity import holm
from pixeval.stats.proportions import wilson

ANSWERS = ("left", "tie", "right", "both_bad")
FLAG = 0.01
"""Probability below which something is no chance, over all annotators of a study."""
FAST = 1 / 3
"""Of the median time of the others: who is faster than that is flagged."""

Item = tuple[str, str]
"""Two sample ids, sorted."""
Known = Mapping[tuple[Item, Question], str]
"""The known answer of gold and training pairs: a sample id, or ``tie``."""


@dataclass(frozen=True)
class AnnotatorQuality:
    """One annotator in figures; None where there is nothing to go by."""

    annotator: str
    simulated: bool
    votes: int
    """Standing answers about work, skips and rejections included."""
    skips: int
    gold: Interval | None
    """Share of gold pairs answered as known, Wilson's interval; higher is better."""
    repeats: Interval | None
    """Share of pairs answered the same again with sides swapped, Wilson's interval; higher is better."""
    left: Interval | None
    """Share of "left" among left and right, Wilson's interval; one half without bias, as sides are balanced."""
    agreement: Interval | None
    """Share of answers that are the majority answer of the others to the same pair, Wilson's interval."""
    seconds: float | None
    """Median time per answer."""
    longest_run: int
    """Of the same answer (left, right, ...) one after the other."""
    accuracy: float | None
    """Expected share of right answers by Dawid and Skene's model, over the questions."""
    beyond_chance: float | None
    """How much answers depend on the pair, by the same model, in [0, 1]."""
    flags: tuple[str, ...]
    """What somebody should look at, in words."""


def annotator_quality(votes: Sequence[Vote], known: Known | None = None) -> list[AnnotatorQuality]:
    """Figures and flags of every annotator, by name.

    Side bias is flagged when a two-sided binomial test, adjusted over annotators (Holm), is below 1 %; a run of the
    same answer when one that long has a chance below 1 % at the shares that this answer has in the study; speed when
    the median time is below a third of the others'.

    Args:
        votes: everything stored, superseded ones included, in the order given.
        known: answers of gold pairs.
    """
    current = current_votes(list(votes))
    by_person: dict[str, list[Vote]] = defaultdict(list)
    for vote in current:
        if vote.purpose != "training":
            by_person[vote.annotator].append(vote)
    names = sorted(by_person)
    agreement = agreement_with_others(current)
    accuracy, beyond = _reliability(current)
    lefts = {name: _left(by_person[name]) for name in names}
    biased = _biased(lefts)
    usual = _usual_shares(current)
    times = {name: _median_seconds(by_person[name]) for name in names}
    found = []
    for name in names:
        own = by_person[name]
        work = [vote for vote in own if vote.purpose == "work"]
        run, chance = longest_run(own, usual)
        others = [seconds for other, seconds in times.items() if other != name and seconds is not None]
        left = lefts[name]
        flags = _flags(left if name in biased else None, run if chance < FLAG / len(names) else 0, times[name], others)
        found.append(
            AnnotatorQuality(
                annotator=name,
                simulated=own[0].simulated,
                votes=len(work),
                skips=sum(vote.choice in ("skip", "reject") for vote in work),
                gold=gold_pass_rate(own, known or {}),
                repeats=repeat_consistency(own),
                left=left,
                agreement=agreement.get(name),
                seconds=times[name],
                longest_run=run,
                accuracy=accuracy.get(name),
                beyond_chance=beyond.get(name),
                flags=flags,
            )
        )
    return found


def item_of(vote: Vote) -> Item:
    """The two images of a vote, whichever side they were on."""
    first, second = sorted((vote.left, vote.right))
    return first, second


def preference(vote: Vote) -> str | None:
    """What a vote says with sides undone: a sample id, ``tie`` or ``both_bad``; None for skips and rejections."""
    return {"left": vote.left, "right": vote.right, "tie": "tie", "both_bad": "both_bad"}.get(vote.choice)


def gold_pass_rate(votes: Iterable[Vote], known: Known) -> Interval | None:
    """Share of answered gold pairs on which the answer is the known one. "Both bad" is right where a tie is."""
    right = []
    for vote in votes:
        said, truth = preference(vote), known.get((item_of(vote), vote.question))
        if vote.purpose == "gold" and said is not None and truth is not None:
            right.append(said == truth or (truth == "tie" and said == "both_bad"))
    return wilson(sum(right), len(right)) if right else None


def repeat_consistency(votes: Iterable[Vote]) -> Interval | None:
    """Share of repeated pairs answered as before, with sides undone; of one annotator's votes.

    Somebody who answers by side is never consistent, because repeats are swapped.
    """
    first: dict[tuple[Item, Question], str] = {}
    same = []
    for vote in sorted(votes, key=lambda v: v.purpose == "repeat"):
        said, key = preference(vote), (item_of(vote), vote.question)
        if said is None:
            continue
        if vote.purpose == "work":
            first[key] = said
        elif vote.purpose == "repeat" and key in first:
            same.append(said == first[key])
    return wilson(sum(same), len(same)) if same else None


def agreement_with_others(votes: Iterable[Vote]) -> dict[str, Interval]:
    """By annotator, how often they gave the majority answer of the others.

    Only of pairs on which the others, at least two of them, have one most frequent answer.
    """
    answers: dict[tuple[Item, Question], list[tuple[str, str]]] = defaultdict(list)
    for vote in votes:
        said = preference(vote)
        if vote.purpose == "work" and said is not None:
            answers[item_of(vote), vote.question].append((vote.annotator, said))
    right: dict[str, list[bool]] = defaultdict(list)
    for given in answers.values():
        counts = Counter(said for _, said in given)
        for name, said in given:
            others = counts.copy()
            others[said] -= 1
            ranked = others.most_common(2)
            clear = len(ranked) == 1 or ranked[0][1] > ranked[1][1]
            if len(given) > 2 and clear:
                right[name].append(said == ranked[0][0])
    return {name: wilson(sum(own), len(own)) for name, own in right.items()}


def longest_run(votes: Sequence[Vote], shares: Mapping[str, float]) -> tuple[int, float]:
    """Longest run of one answer among answered pairs in the order given, and about the chance of one as long.

    The chance is of anybody who gives answers independently with ``shares``: at most the number of places where a run
    can start times the probability that it goes on.
    """
    answers = [vote.choice for vote in votes if vote.choice in ANSWERS]
    best, chance, run = 0, 1.0, 0
    for i, answer in enumerate(answers):
        run = run + 1 if i and answer == answers[i - 1] else 1
        if run >= best:
            own = min(1.0, len(answers) * min(shares.get(answer, 0.5), 0.5) ** run)
            chance = own if run > best else min(chance, own)
            best = run
    return best, chance


def _left(votes: Iterable[Vote]) -> Interval | None:
    sides = [vote.choice for vote in votes if vote.purpose == "work" and vote.choice in ("left", "right")]
    return wilson(sides.count("left"), len(sides)) if sides else None


def _biased(lefts: Mapping[str, Interval | None]) -> set[str]:
    names = [name for name, left in lefts.items() if left is not None]
    tests = [left for left in lefts.values() if left is not None]
    p_values = [float(binomtest(round(left.value * left.n), left.n).pvalue) for left in tests]
    return {name for name, p in zip(names, holm(p_values), strict=True) if p < FLAG} if names else set()


def _usual_shares(votes: Iterable[Vote]) -> dict[str, float]:
    counts = Counter(vote.choice for vote in votes if vote.choice in ANSWERS and vote.purpose == "work")
    total = counts.total()
    return {answer: count / total for answer, count in counts.items()}


def _median_seconds(votes: Iterable[Vote]) -> float | None:
    seconds = [vote.seconds for vote in votes if vote.choice != "skip"]
    return median(seconds) if seconds else None


def _flags(left: Interval | None, run: int, seconds: float | None, others: Sequence[float]) -> tuple[str, ...]:
    flags = []
    if left is not None:
        side = "left" if left.value > 0.5 else "right"
        share = left.value if left.value > 0.5 else 1 - left.value
        flags.append(f"side bias: {side} in {share:.0%} of {left.n}")
    if run:
        flags.append(f"the same answer {run} times in a row")
    if seconds is not None and others and seconds < FAST * median(others):
        flags.append(f"{seconds:.1f} s per answer, others {median(others):.1f} s")
    return tuple(flags)


def _reliability(votes: Iterable[Vote]) -> tuple[dict[str, float], dict[str, float]]:
    """Dawid and Skene's accuracy and Youden's index by annotator: means over questions, weighted by answers."""
    by_question: dict[Question, list[tuple[Item, str, str]]] = defaultdict(list)
    for vote in votes:
        said = preference(vote)
        if vote.purpose == "work" and said is not None:
            # Named by sample ids, which are hashes: were they named by model, the true label would hardly ever change
            # where one model is better, and nothing would tell careful people from others.
            label = said if said in ("tie", "both_bad") else "first" if said == item_of(vote)[0] else "second"
            by_question[vote.question].append((item_of(vote), vote.annotator, label))
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for ratings in by_question.values():
        fitted = dawid_skene(ratings)
        counts = Counter(name for _, name, _ in ratings)
        for name, count in counts.items():
            own = sums[name]
            own[0] += count
            own[1] += count * fitted.accuracy[name]
            own[2] += count * fitted.beyond_chance[name]
    means = {name: (own[1] / own[0], own[2] / own[0]) for name, own in sums.items()}
    return {name: both[0] for name, both in means.items()}, {name: both[1] for name, both in means.items()}
