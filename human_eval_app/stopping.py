"""When a study stops, said before it starts: after so many votes, or when a confidence sequence has decided.

The rule is kept with the project and cannot be changed once there is an answer. Its looks are taken while votes come
in; when one of them says so, the project is paused and the look is kept.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from human_eval_app.answers import lock_project
from human_eval_app.projects import Project, now, set_state
from human_eval_app.schedule import Design
from human_eval_app.schema import declarations, pairs
from human_eval_app.tally import standing_votes
from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Question
from pixeval.stats.sequential import vote_sequence
from pixeval.stats.vote_table import VoteTable

Kind = Literal["none", "fixed", "sequence"]
STOPPING = "stopping"
EVERYBODY = 3
"""Votes on a prompt that make it a unit of the sequence, where everybody judges everything."""


@dataclass(frozen=True)
class StoppingRule:
    """When enough votes are there."""

    kind: Kind = "none"
    """fixed: after so many votes. sequence: as soon as a confidence sequence of the net win rate leaves zero out, and
    at the latest after so many votes; one may look at any time and stay honest. none: when all work is done."""
    votes: int = 0
    """Answers to the question that compare the two labels, neither skipped nor rejected."""
    question: Question = "flaws"
    """The question that decides; the others are asked as long."""
    labels: tuple[str, ...] = ()
    """The two labels that decide; left out in a project of two."""
    votes_per_prompt: int = 0
    """Of a sequence: a prompt counts when it has so many votes, by their mean. 0: as many as each pair gets, or 3 where
    everybody judges everything; with 1 the first person at work would decide alone."""
    confidence: float = 0.95
    """Of the sequence, at all looks together."""
    margin: float | None = None
    """Of a sequence: also stop when the whole net win rate is within so much of zero, so that there is no difference
    that matters."""

    def __post_init__(self) -> None:
        if self.kind == "none":
            return
        if self.votes < 1:
            raise InputError("a stopping rule needs a number of votes after which it stops at the latest")
        if self.question not in QUESTIONS:
            raise InputError(f"the stopping rule's question is one of {', '.join(QUESTIONS)}, got {self.question!r}")
        if self.labels and len(set(self.labels)) != 2:
            raise InputError(f"a stopping rule compares two labels, got {', '.join(self.labels)}")
        if self.votes_per_prompt < 0 or not 0.5 < self.confidence < 1:
            raise InputError("a stopping rule needs 0 or more votes per prompt and a confidence within (0.5, 1)")
        if self.margin is not None and not 0 < self.margin < 1:
            raise InputError(f"the margin of a stopping rule is within (0, 1), got {self.margin:g}")

    def to_json(self) -> str:
        """As text, for the database."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "StoppingRule":
        """From the text of :meth:`to_json`."""
        values = json.loads(text)
        return cls(**{**values, "labels": tuple(values["labels"])})


@dataclass(frozen=True)
class Look:
    """What a stopping rule saw at one moment."""

    stop: bool
    why: str
    """For people."""
    votes: int
    """Of those that the rule counts."""
    wanted: int
    prompts: int = 0
    """Of a sequence: prompts that were complete."""
    value: float | None = None
    """Net win rate of the second label over the first, with bounds that hold at every look."""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Declaration:
    """A stopping rule as it is kept."""

    rule: StoppingRule
    declared_at: str
    reached_at: str | None
    outcome: Look | None


def look(rule: StoppingRule, votes: VoteTable) -> Look:
    """Whether votes are enough.

    Args:
        rule: as :func:`fit_rule` returns it.
        votes: of the whole project, in the order they came.
    """
    first, second = rule.labels
    asked = votes.about(first, second, rule.question)
    count = int(asked.answered.sum())
    enough = count >= rule.votes
    reason = f"{rule.votes} votes on {rule.question} are there" if enough else "not yet"
    if rule.kind == "fixed":
        return Look(enough, reason, count, rule.votes)
    try:
        sequence = vote_sequence(asked, second, first, rule.question, rule.votes_per_prompt, rule.confidence)
    except InputError:  # no prompt is complete yet
        return Look(enough, reason, count, rule.votes)
    value, low, high = float(sequence.value[-1]), float(sequence.low[-1]), float(sequence.high[-1])
    decided = low > 0 or high < 0
    equal = rule.margin is not None and -rule.margin < low and high < rule.margin
    if decided:
        reason = f"{second if low > 0 else first} is preferred: the confidence sequence leaves zero out"
    elif equal:
        reason = f"the net win rate is within {rule.margin:g} of zero"
    stop = decided or equal or enough
    return Look(stop, reason, count, rule.votes, len(sequence.value), value, low, high)


