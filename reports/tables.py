"""Score changes with intervals. Pure: columns in, frozen dataclasses out; what could not be scored stays out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pixeval.metric_spec import FAMILIES as KNOWN_FAMILIES
from pixeval.metric_spec import MetricSpec
from pixeval.stats.bootstrap import DRAWS, bca_bounds, multiplicities
from pixeval.stats.interval import Interval
from pixeval.stats.multiplicity import holm
from pixeval.stats.permutation import sign_flip_p
from reports.arms import Arm, Pairing, held_out, pairings
from reports.score_table import ScoreTable, index_scores

__all__ = ["MIN_PROMPTS", "ScoreChange", "Verdict", "index_scores", "judge", "score_changes"]

Verdict = Literal["better", "worse", "unclear", "higher", "lower"]
"""``higher`` and ``lower`` for metrics whose good direction is not known."""

FAMILIES = (*KNOWN_FAMILIES, "other")
MIN_PROMPTS = 6
"""With fewer prompts an exact sign-flip test cannot reach p = 0.05 (2 / 2^5), so nothing is called clear."""
BLOCK = 100
"""Bootstrap draws worked on at once: some megabytes for thousands of prompts."""
LEVEL = 0.05
"""Of Holm's adjusted p, below which a clear difference is firm and not only a hint."""


@dataclass(frozen=True)
class ScoreChange:
    """One metric, candidate minus baseline, paired by prompt and seed."""

    KEY: ClassVar[str] = "metric"
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
    naive: Interval
    """The same as if images were independent of each other, for reference."""
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
    firm: bool
    """The verdict is clear and stays so after Holm's correction."""
    held_out_change: Interval | None
    """The same over prompts that training never saw, where tags mark them."""


@dataclass(frozen=True)
class Incomparable:
    """A metric that was scored but cannot be compared, and why."""

    metric: str
    reason: str


@dataclass(frozen=True)
class Paired:
    """Pairs of images with the columns of both sides in a score table."""

    pairs: tuple[Pairing, ...]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    prompts: NDArray[np.int64]
    """A number for each pair's prompt."""

    @classmethod
    def of(cls, baseline: Arm, candidate: Arm, scored: ScoreTable) -> "Paired":
        """Pairs of the same prompt and seed, in the order of the baseline."""
        pairs = tuple(pairings(baseline, candidate))
        numbers: dict[str, int] = {}
        prompts = np.array([numbers.setdefault(p.prompt_id, len(numbers)) for p in pairs], dtype=np.int64)
        return cls(
            pairs, scored.columns(p.baseline for p in pairs), scored.columns(p.candidate for p in pairs), prompts
        )


def family_of(metric: str, specs: Mapping[str, MetricSpec]) -> str:
    """The catalogue's family, or ``other``."""
    return specs[metric].family if metric in specs else "other"


def metrics_of(scored: ScoreTable, specs: Mapping[str, MetricSpec]) -> list[str]:
    """Metrics by family, then by name."""
    return sorted(scored.metrics, key=lambda name: (FAMILIES.index(family_of(name, specs)), name))


def score_changes(
    baseline: Arm,
    candidate: Arm,
    scored: ScoreTable,
    specs: Mapping[str, MetricSpec],
    tags: Mapping[str, Sequence[str]],
) -> tuple[tuple[ScoreChange, ...], tuple[Incomparable, ...]]:
    """Every metric that both arms were scored with; ``tags`` of the prompts mark the held-out ones."""
    paired = Paired.of(baseline, candidate, scored)
    problems = problems_of(baseline, candidate, paired, scored)
    metrics = [metric for metric in metrics_of(scored, specs) if problems[metric] is None]
    left_out = tuple(Incomparable(m, p) for m in metrics_of(scored, specs) if (p := problems[m]))
    lines = [scored.row[metric] for metric in metrics]
    before, after = scored.values_at(paired.before)[lines], scored.values_at(paired.after)[lines]
    unseen = np.array([held_out(tags, pair.prompt_id) for pair in paired.pairs], dtype=bool)
    changes = intervals_of(after - before, paired.prompts)
    naive = intervals_of(after - before, np.arange(len(paired.pairs)))
    partly = 0 < int(unseen.sum()) < len(unseen)
    apart = intervals_of(np.where(unseen, after - before, np.nan), paired.prompts) if partly else [None] * len(metrics)
    found = []
    for i, metric in enumerate(metrics):
        change, free, held = changes[i], naive[i], apart[i]
        assert change is not None and free is not None  # problems_of found a pair with two values
        both = np.isfinite(before[i]) & np.isfinite(after[i])
        rows = before[i][both], after[i][both], paired.prompts[both]
        found.append(_change(metric, specs.get(metric), rows, change, free, held, len(paired.pairs)))
    adjusted = holm([change.p_value for change in found])
    return tuple(_with_holm(change, p) for change, p in zip(found, adjusted, strict=True)), left_out


def _with_holm(change: ScoreChange, p: float) -> ScoreChange:
    return replace(change, p_holm=p, firm=change.verdict != "unclear" and p < LEVEL)


