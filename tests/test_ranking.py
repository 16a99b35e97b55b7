"""Davidson's model against closed forms, choix and evalica, and the votes from which no ranking follows."""

import math

import choix
import evalica
import numpy as np
import pytest
from scipy.optimize import minimize
from vote_studies import tournament, votes_of

from pixeval.stats.bradley_terry import NoRanking, fit_davidson, newton
from pixeval.stats.clusters import clustered_mean
from pixeval.stats.ranking import rank
from pixeval.stats.vote_table import VoteTable


def counted(counts: dict[tuple[int, int, int], int], labels: int, mirrored: bool = False, people: int = 7) -> VoteTable:
    """So many votes of each (left, right, choice); mirrored ones are there once more with sides swapped."""
    rows = [key for key, count in counts.items() for _ in range(count)]
    if mirrored:
        rows += [(right, left, 2 - choice) for left, right, choice in rows]
    left, right, choice = np.array(rows).T
    n = len(rows)
    return votes_of(
        np.arange(n) % 40, np.arange(n) % people, left, right, choice, tuple(f"m{i}" for i in range(labels))
    )


def decisive(rng: np.random.Generator, models: int) -> dict[tuple[int, int, int], int]:
    return {(i, j, c): int(rng.integers(1, 9)) for i in range(models) for j in range(i) for c in (0, 2)}


def test_without_ties_and_bias_it_is_bradley_terry() -> None:
    counts = decisive(np.random.default_rng(0), 5)
    ours = fit_davidson(counted(counts, 5, mirrored=True), draws=0)
    assert ours.parameters[5] == pytest.approx(0.0, abs=1e-9)
    games = [(i, j) if c == 0 else (j, i) for (i, j, c), count in counts.items() for _ in range(count)]
    assert ours.strengths == pytest.approx(choix.opt_pairwise(5, games), abs=1e-4)
    winners = [evalica.Winner.X] * len(games)
    theirs = evalica.bradley_terry([i for i, _ in games], [j for _, j in games], winners, tolerance=1e-12, limit=10_000)
    scores = np.log(theirs.scores.sort_index().to_numpy())
    assert ours.strengths == pytest.approx(scores - scores.mean(), abs=1e-5)


def test_two_models_have_a_closed_form() -> None:
    """Strengths differ by log(wins / losses); exp(tie) is ties / sqrt(wins losses) (Davidson 1970)."""
    found = fit_davidson(counted({(0, 1, 0): 30, (0, 1, 1): 24, (0, 1, 2): 12}, 2, mirrored=True), draws=0)
    assert found.strengths[0] - found.strengths[1] == pytest.approx(math.log(30 / 12))
    assert math.exp(found.parameters[3]) == pytest.approx(24 / math.sqrt(30 * 12))


def test_side_bias_has_a_closed_form() -> None:
    """Equal models: odds of the left image are exp(bias)."""
    found = rank(counted({(0, 1, 0): 40, (0, 1, 2): 10, (1, 0, 0): 40, (1, 0, 2): 10}, 2), draws=0)
    assert found.side_bias.value == pytest.approx(math.log(4))
    assert found.models[0].strength.value == pytest.approx(0.0, abs=1e-9)
    assert found.tie_share == 0.0


def test_ties_and_bias_as_an_independent_optimiser_finds_them() -> None:
    """The likelihood written out vote by vote and maximised without derivatives of ours."""
    table = tournament(np.random.default_rng(6), np.array([0.5, 0.0, -0.2, -0.3]), 50, 6, 9, 0.4, -0.3)
    left, right, choice = table.left_label, table.right_label, table.choice

    def loss(x: np.ndarray) -> float:
        worth = np.exp(np.concatenate([x[:3], [0.0]]))
        first, second = worth[left] * np.exp(x[3]), worth[right]
        tie = np.exp(x[4]) * np.sqrt(first * second)
        shares = np.stack([first, tie, second], 1) / (first + tie + second)[:, None]
        return -float(np.log(shares[np.arange(len(choice)), choice]).sum())

    best = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-7})
    ours = fit_davidson(table, draws=0)
    assert ours.strengths[:3] - ours.strengths[3] == pytest.approx(best.x[:3], abs=1e-4)
    assert ours.parameters[4:] == pytest.approx(best.x[3:], abs=1e-4)


