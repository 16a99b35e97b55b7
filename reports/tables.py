"""Scores to numbers with intervals. Pure: records in, frozen dataclasses out; what could not be scored stays out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pixeval.metric_spec import MetricSpec
from pixeval.records import Sample, Score, SetScore
from pixeval.stats.bootstrap import mean_interval, paired_interval
from pixeval.stats.interval import Interval
from pixeval.stats.multiplicity import holm
from pixeval.stats.permutation import sign_flip_p
from reports.arms import Arm, Pairing, held_out, pairings

Verdict = Literal["better", "worse", "unclear", "higher", "lower"]
"""``higher`` and ``lower`` for metrics whose good direction is not known."""

FAMILIES = ("quality", "flaws", "alignment", "reference", "distribution", "other")
MIN_PROMPTS = 6
"""With fewer prompts an exact sign-flip test cannot reach p = 0.05 (2 / 2^5), so nothing is called clear."""

Scored = Mapping[tuple[str, str], Score]
"""Scores by (sample id, metric)."""


@dataclass(frozen=True)
class ScoreChange:
    """One metric, candidate minus baseline, paired by prompt and seed."""

    metric: str
    family: str
    summary: str
    caution: str
    """When not to trust the metric."""
    higher_is_better: bool | None
    """None for metrics that the catalogue does not know."""
    baseline_mean: float
    """Over the pairs, like every number here."""
    candidate_mean: float
    change: Interval
    """Mean of candidate - baseline; whole prompts are resampled; ``n`` counts pairs."""
    prompts: int
    pairs_of_images: int
    """Pairs there are, scored or not."""
    effect: Interval | None
    """``change`` in standard deviations of the baseline's images, turned so that positive is better (Glass's delta);
    None where the baseline does not vary or the direction is not known."""
    p_value: float
    """Sign-flip test over prompts."""
    p_holm: float
    """Adjusted by Holm's method over all metrics of the same comparison."""
    verdict: Verdict
    held_out_change: Interval | None
    """The same over prompts that training never saw, where tags mark them."""


@dataclass(frozen=True)
class Incomparable:
    """A metric that was scored but cannot be compared, and why."""

    metric: str
    reason: str


@dataclass(frozen=True)
class ArmScore:
    """A metric of one arm."""

    arm: str
    source: int
    step: int | None
    mean: Interval
    """Over its own images; whole prompts are resampled."""
    change: Interval | None
    """Paired difference to the baseline; None for the baseline itself or where nothing can be paired."""


@dataclass(frozen=True)
class MetricTable:
    """A metric of every arm."""

    metric: str
    family: str
    summary: str
    higher_is_better: bool | None
    arms: tuple[ArmScore, ...]


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


@dataclass(frozen=True)
class FlawChange:
    """A pair of images and one flaw score of both."""

    metric: str
    pairing: Pairing
    baseline: float
    candidate: float
    improved: bool


def index_scores(scores: Sequence[Score]) -> dict[tuple[str, str], Score]:
    """By sample and metric; a later row replaces an earlier one."""
    return {(score.sample_id, score.metric): score for score in scores}


def metrics_of(scored: Scored, specs: Mapping[str, MetricSpec]) -> list[str]:
    """Metrics by family, then by name."""
    names = {metric for _, metric in scored}
    return sorted(names, key=lambda name: (FAMILIES.index(family_of(name, specs)), name))


def family_of(metric: str, specs: Mapping[str, MetricSpec]) -> str:
    """The catalogue's family, or ``other``."""
    return specs[metric].family if metric in specs else "other"


def score_changes(
    baseline: Arm,
    candidate: Arm,
    scored: Scored,
    specs: Mapping[str, MetricSpec],
    tags: Mapping[str, Sequence[str]],
) -> tuple[tuple[ScoreChange, ...], tuple[Incomparable, ...]]:
    """Every metric that both arms were scored with; ``tags`` of the prompts mark the held-out ones."""
    pairs = pairings(baseline, candidate)
    found: list[ScoreChange] = []
    left_out: list[Incomparable] = []
    for metric in metrics_of(scored, specs):
        problem = _problem(metric, baseline, candidate, pairs, scored)
        if problem is None:
            found.append(_change(metric, pairs, scored, specs, tags))
        elif problem:
            left_out.append(Incomparable(metric, problem))
    adjusted = holm([change.p_value for change in found])
    changes = tuple(replace(change, p_holm=p) for change, p in zip(found, adjusted, strict=True))
    return changes, tuple(left_out)


def _problem(metric: str, baseline: Arm, candidate: Arm, pairs: Sequence[Pairing], scored: Scored) -> str | None:
    """Why a metric cannot be compared; empty when neither arm was scored with it at all; None when it can be."""
    tried = [[scored.get((s.id, metric)) for s in arm.samples] for arm in (baseline, candidate)]
    missing = [arm.name for arm, rows in zip((baseline, candidate), tried, strict=True) if not any(rows)]
    if len(missing) == 2:
        return ""
    if missing:
        return f"{missing[0]} was not scored with it; score that run with the same suite"
    if len({row.fingerprint for rows in tried for row in rows if row is not None}) > 1:
        return "the two sides were scored by different versions or settings of it; score both again"
    if not pairs:
        return "no image of one side has the same prompt and seed as an image of the other"
    if not _values(metric, pairs, scored):
        return "no pair of images has a value on both sides; see the images that could not be scored"
    return None


def _values(metric: str, pairs: Sequence[Pairing], scored: Scored) -> list[tuple[Pairing, float, float]]:
    found = []
    for pair in pairs:
        a, b = (value_of(scored, sample, metric) for sample in (pair.baseline, pair.candidate))
        if a is not None and b is not None:
            found.append((pair, a, b))
    return found


