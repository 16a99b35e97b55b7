"""The schedule of the labelling app: which pairs, in which order, on which sides. Pure functions."""

import random
from collections import Counter
from pathlib import Path

import pytest
from label_study import make_run

from human_eval_app.schedule import (
    SIDE_BLOCK,
    Candidate,
    Design,
    Draft,
    Sides,
    decide_sides,
    default_overlap,
    information,
    match_samples,
    order_batch,
    owed,
    pick_pairs,
)
from pixeval.errors import InputError
from pixeval.records import QUESTIONS

CELL = ("base", "tuned")


def candidates(count: int, cell: tuple[str, str] = CELL, claims: int = 0) -> list[Candidate]:
    return [Candidate(f"{cell}{i:03}", cell, QUESTIONS, claims, 0, 0.0) for i in range(count)]


def test_sides_are_balanced_exactly_in_every_block_and_random_within() -> None:
    orders = set()
    for seed in range(40):
        sides, rng = Sides(), random.Random(seed)
        drawn = [sides.draw(rng) for _ in range(5 * SIDE_BLOCK)]
        blocks = [tuple(drawn[i : i + SIDE_BLOCK]) for i in range(0, len(drawn), SIDE_BLOCK)]
        assert {sum(block) for block in blocks} == {SIDE_BLOCK // 2}
        orders.update(blocks)
    assert len(orders) == 6


def test_sides_make_up_for_judgements_that_were_taken_away() -> None:
    rng = random.Random(0)
    # Three on the left and none on the right are left of an earlier time; the block of four ends as even as it can.
    sides = Sides(count=3, left=3)
    assert [sides.draw(rng) for _ in range(3)] == [False] * 3
    later = Sides(count=3, left=3)
    for _ in range(9):
        later.draw(rng)
    assert later.left == 6


def test_sides_are_kept_apart_by_cell_question_and_purpose() -> None:
    drafts = [Draft(f"p{i}", CELL, q, p) for q in QUESTIONS for p in ("work", "gold") for i in range(8)]  # type: ignore[arg-type]
    decided = decide_sides(drafts, {}, random.Random(3))
    left = Counter((d.question, d.purpose) for d, first in zip(drafts, decided, strict=True) if first)
    assert set(left.values()) == {4} and len(left) == 6
    given = Draft("p", CELL, "flaws", "repeat", first_left=True)
    assert decide_sides([given] * 5, {}, random.Random(0)) == [True] * 5


def test_a_batch_asks_flaws_first_and_mixes_purposes() -> None:
    work = [Draft(f"p{i}", CELL, q, "work") for q in QUESTIONS for i in range(10)]
    gold = [Draft("known", CELL, "flaws", "gold")]
    places = set()
    for seed in range(60):
        ordered = order_batch([*work, *gold], random.Random(seed))
        assert [d.question for d in ordered] == ["flaws"] * 11 + ["appeal"] * 10 + ["alignment"] * 10
        places.add([d.purpose for d in ordered].index("gold"))
    assert places == set(range(11))


def test_pairs_of_labels_are_balanced_and_fewest_claims_come_first() -> None:
    others = ("base", "other")
    pool = [*candidates(30), *candidates(5, others), *candidates(5, others, claims=2)]
    picks = pick_pairs(pool, 20, {CELL: 4}, Design(), random.Random(0))
    by_cell = Counter(p.candidate.cell for p in picks)
    assert by_cell == {others: 10, CELL: 10}
    assert [p.candidate.claims for p in picks if p.candidate.cell == others] == [0] * 5 + [2] * 5
    assert {p.propensity for p in picks} == {1.0}
    assert picks == pick_pairs(pool[::-1], 20, {CELL: 4}, Design(), random.Random(0))
    assert len(pick_pairs(pool, 99, {}, Design(), random.Random(0))) == 40


def test_information_is_the_drop_of_the_posterior_variance() -> None:
    def variance(a: float, b: float) -> float:
        return a * b / ((a + b) ** 2 * (a + b + 1))

    for votes, score in ((0, 0.0), (4, 1.0), (9, 4.5)):
        a, b = 1 + score, 1 + votes - score
        win = a / (a + b)
        after = win * variance(a + 1, b) + (1 - win) * variance(a, b + 1)
        assert information(votes, score) == pytest.approx(variance(a, b) - after, rel=1e-12)
    assert information(0, 0) > information(2, 1) > information(2, 2) > information(8, 8)


def test_active_selection_keeps_a_fifth_random_and_says_its_odds() -> None:
    settled = [Candidate(f"s{i}", CELL, QUESTIONS, 9, 30, 30.0) for i in range(9)]
    fresh = Candidate("fresh", CELL, QUESTIONS, 0, 0, 0.0)
    design = Design(active=True)
    first = [pick_pairs([*settled, fresh], 1, {}, design, random.Random(seed))[0] for seed in range(4000)]
    odds = {p.candidate.pair: p.propensity for p in first}
    assert sum(odds.values()) == pytest.approx(1) and min(odds.values()) >= 0.2 / 10
    assert odds["fresh"] > 0.8
    drawn = Counter(p.candidate.pair for p in first)
    for pair, propensity in odds.items():
        assert abs(drawn[pair] - 4000 * propensity) < 5 * (4000 * propensity * (1 - propensity)) ** 0.5
    with pytest.raises(InputError, match="random share"):
        Design(active=True, random_share=0.1)


def test_shares_are_made_up_at_least() -> None:
    assert (owed(0.05, 36, 0), owed(0.05, 36, 2), owed(0.05, 36, 5), owed(0, 36, 0)) == (2, 0, 0, 0)
    for others in range(1, 300):
        more = owed(0.05, others, 0)
        assert more / (others + more) >= 0.05 > (more - 1) / (others + more - 1)


def test_a_design_is_kept_as_text_and_checked() -> None:
    design = Design(("flaws", "appeal"), 3, 5, True, 0.3, 0.1, 0.0, 5.0)
    assert Design.from_json(design.to_json()) == design
    assert (default_overlap(200), default_overlap(201)) == (None, 5)
    for wrong in ({"questions": ()}, {"votes_per_pair": 0}, {"repeats": 0.6}, {"lease_minutes": 0}):
        with pytest.raises(InputError):
            Design(**wrong)  # type: ignore[arg-type]


def test_samples_are_matched_by_prompt_and_seed(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", "basemodel", 3, 0.1, seeds=(0, 1))
    b = make_run(tmp_path / "b", "tunedmodel", 3, 0.9, seeds=(1, 2))
    c = make_run(tmp_path / "c", "other", 3, 0.5, seeds=(8, 9))
    shared = match_samples({"a": a.samples(), "b": b.samples()})
    assert [(m.a.seed, m.b.seed) for m in shared] == [(1, 1)] * 3
    by_order = match_samples({"a": a.samples(), "c": c.samples()})
    assert [(m.a.seed, m.b.seed) for m in by_order] == [(0, 8), (1, 9)] * 3
    assert len(match_samples({"a": a.samples(), "b": b.samples(), "c": c.samples()})) == 3 + 6 + 6
