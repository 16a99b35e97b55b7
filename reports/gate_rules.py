"""What a candidate has to show: a small grammar of rules, each tested by a one-sided test. Pure.

::

    rule    = subject check
    subject = METRIC | family:FAMILY | votes:QUESTION
    check   = "improves" [ "by" margin ] | "not worse by" margin
    margin  = NUMBER [ "sd" | "%" ]

A plain margin is in the metric's own units, ``sd`` counts standard deviations of the baseline's images, ``%`` is per
cent of the baseline's mean. For votes the margin is a net win rate, a share of 1 or in ``%``.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pixeval.errors import InputError, unknown_name
from pixeval.metric_spec import FAMILIES
from pixeval.records import QUESTIONS
from pixeval.stats.equivalence import MarginTest, non_inferior, superior
from pixeval.stats.interval import Interval

Kind = Literal["metric", "family", "votes"]
Check = Literal["improves", "not worse"]
Unit = Literal["", "sd", "%"]

RULE = re.compile(
    r"\s*(?P<subject>\S+)\s+(?P<check>improves|not\s+worse)"
    r"(?:\s+by\s+(?P<margin>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>sd|%)?)?\s*"
)
EXAMPLES = (
    "'clip_score not worse by 1', 'blur_flaw improves', 'family:flaws not worse by 0.2 sd', 'votes:appeal improves'"
)
KEYS = ("rules", "alpha", "min_prompts")


@dataclass(frozen=True)
class Rule:
    """One rule."""

    text: str
    kind: Kind
    name: str
    """Of the metric, family or question."""
    check: Check
    margin: float
    """Non-negative; positive for ``not worse``."""
    unit: Unit


@dataclass(frozen=True)
class RuleSet:
    """Rules, all of which must hold, and how strictly they are tested."""

    rules: tuple[Rule, ...]
    alpha: float
    """One-sided level of each test; 0.025 goes with 95 % intervals."""
    min_prompts: int
    """With fewer prompts nothing counts as shown."""


def parse_rule(text: str) -> Rule:
    """A rule from its text.

    Raises:
        InputError: it is none; says what is wrong and shows the grammar by examples.
    """
    match = RULE.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is no rule. Write a subject and what it must do, as in {EXAMPLES}.")
    subject, check = match["subject"], " ".join(match["check"].split())
    prefix, colon, name = subject.partition(":")
    if not colon:
        kind, name = "metric", subject
    elif prefix in get_args(Kind) and name:
        kind = prefix
    else:
        raise InputError(f"{subject!r} in {text!r} is no subject; write METRIC, family:FAMILY or votes:QUESTION.")
    if kind == "votes" and name not in QUESTIONS:
        raise unknown_name("question", name, QUESTIONS)
    if kind == "family" and name not in FAMILIES:
        raise unknown_name("family", name, FAMILIES)
    unit = match["unit"] or ""
    margin = _margin(match["margin"], text)
    if check == "not worse" and margin == 0:
        raise InputError(
            f"{text!r} needs a margin above 0, as in 'not worse by 1': that nothing at all was lost cannot be shown."
        )
    if kind == "votes" and unit == "sd":
        raise InputError(f"{text!r}: net win rates have no standard deviation of images; write a share or per cent.")
    if kind == "family" and unit != "sd" and margin > 0:
        raise InputError(f"{text!r}: metrics of a family differ in their units, so give the margin in sd.")
    return Rule(text.strip(), kind, name, check, margin, unit)  # type: ignore[arg-type]


def _margin(text: str | None, rule: str) -> float:
    if text is None:
        return 0.0
    try:
        margin = float(text)
    except ValueError as error:
        raise InputError(f"{text!r} in {rule!r} is no number") from error
    if not math.isfinite(margin):
        raise InputError(f"the margin in {rule!r} must be finite")
    return margin


def read_rules(texts: Sequence[str], file: Path | None, alpha: float, min_prompts: int) -> RuleSet:
    """Rules of the command line and of a TOML file, whose ``alpha`` and ``min_prompts`` win.

    Raises:
        InputError: no rules, a rule that is none, or a file that is damaged or has other keys.
    """
    found = list(texts)
    if file is not None:
        try:
            held = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{file} cannot be read as TOML: {error}") from error
        for key in held:
            if key not in KEYS:
                close = difflib.get_close_matches(key, KEYS, 1)
                raise InputError(f"{file} has the key {key!r}; known are {', '.join(close or KEYS)}")
        rules = held.get("rules", [])
        if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
            raise InputError(f"{file}: rules must be a list of texts, as [{EXAMPLES}]")
        found += rules
        alpha, min_prompts = held.get("alpha", alpha), held.get("min_prompts", min_prompts)
    if not found:
        raise InputError(f"no rule to judge by; give --rule or --rules, as in --rule {EXAMPLES.split(', ')[0]}")
    if type(alpha) is not float or not 0 < alpha <= 0.5:
        raise InputError(f"alpha is {alpha!r}; it must be a number above 0 and at most 0.5, as 0.025")
    if type(min_prompts) is not int or min_prompts < 2:
        raise InputError(f"min_prompts is {min_prompts!r}; it must be a whole number, at least 2")
    return RuleSet(tuple(parse_rule(text) for text in found), alpha, min_prompts)


@dataclass(frozen=True)
class Outcome:
    """A rule, or a rule for one metric of a family, with what the data say about it."""

    rule: str
    subject: str
    passed: bool
    said: str
    """Why, in words."""
    change: Interval
    """Candidate - baseline, with its 95 % interval."""
    margin: float
    """In the units of ``change``."""
    p_value: float | None
    """One-sided, of the rule not holding; None where there is no variance or too little data."""
    prompts: int


def judge_rule(
    rule: Rule, subject: str, change: Interval, upward: bool, prompts: int, margin: float, rules: RuleSet
) -> Outcome:
    """Test a rule on a change; what cannot be shown does not pass.

    Args:
        subject: what the change is of.
        upward: whether higher is better.
        margin: of the rule in the units of ``change``.
    """
    if prompts < rules.min_prompts:
        said = f"{prompts} prompts are too few to show anything; the rule asks for {rules.min_prompts}"
        return Outcome(rule.text, subject, False, said, change, margin, None, prompts)
    good = change.value if upward else -change.value
    if rule.check == "improves":
        test = superior(change, margin, upward, rules.alpha)
        wanted, passed = f"better by more than {margin:.4g}", good > margin
    elif margin > 0:
        test = non_inferior(change, margin, upward, rules.alpha)
        wanted, passed = f"worse by less than {margin:.4g}", good > -margin
    else:  # in sd or per cent, of images that do not vary or a mean of zero: nothing may be lost
        test = superior(change, 0.0, upward, rules.alpha)
        wanted, passed = "no worse at all (the margin is 0 in these units)", good >= 0
    if change.se:  # without spread there is nothing to test: every pair says the same
        passed = test.holds
    p = "" if test.p_value is None else f", p {test.p_value:.3g}"
    said = f"{'shown' if passed else 'not shown'} to be {wanted}: {_bounds(change, test)}{p}"
    return Outcome(rule.text, subject, passed, said, change, margin, test.p_value, prompts)


def _bounds(change: Interval, test: MarginTest) -> str:
    if test.low is None or test.high is None:
        return f"change {change.value:+.4g}, without an interval"
    return f"change {change.value:+.4g} ({test.low:+.4g} to {test.high:+.4g})"
