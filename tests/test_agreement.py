"""Agreement against krippendorff, evalica and published examples; metrics against people; what votes hang on."""

import evalica
import krippendorff
import numpy as np
import pandas as pd
import pytest
from vote_studies import Study, votes_of

from pixeval.stats.agreement import alpha_of, cohen_kappa, fleiss_of, rating_counts, vote_agreement
from pixeval.stats.clusters import clustered_mean
from pixeval.stats.fragility import fragility
from pixeval.stats.metric_agreement import disagreements, metric_agreement
from pixeval.stats.seeds import seed_noise
from pixeval.stats.win_rates import win_rates


def test_alpha_equals_krippendorff_and_evalica() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 50)
    table = np.where(rng.random((6, 50)) < 0.6, truth, rng.integers(0, 3, (6, 50))).astype(float)
    table[rng.random((6, 50)) < 0.4] = np.nan
    rows, items = np.nonzero(np.isfinite(table))
    counts = rating_counts(items, table[rows, items].astype(int))
    ours = alpha_of(counts.sum_columns())[0]
    assert ours == pytest.approx(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))
    assert ours == pytest.approx(evalica.alpha(pd.DataFrame(table), distance="nominal").alpha)


def test_kappas_of_published_examples() -> None:
    """Fleiss' kappa of the 14 raters and 10 subjects in Wikipedia's article: 0.210; Cohen's of its grants: 0.4."""
    subjects = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    items = np.repeat(np.arange(10), 14)
    labels = np.concatenate([np.repeat(np.arange(5), row) for row in subjects])
    assert fleiss_of(rating_counts(items, labels).sum_columns())[0] == pytest.approx(0.210, abs=5e-4)
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = cohen_kappa(first, second)
    assert found is not None and found.value == pytest.approx(0.4)
    assert found.low is not None and found.high is not None and found.low < 0.4 < found.high
    assert cohen_kappa(["yes"] * 3, ["yes"] * 3) is None


def test_agreement_of_votes() -> None:
    rng = np.random.default_rng(1)
    same = vote_agreement(Study(100, 4, 8, prompt_sd=3.0, annotator_sd=0.0).table(rng), "flaws")
    none = vote_agreement(Study(100, 4, 8, prompt_sd=0.0, annotator_sd=0.0).table(rng), "flaws")
    assert same is not None and none is not None and same.cohen is not None
    assert same.alpha.low is not None and same.alpha.low > 0.3
    assert same.fleiss.value == pytest.approx(same.alpha.value, abs=0.02)
    assert same.cohen.value == pytest.approx(same.alpha.value, abs=0.1)
    assert not none.alpha.excludes(0.0) and none.share.value == pytest.approx(0.5, abs=0.06)
    assert vote_agreement(Study(100, 1, 8).table(rng), "flaws") is None


def test_the_interval_of_alpha_covers() -> None:
    rng, study = np.random.default_rng(2), Study(60, 3, 6, prompt_sd=1.5, annotator_sd=0.0)
    large = vote_agreement(Study(20_000, 3, 6, prompt_sd=1.5, annotator_sd=0.0).table(rng), "flaws")
    assert large is not None
    missed = 0
    for number in range(150):
        found = vote_agreement(study.table(rng), "flaws", seed=number)
        missed += found is None or found.alpha.excludes(large.alpha.value)
    assert 0.90 <= 1 - missed / 150 <= 0.985


def test_a_metric_against_people() -> None:
    rng = np.random.default_rng(3)
    table = Study(150, 5, 12, prompt_sd=2.0, annotator_sd=0.2).table(rng)
    preferred = np.bincount(table.prompt, table.signs("a"))
    scores = {f"p{i}-a": float(preferred[i] + rng.normal(0, 0.5)) for i in range(150)} | {
        f"p{i}-b": 0.0 for i in range(150)
    }
    good = metric_agreement(table, scores, "flaws")
    assert good is not None and good.majority is not None and good.person is not None
    assert good.majority.value > 0.95 and good.votes.value > 0.75
    # No metric can go with single votes much more often than a person goes with the others.
    assert good.votes.value == pytest.approx(good.person.value, abs=0.15)
    assert good.correlation.low is not None and good.correlation.low > 0.7
    against = metric_agreement(table, scores, "flaws", higher_is_better=False)
    assert against is not None and against.votes.value == pytest.approx(1 - good.votes.value)
    assert metric_agreement(table, {}, "flaws") is None
    some = {name: value for name, value in scores.items() if name not in ("p0-a", "p1-b")}
    partly = metric_agreement(table, some, "flaws")
    assert partly is not None and (partly.pairs, partly.left_out) == (148, 2)