def declare(connection: sa.Connection, project: Project, rule: StoppingRule) -> StoppingRule:
    """Keep a rule for a project, before its first answer; the same rule again changes nothing.

    Returns:
        The rule with its two labels filled in.

    Raises:
        InputError: there are answers already and another rule, or the rule does not fit the project.
    """
    chain = lock_project(connection, project.id)
    kept = declared(connection, project.id)
    if rule.kind != "none":
        rule = fit_rule(rule, labels_of(connection, project.id), project.design)
    if (kept is not None and kept.rule == rule) or (kept is None and rule.kind == "none"):
        return rule
    if chain["answers"] > 0:
        raise InputError(
            f"project {project.name!r} has {chain['answers']} answers; a stopping rule is declared before the first "
            "one and stays. Start another project for another rule"
        )
    keep_declaration(connection, project.id, STOPPING, None if rule.kind == "none" else rule.to_json())
    return rule


def declared(connection: sa.Connection, project: str) -> Declaration | None:
    """The stopping rule of a project; None when it has none."""
    row = find_declaration(connection, project, STOPPING)
    if row is None:
        return None
    outcome = None if row["outcome"] is None else Look(**json.loads(row["outcome"]))
    return Declaration(StoppingRule.from_json(row["rule"]), row["declared_at"], row["reached_at"], outcome)


def take_look(connection: sa.Connection, project: Project) -> Look | None:
    """What the rule of a project says now; None when it has none. Only reads."""
    found = declared(connection, project.id)
    if found is None:
        return None
    return look(found.rule, standing_votes(connection, project.id, found.rule.question))


def stop_if_reached(connection: sa.Connection, project: Project, seen: Look) -> bool:
    """Pause a project whose rule is reached and keep the look; once, so that a lead may open it again.

    Returns:
        Whether this call paused it.
    """
    if not seen.stop or lock_project(connection, project.id) is None:
        return False
    row = find_declaration(connection, project.id, STOPPING)
    if row is None or row["reached_at"] is not None:
        return False
    change = {"reached_at": now(), "outcome": json.dumps(dataclasses.asdict(seen))}
    where = (declarations.c.project == project.id, declarations.c.kind == STOPPING)
    connection.execute(sa.update(declarations).where(*where).values(change))
    set_state(connection, project.id, "paused")
    return True


def find_declaration(connection: sa.Connection, project: str, kind: str) -> Any:
    """The row of what was declared; None when nothing was."""
    query = sa.select(declarations).where(declarations.c.project == project, declarations.c.kind == kind)
    return connection.execute(query).mappings().first()


def keep_declaration(connection: sa.Connection, project: str, kind: str, rule: str | None) -> None:
    """Write what is declared in the place of what was; None: nothing."""
    where = (declarations.c.project == project, declarations.c.kind == kind)
    connection.execute(sa.delete(declarations).where(*where))
    if rule is not None:
        row = {"project": project, "kind": kind, "rule": rule, "declared_at": now()}
        connection.execute(sa.insert(declarations).values(row))


def labels_of(connection: sa.Connection, project: str) -> tuple[str, ...]:
    """The labels that a project compares, sorted."""
    where = (pairs.c.project == project, pairs.c.purpose == "work")
    both = connection.execute(sa.select(pairs.c.first_label, pairs.c.second_label).where(*where).distinct())
    return tuple(sorted({label for row in both for label in row}))


def fit_rule(rule: StoppingRule, there: tuple[str, ...], design: Design) -> StoppingRule:
    """A rule with its two labels, out of those that a project compares, and its votes per prompt.

    Raises:
        InputError: it does not fit.
    """
    labels = rule.labels or there
    if len(labels) != 2:
        raise InputError(f"say which two labels the stopping rule compares, out of {', '.join(there)}")
    for label in labels:
        if label not in there:
            raise InputError(f"the stopping rule's label {label!r} is not compared here; there are {', '.join(there)}")
    if rule.question not in design.questions:
        raise InputError(f"the stopping rule's question {rule.question!r} is not asked in this project")
    if rule.kind == "sequence" and design.active:
        raise InputError(
            "a confidence sequence needs pairs in random order; use a fixed number of votes with active selection"
        )
    per_prompt = rule.votes_per_prompt or design.votes_per_pair or EVERYBODY
    return dataclasses.replace(rule, labels=tuple(labels), votes_per_prompt=per_prompt)
