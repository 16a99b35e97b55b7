"""Simulated studies of known truth: how often intervals hold it, and how often nothing is called something."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as reference
from vote_studies import Study, tournament

from pixeval.errors import InputError
from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.clusters import clustered_mean
from pixeval.stats.equivalence import equivalent, non_inferior, superior
from pixeval.stats.interval import Interval
from pixeval.stats.permutation import sign_flip_p
from pixeval.stats.power import (
    Design,
    Effect,
    detectable,
    detectable_change,
    icc_of_agreement,
    pilot,
    plans,
    power,
    prompts_needed,
)
from pixeval.stats.proportions import wilson
from pixeval.stats.ranking import rank
from pixeval.stats.sequential import confidence_sequence, vote_sequence
from pixeval.stats.win_rates import win_rates

BOUNDS = (-1.0, 1.0)
Method = Callable[[np.ndarray, np.ndarray, np.ndarray], Interval]


def two_way(values: np.ndarray, prompts: np.ndarray, annotators: np.ndarray) -> Interval:
    return clustered_mean(values, prompts, annotators, BOUNDS)


def naive(values: np.ndarray, prompts: np.ndarray, annotators: np.ndarray) -> Interval:
    return wilson((values.sum() + len(values)) / 2, len(values)).scaled(2.0, -1.0)


def coverage(study: Study, method: Method, studies: int = 1000, seed: int = 0) -> float:
    rng, truth = np.random.default_rng(seed), study.truth()
    return 1 - sum(method(*study.draw(rng)).excludes(truth) for _ in range(studies)) / studies


STUDIES = [
    pytest.param(Study(300, 5, 20), id="300 prompts x 5 votes, 20 annotators"),
    pytest.param(Study(1000, 3, 15), id="1000 x 3, 15"),
    pytest.param(Study(300, 5, 20, lead=0.5, tie=0.0), id="a lead and ties"),
    pytest.param(Study(100, 4, 25, lead=0.3, tie=-0.5, side_sd=0.5), id="side bias"),
]


@pytest.mark.parametrize("study", STUDIES)
def test_the_two_way_interval_covers_and_the_naive_one_does_not(study: Study) -> None:
    assert 0.93 <= coverage(study, two_way) <= 0.97
    assert not 0.93 <= coverage(study, naive, studies=300) <= 0.97


def test_a_against_a_is_rarely_called_significant() -> None:
    """The same model twice: prompts' images differ by luck, annotators favour a side, and there are ties."""
    rng, called, flipped = np.random.default_rng(1), 0, 0
    study = Study(60, 4, 10, annotator_sd=0.0, tie=-0.5, side_sd=0.5)
    for number in range(1000):
        found = win_rates(study.table(rng), "a", "b", "flaws", seed=number)
        called += found.net.excludes(0.0)
        flipped += found.p_sign_flip < 0.05
        assert found.net.excludes(0.0) == (found.p_value < 0.05)
    assert called / 1000 <= 0.06
    assert flipped / 1000 <= 0.06


def test_permutation_p_is_uniform_when_there_is_nothing() -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(12), 2)
    exact = [sign_flip_p(np.repeat(rng.normal(size=12), 2) + rng.normal(size=24), clusters) for _ in range(1000)]
    assert reference.kstest(exact, "uniform").pvalue > 0.01
    votes = [sign_flip_p(*Study(80, 3, 10, annotator_sd=0).draw(rng)[:2]) for _ in range(1000)]
    for level in (0.01, 0.05, 0.2, 0.5):
        # Votes are whole numbers, so p comes in steps and may be a little too large, never too small.
        assert 0.7 * level - 0.005 <= np.mean(np.array(votes) <= level) <= level + 2.6 * (level / 1000) ** 0.5
    random = [sign_flip_p(rng.standard_exponential(40) * rng.choice([-1, 1], 40), seed=i) for i in range(150)]
    assert reference.kstest(random, "uniform").pvalue > 0.01


