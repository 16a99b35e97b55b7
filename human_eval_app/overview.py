"""What a lead sees of a running study: progress, results, people, disagreement. Plain data; nothing for annotators."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from human_eval_app.answers import read_votes
from human_eval_app.exclusion import ExclusionRule, Result, declared_exclusion, excluded, half_width, results
from human_eval_app.planner import expected_half_width
from human_eval_app.projects import Project
from human_eval_app.quality import AnnotatorQuality, Item, Known, annotator_quality
from human_eval_app.schema import pairs, tasks
from human_eval_app.stopping import Declaration, Look, declared, take_look
from human_eval_app.tally import standing_votes
from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Question
from pixeval.stats.agreement import Agreement, vote_agreement
from pixeval.stats.power import Design, pilot
from pixeval.stats.vote_table import VoteTable
from pixeval.stats.win_rates import WinRates

HOURS = 48
"""Of the chart of votes per hour."""


@dataclass(frozen=True)
class Comparison:
    """One question about two labels."""

    result: Result
    half_width: float | None
    """Of the interval of the net win rate, now."""
    half_width_at_end: float | None
    """About, when all work is done by as many people; None while there is nothing to go by."""


@dataclass(frozen=True)
class Overview:
    """A study at one moment."""

    answers: int
    """Rows of the chain: undoings, gold pairs and repeats included."""
    wanted: int | None
    """Answers about work when all is done; None when everybody may judge everything."""
    done: int
    """Standing answers about work."""
    per_hour: tuple[tuple[str, int], ...]
    """Answers in each hour that has any, the latest so many hours: ``(2026-11-23T14, 120)``."""
    comparisons: tuple[Comparison, ...]
    qualities: tuple[AnnotatorQuality, ...]
    agreements: dict[Question, Agreement]
    excluded: dict[str, str]
    """Annotators whom the declared rule leaves out, with the reason."""
    exclusion: ExclusionRule | None
    stopping: Declaration | None
    look: Look | None
    """What the stopping rule says now."""


def overview(connection: sa.Connection, secret: str, project: Project) -> Overview:
    """Everything that the dashboard shows. Reads all votes of the project."""
    table = standing_votes(connection, project.id)
    stored = list(read_votes(connection, secret, project.id))
    votes = [one.vote for one in stored]
    qualities = annotator_quality(votes, known_answers(connection, project.id))
    rule = declared_exclusion(connection, project.id)
    left_out = excluded(rule, qualities) if rule is not None else {}
    counts = connection.execute(
        sa.select(sa.func.count(), sa.func.count(sa.distinct(pairs.c.prompt_id)))
        .select_from(tasks.join(pairs, pairs.c.id == tasks.c.pair))
        .where(pairs.c.project == project.id, pairs.c.purpose == "work")
    ).one()
    overlap = project.design.votes_per_pair
    return Overview(
        answers=len(votes),
        wanted=None if overlap is None else overlap * int(counts[0]),
        done=len(table),
        per_hour=per_hour([vote.answered_at for vote in votes]),
        comparisons=tuple(
            Comparison(one, half_width(one.rates.net), _at_end(table, one.rates, int(counts[1]), overlap))
            for one in results(table, left_out)
        ),
        qualities=tuple(qualities),
        agreements=agreements(table),
        excluded=left_out,
        exclusion=rule,
        stopping=declared(connection, project.id),
        look=take_look(connection, project),
    )


def agreements(table: VoteTable) -> dict[Question, Agreement]:
    """Agreement per question, where two people judged the same pair."""
    found = {question: vote_agreement(table, question) for question in QUESTIONS}
    return {question: one for question, one in found.items() if one is not None}


def per_hour(times: Sequence[str], hours: int = HOURS) -> tuple[tuple[str, int], ...]:
    """Answers per clock hour (UTC) up to the latest one, empty hours included, at most so many hours."""
    if not times:
        return ()
    counts = Counter(time[:13] for time in times)
    last = dt.datetime.fromisoformat(max(counts) + ":00")
    first = max(dt.datetime.fromisoformat(min(counts) + ":00"), last - dt.timedelta(hours=hours - 1))
    span = int((last - first).total_seconds()) // 3600 + 1
    names = [(first + dt.timedelta(hours=i)).isoformat(timespec="hours") for i in range(span)]
    return tuple((name, counts.get(name, 0)) for name in names)


def known_answers(connection: sa.Connection, project: str) -> Known:
    """The answers of gold and training pairs."""
    query = (
        sa.select(pairs.c.first, pairs.c.second, tasks.c.question, tasks.c.known)
        .join(tasks, tasks.c.pair == pairs.c.id)
        .where(pairs.c.project == project, tasks.c.known.is_not(None))
    )
    found: dict[tuple[Item, Question], str] = {}
    for first, second, question, known in connection.execute(query):
        low, high = sorted((first, second))
        found[(low, high), question] = {"first": first, "second": second}.get(known, "tie")
    return found


def _at_end(table: VoteTable, rates: WinRates, prompts: int, overlap: int | None) -> float | None:
    """About the half width of a comparison when every prompt has its votes, if people go on as they do."""
    asked = table.about(rates.a_label, rates.b_label, rates.question)
    people = rates.annotators
    votes = people if overlap is None else min(overlap, people)
    try:
        return expected_half_width(Design(prompts, votes, people), pilot(asked, rates.a_label))
    except InputError:  # nobody is preferred yet, or too few prompts or people
        return None
