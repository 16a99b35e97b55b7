"""How much of a metric's noise comes from the seeds, and whether more prompts or more seeds would help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixeval.errors import InputError
from pixeval.stats.clusters import Array, Keys, cluster_sums, codes_of


@dataclass(frozen=True)
class SeedNoise:
    """Variance components of a value (or a paired change) over prompts and, within each, seeds."""

    mean: float
    prompt_variance: float
    """Between prompts: what remains with endless seeds per prompt. Cut at 0."""
    seed_variance: float
    """Between the seeds of one prompt."""
    icc: float
    """Share of the prompts in the variance of one image, in [0, 1]: at 1 further seeds tell nothing new."""
    prompts: int
    images: int

    def standard_error(self, prompts: int, seeds: int) -> float:
        """Of the mean over ``prompts`` x ``seeds`` new images."""
        return math.sqrt((self.prompt_variance + self.seed_variance / seeds) / prompts)

    @property
    def seed_standard_error(self) -> float:
        """How much the mean would move if the same prompts were drawn with other seeds."""
        return math.sqrt(self.seed_variance / self.images)


def seed_noise(values: Sequence[float] | Array, prompts: Keys) -> SeedNoise | None:
    """Components of a one-way random-effects model, by analysis of variance (Searle, Casella and McCulloch 1992).

    Args:
        values: one number per image, or the change of a pair of images of one prompt and seed.
        prompts: the prompt of each; numbers of seeds may differ.

    Returns:
        None where they cannot be told apart: fewer than two prompts, or no prompt with two seeds.

    Raises:
        InputError: no values, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise InputError("seeds need finite values; leave out what could not be scored")
    codes = codes_of(prompts, array.size)
    sums, sizes = cluster_sums(array, codes)
    groups, n = len(sums), array.size
    if groups < 2 or n == groups:
        return None
    mean = float(array.mean())
    between = float((sizes * (sums / sizes - mean) ** 2).sum()) / (groups - 1)
    within = max(0.0, float(array @ array) - float((sums**2 / sizes).sum())) / (n - groups)
    usual = (n - float((sizes**2).sum()) / n) / (groups - 1)
    prompt = max(0.0, (between - within) / usual)
    total = prompt + within
    return SeedNoise(mean, prompt, within, prompt / total if total > 0 else 0.0, groups, n)
