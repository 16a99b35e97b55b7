"""Numbers to words: what got better, what broke, what cannot be told. Pure; nothing is said without its interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pixeval.records import Question
from reports.figures import number, percent
from reports.protocol import Protocol
from reports.sets import SetRow, Unscored
from reports.tables import MIN_PROMPTS, ScoreChange, Verdict
from reports.training import TrainingLog
from reports.vote_test import VoteTest

NOUN: dict[Question, str] = {"flaws": "flaws", "appeal": "appeal", "alignment": "text alignment"}
TITLE: dict[Question, str] = {
    "flaws": "Fewer flaws",
    "appeal": "More appealing",
    "alignment": "Closer to the text",
}
MERIT: dict[Question, str] = {"flaws": "fewer flaws", "appeal": "more appeal", "alignment": "closer text alignment"}


@dataclass(frozen=True)
class Finding:
    """One result in one line."""

    kind: str
    """``votes``, ``score`` or ``set``."""
    name: str
    verdict: Verdict
    firm: bool
    """It stays clear after Holm's correction; False for sets, which are not tested."""
    text: str
    """The change with its interval and n."""
    simulated: bool = False


@dataclass(frozen=True)
class Summary:
    """The head of the report."""

    headline: str
    subline: str
    findings: tuple[Finding, ...]
    worst_case: tuple[str, ...]
    """Regressions that the data do not rule out, for results that are unclear."""
    caveats: tuple[str, ...]

    def of(self, *verdicts: Verdict) -> tuple[Finding, ...]:
        """The findings of these verdicts: votes first, then firm ones."""
        found = [f for f in self.findings if f.verdict in verdicts]
        return tuple(sorted(found, key=lambda f: (f.kind != "votes", not f.firm)))


def summarise(
    baseline: str,
    candidate: str,
    votes: Sequence[VoteTest],
    changes: Sequence[ScoreChange],
    sets: Sequence[SetRow],
) -> Summary:
    """The verdict on ``candidate`` against ``baseline``; caveats are added by :func:`caveats`."""
    findings = [_vote_finding(result) for result in votes]
    findings += [_score_finding(change) for change in changes]
    findings += [f for row in sets if row.arm == candidate and (f := _set_finding(row, sets, baseline)) is not None]
    return Summary(
        headline=_headline(baseline, candidate, votes, changes),
        subline=_subline(changes),
        findings=tuple(findings),
        worst_case=_worst_case(votes, changes),
        caveats=(),
    )


def _headline(baseline: str, candidate: str, votes: Sequence[VoteTest], changes: Sequence[ScoreChange]) -> str:
    """One sentence, with intervals. Only what stays clear after Holm's correction counts as a preference."""
    if not votes:
        return _headline_of_scores(baseline, candidate, changes)
    who = "Simulated annotators" if any(v.rates.simulated for v in votes) else "Annotators"
    won = [v for v in votes if v.firm and v.verdict == "better"]
    lost = [v for v in votes if v.firm and v.verdict == "worse"]
    open_ = [v for v in votes if not v.firm]
    first = next(iter((*won, *lost, *open_)))
    if not won and not lost:
        nets = ", ".join(f"{_net(v, ' (', ')', v is first)} on {NOUN[v.question]}" for v in open_)
        return f"{who} show no clear preference between {candidate} and {baseline}: net win rate {nets}."
    merits = {id(v): f"{MERIT[v.question]} (net win rate {_net(v, ', ', '', v is first)})" for v in (*won, *lost)}
    parts = []
    if won:
        parts.append(f"{who} prefer {candidate} to {baseline} for {_join([merits[id(v)] for v in won])}")
    if lost:
        said = _join([merits[id(v)] for v in lost])
        parts.append(f"{baseline} for {said}" if won else f"{who} prefer {baseline} to {candidate} for {said}")
    unclear = _join([f"{NOUN[v.question]} ({_net(v, ', ', '')})" for v in open_])
    return ", and ".join(parts) + (f"; on {unclear} the difference is unclear." if open_ else ".")


