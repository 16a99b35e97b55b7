"""``pixeval plan-study``: how many prompts, votes and people a study needs, and the hours it takes them."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from pixeval.errors import InputError
from pixeval.records import Question
from pixeval.runs import Run
from pixeval.stats.power import (
    Design,
    Effect,
    Plan,
    icc_of_agreement,
    pilot,
    plan_of,
    prompts_needed,
    standard_error,
)
from pixeval.stats.vote_table import VoteTable

SHOWN = 12
"""Plans in the printed table."""


@dataclass(frozen=True)
class PlanStudyConfig:
    """Say what difference is worth finding and get the studies that find it."""

    decisive: float | None = None
    """Share of wins among wins and losses that is worth finding, in (0.5, 1]: 0.55 is 55 to 45. Default 0.6."""
    net: float | None = None
    """The same as a net win rate, wins less losses among all answers, instead of --decisive."""
    ties: float = 0.2
    """Expected share of ties and "both bad"."""
    agreement: float | None = None
    """How often two people give the same answer about the same pair, in [0, 1], from a pilot or another study."""
    prompt_icc: float | None = None
    """Correlation of two votes on one prompt instead, about Krippendorff's alpha. Default 0.2."""
    annotator_icc: float = 0.02
    """Correlation of two votes of one person on different prompts: how far tastes differ."""
    pilot: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN ...")] = ()
    """Runs with votes to take all of that from; what is given beside it comes first."""
    pilot_question: Question = "flaws"
    """The question of the pilot's votes."""
    prompts: int | None = None
    """Prompts there are: then each plan says what it finds with these."""
    votes: tuple[int, ...] = (1, 3, 5)
    """Votes on each pair that are tried."""
    annotators: tuple[int, ...] = (5, 10, 20, 40)
    """Numbers of people that are tried."""
    power: float = 0.8
    """Wanted chance of finding the effect."""
    alpha: float = 0.05
    """Level of the two-sided test; divide it by the number of comparisons that you will make."""
    questions: int = 3
    """Questions about each pair; each is answered by everybody who gets the pair."""
    seconds: float = 8.0
    """Time per answer."""
    extra: float = 0.15
    """Share of answers that are gold pairs and repeats."""


@dataclass(frozen=True)
class StudyPlan:
    """One study that could be made, of two models."""

    prompts: int
    votes_per_prompt: int
    annotators: int
    answers: int
    """Of everybody to all questions, gold pairs and repeats included."""
    hours: float
    """Of everybody together."""
    hours_each: float
    power: float
    """Chance that the 95 % interval (or 1 - alpha) of one question leaves out zero if the effect is as expected."""
    half_width: float
    """Of that interval, on the scale of the net win rate, in the middle of what can come."""
    detectable: float | None
    """Least net win rate found with the wanted power."""


def plan_study(config: PlanStudyConfig) -> dict[str, Any]:
    """Run ``pixeval plan-study``.

    Returns:
        JSON-ready: ``effect`` (what was assumed), ``wanted``, ``plans`` (fewest hours first).

    Raises:
        InputError: an impossible effect, or no votes to take it from.
    """
    _check(config)
    effect = expected_effect(config)
    plans = study_plans(effect, config)
    return {"effect": asdict(effect), "wanted": config.power, "plans": [asdict(plan) for plan in plans]}


def study_plans(effect: Effect, config: PlanStudyConfig) -> list[StudyPlan]:
    """Every combination of votes and people that is possible, fewest hours first."""
    found = []
    for votes in config.votes:
        for people in config.annotators:
            if people < votes:
                continue
            prompts = config.prompts or prompts_needed(effect, votes, people, config.power, config.alpha)
            if prompts is not None:
                design = Design(prompts, votes, people)
                found.append(_costed(plan_of(design, effect, config.power, config.alpha), effect, config))
    return sorted(found, key=lambda plan: (plan.hours, plan.annotators))


