"""The gate: rules are read strictly, judged by one-sided tests, and told as exit code, text and JUnit XML."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from report_study import FLAW, make_run

from pixeval.catalog import CATALOG
from pixeval.cli import VERBS
from pixeval.cli import run as pixeval
from pixeval.errors import InputError
from pixeval.runs import Run
from pixeval.stats.bootstrap import paired_interval
from pixeval.stats.interval import Interval
from reports.gate import GateConfig, gate, junit_xml, render, status
from reports.gate_rules import RuleSet, judge_rule, parse_rule, read_rules


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("gate") / "tuned")


def judged(run: Run, *rules: str, **options: object) -> dict:
    return gate(GateConfig(f"{run.path}:step-000060", f"{run.path}:base", rules, **options))  # type: ignore[arg-type]


def test_rules_that_hold_pass_and_others_fail(made: Run) -> None:
    good = judged(made, f"{FLAW} improves", f"{FLAW} not worse by 0.01", "votes:flaws not worse by 10 %")
    assert status(good) == 0
    assert [o["passed"] for o in good["outcomes"]] == [True] * 3
    bad = judged(made, f"{FLAW} improves", "clip_score not worse by 0.0001")
    assert status(bad) == 1
    assert [o["passed"] for o in bad["outcomes"]] == [True, False]
    assert "FAIL  clip_score not worse by 0.0001" in render(bad)
    assert "simulated annotators" in render(good)
    assert "simulated annotators" not in render(bad), "no rule is about votes"


def test_margins_are_in_the_units_that_they_say(made: Run) -> None:
    plain, sd, share = judged(
        made, "clip_score not worse by 0.001", "clip_score not worse by 0.5 sd", "clip_score not worse by 2 %"
    )["outcomes"]
    own = {s.id for s in made.samples() if s.label == "base"}
    values = [s.value for s in made.scores() if s.metric == "clip_score" and s.sample_id in own and s.value is not None]
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    assert plain["margin"] == 0.001
    assert sd["margin"] == pytest.approx(0.5 * deviation)
    assert share["margin"] == pytest.approx(0.02 * mean, rel=0.02)  # over pairs: one image could not be scored


def test_a_family_is_judged_metric_by_metric_and_unknown_directions_are_refused(made: Run) -> None:
    outcomes = judged(made, "family:flaws improves")["outcomes"]
    assert [o["subject"] for o in outcomes] == [FLAW]
    with pytest.raises(InputError, match="which direction is good is not known"):
        judged(made, "my_own_metric improves")


def test_too_few_prompts_show_nothing(made: Run) -> None:
    (outcome,) = judged(made, f"{FLAW} improves", min_prompts=13)["outcomes"]
    assert not outcome["passed"]
    assert "12 prompts are too few" in outcome["said"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("clip_score", "is no rule"),
        ("clip_score improves a lot", "is no rule"),
        ("clip_score improves by -1", "is no rule"),
        ("clip_score not worse by 0", "needs a margin above 0"),
        ("clip_score not worse", "needs a margin above 0"),
        ("clip_score not worse by 1..2", "is no number"),
        ("clip_score not worse by 1e999", "must be finite"),
        ("votes:flws improves", "Did you mean 'flaws'"),
        ("votes:flaws not worse by 1 sd", "no standard deviation"),
        ("family:flaw improves", "Did you mean 'flaws'"),
        ("family:flaws not worse by 1", "give the margin in sd"),
        ("metrics:x improves", "is no subject"),
        ("clip_scor improves", "Did you mean 'clip_score'"),
        ("niqe improves", "neither run was scored with niqe"),
    ],
)
def test_bad_rules_say_what_is_wrong(made: Run, rule: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judged(made, rule)


@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except InputError:
        return
    assert rule.margin >= 0


def test_rules_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    rules = 'rules = ["clip_score improves", "votes:appeal not worse by 0.1"]'
    file.write_text(f"{rules}\nalpha = 0.01\nmin_prompts = 20\n")
    found = read_rules(["blur_flaw improves"], file, 0.025, 6)
    assert [rule.name for rule in found.rules] == ["blur_flaw", "clip_score", "appeal"]
    assert (found.alpha, found.min_prompts) == (0.01, 20)
    for text, message in (
        ("rulez = []", "known are rules"),
        ("rules = 3", "must be a list of texts"),
        ('rules = ["a improves"]\nalpha = 2', "alpha is 2"),
        ("rules = [", "cannot be read as TOML"),
        ("", "no rule to judge by"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read_rules([], file, 0.025, 6)


def test_the_test_has_its_level_at_the_margin() -> None:
    """At a true loss of exactly the margin, non-inferiority is claimed in about alpha of all cases, never in many."""
    import numpy as np

    rules = RuleSet((), 0.025, 6)
    rule = parse_rule("m not worse by 0.5")
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(400):
        change = paired_interval((rng.normal(-0.5, 1, 30)).tolist(), [0.0] * 30)
        passed += judge_rule(rule, "m", change, True, 30, 0.5, rules).passed
    assert passed / 400 < 0.05


def test_a_change_without_spread_is_judged_as_it_is() -> None:
    rules = RuleSet((), 0.025, 6)
    nothing = Interval(0.0, 0.0, 0.0, 10, 0.0, 9.0)
    assert judge_rule(parse_rule("m not worse by 1"), "m", nothing, False, 10, 1.0, rules).passed
    assert not judge_rule(parse_rule("m improves"), "m", nothing, False, 10, 0.0, rules).passed
    # a margin in sd of images that do not vary is nothing: what stays the same passes, what gets worse does not
    assert judge_rule(parse_rule("m not worse by 1 sd"), "m", nothing, False, 10, 0.0, rules).passed
    worse = Interval(0.1, 0.02, 0.2, 10, 0.04, 9.0)
    assert not judge_rule(parse_rule("m not worse by 1 sd"), "m", worse, False, 10, 0.0, rules).passed


def test_junit_is_xml_whatever_the_names_hold(made: Run, tmp_path: Path) -> None:
    result = judged(made, f"{FLAW} improves", "clip_score not worse by 0.0001", junit=tmp_path / "out" / "gate.xml")
    suite = ET.fromstring((tmp_path / "out" / "gate.xml").read_text(encoding="utf-8"))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    cases = suite.findall(".//testcase")
    assert [case.get("name") for case in cases] == [f"{FLAW} improves", "clip_score not worse by 0.0001"]
    assert [len(case.findall("failure")) for case in cases] == [0, 1]
    hostile = {**result, "candidate": 'a\x00<b>&"\ud800]]>'}
    assert ET.fromstring(junit_xml(hostile)).find("testsuite") is not None


def test_exit_codes_of_the_command(made: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gate", f"{made.path}:step-000060", "--baseline", f"{made.path}:base"]
    assert pixeval([*words, "--rule", f"{FLAW} improves", "--rule", f"{FLAW} not worse by 0.1"]) == 0
    assert capsys.readouterr().out.endswith("all rules hold\n")
    assert pixeval([*words, "--rule", "clip_score improves"]) == 1
    assert pixeval([*words, "--rule", "clip_score wins"]) == 2
    assert pixeval([*words]) == 2
    base = f"{made.path}:base"
    assert pixeval(["gate", base, "--baseline", base, "--rule", "clip_score improves"]) == 2
    errors = capsys.readouterr().err
    assert "is no rule" in errors
    assert "same images" in errors


def test_votes_that_are_missing_are_bad_input(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", prompts=6, with_votes=False)
    with pytest.raises(InputError, match="nobody has compared the two on appeal"):
        judged(run, "votes:appeal improves")
    run.write_scores([replace(s, fingerprint=s.fingerprint + s.sample_id[:1]) for s in run.scores()])
    with pytest.raises(InputError, match="different versions"):
        judged(run, f"{FLAW} improves")


def test_the_example_for_github_actions_holds_together() -> None:
    folder = Path(__file__).parents[1] / "examples" / "github-actions"
    rules = read_rules([], folder / "gate.toml", 0.025, 6).rules
    known = {spec.name for spec in CATALOG}
    assert [rule.name for rule in rules if rule.kind == "metric" and rule.name not in known] == []
    steps = yaml.safe_load((folder / "gate.yml").read_text(encoding="utf-8"))["jobs"]["gate"]["steps"]
    verbs = [line["run"].split()[1] for line in steps if line.get("run", "").startswith("pixeval ")]
    assert verbs == ["generate", "score", "gate"]
    assert set(verbs) <= set(VERBS)
