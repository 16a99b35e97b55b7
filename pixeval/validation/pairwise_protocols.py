"""The five published ways to count how often a metric agrees with people about pairs; they differ in ties and averages.

All take the same comparisons, so their differences show side by side. Metric values are oriented so that higher is
better. Accuracies lie in [0, 1], higher is better; intervals are 95 % bootstrap intervals over prompts.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixeval.errors import InputError
from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval

THRESHOLDS = tuple(step / 10 for step in range(11))
"""The tie thresholds that PickScore's evaluation tries."""


@dataclass(frozen=True)
class Comparison:
    """Two images of one prompt, what people said and what the metric says."""

    prompt: str
    human: float
    """1 when the first is better, 0 when the second is, 0.5 for a tie."""
    first: float
    second: float
    orders: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Values of (first, second) when the first and when the second was shown first, for judges that depend on it."""


def imagereward_accuracy(comparisons: Sequence[Comparison]) -> Interval:
    """ImageReward (Xu et al. 2023): micro average over the pairs people rank unequally; a tie of the metric is wrong.

    Raises:
        InputError: no comparison that people did not call a tie.
    """
    kept = _decided(comparisons)
    return _over_prompts([float(_sign(c.first - c.second) == _sign(c.human - 0.5)) for c in kept], kept)


def hps_inversion_score(comparisons: Sequence[Comparison]) -> Interval:
    """HPSv2 (Wu et al. 2023): 1 - inversions / pairs for each prompt, then the mean over prompts.

    Only a reversed order is an inversion: ties of people and ties of the metric count as right. ``n`` is prompts.

    Raises:
        InputError: no comparisons.
    """
    if not comparisons:
        raise InputError("there are no comparisons")
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for c in comparisons:
        by_prompt[c.prompt].append(float(_sign(c.first - c.second) * _sign(c.human - 0.5) >= 0))
    return mean_interval([float(np.mean(right)) for right in by_prompt.values()])


def pickscore_accuracy(comparisons: Sequence[Comparison], threshold: float, scale: float = 1.0) -> Interval:
    """PickScore (Kirstain et al. 2023): a tie is called when the two probabilities differ by ``threshold`` or less.

    A right answer counts 1; a tie on one side only counts one half. Probabilities are the softmax of the two values
    times ``scale`` (for CLIP-like scores the model's logit scale). Choose the threshold on other comparisons with
    :func:`pickscore_threshold`.

    Raises:
        InputError: no comparisons.
    """
    if not comparisons:
        raise InputError("there are no comparisons")
    return _over_prompts([_pickscore_points(c, threshold, scale) for c in comparisons], comparisons)


def pickscore_threshold(comparisons: Sequence[Comparison], scale: float = 1.0) -> float:
    """The smallest of ``THRESHOLDS`` under which :func:`pickscore_accuracy` is highest; for validation data.

    Raises:
        InputError: no comparisons.
    """
    if not comparisons:
        raise InputError("there are no comparisons to choose a threshold on")
    return max(THRESHOLDS, key=lambda t: (sum(_pickscore_points(c, t, scale) for c in comparisons), -t))


def _pickscore_points(comparison: Comparison, threshold: float, scale: float) -> float:
    difference = math.tanh(scale * (comparison.first - comparison.second) / 2)
    predicted = 0.5 if abs(difference) <= threshold else float(difference > 0)
    return 1 - abs(predicted - comparison.human)


def tie_calibrated_accuracy(comparisons: Sequence[Comparison]) -> tuple[Interval, float]:
    """GenAI-Bench: pairwise accuracy with tie calibration (Deutsch, Foster and Freitag 2023, arXiv 2305.14324).

    Differences of at most epsilon are ties of the metric, ties of people are kept, and a pair is right when both say
    the same of better, worse and tie. Epsilon is the one that makes the accuracy highest on these very comparisons, as
    published; the interval holds it fixed.

    Returns:
        The accuracy and epsilon, in units of the metric.

    Raises:
        InputError: no comparisons.
    """
    if not comparisons:
        raise InputError("there are no comparisons")
    gaps = np.array([c.first - c.second for c in comparisons])
    wanted = np.sign(np.array([c.human for c in comparisons]) - 0.5)
    sizes, order = np.abs(gaps), np.argsort(np.abs(gaps), kind="stable")
    # growing epsilon turns pairs into ties from the smallest gap on: what each one gains and loses
    gain = (wanted == 0).astype(int)[order] - ((np.sign(gaps) == wanted) & (gaps != 0)).astype(int)[order]
    at_least_zero = np.concatenate(([0], np.cumsum(gain)))
    ends = [k for k in range(len(order) + 1) if k in (0, len(order)) or sizes[order[k]] > sizes[order[k - 1]]]
    # equal values are ties at any epsilon
    ends = [k for k in ends if k >= int((sizes == 0).sum())]
    best = max(ends, key=lambda k: (at_least_zero[k], -k))
    epsilon = 0.0 if best == 0 else float(sizes[order[best - 1]])
    said = np.where(sizes <= epsilon, 0, np.sign(gaps))
    return _over_prompts([float(right) for right in said == wanted], comparisons), epsilon


def position_consistent_accuracy(comparisons: Sequence[Comparison]) -> Interval:
    """MMRB2 (Hu et al. 2025, arXiv 2512.16899): every pair is judged in both orders, and both judgements count.

    So a judge that always takes the first shown is right in half of the cases. People's ties are left out, ties of the
    metric are wrong. A metric that sees one image at a time gives one judgement per pair. ``n`` is judgements.

    Raises:
        InputError: no comparison that people did not call a tie.
    """
    judged = [(c, order) for c in _decided(comparisons) for order in (c.orders or ((c.first, c.second),))]
    right = [float(_sign(first - second) == _sign(c.human - 0.5)) for c, (first, second) in judged]
    return _over_prompts(right, [c for c, _ in judged])


def _decided(comparisons: Sequence[Comparison]) -> list[Comparison]:
    kept = [c for c in comparisons if c.human != 0.5]
    if not kept:
        raise InputError("people called every pair a tie, or there are none; this protocol needs decided pairs")
    return kept


def _over_prompts(points: Sequence[float], comparisons: Sequence[Comparison]) -> Interval:
    return mean_interval(points, clusters=[c.prompt for c in comparisons])


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
