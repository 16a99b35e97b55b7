"""``pixeval gate``: may this candidate replace the baseline? An exit code for CI, and a JUnit file."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional

from pixeval.catalog import CATALOG, find
from pixeval.errors import InputError, unknown_name
from reports.arms import Arm
from reports.files import finite, to_json, write_text
from reports.gate_rules import Outcome, Rule, RuleSet, judge_rule, read_rules
from reports.named_arms import open_arms, votes_between
from reports.score_table import ScoreTable, score_rows, score_table
from reports.tables import Incomparable, ScoreChange, score_changes
from reports.vote_test import VoteTest, vote_tests


@dataclass(frozen=True)
class GateConfig:
    """Judge a candidate by rules; exit code 0 when all hold, 1 when one does not, 2 for bad input."""

    candidate: Positional[str]
    """A run, or ``run:label`` for one of its labels (the last checkpoint by default)."""
    baseline: str
    """Written the same way, on the same prompts and seeds."""
    rule: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """As in "clip_score not worse by 1"; may be given several times. See docs/watching.md for the grammar."""
    rules: Path | None = None
    """A TOML file with ``rules = ["..."]``, and perhaps ``alpha`` and ``min_prompts``."""
    alpha: float = 0.025
    """One-sided level of each test; 0.025 goes with 95 % intervals."""
    min_prompts: int = 6
    """With fewer prompts nothing counts as shown."""
    junit: Path | None = None
    """Write the outcome as JUnit XML, one test case for each rule."""


def gate(config: GateConfig) -> dict[str, Any]:
    """Judge; ``passed`` and the ``outcomes`` as JSON-ready values.

    All rules must hold, and each is tested at its full level: an intersection-union test needs no correction.

    Raises:
        InputError: a bad rule, no such run or label, or a rule about something that was not scored or voted on.
    """
    rules = read_rules(config.rule, config.rules, config.alpha, config.min_prompts)
    runs, (base, candidate) = open_arms([config.baseline, config.candidate])
    scored = score_table([score_rows(run) for run in runs])
    changes, left_out = score_changes(base, candidate, scored, {spec.name: spec for spec in CATALOG}, {})
    results = vote_tests(votes_between(runs, [base, candidate]), [(base.name, candidate.name)])
    outcomes = [
        outcome
        for rule in rules.rules
        for outcome in (
            [_vote_outcome(rule, results, rules)]
            if rule.kind == "votes"
            else _score_outcomes(rule, changes, left_out, scored, base, rules)
        )
    ]
    found: dict[str, Any] = finite(
        {
            "passed": all(outcome.passed for outcome in outcomes),
            "baseline": base.name,
            "candidate": candidate.name,
            "simulated": any(r.rates.simulated for r in results) and any(r.kind == "votes" for r in rules.rules),
            "alpha": rules.alpha,
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }
    )
    if config.junit is not None:
        config.junit.parent.mkdir(parents=True, exist_ok=True)
        write_text(config.junit, junit_xml(found))
    return found


def _vote_outcome(rule: Rule, results: Sequence[VoteTest], rules: RuleSet) -> Outcome:
    result = next((r for r in results if r.question == rule.name), None)
    if result is None:
        raise InputError(
            f"{rule.text!r}: nobody has compared the two on {rule.name}; collect votes with 'pixeval label', "
            "or leave the rule out"
        )
    margin = rule.margin / 100 if rule.unit == "%" else rule.margin
    subject = f"votes:{rule.name}" + (" (simulated)" if result.rates.simulated else "")
    return judge_rule(rule, subject, result.rates.net, True, result.rates.prompts, margin, rules)


def _score_outcomes(
    rule: Rule,
    changes: Sequence[ScoreChange],
    left_out: Sequence[Incomparable],
    scored: ScoreTable,
    base: Arm,
    rules: RuleSet,
) -> list[Outcome]:
    wanted = [c for c in changes if (c.family if rule.kind == "family" else c.metric) == rule.name]
    if not wanted:
        raise _nothing(rule, left_out, scored)
    found = []
    for change in wanted:
        if change.higher_is_better is None:
            raise InputError(
                f"{rule.text!r}: the catalogue does not know {change.metric}, so which direction is good is not known"
            )
        margin = _in_units(rule, change, scored, base)
        found.append(
            judge_rule(rule, change.metric, change.change, change.higher_is_better, change.prompts, margin, rules)
        )
    return found


def _nothing(rule: Rule, left_out: Sequence[Incomparable], scored: ScoreTable) -> InputError:
    reason = next((item.reason for item in left_out if item.metric == rule.name), None)
    if reason is not None:
        return InputError(f"{rule.text!r} cannot be judged: {reason}")
    if rule.kind == "metric" and rule.name not in scored.row:
        try:
            find(rule.name)
        except InputError:
            return unknown_name("metric", rule.name, {*scored.metrics, *(spec.name for spec in CATALOG)})
    return InputError(f"{rule.text!r} cannot be judged: neither run was scored with {rule.name}; use 'pixeval score'")


def _in_units(rule: Rule, change: ScoreChange, scored: ScoreTable, base: Arm) -> float:
    if rule.unit == "%":
        return rule.margin / 100 * abs(change.baseline_mean)
    if rule.unit == "sd":
        values = scored.values_at(scored.columns(base.samples))[scored.row[change.metric]]
        values = values[np.isfinite(values)]
        return rule.margin * float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return rule.margin


def status(result: Mapping[str, Any]) -> int:
    """The exit code."""
    return 0 if result["passed"] else 1


def render(result: Mapping[str, Any]) -> str:
    """The outcome as text for a terminal."""
    lines = [f"{result['candidate']} against {result['baseline']}"]
    if result["simulated"]:
        lines.append("The votes come from simulated annotators.")
    for outcome in result["outcomes"]:
        mark = "pass" if outcome["passed"] else "FAIL"
        about = "" if outcome["subject"] == outcome["rule"].split()[0] else f" [{outcome['subject']}]"
        lines.append(f"{mark}  {outcome['rule']}{about}: {outcome['said']}; {outcome['prompts']} prompts")
    failed = sum(not outcome["passed"] for outcome in result["outcomes"])
    lines.append("all rules hold" if not failed else f"{failed} of {len(result['outcomes'])} not shown to hold")
    return "\n".join(lines)


def junit_xml(result: Mapping[str, Any]) -> str:
    """The outcome as JUnit XML; characters that XML does not allow are replaced."""
    outcomes = result["outcomes"]
    failures = sum(not outcome["passed"] for outcome in outcomes)
    name = xml_text(f"{result['candidate']} against {result['baseline']}")
    counts = {"tests": str(len(outcomes)), "failures": str(failures), "errors": "0"}
    suites = ET.Element("testsuites", {"name": "pixeval gate", **counts})
    suite = ET.SubElement(suites, "testsuite", {"name": name, **counts, "skipped": "0"})
    for outcome in outcomes:
        title = (
            outcome["rule"] if outcome["subject"] in outcome["rule"] else f"{outcome['rule']} [{outcome['subject']}]"
        )
        case = ET.SubElement(suite, "testcase", {"classname": "pixeval.gate", "name": xml_text(title)})
        said = xml_text(outcome["said"])
        if not outcome["passed"]:
            failure = ET.SubElement(case, "failure", {"type": "rule", "message": said})
            failure.text = xml_text(to_json(outcome))
        ET.SubElement(case, "system-out").text = said
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def xml_text(text: str) -> str:
    """Without the characters that no XML may hold."""

    def allowed(c: str) -> bool:
        return c in "\t\n" or "\x20" <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000"

    return "".join(c if allowed(c) else "\ufffd" for c in text)
