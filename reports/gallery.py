"""Which pairs of images the gallery shows, and what stands beside each. Pure: records in, frozen dataclasses out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pixeval.metric_spec import MetricSpec
from pixeval.records import QUESTIONS, FlawMark, Question, Vote, counted_votes
from reports.arms import Arm, Pairing, held_out, pairings
from reports.score_table import ScoreTable
from reports.tables import Paired

SHOWN = 6
"""Pairs in each group."""
DRAWN = 12
"""Pairs drawn by a hash."""
Order = Literal["won", "lost", "contested", "flawed", "against", "drawn"]


@dataclass(frozen=True)
class PairVotes:
    """The answers to one question about one pair of images."""

    KEY: ClassVar[str] = "question"
    question: Question
    win: int
    """For the candidate."""
    neither: int
    loss: int


@dataclass(frozen=True)
class PairValue:
    """One metric of both images."""

    KEY: ClassVar[str] = "metric"
    metric: str
    baseline: float
    candidate: float


@dataclass(frozen=True)
class Exhibit:
    """One pair of images in the gallery."""

    KEY: ClassVar[str] = "key"
    key: str
    """Both sample ids."""
    pairing: Pairing
    held_out: bool
    why: str
    """What put it in its group, in words."""
    votes: tuple[PairVotes, ...]
    value: PairValue | None
    """The flaw metric whose heat maps are shown."""
    baseline_marks: tuple[FlawMark, ...]
    candidate_marks: tuple[FlawMark, ...]


@dataclass(frozen=True)
class Group:
    """Pairs in one order."""

    KEY: ClassVar[str] = "order"
    order: Order
    title: str
    rule: str
    """How they were chosen."""
    exhibits: tuple[Exhibit, ...]


@dataclass(frozen=True)
class Tally:
    """What people said about one pair of images."""

    votes: tuple[PairVotes, ...]
    net: float
    """(wins - losses) / answers over all questions, for the candidate."""
    answers: int
    split: float
    """How contested: the smaller of wins and losses over all answers, at most 1/2."""
    marks: tuple[tuple[FlawMark, ...], tuple[FlawMark, ...]]
    """Of the baseline's image and of the candidate's."""


def tallies(votes: Sequence[Vote]) -> dict[tuple[str, str], list[Vote]]:
    """Counted votes by the two images' sample ids, sorted."""
    found: dict[tuple[str, str], list[Vote]] = {}
    for vote in counted_votes(list(votes)):
        low, high = sorted((vote.left, vote.right))
        found.setdefault((low, high), []).append(vote)
    return found


def tally(pair: Pairing, votes: Sequence[Vote]) -> Tally:
    """The answers about one pair."""
    rows = []
    for question in QUESTIONS:
        signs = [_sign(v, pair) for v in votes if v.question == question and v.choice not in ("skip", "reject")]
        if signs:
            rows.append(PairVotes(question, signs.count(1), signs.count(0), signs.count(-1)))
    win, loss = sum(r.win for r in rows), sum(r.loss for r in rows)
    answers = win + loss + sum(r.neither for r in rows)
    marks = [
        tuple(m for v in votes for m in v.marks if (v.left if m.side == "left" else v.right) == sample)
        for sample in (pair.baseline.id, pair.candidate.id)
    ]
    split = min(win, loss) / answers if answers else 0.0
    return Tally(tuple(rows), (win - loss) / answers if answers else 0.0, answers, split, (marks[0], marks[1]))


def _sign(vote: Vote, pair: Pairing) -> int:
    chosen = {"left": vote.left, "right": vote.right}.get(vote.choice)
    return 0 if chosen is None else 1 if chosen == pair.candidate.id else -1


