"""``pixeval compare``: two arms, three arms, tags, families, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pixeval.cli import run as command
from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Choice, Prompt, Sample, Score, Vote
from pixeval.runs import Run
from pixeval.tables import write_records
from reports.compare import CompareConfig, compare, render

STRENGTH = {"base": 0.0, "step-000010": 0.4, "step-000020": 2.0}


def vote(number: int, rng: np.random.Generator, labels: list[str], prompts: int, simulated: bool) -> Vote:
    left, right = rng.permutation(labels)[:2].tolist()
    prompt = int(rng.integers(prompts))
    logit = STRENGTH[left] - STRENGTH[right]
    odds = np.array([np.exp(logit / 2), 0.5, np.exp(-logit / 2)])
    choices: tuple[Choice, ...] = ("left", "tie", "right")
    return Vote(
        id=f"v{number:05d}",
        annotator=f"ann{rng.integers(12)}",
        question=QUESTIONS[int(rng.integers(3))],
        prompt_id=f"p{prompt}",
        prompt=f"text {prompt}",
        left=f"{left}-{prompt}",
        right=f"{right}-{prompt}",
        left_label=left,
        right_label=right,
        choice=choices[int(rng.choice(3, p=odds / odds.sum()))],
        seconds=2.0,
        answered_at=f"2026-01-01T00:00:00.{number:06d}+00:00",
        simulated=simulated,
    )


def make_run(
    path: Path, votes: int = 1500, labels: tuple[str, ...] = tuple(STRENGTH), simulated: bool = False, seeds: int = 1
) -> Run:
    rng, prompts = np.random.default_rng(0), 30
    run = Run.create(path, "generate", {})
    samples = [
        Sample(
            f"{label}-{i}" + f"-{seed}" * bool(seed), label, f"p{i}", f"text {i}", seed, label, f"{label}-{i}.png", "0"
        )
        for label in STRENGTH
        for i in range(prompts)
        for seed in range(seeds)
    ]
    run.write_samples(samples)
    run.add_prompts([Prompt(f"p{i}", f"text {i}", tags=("people",) if i % 2 else ("objects",)) for i in range(prompts)])
    run.write_scores(
        [Score(s.id, "blur_flaw", 0.5 - 0.1 * STRENGTH[s.label] + rng.normal(0, 0.02), None, "f") for s in samples]
    )
    found = [vote(i, rng, list(labels), prompts, simulated) for i in range(votes)]
    write_records(run.path / "votes" / "study.parquet", found, Vote)
    return run


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("compare") / "run")


def test_three_arms_are_compared_and_ranked(study: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arms = [f"{study.path}:{label}" for label in STRENGTH]
    assert command(["compare", *arms, "--tags", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["candidate"] for c in found["comparisons"]] == ["step-000010", "step-000020"]
    tests = [test for c in found["comparisons"] for test in c["votes"]]
    assert len(tests) == 6 and all(test["family_size"] == 6 for test in tests)
    best = found["comparisons"][1]
    assert all(test["verdict"] == "better" and test["firm"] for test in best["votes"])
    assert all(test["fragility"]["votes_to_unclear"] > 1 for test in best["votes"])
    assert all(test["agreement"]["alpha"]["low"] is not None for test in tests)
    for one in found["rankings"]:
        models = one["ranking"]["models"]
        assert models[0]["label"] == "step-000020"
        assert (models[0]["best_rank"], models[0]["worst_rank"]) == (1, 1)
    assert {(test["question"], test["tag"]) for test in found["tags"]} == {
        (question, tag) for question in QUESTIONS for tag in ("people", "objects")
    }
    assert found["left_share"]["low"] < 0.5 < found["left_share"]["high"]
    assert not found["simulated"]
    (change,) = best["changes"]
    assert change["verdict"] == "better" and change["change"]["high"] < 0


def test_what_one_may_write(study: Run) -> None:
    found = compare(CompareConfig((f"{study.path}:base", f"{study.path}:step-000020")))
    claims = found["sentences"]
    assert claims[0].startswith(
        "Asked which image has fewer flaws, annotators preferred step-000020 to base: net win rate +"
    )
    assert "clustered by prompt and annotator" in claims[0] and "Holm-adjusted over 3 tests" in claims[0]
    assert claims[-1].startswith("blur_flaw fell from 0.4") and "(better)" in claims[-1]
    text = render(found)
    assert all(claim in text for claim in claims)
    assert "naive 95 %" in text and "simulated" not in text and "seeds make up" not in text


def test_seeds_are_a_part_of_the_noise(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", votes=20, seeds=4)
    found = compare(CompareConfig((f"{run.path}:base", f"{run.path}:step-000020")))
    (change,) = found["comparisons"][0]["changes"]
    noise = change["seed_noise"]
    assert (noise["prompts"], noise["images"]) == (30, 120)
    # The scores are drawn for each image alone (sd 0.02 on both sides), so prompts explain next to nothing.
    assert noise["seed_variance"] == pytest.approx(2 * 0.02**2, rel=0.3) and noise["icc"] < 0.2
    assert "seeds make up" in render(found)


def test_nothing_is_claimed_of_equal_arms_or_without_saying_who_answered(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", votes=60, labels=("base", "step-000010"), simulated=True)
    found = compare(CompareConfig((f"{run.path}:base", f"{run.path}:step-000010")))
    for claim in found["sentences"][:3]:
        assert "simulated annotators (not people)" in claim
        assert "no clear preference" in claim and "four times out of five" in claim


def test_families_change_what_is_adjusted_together(study: Run) -> None:
    arms = tuple(f"{study.path}:{label}" for label in STRENGTH)
    sizes = {}
    for family in ("all", "question", "comparison"):
        found = compare(CompareConfig(arms, family=family))  # type: ignore[arg-type]
        sizes[family] = {test["family_size"] for c in found["comparisons"] for test in c["votes"]}
    assert sizes == {"all": {6}, "question": {2}, "comparison": {3}}


def test_arms_that_were_never_compared_are_not_ranked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", votes=200, labels=("base", "step-000010"))
    unlinked = [replace(s, label=f"{s.label}-x", id=f"{s.id}-x") for s in run.samples()]
    run.write_samples([*run.samples(), *unlinked])
    pairs = [vote(5000 + i, np.random.default_rng(i), ["step-000010", "step-000020"], 30, False) for i in range(100)]
    away = [
        replace(
            v,
            left=f"{v.left}-x",
            right=f"{v.right}-x",
            left_label=f"{v.left_label}-x",
            right_label=f"{v.right_label}-x",
        )
        for v in pairs
    ]
    write_records(run.path / "votes" / "other.parquet", away, Vote)
    names = ("base", "step-000010", "step-000010-x", "step-000020-x")
    found = compare(CompareConfig(tuple(f"{run.path}:{name}" for name in names)))
    assert all("no vote compares" in one["problem"] for one in found["rankings"])
    assert "label a pair that links them" in render(found)


def test_refusals(study: Run) -> None:
    with pytest.raises(InputError, match="at least two"):
        compare(CompareConfig((str(study.path),)))
    with pytest.raises(InputError, match="same images"):
        compare(CompareConfig((f"{study.path}:base", f"{study.path}:base")))
    with pytest.raises(InputError, match="Did you mean 'step-000020'"):
        compare(CompareConfig((f"{study.path}:base", f"{study.path}:step-000021")))


def test_a_verb_without_its_arguments_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["compare"]) == 2
    assert "at least two sets of images" in capsys.readouterr().err