def _net(result: VoteTest, before: str, after: str, named: bool = False) -> str:
    """As in ``−4 % (−39 % to +30 %)``; ``named`` says what interval it is, once in a sentence."""
    net = result.rates.net
    if net.low is None or net.high is None:
        bounds = "no interval"
    else:
        bounds = f"{'95 % interval ' if named else ''}{_points(net.low)} to {_points(net.high)}"
    return f"{_points(net.value)}{before}{bounds}{after}"


def _headline_of_scores(baseline: str, candidate: str, changes: Sequence[ScoreChange]) -> str:
    firm = sorted((c for c in changes if c.firm and c.effect), key=lambda c: -abs(c.effect.value if c.effect else 0))
    better = [c for c in firm if c.verdict == "better"]
    worse = [c for c in firm if c.verdict == "worse"]
    if not better and not worse:
        return f"No measured difference between {candidate} and {baseline} is clear, and there are no votes."
    said = [f"{word} on {_first_of(found)}" for word, found in (("better", better), ("worse", worse)) if found]
    return f"{candidate} scores {' and '.join(said)} than {baseline}; there are no votes."


def _first_of(changes: Sequence[ScoreChange]) -> str:
    change = changes[0].change
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"{changes[0].metric} ({_signed(change.value)}{_range(change.low, change.high, _signed, ', ', '')}){more}"


def _subline(changes: Sequence[ScoreChange]) -> str:
    known = [c for c in changes if c.higher_is_better is not None]
    if not known:
        return ""
    parts = []
    for verdict, word in (("better", "improved"), ("worse", "got worse")):
        found = [c for c in known if c.verdict == verdict]
        firm = sum(c.firm for c in found)
        held = f" ({'all' if firm == len(found) else firm} also after Holm’s correction)" if found else ""
        parts.append(f"{len(found)} {word}{held}")
    unclear = sum(c.verdict == "unclear" for c in known)
    metrics = f"Of {len(known)} metrics" if len(known) > 1 else "Of one metric"
    return f"{metrics}, {parts[0]}, {parts[1]}, {unclear} unclear."


def _vote_finding(result: VoteTest) -> Finding:
    net, rates = result.rates.net, result.rates
    text = (
        f"net win rate {percent(net.value, signed=True)}{_range(net.low, net.high, _points)}; "
        f"{_count(rates.n, 'vote')}, {_count(rates.prompts, 'prompt')}, {_count(rates.annotators, 'annotator')}"
    )
    return Finding("votes", TITLE[result.question], result.verdict, result.firm, text, rates.simulated)


def _score_finding(change: ScoreChange) -> Finding:
    text = (
        f"{number(change.baseline_mean)} → {number(change.candidate_mean)}, "
        f"{number(change.change.value, signed=True)}{_range(change.change.low, change.change.high, _signed)}; "
        f"{_count(change.change.n, 'pair')}, {_count(change.prompts, 'prompt')}"
    )
    if change.prompts < MIN_PROMPTS:
        text += f" (fewer than {MIN_PROMPTS}: too few to call)"
    if change.higher_is_better is None:
        text += {"unclear": "", "higher": "; clearly higher", "lower": "; clearly lower"}.get(change.verdict, "")
        text += "; which direction is good is not known"
    return Finding("score", change.metric, change.verdict, change.firm, text)


def _set_finding(row: SetRow, rows: Sequence[SetRow], baseline: str) -> Finding | None:
    before = next((r for r in rows if (r.arm, r.metric, r.reference) == (baseline, row.metric, row.reference)), None)
    if row.verdict is None or before is None or row.value is None or before.value is None:
        return None
    text = f"{number(before.value)} → {number(row.value)}{_range(row.low, row.high, number)}; {_count(row.n, 'image')}"
    return Finding("set", row.metric, row.verdict, False, text)


def _worst_case(votes: Sequence[VoteTest], changes: Sequence[ScoreChange]) -> tuple[str, ...]:
    lines = [
        f"{TITLE[v.question]}: a net win rate as low as {percent(v.rates.net.low, signed=True)}"
        for v in votes
        if v.verdict == "unclear" and v.rates.net.low is not None and v.rates.net.low < 0
    ]
    effects = [
        (c.effect.low, c)
        for c in changes
        if c.verdict == "unclear" and c.effect is not None and c.effect.low is not None and c.effect.low < 0
    ]
    for low, change in sorted(effects, key=lambda pair: pair[0])[:3]:
        bound = change.change.low if change.higher_is_better else change.change.high
        sd = f"{number(-low)} standard deviations of the baseline’s images"
        lines.append(f"{change.metric}: {number(bound, signed=True)}, {sd}")
    return tuple(lines)