def test_the_sandwich_is_that_of_the_win_rate() -> None:
    """Two models without ties: the variance of log(p / (1 - p)) is that of p over (p (1 - p))^2."""
    table = tournament(np.random.default_rng(1), np.array([0.4, 0.0]), 60, 4, 9, 0.0, None)
    mirrored = counted_twice(table)
    found = rank(mirrored, draws=0)
    wins = (mirrored.signs("m0") + 1) / 2
    share = clustered_mean(wins, mirrored.prompt, mirrored.annotator, (0.0, 1.0))
    slope = share.value * (1 - share.value)
    half = found.contrasts[0].strength.value - (found.contrasts[0].strength.low or 0)
    assert share.se is not None
    assert half / found.critical == pytest.approx(share.se / slope, rel=1e-6)


def counted_twice(table: VoteTable) -> VoteTable:
    """Every vote once more with sides swapped, so that no side is favoured."""
    both = {"left_label": "right_label", "right_label": "left_label", "left": "right", "right": "left"}
    columns = {}
    for name, value in vars(table).items():
        if isinstance(value, np.ndarray) and name != "answered":
            other = 2 - value if name == "choice" else getattr(table, both.get(name, name))
            columns[name] = np.concatenate([value, other])
    return VoteTable(table.labels, table.prompts, table.annotators, table.images, **columns)


def test_what_was_planted_is_found() -> None:
    strengths = np.array([-0.8, -0.1, 0.1, 0.8])
    table = tournament(np.random.default_rng(2), strengths, 400, 6, 20, 0.4, -0.5)
    found = rank(table, draws=200)
    assert [one.label for one in found.models] in (["m3", "m2", "m1", "m0"], ["m3", "m1", "m2", "m0"])
    assert found.side_bias.low is not None and found.side_bias.low > 0.2
    first, last = found.models[0], found.models[-1]
    assert (first.best_rank, first.worst_rank, last.best_rank, last.worst_rank) == (1, 1, 4, 4)
    for one in found.models:
        assert one.strength.se == pytest.approx(one.bootstrap.se, rel=0.5)
        assert one.best_rank <= [m.label for m in found.models].index(one.label) + 1 <= one.worst_rank
    assert len(found.contrasts) == 6 and found.critical > 1.96
    assert found.unstable_draws == 0.0


def test_weights_count_as_repeated_votes() -> None:
    table = tournament(np.random.default_rng(3), np.array([0.3, 0.0, -0.3]), 40, 5, 8, 0.2, 0.0)
    weighted = VoteTable(
        **{**{k: v for k, v in vars(table).items() if k != "answered"}, "propensity": np.full(200, 0.5)}
    )
    assert fit_davidson(weighted, draws=0).parameters == pytest.approx(fit_davidson(table, draws=0).parameters)
    assert rank(weighted, draws=0).models[0].strength.se == pytest.approx(rank(table, draws=0).models[0].strength.se)


def test_many_tables_are_fitted_as_one_at_a_time() -> None:
    table = tournament(np.random.default_rng(4), np.array([0.3, 0.0, -0.3]), 40, 5, 8, 0.2, 0.0)
    fit = fit_davidson(table, draws=0)
    counts = np.random.default_rng(5).integers(1, 20, (6, *fit.counts.shape)).astype(float)
    together = newton(fit.model, counts, np.zeros((1, fit.model.size)))
    for one, row in zip(counts, together, strict=True):
        assert newton(fit.model, one[None], np.zeros((1, fit.model.size)))[0] == pytest.approx(row, abs=1e-8)


def test_votes_that_leave_strengths_undefined() -> None:
    both = {(0, 1, 0): 5, (0, 1, 2): 5, (1, 0, 0): 5, (1, 0, 2): 5}
    apart = both | {(2, 3, 0): 4, (2, 3, 2): 4, (3, 2, 0): 4, (3, 2, 2): 4}
    with pytest.raises(NoRanking, match="no vote compares 'm0' and 'm1' with 'm2' and 'm3'"):
        rank(counted(apart, 4))
    with pytest.raises(NoRanking, match="'m2' never lost against 'm0' and 'm1'"):
        rank(counted(both | {(2, 0, 0): 6, (0, 2, 2): 6}, 3))
    with pytest.raises(NoRanking, match="'m0' never lost against 'm1'"):
        rank(counted({(0, 1, 0): 5, (0, 1, 1): 5, (1, 0, 1): 5, (1, 0, 2): 5}, 2))
    with pytest.raises(NoRanking, match="only ever shown on one side"):
        rank(counted({(0, 1, 0): 5, (0, 1, 2): 5}, 2))
    with pytest.raises(NoRanking, match="side is infinite"):
        rank(counted({(0, 1, 0): 5, (1, 0, 0): 5}, 2))