@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_of_a_metric_covers_with_few_prompts(skewed: bool) -> None:
    """30 prompts x 3 seeds; the mean over prompts to come is 0."""
    rng, covered, clusters = np.random.default_rng(3), 0, np.repeat(np.arange(30), 3)
    for number in range(400):
        prompts = rng.standard_exponential(30) - 1 if skewed else rng.normal(size=30)
        values = np.repeat(prompts, 3) + rng.normal(size=90)
        covered += not mean_interval(values, clusters=clusters, seed=number).excludes(0.0)
    assert 0.93 <= covered / 400 <= 0.97


def test_weighting_by_propensity_removes_the_bias_of_active_selection() -> None:
    """Prompts on which ``a`` wins are picked four times as often; the weighted net win rate is that of all prompts."""
    rng, study, covered, plain = np.random.default_rng(4), Study(400, 3, 15), 0, []
    for _ in range(300):
        table = study.table(rng)
        by_prompt = np.bincount(table.prompt, table.signs("a"))
        propensity = np.where(by_prompt > 0, 0.8, 0.2)[table.prompt]
        picked = np.repeat(rng.random(400), 3) < propensity
        values, chance = table.signs("a")[picked], propensity[picked]
        people = table.annotator[picked]
        found = clustered_mean(values, table.prompt[picked], people, BOUNDS, weights=1 / chance)
        covered += not found.excludes(0.0)
        plain.append(values.mean())
    assert covered / 300 >= 0.92
    assert np.mean(plain) > 0.2


def test_looking_again_and_again() -> None:
    """Nothing to find, a look after each of 150 prompts: the sequence holds, an interval per look does not."""
    rng, stopped, peeked, late = np.random.default_rng(5), 0, 0, 0
    for _ in range(300):
        values = rng.choice([-1.0, 0.0, 1.0], 150)
        stopped += confidence_sequence(values, BOUNDS).decided() is not None
        count = np.arange(1, 151)
        means = np.cumsum(values) / count
        spread = np.sqrt(np.maximum(np.cumsum(values**2) / count - means**2, 1e-12) / count)
        peeked += bool((np.abs(means) > 1.96 * spread)[10:].any())
        late += confidence_sequence(rng.choice([-1.0, 1.0, 1.0], 150), BOUNDS).decided() is not None
    assert stopped / 300 <= 0.05
    assert peeked / 300 > 0.2
    assert late / 300 > 0.6


def test_a_sequence_of_votes_waits_for_whole_prompts() -> None:
    table = Study(40, 3, 6, lead=1.0).table(np.random.default_rng(6))
    found = vote_sequence(table, "a", "b", "flaws", votes_per_prompt=3)
    assert len(found.value) == 40
    assert found.value[-1] == pytest.approx(win_rates(table, "a", "b", "flaws").net.value)
    assert (np.diff(found.low) >= 0).all() and (np.diff(found.high) <= 0).all()
    with pytest.raises(InputError, match="4 answered"):
        vote_sequence(table, "a", "b", "flaws", votes_per_prompt=4)


def test_ranks_hold_together() -> None:
    """Four equal models: with 95 % confidence every rank set holds all four ranks."""
    rng, wrong = np.random.default_rng(7), 0
    for number in range(250):
        table = tournament(rng, np.zeros(4), 60, 6, 12, 0.3, -0.5)
        found = rank(table, draws=0, seed=number)
        wrong += any((one.best_rank, one.worst_rank) != (1, 4) for one in found.models)
    assert wrong / 250 <= 0.08


def test_power_is_what_simulation_finds() -> None:
    rng, study = np.random.default_rng(8), Study(120, 4, 16, lead=0.35, tie=-0.5)
    past = pilot(Study(3000, 4, 400, lead=0.35, tie=-0.5).table(rng), "a")
    assert past.net == pytest.approx(study.truth(), abs=0.02)
    expected = replace(past, net=study.truth())
    found = np.mean([two_way(*study.draw(rng)).excludes(0.0) for _ in range(1000)])
    assert power(Design(120, 4, 16), expected) == pytest.approx(found, abs=0.05)


