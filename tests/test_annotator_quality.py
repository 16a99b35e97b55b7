"""Figures of single annotators, against hand counts, simulated people and crowd-kit."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from lead_study import LeadStudy, always_left, careful

from human_eval_app.exclusion import ExclusionRule, excluded, results, without
from human_eval_app.quality import (
    agreement_with_others,
    annotator_quality,
    gold_pass_rate,
    longest_run,
    repeat_consistency,
)
from human_eval_app.reliability import dawid_skene
from pixeval.errors import InputError
from pixeval.records import Choice, Purpose, Vote
from pixeval.stats.vote_table import VoteTable
from pixeval.stats.win_rates import win_rates


def vote(pair: int, choice: Choice, annotator: str = "anna", purpose: Purpose = "work", swapped: bool = False) -> Vote:
    left, right = (f"b{pair}", f"a{pair}") if swapped else (f"a{pair}", f"b{pair}")
    return Vote(
        id=f"{annotator}-{pair}-{purpose}",
        annotator=annotator,
        question="flaws",
        prompt_id=f"p{pair}",
        prompt="a thing",
        left=left,
        right=right,
        left_label=left[0],
        right_label=right[0],
        choice=choice,
        seconds=4.0,
        answered_at="2026-01-01T00:00:00.000+00:00",
        purpose=purpose,
    )


def test_gold_is_passed_by_the_known_answer_on_whichever_side() -> None:
    known = {(("a0", "b0"), "flaws"): "a0", (("a1", "b1"), "flaws"): "a1", (("a2", "b2"), "flaws"): "tie"}
    votes = [vote(0, "left", purpose="gold"), vote(1, "left", purpose="gold", swapped=True)]
    votes += [vote(2, "both_bad", purpose="gold"), vote(3, "left", purpose="gold"), vote(0, "right")]
    passed = gold_pass_rate(votes, known)
    assert passed is not None and passed.n == 3 and passed.value == pytest.approx(2 / 3)
    assert passed.low is not None and passed.low > 0.2
    assert gold_pass_rate(votes[4:], known) is None


def test_repeats_are_the_same_when_the_image_is_and_never_when_the_side_is() -> None:
    same = [vote(0, "left"), vote(0, "right", purpose="repeat", swapped=True)]
    side = [vote(1, "left"), vote(1, "left", purpose="repeat", swapped=True)]
    tied = [vote(2, "tie"), vote(2, "tie", purpose="repeat", swapped=True), vote(3, "left", purpose="repeat")]
    found = repeat_consistency([*same, *side, *tied])
    assert found is not None and (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert repeat_consistency(same[:1]) is None


def test_agreement_is_with_the_majority_of_the_others_only() -> None:
    votes = [vote(0, "left", "anna"), vote(0, "right", "bert", swapped=True), vote(0, "right", "carl")]
    found = agreement_with_others(votes)
    # Without carl both say a; without anna (or bert) the others are one and one.
    assert set(found) == {"carl"} and found["carl"].value == 0 and found["carl"].n == 1
    assert agreement_with_others(votes[:2]) == {}


def test_runs_and_their_chance() -> None:
    shares = {"left": 0.5, "right": 0.5}
    votes = [vote(i, "left" if i in (3, 4, 5) else "right" if i % 2 else "tie") for i in range(8)]
    assert longest_run(votes, shares) == (3, 8 / 8)
    run, chance = longest_run([vote(i, "left") for i in range(40)], shares)
    assert run == 40 and chance == pytest.approx(40 * 0.5**40)
    assert longest_run([], {}) == (0, 1.0)


def test_dawid_and_skene_as_crowd_kit_has_it() -> None:
    """crowd-kit 1.4.2, DawidSkene(n_iter=2000, tol=-1e9) on the same answers."""
    rng = random.Random(7)
    skill = {"a": 0.9, "b": 0.75, "c": 0.6, "d": 0.34, "e": 0.8}
    rows: list[tuple[int, str, str]] = []
    for i in range(120):
        truth = rng.choice(["first", "second", "tie"])
        for who, p in skill.items():
            if rng.random() < 0.8:
                rows.append((i, who, truth if rng.random() < p else rng.choice(["first", "second", "tie"])))
    found = dawid_skene(rows, rounds=2000, tolerance=1e-12)
    prior = dict(zip(found.labels, found.prior.tolist(), strict=True))
    assert prior == pytest.approx({"first": 0.313176, "second": 0.382135, "tie": 0.30469}, abs=2e-6)
    d = found.confusion[found.annotators.index("d")]
    place = {label: found.labels.index(label) for label in found.labels}
    golden = {
        "first": {"first": 0.749757, "second": 0.22752, "tie": 0.256419},
        "second": {"first": 0.0, "second": 0.643888, "tie": 0.128641},
        "tie": {"first": 0.250243, "second": 0.128592, "tie": 0.61494},
    }
    for given, by_truth in golden.items():
        for truth, p in by_truth.items():
            assert d[place[truth], place[given]] == pytest.approx(p, abs=2e-6)
    assert found.posterior[0].tolist() == pytest.approx([0.925143, 0.074857, 0.0], abs=2e-6)
    ranked = sorted(found.accuracy, key=lambda who: -found.accuracy[who])
    assert ranked[0] == "a" and ranked[-1] == "d"
    with pytest.raises(InputError, match="no answers"):
        dawid_skene([])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> LeadStudy:
    study = LeadStudy(tmp_path_factory.mktemp("quality"))
    for name in ("anna", "bert", "carl"):
        study.answer(name, careful)
    study.answer("lefty", always_left, seconds=0.8)
    return study


def test_who_always_answers_left_is_flagged_and_wins_nobody_anything(study: LeadStudy) -> None:
    votes = study.store.votes()
    people = {one.annotator: one for one in annotator_quality(votes)}
    lefty = people.pop("lefty")
    assert any("side bias: left in 100%" in flag for flag in lefty.flags)
    assert any("times in a row" in flag for flag in lefty.flags) and any("0.8 s" in flag for flag in lefty.flags)
    assert lefty.repeats is not None and lefty.repeats.value == 0 and lefty.repeats.n >= 12
    assert lefty.beyond_chance is not None and lefty.beyond_chance < 0.1
    for other in people.values():
        assert other.flags == () and other.repeats is not None and other.repeats.value > 0.5
        assert other.agreement is not None and other.agreement.value > lefty.agreement.value  # type: ignore[union-attr]
        assert other.accuracy is not None and lefty.accuracy is not None and other.accuracy > lefty.accuracy
    own = [one for one in votes if one.annotator == "lefty"]
    for question in ("flaws", "appeal", "alignment"):
        assert win_rates(own, "tunedmodel", "basemodel", question).win_rate.value == 0.5


def test_results_come_with_and_without_whom_the_declared_rule_excludes(study: LeadStudy) -> None:
    votes = study.store.votes()
    people = annotator_quality(votes)
    rule = ExclusionRule(repeats_below=0.3, side_above=0.9, fewest=10)
    left_out = excluded(rule, people)
    assert set(left_out) == {"lefty"} and "repeats the same: 0%" in left_out["lefty"]
    assert excluded(ExclusionRule(), people) == {} and not ExclusionRule().excludes
    # A figure from too few observations judges nobody.
    assert excluded(replace(rule, fewest=1000), people) == {}
    table = VoteTable.of(votes)
    [flaws] = [one for one in results(table, left_out) if one.rates.question == "flaws"]
    assert flaws.without is not None and flaws.without.annotators == 3 and flaws.rates.annotators == 4
    assert flaws.without.net.value > flaws.rates.net.value
    assert flaws.without.net.value == pytest.approx(
        win_rates(without(table, left_out), "tunedmodel", "basemodel", "flaws").net.value
    )
    assert flaws.leave_one_out is not None
    assert (
        flaws.leave_one_out[0]
        < flaws.rates.net.value
        < flaws.leave_one_out[1]
        == pytest.approx(flaws.without.net.value)
    )
    assert all(one.without is None for one in results(table))


@pytest.mark.parametrize("bad", [{"gold_below": 1.5}, {"side_above": 0.4}, {"fewest": 0}, {"seconds_below": 0.0}])
def test_rules_of_exclusion_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="exclusion rule"):
        ExclusionRule(**bad)  # type: ignore[arg-type]


def test_nobody_is_flagged_when_everybody_is_careful(tmp_path: Path) -> None:
    study = LeadStudy(tmp_path)
    for i in range(8):
        study.answer(f"person {i}", careful)
    assert [one.flags for one in annotator_quality(study.store.votes())] == [()] * 8