def caveats(
    votes: Sequence[VoteTest],
    changes: Sequence[ScoreChange],
    protocol: Protocol | None,
    missing: Sequence[Unscored],
    logs: Sequence[TrainingLog],
    marked: bool,
) -> tuple[str, ...]:
    """What a careful reader should know before deciding; ``marked`` when tags tell held-out prompts apart."""
    lines: list[str] = []
    left = protocol.left if protocol else None
    if left and left.low is not None and left.high is not None and not left.low <= 0.5 <= left.high:
        lines.append(
            f"Annotators favour one side: the left image won {percent(left.value)} of decisive votes"
            f"{_range(left.low, left.high, percent)}. Sides are randomised, so this blurs the result rather than "
            "tilting it."
        )
    few = sorted({v.rates.annotators for v in votes if v.rates.annotators < 5})
    if few:
        lines.append(
            f"Only {_count(few[0], 'annotator')} answered: "
            + (
                "the interval speaks about new prompts, not about other people."
                if few[0] == 1
                else "intervals are wide because people differ; more annotators would help more than more votes."
            )
        )
    lines += _contradictions(votes, changes)
    ranges = [(v, v.fragility.leave_one_out) for v in votes]
    fragile = [v for v, nets in ranges if nets and nets[0] < 0 < nets[1]]
    if fragile:
        lines.append(f"Leaving out a single annotator turns the sign of: {_join([NOUN[v.question] for v in fragile])}.")
    for v in votes:
        few_votes = v.fragility.votes_to_unclear
        if v.verdict in ("better", "worse") and few_votes is not None and few_votes <= max(3, 0.01 * v.rates.n):
            lines.append(
                f"The result on {NOUN[v.question]} hangs on {_count(few_votes, 'vote')} of {v.rates.n:,}: "
                "without them it would be unclear."
            )
    if missing:
        total = sum(n for row in missing for _, n in row.arms)
        lines.append(
            f"{_count(total, 'score')} could not be computed and no mean includes "
            f"{'it' if total == 1 else 'them'}; the reasons stand below."
        )
    for log in logs:
        lines += [
            f"Training of {log.source} was warned of {w.name.replace('_', ' ')} at step {w.steps[-1]}: {w.text}."
            for w in log.warnings
        ]
        broken = [curve.key for curve in log.curves if curve.not_finite]
        if broken:
            lines.append(f"Training of {log.source} logged values that are not finite: {_join(broken)}.")
    if not marked:
        lines.append("No prompt is marked as held out, so gains may be on texts that training has seen.")
    return tuple(lines)


def _contradictions(votes: Sequence[VoteTest], changes: Sequence[ScoreChange]) -> list[str]:
    lines = []
    up = {c.family for c in changes if c.verdict == "better"}
    down = {c.family for c in changes if c.verdict == "worse"}
    harmed = [family for family in ("flaws", "alignment") if family in down]
    if "quality" in up and harmed:
        lines.append(
            f"Quality scores rose while {_join(harmed)} scores got worse: the usual look of a model that learned to "
            "please a metric. Look at the images before believing the gain."
        )
    for family, question in (("flaws", "flaws"), ("alignment", "alignment")):
        voted = next((v.verdict for v in votes if v.question == question), None)
        scored = up if voted == "worse" else down if voted == "better" else set()
        if family in scored:
            lines.append(f"Votes and {family} scores point in opposite directions.")
    return lines


def _range(
    low: float | None, high: float | None, show: Callable[[float], str], before: str = " (", after: str = ")"
) -> str:
    return f"{before}{'no interval' if low is None or high is None else f'{show(low)} to {show(high)}'}{after}"


def _points(value: float) -> str:
    return percent(value, signed=True)


def _signed(value: float) -> str:
    return number(value, signed=True)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _join(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    if len(words) > 4:
        return f"{', '.join(words[:3])} and {len(words) - 3} more"
    return f"{', '.join(words[:-1])} and {words[-1]}"
