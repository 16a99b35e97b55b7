"""Planning a study, and stopping it by a rule said beforehand."""

import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from lead_study import LeadStudy, always_left, careful

from human_eval_app.accounts import enrolment_token
from human_eval_app.exclusion import ExclusionRule, declare_exclusion, declared_exclusion
from human_eval_app.judged import judged_pairs
from human_eval_app.overview import overview
from human_eval_app.planner import PlanStudyConfig, expected_effect, plan_study, render
from human_eval_app.projects import find_project, set_state
from human_eval_app.schedule import Design
from human_eval_app.stopping import StoppingRule, declare, declared, fit_rule, look, take_look
from human_eval_app.tally import standing_votes
from human_eval_app.ui import create_app
from human_eval_app.watch import Watch
from pixeval.errors import InputError
from pixeval.stats.power import Design as Size
from pixeval.stats.power import power
from pixeval.stats.vote_table import VoteTable


def test_a_plan_reaches_its_power_and_costs_its_hours() -> None:
    config = PlanStudyConfig(decisive=0.6, ties=0.2, votes=(3,), annotators=(20,), questions=2, seconds=9.0, extra=0.1)
    effect = expected_effect(config)
    assert effect.net == pytest.approx(0.16)
    [plan] = plan_study(config)["plans"]
    assert power(Size(plan["prompts"], 3, 20), effect) >= 0.8 > power(Size(plan["prompts"] - 1, 3, 20), effect)
    assert plan["answers"] == round(plan["prompts"] * 3 * 2 / 0.9)
    assert plan["hours"] == pytest.approx(plan["answers"] * 9 / 3600) and plan["hours_each"] == plan["hours"] / 20
    # An effect that a study is made to find in four of five cases is 2.8 standard errors wide, the interval about 2.
    assert 0.6 * effect.net < plan["half_width"] < 0.8 * effect.net


def test_agreement_more_than_chance_asks_for_more_prompts() -> None:
    def prompts(**changes: object) -> int:
        base = {"decisive": 0.6, "votes": (5,), "annotators": (20,)}
        return int(plan_study(PlanStudyConfig(**{**base, **changes}))["plans"][0]["prompts"])  # type: ignore[arg-type]

    assert prompts(agreement=0.4) < prompts(agreement=0.6) < prompts(agreement=0.8)
    assert prompts(annotator_icc=0.0) < prompts(annotator_icc=0.02)
    fixed = plan_study(PlanStudyConfig(decisive=0.55, prompts=300, votes=(5,), annotators=(20,)))["plans"][0]
    assert fixed["prompts"] == 300 and fixed["power"] < 0.8 and fixed["detectable"] > 0.08


