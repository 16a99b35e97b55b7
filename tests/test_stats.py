"""Intervals, tests and agreement against closed forms, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats as reference

from pixeval.errors import InputError
from pixeval.records import Choice, Vote
from pixeval.stats.agreement import krippendorff_alpha, vote_agreement
from pixeval.stats.bootstrap import mean_interval, paired_interval
from pixeval.stats.clusters import clustered_mean
from pixeval.stats.multiplicity import holm
from pixeval.stats.permutation import sign_flip_p
from pixeval.stats.proportions import wilson
from pixeval.stats.win_rates import left_share, win_rates


def vote(
    number: int, choice: Choice, left: str = "a", right: str = "b", prompt: str = "p0", annotator: str = "ann"
) -> Vote:
    return Vote(
        id=f"v{number}",
        annotator=annotator,
        question="appeal",
        prompt_id=prompt,
        prompt=prompt,
        left=f"{left}-{prompt}",
        right=f"{right}-{prompt}",
        left_label=left,
        right_label=right,
        choice=choice,
        seconds=1.0,
        answered_at="2026-01-01T00:00:00+00:00",
    )


def test_mean_interval_follows_the_normal_one_where_that_is_right() -> None:
    values = list(np.random.default_rng(1).normal(3, 2, 400))
    found = mean_interval(values)
    half = 1.96 * np.std(values, ddof=1) / 20
    assert found.value == pytest.approx(np.mean(values))
    assert found.n == 400
    assert found.low == pytest.approx(found.value - half, abs=0.04)
    assert found.high == pytest.approx(found.value + half, abs=0.04)
    assert mean_interval(values) == found
    assert mean_interval(values, confidence=0.5).low > found.low  # type: ignore[operator]


def test_mean_interval_with_few_values() -> None:
    one = mean_interval([2.0])
    assert (one.value, one.low, one.high, one.n) == (2.0, None, None, 1)
    with pytest.raises(InputError, match="no values"):
        mean_interval([])
    with pytest.raises(InputError, match="NaN"):
        mean_interval([1.0, float("nan")])
    with pytest.raises(InputError, match="2 and 1"):
        paired_interval([1.0, 2.0], [1.0])


def test_clusters_widen_the_interval_and_leave_the_mean() -> None:
    values = np.repeat(np.random.default_rng(2).normal(size=40), 5).tolist()
    keys = np.repeat(np.arange(40), 5).tolist()
    plain, clustered = mean_interval(values), mean_interval(values, clusters=keys)
    assert clustered.value == pytest.approx(plain.value)
    ratio = (clustered.high - clustered.low) / (plain.high - plain.low)  # type: ignore[operator]
    assert ratio == pytest.approx(np.sqrt(5), rel=0.15)


def test_pairing_removes_what_items_share() -> None:
    rng = np.random.default_rng(3)
    items = rng.normal(0, 10, 100)
    a, b = items + rng.normal(0.5, 0.1, 100), items + rng.normal(0, 0.1, 100)
    found = paired_interval(a.tolist(), b.tolist())
    assert found.low is not None and found.high is not None
    assert 0.4 < found.low < found.value < found.high < 0.6


def test_wilson_equals_scipy() -> None:
    for successes, n in ((0, 5), (3, 10), (50, 120), (9, 9)):
        expected = reference.binomtest(successes, n).proportion_ci(method="wilson")
        found = wilson(successes, n)
        assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_clustered_mean_is_the_t_interval_when_nothing_is_clustered() -> None:
    values = np.random.default_rng(4).uniform(-1, 1, 30)
    found = clustered_mean(values.tolist(), range(30), ["one"] * 30, (-1, 1))
    expected = reference.t.interval(0.95, 29, loc=values.mean(), scale=reference.sem(values))
    assert (found.low, found.high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_clustered_mean_where_the_data_cannot_say() -> None:
    assert clustered_mean([1, -1], ["p", "p"], ["x", "y"], (-1, 1)).low is None
    unanimous = clustered_mean([1.0] * 12, range(12), ["x"] * 12, (-1, 1))
    expected = reference.binomtest(12, 12).proportion_ci(method="wilson").low
    assert unanimous.low == pytest.approx(2 * expected - 1)
    assert unanimous.high == 1.0


def test_two_way_interval_covers_where_naive_does_not() -> None:
    """95 % interval under prompt and annotator effects, 60 prompts x 5 votes, 12 annotators, 300 repetitions."""
    rng = np.random.default_rng(5)
    covered = naive = 0
    prompts = np.repeat(np.arange(60), 5)
    for _ in range(300):
        annotators = np.concatenate([rng.permutation(12)[:5] for _ in range(60)])
        logits = rng.normal(0, 1.0, 60)[prompts] + rng.normal(0, 0.5, 12)[annotators]
        signs = np.where(rng.uniform(size=300) < 1 / (1 + np.exp(-logits)), 1, -1)
        found = clustered_mean(signs.tolist(), prompts.tolist(), annotators.tolist(), (-1, 1))
        assert found.low is not None and found.high is not None
        covered += found.low <= 0 <= found.high
        plain = wilson(int((signs == 1).sum()), 300)
        assert plain.low is not None and plain.high is not None
        naive += plain.low <= 0.5 <= plain.high
    assert 0.91 <= covered / 300 <= 0.99
    assert naive / 300 < 0.85


def test_sign_flip_is_the_sign_test_for_equal_steps() -> None:
    assert sign_flip_p([1] * 8 + [-1] * 2) == pytest.approx(reference.binomtest(8, 10).pvalue)
    many = sign_flip_p([1] * 60 + [-1] * 40, seed=1)
    assert many == pytest.approx(reference.binomtest(60, 100).pvalue, abs=0.01)
    assert sign_flip_p([0, 0]) == 1.0
    # Forty votes in one prompt are one observation.
    assert sign_flip_p([1] * 40, clusters=["p"] * 40) == 1.0


def test_holm_equals_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_alpha_of_krippendorffs_example() -> None:
    """The nominal example of Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: 0.743."""
    table = {
        1: [1, 1, 1],
        2: [2, 2, 3, 2],
        3: [3, 3, 3, 3],
        4: [3, 3, 3, 3],
        5: [2, 2, 2, 2],
        6: [1, 2, 3, 4],
        7: [4, 4, 4, 4],
        8: [1, 1, 2, 1],
        9: [2, 2, 2, 2],
        10: [5, 5, 5],
        11: [1, 1],
        12: [3],
    }
    assert krippendorff_alpha(table) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha({1: ["x"], 2: ["x"]}) is None
    assert krippendorff_alpha({1: ["x", "x"], 2: ["x", "x"]}) is None


def test_win_rates_count_from_either_side() -> None:
    votes = [
        vote(1, "left", "a", "b", "p1"),
        vote(2, "right", "b", "a", "p2"),
        vote(3, "tie", "a", "b", "p3"),
        vote(4, "left", "b", "a", "p4"),
        vote(5, "both_bad", "a", "b", "p5"),
        vote(6, "skip", "a", "b", "p6"),
        vote(7, "reject", "a", "b", "p7"),
        vote(8, "left", "a", "c", "p8"),
    ]
    found = win_rates(votes, "a", "b", "appeal")
    assert (found.win, found.tie, found.loss, found.both_bad, found.skip, found.reject) == (2, 1, 1, 1, 1, 1)
    assert (found.n, found.prompts, found.annotators) == (5, 5, 1)
    assert found.net.value == pytest.approx(0.2)
    assert found.win_rate.value == pytest.approx(0.6)
    assert found.decisive is not None and found.decisive.value == pytest.approx(2 / 3)
    mirrored = win_rates(votes, "b", "a", "appeal")
    assert mirrored.net.value == pytest.approx(-0.2)
    assert mirrored.net.low == pytest.approx(-found.net.high)  # type: ignore[operator]
    with pytest.raises(InputError, match="'flaws'"):
        win_rates(votes, "a", "b", "flaws")


def test_superseded_votes_do_not_count() -> None:
    first, second = vote(1, "left"), vote(2, "right")
    replaced = Vote(**{**second.__dict__, "supersedes": first.id})
    assert win_rates([first, replaced], "a", "b", "appeal").loss == 1
    assert win_rates([first, replaced], "a", "b", "appeal").win == 0


def test_agreement_and_side_bias() -> None:
    swapped = [vote(1, "left", "a", "b", "p1", "x"), vote(2, "right", "b", "a", "p1", "y")]
    swapped += [vote(3, "right", "a", "b", "p2", "x"), vote(4, "left", "b", "a", "p2", "y")]
    agreed = vote_agreement(swapped, "appeal")
    assert agreed is not None and agreed.alpha.value == pytest.approx(1.0)
    always_left = [vote(i, "left", *("ab" if i % 2 else "ba"), prompt=f"p{i}") for i in range(20)]
    bias = left_share(always_left)
    assert bias is not None and bias.low is not None and bias.low > 0.5
    assert win_rates(always_left, "a", "b", "appeal").net.value == 0.0
    assert left_share([vote(1, "tie")]) is None