def gallery(
    base: Arm,
    candidate: Arm,
    votes: Sequence[Vote],
    scored: ScoreTable,
    spec: MetricSpec | None,
    tags: Mapping[str, Sequence[str]],
) -> tuple[Group, ...]:
    """The pairs most won, most lost, most contested and worst flawed, and some that nobody chose.

    Args:
        spec: the flaw metric whose heat maps are shown, and by which pairs are ordered where nobody voted.
    """
    paired = Paired.of(base, candidate, scored)
    by_pair = tallies(votes)
    heard = {p.key: tally(p, by_pair.get((min(p.ids), max(p.ids)), [])) for p in paired.pairs}
    values = _values(paired, scored, spec)

    def exhibit(pair: Pairing, why: str) -> Exhibit:
        own = heard[pair.key]
        return Exhibit(
            key="-".join(pair.ids),
            pairing=pair,
            held_out=held_out(tags, pair.prompt_id),
            why=why,
            votes=own.votes,
            value=values.get(pair.key),
            baseline_marks=own.marks[0],
            candidate_marks=own.marks[1],
        )

    voted = [p for p in paired.pairs if heard[p.key].answers]
    groups = _voted_groups(voted, heard, exhibit) if voted else _scored_groups(paired.pairs, values, spec, exhibit)
    worst = _worst(paired.pairs, heard, values, spec, exhibit)
    against = _against(voted, heard, values, spec, exhibit)
    drawn = spread(paired.pairs, tags, DRAWN)
    groups += [group for group in (worst, against) if group is not None]
    rule = "Drawn by a hash of prompt and seed, not by looks" + (", half of them held out." if tags else ".")
    groups.append(Group("drawn", "Drawn by lot", rule, tuple(exhibit(p, "drawn by lot") for p in drawn)))
    return tuple(group for group in groups if group.exhibits)


Exhibited = Callable[[Pairing, str], Exhibit]


def _voted_groups(pairs: Sequence[Pairing], heard: Mapping[str, Tally], exhibit: Exhibited) -> list[Group]:
    ranked = sorted(pairs, key=lambda p: (-heard[p.key].net, -heard[p.key].answers, p.key))
    won = [p for p in ranked if heard[p.key].net > 0][:SHOWN]
    lost = [p for p in reversed(ranked) if heard[p.key].net < 0][:SHOWN]
    split = sorted(pairs, key=lambda p: (-heard[p.key].split, -heard[p.key].answers, p.key))
    contested = [p for p in split if heard[p.key].split > 0][:SHOWN]

    def net(pair: Pairing) -> str:
        return f"net {_percent(heard[pair.key].net)} of {heard[pair.key].answers} answers"

    by_net = "Net votes of all questions together; extremes, not typical pairs."
    return [
        Group("won", "Most won", by_net, tuple(exhibit(p, net(p)) for p in won)),
        Group("lost", "Most lost", by_net, tuple(exhibit(p, net(p)) for p in lost)),
        Group(
            "contested",
            "Most contested",
            "Pairs on which annotators were split most evenly.",
            tuple(exhibit(p, f"{round(100 * heard[p.key].split)} % of answers against the rest") for p in contested),
        ),
    ]


def _scored_groups(
    pairs: Sequence[Pairing], values: Mapping[str, PairValue], spec: MetricSpec | None, exhibit: Exhibited
) -> list[Group]:
    if spec is None:
        return []
    sign = 1.0 if spec.higher_is_better else -1.0
    gain = {p.key: sign * (values[p.key].candidate - values[p.key].baseline) for p in pairs if p.key in values}
    ranked = sorted((p for p in pairs if p.key in gain), key=lambda p: (-gain[p.key], p.key))
    won = [p for p in ranked if gain[p.key] > 0][:SHOWN]
    lost = [p for p in reversed(ranked) if gain[p.key] < 0][:SHOWN]
    rule = f"Nobody voted, so by the change of {spec.name}; extremes, not typical pairs."
    return [
        Group("won", "Improved most", rule, tuple(exhibit(p, f"{spec.name} improved") for p in won)),
        Group("lost", "Got worse most", rule, tuple(exhibit(p, f"{spec.name} got worse") for p in lost)),
    ]