def test_a_plan_that_no_number_of_prompts_makes_is_said() -> None:
    result = plan_study(PlanStudyConfig(decisive=0.51, annotators=(5,), annotator_icc=0.1))
    assert result["plans"] == [] and "ask more people" in render(result)
    assert "280" not in render(result)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decisive": 0.4}, "--decisive must be above 0.5"),
        ({"decisive": 0.6, "net": 0.1}, "not both"),
        ({"agreement": 0.5, "prompt_icc": 0.2}, "not both"),
        ({"agreement": 1.5}, r"within \[0, 1\]"),
        ({"net": 0.9, "ties": 0.5}, "impossible"),
        ({"power": 1.0}, "--power"),
        ({"seconds": 0.0}, "--seconds"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan_study(PlanStudyConfig(**changes))  # type: ignore[arg-type]


def test_a_pilot_tells_what_to_expect(tmp_path: Path) -> None:
    from human_eval_app.export import export_votes

    study = LeadStudy(tmp_path, Design(questions=("flaws",), repeats=0.0, gold=0.0))
    for name in ("anna", "bert", "carl"):
        study.answer(name, careful)
    export_votes(study.store, study.runs[0])
    effect = expected_effect(PlanStudyConfig(pilot=(study.runs[0],)))
    assert 0.4 < effect.net < 0.9 and 0 < effect.ties < 0.3
    with pytest.raises(InputError, match="compare 0 models"):
        expected_effect(PlanStudyConfig(pilot=(study.runs[0],), pilot_question="appeal"))


# ---- stopping --------------------------------------------------------------------------------------------------------


def test_votes_from_the_database_are_those_of_records(database: str, tmp_path: Path) -> None:
    study = LeadStudy(tmp_path, prompts=8, place=database)
    study.answer("anna", careful)
    study.answer("bert", always_left, most=10)
    with study.store.read() as connection:
        straight = standing_votes(connection, study.project.id)
        flaws = standing_votes(connection, study.project.id, "flaws")
        seen = overview(connection, study.store.secret, study.project)
        contested = judged_pairs(connection, study.store.secret, study.project, "flaws")
    by_records = VoteTable.of(study.store.votes())
    for table in (straight, by_records):
        assert table.prompts and table.annotators
    for name in ("prompt", "annotator"):
        words = [
            [getattr(table, name + "s")[code] for code in getattr(table, name)] for table in (straight, by_records)
        ]
        assert words[0] == words[1]
    for name, value in vars(by_records).items():
        if name in ("prompts", "prompt", "annotators", "annotator"):
            continue  # their codes may differ
        assert (
            (getattr(straight, name) == value) if isinstance(value, tuple) else (getattr(straight, name) == value).all()
        )
    assert seen.done == len(straight) == len(by_records) > len(flaws) > 0
    assert len(seen.comparisons) == 3 and contested
    study.store.close()


def test_a_fixed_rule_pauses_at_its_number_of_votes_and_not_before(database: str, tmp_path: Path) -> None:
    study = LeadStudy(tmp_path, Design(questions=("flaws",), repeats=0.2, gold=0.0), place=database)
    rule = StoppingRule("fixed", votes=20)
    with study.store.write() as connection:
        assert declare(connection, study.project, rule).labels == ("basemodel", "tunedmodel")
    watch = Watch(study.store, pause=0.0)
    # Repeats do not count: of 24 answers 20 are about work.
    study.answer("anna", careful, most=19)
    assert not watch.look(study.project.id)
    study.answer("anna", careful)
    assert watch.look(study.project.id) and not watch.look(study.project.id)
    with study.store.read() as connection:
        paused, kept = find_project(connection, study.project.id), declared(connection, study.project.id)
    assert paused is not None and paused.state == "paused"
    assert kept is not None and kept.outcome is not None and kept.reached_at is not None
    assert kept.outcome.stop and kept.outcome.votes == 20
    # A lead who opens it again is not stopped a second time, and the record stays.
    with study.store.write() as connection:
        set_state(connection, study.project.id, "open")
    assert not watch.look(study.project.id)
    study.store.close()


def test_a_sequence_decides_for_the_better_and_not_between_equals(tmp_path: Path) -> None:
    study = LeadStudy(tmp_path, Design(questions=("flaws",), repeats=0.0, gold=0.0), prompts=60)
    rule = StoppingRule("sequence", votes=1000, votes_per_prompt=1)
    with study.store.write() as connection:
        declare(connection, study.project, rule)
    study.answer("lefty", always_left)
    with study.store.read() as connection:
        even = take_look(connection, study.project)
    assert even is not None and not even.stop and even.low is not None and even.low < 0 < (even.high or 0)
    better = LeadStudy(tmp_path / "b", Design(questions=("flaws",), repeats=0.0, gold=0.0), prompts=60)
    better.answer("anna", careful)
    with better.store.read() as connection:
        seen = look(
            StoppingRule("sequence", 1000, labels=("basemodel", "tunedmodel"), votes_per_prompt=1),
            standing_votes(connection, better.project.id),
        )
    assert seen.stop and seen.low is not None and seen.low > 0 and "tunedmodel is preferred" in seen.why
    # One person alone decides nothing unless the rule says so.
    usual = fit_rule(StoppingRule("sequence", 1000), ("basemodel", "tunedmodel"), better.project.design)
    with better.store.read() as connection:
        alone = look(usual, standing_votes(connection, better.project.id))
    assert usual.votes_per_prompt == 3 and not alone.stop and alone.low is None
    overlap = Design(questions=("flaws",), votes_per_pair=5)
    assert fit_rule(StoppingRule("sequence", 1000), ("basemodel", "tunedmodel"), overlap).votes_per_prompt == 5
    assert seen.votes == 60 and seen.wanted == 1000


def test_rules_are_declared_before_the_first_answer_and_stay(tmp_path: Path) -> None:
    study = LeadStudy(tmp_path)
    rule, other = StoppingRule("fixed", votes=20), StoppingRule("fixed", votes=10)
    leave_out = ExclusionRule(gold_below=0.7)
    with study.store.write() as connection:
        declare(connection, study.project, other)
        declare(connection, study.project, rule)
        declare_exclusion(connection, study.project, leave_out)
    study.answer("anna", careful, most=1)
    with study.store.write() as connection:
        declare(connection, study.project, rule)
        declare_exclusion(connection, study.project, leave_out)
        assert declared_exclusion(connection, study.project.id) == leave_out
        with pytest.raises(InputError, match="declared before the first"):
            declare(connection, study.project, other)
        with pytest.raises(InputError, match="declared before the first"):
            declare_exclusion(connection, study.project, ExclusionRule(gold_below=0.9))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (StoppingRule("fixed", 5, "alignment"), "is not asked"),
        (StoppingRule("fixed", 5, labels=("basemodel", "nobody")), "'nobody' is not compared"),
        (StoppingRule("sequence", 5), "random order"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rule: StoppingRule, words: str, tmp_path: Path) -> None:
    study = LeadStudy(tmp_path, Design(questions=("flaws",), active=True, votes_per_pair=2), prompts=2)
    with study.store.write() as connection, pytest.raises(InputError, match=words):
        declare(connection, study.project, rule)


def test_the_last_vote_is_looked_at_without_another(tmp_path: Path) -> None:
    study = LeadStudy(tmp_path, Design(questions=("flaws",), repeats=0.0, gold=0.0), prompts=4)
    with study.store.write() as connection:
        declare(connection, study.project, StoppingRule("fixed", votes=4))
    watch = Watch(study.store, pause=0.2)
    study.answer("anna", careful, most=3)
    watch.voted(study.project.id)
    study.answer("anna", careful)
    watch.voted(study.project.id)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with study.store.read() as connection:
            found = find_project(connection, study.project.id)
        if found is not None and found.state == "paused":
            return
        time.sleep(0.05)
    raise AssertionError("nobody looked")


def test_a_vote_by_http_that_reaches_the_rule_pauses_the_study_for_everybody(tmp_path: Path) -> None:
    study = LeadStudy(tmp_path, Design(questions=("flaws",), repeats=0.0, gold=0.0), prompts=3)
    with study.store.write() as connection:
        declare(connection, study.project, StoppingRule("fixed", votes=1))
    client = TestClient(create_app(study.store))
    token = enrolment_token(study.store.secret, study.project)
    client.headers["X-CSRF-Token"] = client.post("/api/join", json={"token": token, "name": "anna"}).json()["csrf"]
    path = f"/api/project/{study.project.id}"
    item = client.post(f"{path}/begin").json()["queue"][0]
    ballot = {"assignment": item["assignment"], "revision": 0, "choice": "left", "seconds": 2.0}
    reply = client.post(f"{path}/vote", json=ballot).json()
    assert reply["stored"]
    deadline = time.monotonic() + 10
    while client.get(f"{path}/next").json()["phase"] != "paused" and time.monotonic() < deadline:
        time.sleep(0.05)
    # Annotators learn that it is paused, and nothing of the rule or of what it saw.
    now = client.get(f"{path}/next").json()
    assert now["phase"] == "paused" and now["queue"] == [] and set(now) == set(reply) - {"stored", "feedback"}
    assert client.post(f"{path}/vote", json=ballot).status_code == 409
