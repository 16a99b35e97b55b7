"""Numbers to words: what got better, what broke, what cannot be told. Pure; nothing is said without its interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pixeval.records import Question
from reports.ballots import Protocol, VoteResult
from reports.figures import number, percent
from reports.tables import MIN_PROMPTS, ScoreChange, SetRow, Unscored, Verdict
from reports.training import TrainingLog

NOUN: dict[Question, str] = {"flaws": "flaws", "appeal": "appeal", "alignment": "text alignment"}
MERIT: dict[Question, str] = {"flaws": "fewer flaws", "appeal": "more appeal", "alignment": "closer text alignment"}


@dataclass(frozen=True)
class Finding:
    """One result in one line."""

    kind: str
    """``votes``, ``score`` or ``set``."""
    name: str
    verdict: Verdict
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
        """The findings of these verdicts, votes first."""
        return tuple(f for f in self.findings if f.verdict in verdicts)


def summarise(
    baseline: str,
    candidate: str,
    votes: Sequence[VoteResult],
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


def _headline(baseline: str, candidate: str, votes: Sequence[VoteResult], changes: Sequence[ScoreChange]) -> str:
    if not votes:
        better = [c.metric for c in changes if c.verdict == "better"]
        worse = [c.metric for c in changes if c.verdict == "worse"]
        if not better and not worse:
            return f"No measured difference between {candidate} and {baseline} is clear, and there are no votes."
        gains = f"better on {_join(better)}" if better else ""
        losses = f"worse on {_join(worse)}" if worse else ""
        said = " and ".join(part for part in (gains, losses) if part)
        return f"{candidate} scores {said} than {baseline}; there are no votes."
    who = "Simulated annotators" if any(v.rates.simulated for v in votes) else "Annotators"
    won = [MERIT[v.question] for v in votes if v.verdict == "better"]
    lost = [MERIT[v.question] for v in votes if v.verdict == "worse"]
    open_ = [NOUN[v.question] for v in votes if v.verdict == "unclear"]
    if not won and not lost:
        return f"{who} show no clear preference between {candidate} and {baseline} on {_join(open_)}."
    if won:
        text = f"{who} prefer {candidate} to {baseline} for {_join(won)}"
        text += f", and {baseline} for {_join(lost)}" if lost else ""
    else:
        text = f"{who} prefer {baseline} to {candidate} for {_join(lost)}"
    return text + (f"; on {_join(open_)} the difference is unclear." if open_ else ".")


def _subline(changes: Sequence[ScoreChange]) -> str:
    known = [c for c in changes if c.higher_is_better is not None]
    if not known:
        return ""
    parts = []
    for verdict, word in (("better", "improved"), ("worse", "got worse")):
        found = [c for c in known if c.verdict == verdict]
        firm = sum(c.p_holm < 0.05 for c in found)
        held = f" ({'all' if firm == len(found) else firm} also after Holm’s correction)" if found else ""
        parts.append(f"{len(found)} {word}{held}")
    unclear = sum(c.verdict == "unclear" for c in known)
    metrics = f"Of {len(known)} metrics" if len(known) > 1 else "Of one metric"
    return f"{metrics}, {parts[0]}, {parts[1]}, {unclear} unclear."


def _vote_finding(result: VoteResult) -> Finding:
    net, rates = result.rates.net, result.rates
    text = (
        f"net win rate {percent(net.value, signed=True)}{_range(net.low, net.high, _points)}; "
        f"{_count(rates.n, 'vote')}, {_count(rates.prompts, 'prompt')}, {_count(rates.annotators, 'annotator')}"
    )
    return Finding("votes", result.title, result.verdict, text, rates.simulated)


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
    return Finding("score", change.metric, change.verdict, text)


def _set_finding(row: SetRow, rows: Sequence[SetRow], baseline: str) -> Finding | None:
    before = next((r for r in rows if (r.arm, r.metric, r.reference) == (baseline, row.metric, row.reference)), None)
    if row.verdict is None or before is None or row.value is None or before.value is None:
        return None
    text = f"{number(before.value)} → {number(row.value)}{_range(row.low, row.high, number)}; {_count(row.n, 'image')}"
    return Finding("set", row.metric, row.verdict, text)


def _worst_case(votes: Sequence[VoteResult], changes: Sequence[ScoreChange]) -> tuple[str, ...]:
    lines = [
        f"{v.title}: a net win rate as low as {percent(v.rates.net.low, signed=True)}"
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
    votes: Sequence[VoteResult],
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
    fragile = [v for v in votes if v.leave_one_out and v.leave_one_out[0] < 0 < v.leave_one_out[1]]
    if fragile:
        lines.append(f"Leaving out a single annotator turns the sign of: {_join([NOUN[v.question] for v in fragile])}.")
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


def _contradictions(votes: Sequence[VoteResult], changes: Sequence[ScoreChange]) -> list[str]:
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


def _range(low: float | None, high: float | None, show: Callable[[float], str]) -> str:
    return " (no interval)" if low is None or high is None else f" ({show(low)} to {show(high)})"


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
