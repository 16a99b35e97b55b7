"""Scores of whole sets of images, and images that have no score. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pixeval.metric_spec import MetricSpec
from pixeval.records import Sample, SetScore
from pixeval.stats.interval import Interval
from reports.arms import Arm
from reports.score_table import ScoreTable
from reports.tables import Verdict, judge


@dataclass(frozen=True)
class SetRow:
    """A score of a whole set of images."""

    arm: str
    metric: str
    higher_is_better: bool | None
    value: float | None
    low: float | None
    high: float | None
    n: int
    reference: str
    reason: str | None
    verdict: Verdict | None
    """Against the baseline, where the two intervals do not overlap; None for the baseline itself."""


@dataclass(frozen=True)
class Unscored:
    """Images that one metric gave no number for, for one reason."""

    metric: str
    reason: str
    arms: tuple[tuple[str, int], ...]
    """How many images of which arm."""
    examples: tuple[str, ...]
    """Paths of up to three of them."""


def set_rows(
    set_scores: Sequence[tuple[str, SetScore]], baseline: str | None, specs: Mapping[str, MetricSpec]
) -> tuple[SetRow, ...]:
    """Scores of whole sets; ``set_scores`` come with the name of their arm."""
    base = {(s.metric, s.reference): s for arm, s in set_scores if arm == baseline}
    rows = []
    for arm, score in set_scores:
        spec = specs.get(score.metric)
        upward = spec.higher_is_better if spec else None
        other = base.get((score.metric, score.reference))
        verdict = None if arm == baseline or other is None else _judge_sets(other, score, upward)
        rows.append(
            SetRow(
                arm, score.metric, upward, score.value, score.low, score.high, score.n, score.reference, score.reason,
                verdict,
            )
        )  # fmt: skip
    return tuple(sorted(rows, key=lambda row: row.metric))


def _judge_sets(before: SetScore, after: SetScore, upward: bool | None) -> Verdict:
    """Two sets differ clearly when their intervals do not overlap: stricter than a test of the difference."""
    bounds = (before.low, before.high, after.low, after.high)
    if any(bound is None for bound in bounds) or _how(before) != _how(after):
        return "unclear"
    low = after.low - before.high  # type: ignore[operator]
    high = after.high - before.low  # type: ignore[operator]
    return judge(Interval(0.0, low, high, after.n), upward)


def _how(score: SetScore) -> tuple[str, ...]:
    """The fingerprint without the digest of the judged images, which is last but one: metric, encoder, reference."""
    parts = score.fingerprint.rsplit("/", 2)
    return (parts[0], parts[2]) if len(parts) == 3 else tuple(parts)


def unscored(arms: Sequence[Arm], scored: ScoreTable) -> tuple[Unscored, ...]:
    """Every reason for which a metric gave no number, most frequent first."""
    owner = {sample.id: (arm.name, sample) for arm in arms for sample in arm.samples}
    groups: dict[tuple[str, str], list[tuple[str, Sample]]] = {}
    for (metric, sample_id), reason in scored.reasons.items():
        if sample_id in owner and scored.value_of(owner[sample_id][1], metric) is None:
            groups.setdefault((metric, reason), []).append(owner[sample_id])
    rows = [
        Unscored(
            metric,
            reason,
            tuple(sorted(Counter(arm for arm, _ in held).items())),
            tuple(sorted(sample.path for _, sample in held)[:3]),
        )
        for (metric, reason), held in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-sum(n for _, n in row.arms), row.metric, row.reason)))