def _change(
    metric: str,
    spec: MetricSpec | None,
    rows: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]],
    change: Interval,
    naive: Interval,
    held: Interval | None,
    pairs: int,
) -> ScoreChange:
    before, after, prompts = rows
    upward = spec.higher_is_better if spec else None
    count = len(set(prompts.tolist()))
    return ScoreChange(
        metric=metric,
        family=spec.family if spec else "other",
        summary=spec.summary if spec else "",
        caution=spec.caution if spec else "",
        higher_is_better=upward,
        baseline_mean=float(before.mean()),
        candidate_mean=float(after.mean()),
        change=change,
        naive=naive,
        prompts=count,
        pairs_of_images=pairs,
        effect=_effect(change, before, upward),
        p_value=sign_flip_p((after - before).tolist(), clusters=prompts.tolist()),
        p_holm=1.0,
        verdict=judge(change, upward) if count >= MIN_PROMPTS else "unclear",
        firm=False,
        held_out_change=held,
    )


def problems_of(baseline: Arm, candidate: Arm, paired: Paired, scored: ScoreTable) -> dict[str, str | None]:
    """Why each metric cannot be compared; empty when neither arm was scored with it at all; None when it can be."""
    asked = [scored.prints_at(scored.columns(arm.samples)) for arm in (baseline, candidate)]
    sums = scored.values_at(paired.before) + scored.values_at(paired.after)
    both = [bool(np.isfinite(row).any()) for row in sums]
    found: dict[str, str | None] = {}
    for line, metric in enumerate(scored.metrics):
        versions = [set(np.unique(prints[line]).tolist()) - {-1} for prints in asked]
        missing = [arm.name for arm, own in zip((baseline, candidate), versions, strict=True) if not own]
        if len(missing) == 2:
            found[metric] = ""
        elif missing:
            found[metric] = f"{missing[0]} was not scored with it; score that run with the same suite"
        elif len(versions[0] | versions[1]) > 1:
            found[metric] = "the two sides were scored by different versions or settings of it; score both again"
        elif not paired.pairs:
            found[metric] = "no image of one side has the same prompt and seed as an image of the other"
        elif not both[line]:
            found[metric] = "no pair of images has a value on both sides; see the images that could not be scored"
        else:
            found[metric] = None
    return found


def intervals_of(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> list[Interval | None]:
    """Mean of each row of ``values`` (K x n) with its BCa interval; NaN are left out; None for a row of nothing else.

    All rows share one set of bootstrap draws of whole clusters, so that a table of many metrics costs little more than
    one. For rows without NaN the numbers are those of :func:`pixeval.stats.bootstrap.mean_intervals`; where some are
    missing, the clusters that are drawn include those without a value, as they would in a new sample.
    """
    present = np.isfinite(values)
    if not present.any():
        return [None] * len(values)
    used, codes = np.unique(clusters[present.any(0)], return_inverse=True)
    kept, there = values[:, present.any(0)], present[:, present.any(0)]
    filled = np.where(there, kept, 0.0)
    sums, counts = (
        np.stack([np.bincount(codes, row, len(used)) for row in rows], 1).astype(np.float64)
        for rows in (filled, there.astype(np.float64))
    )
    drawn = np.full((DRAWS, len(values)), np.nan)
    if len(used) > 1:
        for start in range(0, DRAWS, BLOCK):
            times = _draws(len(used))[start : start + BLOCK].astype(np.float64)
            size = times @ counts
            part = drawn[start : start + BLOCK]
            np.divide(times @ sums, size, out=part, where=size > 0)
    return [_interval(drawn[:, k], sums[:, k], counts[:, k]) for k in range(len(values))]


@lru_cache(maxsize=2)
def _draws(groups: int) -> NDArray[np.uint8]:
    """How often each of so many clusters is drawn, draws x groups; the same for all tables of as many prompts."""
    return np.concatenate([times.astype(np.uint8) for times in multiplicities(groups, DRAWS, 0)])


def _interval(drawn: NDArray[np.float64], sums: NDArray[np.float64], counts: NDArray[np.float64]) -> Interval | None:
    own = counts > 0
    n, groups = int(counts.sum()), int(own.sum())
    if n == 0:
        return None
    mean, drawn = float(sums.sum() / n), drawn[np.isfinite(drawn)]
    if groups < 2:
        return Interval(mean, None, None, n)
    left_out = (sums.sum() - sums[own]) / (n - counts[own])
    low, high = bca_bounds(drawn, mean, left_out)
    se = float(drawn.std(ddof=1)) * math.sqrt(groups / (groups - 1))
    return Interval(mean, low, high, n, se, float(groups - 1))


def _effect(change: Interval, before: NDArray[np.float64], upward: bool | None) -> Interval | None:
    if upward is None or len(before) < 2:
        return None
    spread = float(before.std(ddof=1))
    if spread <= 1e-12 * max(1.0, abs(float(before.mean()))):
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
