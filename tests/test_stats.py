"""Intervals, tests and agreement against closed forms, scipy and simulation."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy import stats as reference

from pixeval.errors import InputError
from pixeval.records import Choice, Vote, counted_votes
from pixeval.stats.agreement import krippendorff_alpha, vote_agreement
from pixeval.stats.bootstrap import mean_interval, paired_interval
from pixeval.stats.clusters import clustered_mean
from pixeval.stats.multiplicity import holm, holm_within
from pixeval.stats.permutation import sign_flip_p
from pixeval.stats.proportions import wilson
from pixeval.stats.vote_table import VoteTable
from pixeval.stats.win_rates import all_win_rates, left_share, win_rates, win_rates_by_tag
from pixeval.tables import write_records


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


def test_bca_equals_scipy_at_the_same_levels() -> None:
    """scipy has no allowance for few items; it is asked for the confidence whose quantile is that of the allowance."""
    values = np.random.default_rng(6).exponential(size=25)
    t = np.sqrt(25 / 24) * reference.t.ppf(0.975, 24)
    level = 2 * reference.norm.cdf(t) - 1
    expected = reference.bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=50_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    found = mean_interval(values.tolist())
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.06 * width)
    assert found.high == pytest.approx(expected.high, abs=0.06 * width)
    assert found.high - found.value > 1.1 * (found.value - found.low)  # type: ignore[operator]


def test_exact_sign_flips_are_those_of_all_assignments() -> None:
    """Whole sums of 17 and of 24 clusters: the convolution against enumeration, and against random flips."""
    few = np.random.default_rng(7).integers(1, 6, 17) * np.where(np.arange(17) % 3, 1, -1)
    assignments = (np.arange(2**17)[:, None] >> np.arange(17) & 1) * 2 - 1
    expected = (np.abs(assignments @ few) >= abs(few.sum())).mean()
    assert sign_flip_p(few.tolist()) == pytest.approx(expected, rel=1e-9)
    many = np.random.default_rng(8).integers(-4, 6, 24)
    assert sign_flip_p(many.tolist()) == pytest.approx(sign_flip_p((many * 0.1).tolist()), abs=0.012)


def test_holm_within_families() -> None:
    found = holm_within([0.01, 0.04, 0.03, 0.005], ["x", "y", "x", "y"])
    assert found == pytest.approx([0.02, 0.04, 0.03, 0.01])


def test_votes_read_from_parquet_are_those_of_records(tmp_path: Path) -> None:
    rng, choices = np.random.default_rng(9), get_args(Choice)
    votes = []
    for i in range(300):
        labels = [str(x) for x in rng.permutation(["a", "b", "c"])[:2]]
        made = vote(i, choices[int(rng.integers(6))], *labels, f"p{rng.integers(9)}", f"ann{rng.integers(4)}")
        purpose = "gold" if i % 17 == 0 else "work"
        earlier = f"v{i - 1}" if i % 13 == 5 else None
        votes.append(replace(made, purpose=purpose, supersedes=earlier, propensity=0.5, simulated=i % 3 == 0))
    for name, part in (("one", votes[:200]), ("two", votes[150:])):
        write_records(tmp_path / f"{name}.parquet", part, Vote)
    table = VoteTable.read([tmp_path / "one.parquet", tmp_path / "two.parquet"])
    kept = [v for v in counted_votes(votes) if not v.simulated]
    same = VoteTable.of(kept)
    assert len(table) == len(same) == len(kept) and table.labels == same.labels == ("a", "b", "c")
    for i, one in enumerate(kept):
        assert table.labels[table.left_label[i]] == one.left_label and table.images[table.right[i]] == one.right
        assert table.prompts[table.prompt[i]] == one.prompt_id and table.annotators[table.annotator[i]] == one.annotator
    assert win_rates(table, "a", "b", "appeal") == win_rates(kept, "a", "b", "appeal")
    assert len(VoteTable.read([])) == 0
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"broken.parquet cannot be read"):
        VoteTable.read([tmp_path / "broken.parquet"])


def test_votes_weigh_by_inverse_propensity() -> None:
    votes = [
        replace(vote(1, "left", prompt="p1"), propensity=1.0),
        replace(vote(2, "right", prompt="p2"), propensity=0.25),
        replace(vote(3, "tie", prompt="p3"), propensity=0.5),
    ]
    found = win_rates(votes, "a", "b", "appeal")
    assert found.net.value == pytest.approx((1 - 4) / 7)
    assert found.weighted and found.effective_n == pytest.approx(49 / 21) and found.n == 3
    assert found.naive_net.value == 0.0
    for bad in (0.0, 1.5):
        with pytest.raises(InputError, match="propensity"):
            win_rates([replace(votes[0], propensity=bad)], "a", "b", "appeal")


def test_all_pairs_and_tags_at_once_are_those_of_one_at_a_time() -> None:
    rng, choices = np.random.default_rng(10), get_args(Choice)
    labels = ["a", "b", "c"]
    votes = [
        vote(i, choices[int(rng.integers(4))], *map(str, rng.permutation(labels)[:2]), f"p{i % 20}", f"ann{i % 7}")
        for i in range(400)
    ]
    together = all_win_rates(votes, labels)
    assert [(one.a_label, one.b_label) for one in together] == [("b", "a"), ("c", "a"), ("c", "b")]
    for one in together:
        alone = win_rates(votes, one.a_label, one.b_label, "appeal")
        assert (one.net, one.decisive, one.p_sign_flip) == (alone.net, alone.decisive, alone.p_sign_flip)
        assert one.bootstrap_net.low == pytest.approx(alone.bootstrap_net.low, abs=0.05)
    tags = {f"p{i}": ("even",) if i % 2 == 0 else ("odd", "rare") for i in range(20)}
    by_tag = win_rates_by_tag(votes, tags, "b", "a", "appeal")
    even = [v for v in votes if int(v.prompt_id[1:]) % 2 == 0]
    assert set(by_tag) == {"even", "odd", "rare"} and by_tag["odd"].net == by_tag["rare"].net
    assert by_tag["even"].net == win_rates(even, "b", "a", "appeal").net