def test_disagreements_come_strongest_first() -> None:
    prompt, people = np.repeat([0, 1, 2], 4), np.tile(np.arange(4), 3)
    choice = np.array([0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2])
    zero = np.zeros(12, int)
    table = votes_of(prompt, people, zero, zero + 1, choice, ("a", "b"))
    scores = {"p0-a": 1.0, "p0-b": 3.0, "p1-a": 1.0, "p1-b": 2.0, "p2-a": 0.0, "p2-b": 9.0}
    found = disagreements(table, scores, "flaws")
    assert [(d.prompt_id, d.preferred, d.other) for d in found] == [("p0", "p0-a", "p0-b"), ("p1", "p1-a", "p1-b")]
    assert (found[1].for_preferred, found[1].for_other, found[1].ties, found[1].difference) == (3, 1, 0, 1.0)


def test_fragility_is_checked_by_removing() -> None:
    rng = np.random.default_rng(4)
    table = Study(80, 4, 16, lead=0.9, tie=0.0).table(rng)
    rates, found = win_rates(table, "a", "b", "flaws"), fragility(table, "a", "b", "flaws")
    assert found.preferred == "a" and found.n == rates.n
    assert found.votes_to_reverse == rates.win - rates.loss + 1
    assert found.votes_to_unclear is not None and 0 < found.votes_to_unclear < found.votes_to_reverse
    assert found.annotators_to_unclear is not None and found.annotators_to_unclear < 16
    assert fragility(table, "b", "a", "flaws").votes_to_unclear == found.votes_to_unclear
    # Removing that many wins at random is not enough: they are chosen.
    wins = rng.permutation(np.flatnonzero(table.signs("a") > 0))[: found.votes_to_unclear]
    kept = np.setdiff1d(np.arange(len(table)), wins)
    assert win_rates(table.rows(kept), "a", "b", "flaws").net.excludes(0.0)
    level = fragility(Study(80, 4, 16).table(rng), "a", "b", "flaws")
    assert level.preferred is None and level.votes_to_unclear is None


def test_seeds_and_prompts_are_told_apart() -> None:
    rng = np.random.default_rng(5)
    prompts = np.repeat(np.arange(2000), 4)
    found = seed_noise(rng.normal(0, 2.0, 2000)[prompts] + rng.normal(0, 1.0, 8000), prompts)
    assert found is not None
    assert found.prompt_variance == pytest.approx(4.0, rel=0.1)
    assert found.seed_variance == pytest.approx(1.0, rel=0.1)
    assert found.icc == pytest.approx(0.8, abs=0.02)
    assert found.standard_error(100, 4) == pytest.approx(np.sqrt((4 + 0.25) / 100), rel=0.1)
    assert seed_noise([1.0, 2.0], ["a", "b"]) is None
    # Two prompts of two seeds, by hand: within 0.5, between 12.5, so (12.5 - 0.5) / 2.
    small = seed_noise([0.0, 1.0, 3.5, 4.5], ["a", "a", "b", "b"])
    assert small is not None and (small.seed_variance, small.prompt_variance) == pytest.approx((0.5, (12.25 - 0.5) / 2))


def test_votes_that_cancel_in_every_prompt_still_have_an_interval() -> None:
    found = clustered_mean([1.0, -1.0] * 20, np.repeat(np.arange(20), 2), ["one"] * 40, (-1.0, 1.0))
    assert found.value == 0.0 and found.low is not None and found.low < -0.2