def _worst(
    pairs: Sequence[Pairing],
    heard: Mapping[str, Tally],
    values: Mapping[str, PairValue],
    spec: MetricSpec | None,
    exhibit: Exhibited,
) -> Group | None:
    """The candidate's images with most marks (major ones count three), then with the worst flaw value."""
    weight = {p.key: sum(3 if m.severity == "major" else 1 for m in heard[p.key].marks[1]) for p in pairs}
    sign = -1.0 if spec is not None and spec.higher_is_better else 1.0
    flaw = {p.key: sign * values[p.key].candidate for p in pairs if p.key in values}
    if not any(weight.values()) and not flaw:
        return None
    ranked = sorted(pairs, key=lambda p: (-weight[p.key], -flaw.get(p.key, -np.inf), p.key))[:SHOWN]
    by = [
        *(["annotators’ marks on the candidate’s image"] if any(weight.values()) else []),
        *([f"its {spec.name}"] if spec is not None and flaw else []),
    ]
    rows = tuple(exhibit(p, f"{len(heard[p.key].marks[1])} marks" if weight[p.key] else "by its value") for p in ranked)
    return Group("flawed", "Worst flaws", f"By {', then '.join(by)}; extremes, not typical pairs.", rows)


def _against(
    pairs: Sequence[Pairing],
    heard: Mapping[str, Tally],
    values: Mapping[str, PairValue],
    spec: MetricSpec | None,
    exhibit: Exhibited,
) -> Group | None:
    """Where people find fewer flaws in one image and the metric in the other."""
    if spec is None:
        return None
    sign = 1.0 if spec.higher_is_better else -1.0
    gain = {p.key: sign * (values[p.key].candidate - values[p.key].baseline) for p in pairs if p.key in values}
    said = {p.key: v.win - v.loss for p in pairs for v in heard[p.key].votes if v.question == "flaws"}
    opposed = [p for p in pairs if gain.get(p.key, 0.0) * said.get(p.key, 0) < 0]
    ranked = sorted(opposed, key=lambda p: (-abs(said[p.key]), -abs(gain[p.key]), p.key))[:SHOWN]
    rule = f"People find fewer flaws in one image and {spec.name} in the other: {len(opposed)} of {len(gain)} pairs."
    rows = [exhibit(p, f"fewer flaws by {said[p.key]:+d} votes, the metric says otherwise") for p in ranked]
    return Group("against", "People against metric", rule, tuple(rows))


def _percent(net: float) -> str:
    return f"{round(100 * net):+d} %".replace("-", "−")


def _values(paired: Paired, scored: ScoreTable, spec: MetricSpec | None) -> dict[str, PairValue]:
    if spec is None or spec.name not in scored.row:
        return {}
    line = scored.row[spec.name]
    before, after = scored.values_at(paired.before)[line], scored.values_at(paired.after)[line]
    rows = zip(paired.pairs, before.tolist(), after.tolist(), strict=True)
    return {p.key: PairValue(spec.name, a, b) for p, a, b in rows if np.isfinite(a) and np.isfinite(b)}


def spread(pairs: Sequence[Pairing], tags: Mapping[str, Sequence[str]], count: int) -> list[Pairing]:
    """Pairs chosen by a hash, not by looks: one seed of each prompt first, half of them held out where marked."""
    ranked = sorted(pairs, key=lambda p: shuffle_key(p.prompt_id, p.seed))
    seen: set[str] = set()
    firsts: list[Pairing] = []
    rest: list[Pairing] = []
    for pair in ranked:
        (rest if pair.prompt_id in seen else firsts).append(pair)
        seen.add(pair.prompt_id)
    unseen = [p for p in firsts if held_out(tags, p.prompt_id)]
    known = [p for p in firsts if not held_out(tags, p.prompt_id)]
    half = max(count // 2, count - len(known))
    chosen = unseen[:half]
    chosen += known[: count - len(chosen)]
    return chosen + rest[: count - len(chosen)]


def shuffle_key(prompt_id: str, seed: int) -> str:
    """A fixed order that has nothing to do with the images."""
    return hashlib.sha256(f"{prompt_id}\x1f{seed}".encode()).hexdigest()


def common_pairs(base: Arm, arms: Sequence[Arm]) -> list[tuple[Pairing, ...]]:
    """Pairs of the baseline with every arm, for prompts and seeds that all of them have."""
    pools = [{(p.prompt_id, p.seed): p for p in pairings(base, arm)} for arm in arms]
    keys = [key for key in pools[-1] if all(key in pool for pool in pools)]
    return [tuple(pool[key] for pool in pools) for key in keys]