def expected_effect(config: PlanStudyConfig) -> Effect:
    """What the study is expected to see: as said, else as the pilot has it, else the usual.

    Raises:
        InputError: it is impossible, said twice, or the pilot has no votes on two models.
    """
    seen = _pilot(config) if config.pilot else None
    ties = config.ties if seen is None else seen.ties
    if config.decisive is not None:
        if not 0.5 < config.decisive <= 1:
            raise InputError(f"--decisive must be above 0.5 and at most 1, got {config.decisive:g}")
        net = (2 * config.decisive - 1) * (1 - ties)
    elif config.net is not None:
        net = config.net
    else:
        net = seen.net if seen is not None else 0.2 * (1 - ties)
    annotator_icc = config.annotator_icc if seen is None else seen.annotator_icc
    effect = Effect(net, ties, 0.2 if seen is None else seen.prompt_icc, annotator_icc)
    if config.prompt_icc is not None:
        return replace(effect, prompt_icc=config.prompt_icc)
    if config.agreement is not None:
        return replace(effect, prompt_icc=icc_of_agreement(config.agreement, net, ties))
    return effect


def render(result: dict[str, Any]) -> str:
    """The plans as a table for a terminal."""
    effect = result["effect"]
    head = (
        f"to find a net win rate of {effect['net']:.3f} with {effect['ties']:.0%} ties in {result['wanted']:.0%} of "
        f"studies (correlation of votes: {effect['prompt_icc']:.2f} on one prompt, "
        f"{effect['annotator_icc']:.2f} by one person):"
    )
    if not result["plans"]:
        return (
            head + "\n  none of these studies can; ask more people (--annotators), who differ, or for a larger effect"
        )
    lines = [head, "", "  prompts  votes on each  people  answers   hours  each  power  ±net   finds from"]
    for plan in result["plans"][:SHOWN]:
        least = "-" if plan["detectable"] is None else f"{plan['detectable']:.3f}"
        lines.append(
            f"  {plan['prompts']:7d}  {plan['votes_per_prompt']:13d}  {plan['annotators']:6d}  {plan['answers']:7d}  "
            f"{plan['hours']:6.1f}  {plan['hours_each']:4.1f}  {plan['power']:5.0%}  {plan['half_width']:.3f}  {least}"
        )
    return "\n".join(lines)


def _check(config: PlanStudyConfig) -> None:
    if config.decisive is not None and config.net is not None:
        raise InputError("give --decisive or --net, not both")
    if config.agreement is not None and config.prompt_icc is not None:
        raise InputError("give --agreement or --prompt-icc, not both")
    if config.agreement is not None and not 0 <= config.agreement <= 1:
        raise InputError(f"--agreement is a share within [0, 1], got {config.agreement:g}")
    if not (0 < config.power < 1 and 0 < config.alpha < 1):
        raise InputError(f"--power and --alpha are within (0, 1), got {config.power:g} and {config.alpha:g}")
    if not config.votes or not config.annotators or min(*config.votes, *config.annotators) < 1:
        raise InputError("--votes and --annotators are whole numbers from 1 on")
    if config.questions < 1 or not config.seconds > 0 or not 0 <= config.extra < 1:
        raise InputError("--questions is at least 1, --seconds above 0, --extra within [0, 1)")


def _costed(plan: Plan, effect: Effect, config: PlanStudyConfig) -> StudyPlan:
    answers = round(plan.votes * config.questions / (1 - config.extra))
    hours = answers * config.seconds / 3600
    return StudyPlan(
        prompts=plan.design.prompts,
        votes_per_prompt=plan.design.votes_per_prompt,
        annotators=plan.design.annotators,
        answers=answers,
        hours=hours,
        hours_each=hours / plan.design.annotators,
        power=plan.power,
        half_width=expected_half_width(plan.design, effect, config.alpha),
        detectable=plan.detectable,
    )


def expected_half_width(design: Design, effect: Effect, alpha: float = 0.05) -> float:
    """Half the width of the ``1 - alpha`` interval of the net win rate that a finished study will have, about."""
    from scipy.special import stdtrit

    groups = min(design.prompts, design.annotators) if design.annotators > 1 else design.prompts
    return float(stdtrit(groups - 1, 1 - alpha / 2)) * standard_error(design, effect)


def _pilot(config: PlanStudyConfig) -> Effect:
    from pixeval.records import people_first

    votes = {vote.id: vote for path in config.pilot for vote in Run.open(path).votes()}
    table = VoteTable.of([v for v in people_first(list(votes.values())) if v.question == config.pilot_question])
    if len(table.labels) != 2:
        raise InputError(
            f"the pilot's votes on {config.pilot_question!r} compare {len(table.labels)} models "
            f"({', '.join(table.labels) or 'none'}); give runs whose votes compare two"
        )
    return pilot(table, table.labels[0])