def value_of(scored: Scored, sample: Sample, metric: str) -> float | None:
    """The value of one image, None where there is none."""
    score = scored.get((sample.id, metric))
    return None if score is None else score.value


def _change(
    metric: str,
    pairs: Sequence[Pairing],
    scored: Scored,
    specs: Mapping[str, MetricSpec],
    tags: Mapping[str, Sequence[str]],
) -> ScoreChange:
    rows = _values(metric, pairs, scored)
    before, after = [a for _, a, _ in rows], [b for _, _, b in rows]
    prompts = [pair.prompt_id for pair, _, _ in rows]
    change = paired_interval(after, before, clusters=prompts)
    spec = specs.get(metric)
    upward = spec.higher_is_better if spec else None
    unseen = [(b, a, pair.prompt_id) for pair, a, b in rows if held_out(tags, pair.prompt_id)]
    return ScoreChange(
        metric=metric,
        family=family_of(metric, specs),
        summary=spec.summary if spec else "",
        caution=spec.caution if spec else "",
        higher_is_better=upward,
        baseline_mean=sum(before) / len(before),
        candidate_mean=sum(after) / len(after),
        change=change,
        prompts=len(set(prompts)),
        pairs_of_images=len(pairs),
        effect=_effect(change, before, upward),
        p_value=sign_flip_p([b - a for a, b in zip(before, after, strict=True)], clusters=prompts),
        p_holm=1.0,
        verdict=judge(change, upward) if len(set(prompts)) >= MIN_PROMPTS else "unclear",
        held_out_change=paired_interval(
            [b for b, _, _ in unseen], [a for _, a, _ in unseen], clusters=[p for _, _, p in unseen]
        )
        if 0 < len(unseen) < len(rows)
        else None,
    )


def _effect(change: Interval, before: Sequence[float], upward: bool | None) -> Interval | None:
    if upward is None or len(before) < 2:
        return None
    mean = sum(before) / len(before)
    spread = (sum((x - mean) ** 2 for x in before) / (len(before) - 1)) ** 0.5
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return None
    scaled = change.scaled(1 / spread, 0.0)
    if upward:
        return scaled
    low, high = scaled.low, scaled.high
    return Interval(-scaled.value, None if high is None else -high, None if low is None else -low, change.n)


def judge(change: Interval, upward: bool | None) -> Verdict:
    """What the interval says: a direction when it leaves out zero, else ``unclear``."""
    if change.low is None or change.high is None or change.low <= 0 <= change.high:
        return "unclear"
    if upward is None:
        return "higher" if change.low > 0 else "lower"
    return "better" if (change.low > 0) == upward else "worse"


def metric_tables(
    arms: Sequence[Arm], baseline: Arm | None, scored: Scored, specs: Mapping[str, MetricSpec]
) -> tuple[MetricTable, ...]:
    """Every metric of every arm that was scored with it."""
    tables = []
    for metric in metrics_of(scored, specs):
        rows = [row for arm in arms if (row := _arm_score(arm, baseline, metric, scored)) is not None]
        if rows:
            spec = specs.get(metric)
            tables.append(
                MetricTable(
                    metric,
                    family_of(metric, specs),
                    spec.summary if spec else "",
                    spec.higher_is_better if spec else None,
                    tuple(rows),
                )
            )
    return tuple(tables)


def _arm_score(arm: Arm, baseline: Arm | None, metric: str, scored: Scored) -> ArmScore | None:
    values = [(s, v) for s in arm.samples if (v := value_of(scored, s, metric)) is not None]
    if not values:
        return None
    change = None
    if baseline is not None and arm is not baseline:
        pairs = pairings(baseline, arm)
        if _problem(metric, baseline, arm, pairs, scored) is None:
            rows = _values(metric, pairs, scored)
            change = paired_interval(
                [b for _, _, b in rows], [a for _, a, _ in rows], clusters=[pair.prompt_id for pair, _, _ in rows]
            )
    mean = mean_interval([v for _, v in values], clusters=[s.prompt_id or s.id for s, _ in values])
    return ArmScore(arm.name, arm.source, arm.step, mean, change)


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
    if any(bound is None for bound in bounds) or before.fingerprint != after.fingerprint:
        return "unclear"
    low = after.low - before.high  # type: ignore[operator]
    high = after.high - before.low  # type: ignore[operator]
    return judge(Interval(0.0, low, high, after.n), upward)


def unscored(arms: Sequence[Arm], scored: Scored) -> tuple[Unscored, ...]:
    """Every reason for which a metric gave no number, most frequent first."""
    owner = {sample.id: (arm.name, sample) for arm in arms for sample in arm.samples}
    groups: dict[tuple[str, str], list[tuple[str, Sample]]] = {}
    for (sample_id, metric), score in scored.items():
        if score.value is None and sample_id in owner:
            groups.setdefault((metric, score.reason or "no reason was recorded"), []).append(owner[sample_id])
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


def flaw_changes(baseline: Arm, candidate: Arm, scored: Scored, spec: MetricSpec, count: int) -> tuple[FlawChange, ...]:
    """The ``count`` pairs whose flaw score improved most and the ``count`` that got worse most, in this order."""
    sign = 1.0 if spec.higher_is_better else -1.0
    rows = _values(spec.name, pairings(baseline, candidate), scored)
    ranked = sorted(rows, key=lambda row: (-sign * (row[2] - row[1]), row[0].baseline.id))
    gains = [row for row in ranked if sign * (row[2] - row[1]) > 0][:count]
    losses = [row for row in reversed(ranked) if sign * (row[2] - row[1]) < 0][:count]
    return tuple(FlawChange(spec.name, *row, True) for row in gains) + tuple(
        FlawChange(spec.name, *row, False) for row in losses
    )
