"""Who is ahead of whom, and who cannot be told apart: ranks with simultaneous confidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from pixeval.records import Question, Vote
from pixeval.stats.bootstrap import percentile_bounds
from pixeval.stats.bradley_terry import DRAWS, Fit, fit_davidson
from pixeval.stats.clusters import Array
from pixeval.stats.interval import Interval
from pixeval.stats.vote_table import VoteTable

MAX_T_DRAWS = 20_000


@dataclass(frozen=True)
class Ranked:
    """One model among those compared."""

    label: str
    strength: Interval
    """Log odds against the average model; two-way cluster-robust sandwich interval. Higher wins more."""
    bootstrap: Interval
    """The same by the percentile bootstrap over prompts, which takes the annotators as given: a check."""
    best_rank: int
    """Ranks that the data leave possible, 1 being the best; all models' sets hold at once with 95 % confidence."""
    worst_rank: int
    votes: int


@dataclass(frozen=True)
class Contrast:
    """How much stronger ``a`` is than ``b``."""

    a_label: str
    b_label: str
    strength: Interval
    """Difference in log odds, with a simultaneous interval: all contrasts of the ranking hold at once."""
    win_rate: float
    """Expected share of wins of ``a`` among decisive votes, without side bias, in (0, 1)."""


@dataclass(frozen=True)
class Ranking:
    """Models by strength on one question."""

    question: Question | None
    """None for votes on all questions together."""
    models: tuple[Ranked, ...]
    """Strongest first."""
    contrasts: tuple[Contrast, ...]
    """Every pair, the stronger first."""
    side_bias: Interval
    """Log odds in favour of the left image; 0 without bias. Cluster-robust."""
    tie_share: float
    """Chance of a tie between equals, by the model."""
    critical: float
    """Standard errors that the simultaneous intervals reach to each side."""
    prompts: int
    annotators: int
    n: int
    unstable_draws: float
    """Share of bootstrap draws in which some strength ran away to infinity."""


def rank(
    votes: Sequence[Vote] | VoteTable,
    question: Question | None = None,
    labels: Sequence[str] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    draws: int = DRAWS,
) -> Ranking:
    """Fit Davidson's model and say which ranks the votes leave open.

    A model's rank set counts those that are surely stronger and surely weaker, by intervals of all differences that
    hold at once: the greatest of all |t| under the joint distribution of the differences (max-t; Hothorn, Bretz and
    Westfall 2008; Mogstad, Romano, Shaikh and Wilhelm 2024).

    Raises:
        NoRanking: groups of labels were never compared, or some label always won or lost.
        InputError: fewer than two labels have votes.
    """
    fit = fit_davidson(votes, question, labels, seed, draws)
    m = len(fit.model.labels)
    pairs = np.array([(i, j) for i in range(m) for j in range(i + 1, m)])
    matrix = np.zeros((len(pairs), fit.model.size))
    matrix[np.arange(len(pairs)), pairs[:, 0]] = 1
    matrix[np.arange(len(pairs)), pairs[:, 1]] = -1
    se = standard_errors(fit, matrix)
    critical = max_t(fit, matrix, confidence, seed)
    differences = matrix @ fit.parameters
    clear = np.abs(differences) > critical * se
    stronger, weaker = np.zeros(m, dtype=int), np.zeros(m, dtype=int)
    for (i, j), difference, sure in zip(pairs, differences, clear, strict=True):
        if sure:
            winner, loser = (i, j) if difference > 0 else (j, i)
            stronger[loser] += 1
            weaker[winner] += 1
    models = [_ranked(fit, place, 1 + int(stronger[place]), m - int(weaker[place]), confidence) for place in range(m)]
    bias = np.zeros((1, fit.model.size))
    bias[0, m] = 1
    return Ranking(
        question=question,
        models=tuple(sorted(models, key=lambda one: -one.strength.value)),
        contrasts=tuple(
            _contrast(fit, (int(i), int(j)), float(d), critical * float(s))
            for (i, j), d, s in zip(pairs, differences, se, strict=True)
        ),
        side_bias=_interval(fit, bias, confidence),
        tie_share=_tie_share(fit),
        critical=critical,
        prompts=fit.prompts,
        annotators=fit.annotators,
        n=fit.n,
        unstable_draws=float((np.abs(fit.bootstrap[:, : m + 1]) > 12).any(1).mean()) if len(fit.bootstrap) else 0.0,
    )


def standard_errors(fit: Fit, matrix: Array) -> Array:
    """Of linear combinations of the parameters (rows of ``matrix``): two-way, at least those over prompts alone."""
    two_way = np.einsum("ck,kl,cl->c", matrix, fit.covariance, matrix)
    by_prompt = np.einsum("ck,kl,cl->c", matrix, fit.by_prompt, matrix)
    found: Array = np.sqrt(np.maximum(np.maximum(two_way, by_prompt), 0))
    return found


def max_t(fit: Fit, matrix: Array, confidence: float = 0.95, seed: int = 0) -> float:
    """The quantile of the greatest |t| among linear combinations, by 20,000 draws of a multivariate t."""
    covariance = matrix @ fit.covariance @ matrix.T
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0))
    spread = np.sqrt(np.maximum((root**2).sum(1), 1e-300))
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((MAX_T_DRAWS, len(values))) @ (root / spread[:, None]).T
    chi = np.sqrt(rng.chisquare(fit.df, MAX_T_DRAWS) / fit.df)
    quantile = float(np.quantile(np.abs(normal).max(1) / chi, confidence))
    # With one contrast it is Student's t but for the draws.
    return max(quantile, float(stdtrit(fit.df, (1 + confidence) / 2)))


def _ranked(fit: Fit, place: int, best: int, worst: int, confidence: float) -> Ranked:
    row = np.zeros((1, fit.model.size))
    row[0, place] = 1
    shown: NDArray[np.bool_] = (fit.model.sides == place).any(1)
    strength = _interval(fit, row, confidence)
    bootstrap = Interval(strength.value, None, None, fit.n)
    if len(fit.bootstrap):
        low, high = percentile_bounds(fit.bootstrap[:, place], confidence)
        bootstrap = Interval(strength.value, float(low), float(high), fit.n, float(fit.bootstrap[:, place].std(ddof=1)))
    votes = round(float(fit.counts[shown].sum()))
    return Ranked(fit.model.labels[place], strength, bootstrap, best, worst, votes)


def _interval(fit: Fit, row: Array, confidence: float) -> Interval:
    value = float((row @ fit.parameters)[0])
    if fit.prompts < 2:
        return Interval(value, None, None, fit.n)
    se = float(standard_errors(fit, row)[0])
    half = float(stdtrit(fit.df, (1 + confidence) / 2)) * se
    return Interval(value, value - half, value + half, fit.n, se, fit.df)


def _contrast(fit: Fit, pair: tuple[int, int], difference: float, half: float) -> Contrast:
    a, b = pair if difference >= 0 else pair[::-1]
    names, size = fit.model.labels, abs(difference)
    n = round(float(fit.counts[(np.sort(fit.model.sides, axis=1) == sorted(pair)).all(1)].sum()))
    return Contrast(names[a], names[b], Interval(size, size - half, size + half, n), 1 / (1 + math.exp(-size)))


def _tie_share(fit: Fit) -> float:
    if not fit.model.ties:
        return 0.0
    tie = math.exp(float(fit.parameters[-1]))
    return tie / (tie + 2)