def test_plans() -> None:
    effect = Effect(0.15)
    for plan in plans(effect):
        size = plan.design
        assert plan.power >= 0.8 and plan.detectable == pytest.approx(0.15, abs=0.01)
        fewer = Design(size.prompts - 1, size.votes_per_prompt, size.annotators)
        assert power(fewer, effect) < 0.8
    # Annotators who differ bound the precision: with few of them no number of prompts is enough.
    assert prompts_needed(Effect(0.05, annotator_icc=0.05), 3, 8) is None
    # Independent votes without ties: the textbook's 783 decisive votes for 55 % (two-sided 5 %, power 80 %).
    independent = Effect.of_decisive(0.55, ties=0.0, prompt_icc=0.0, annotator_icc=0.0)
    needed = prompts_needed(independent, 1, 100_000)
    assert needed is not None and abs(needed - 783) <= 4
    least = detectable(Design(783, 1, 783), independent)
    assert least == pytest.approx(0.1, abs=1e-3)
    assert detectable(Design(3, 1, 3), Effect(0.5, ties=0.5)) is None
    # A metric with standard error 2: (1.960 + 0.842) of them when it is known well.
    assert detectable_change(Interval(0.0, -4.0, 4.0, 99, 2.0, 1e6)) == pytest.approx(2 * 2.8016, abs=0.01)
    assert detectable_change(Interval(0.0, None, None, 1)) is None
    assert icc_of_agreement(1.0, 0.1, 0.2) == 1.0 and icc_of_agreement(0.3, 0.0, 0.2) == 0.0
    assert not plans(effect, votes_per_prompt=(5,), annotators=(3,))
    with pytest.raises(InputError, match="impossible"):
        Effect(0.9, ties=0.2)
    with pytest.raises(InputError, match="no study"):
        Design(1, 5, 3)


def test_margins() -> None:
    """A change of -0.2 with standard error 0.3 and endless degrees of freedom."""
    change = Interval(-0.2, -0.788, 0.388, 500, 0.3, 1e9)
    shown = non_inferior(change, 1.0)
    assert shown.holds and shown.p_value == pytest.approx(reference.norm.sf(0.8 / 0.3))
    assert shown.low == pytest.approx(-0.2 - 1.6449 * 0.3, abs=1e-4)
    assert not non_inferior(change, 0.5).holds
    assert non_inferior(change, 0.5, higher_is_better=False).holds
    both = equivalent(change, 1.0)
    assert both.holds and both.p_value == pytest.approx(reference.norm.sf(0.8 / 0.3))
    assert not equivalent(change, 0.6).holds
    assert not equivalent(Interval(0.0, None, None, 1), 0.6).holds
    # What did not change at all has no variance, and is no worse.
    still = mean_interval([0.0] * 12)
    assert non_inferior(still, 0.1).holds and equivalent(still, 0.1).holds and not superior(still).holds
    assert non_inferior(still, 0.1, higher_is_better=False).holds and non_inferior(still, 0.1).p_value is None
    with pytest.raises(InputError, match="positive"):
        non_inferior(change, -1.0)


def test_claims_of_non_inferiority_are_rarely_wrong() -> None:
    """The true loss is the margin, so that "not worse by that much" is wrong; it may be claimed 5 % of times."""
    rng, claimed, clusters = np.random.default_rng(9), 0, np.repeat(np.arange(40), 2)
    for number in range(500):
        values = np.repeat(rng.normal(-0.5, 1, 40), 2) + rng.normal(0, 1, 80)
        claimed += non_inferior(mean_interval(values, clusters=clusters, seed=number), 0.5).holds
    assert claimed / 500 <= 0.07
