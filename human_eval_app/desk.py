"""The desk that hands out work: gives an annotator the next batch, and takes back what nobody answered in time.

Everything here runs in a writing transaction that holds the project's row (see
:func:`human_eval_app.answers.lock_project`), so that two annotators cannot take the last vote of a pair.
"""

import math
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa

from human_eval_app.answers import SCORES, lock_project
from human_eval_app.names import opaque
from human_eval_app.projects import Project, now
from human_eval_app.schedule import (
    BATCH,
    Candidate,
    Cell,
    Draft,
    Sides,
    decide_sides,
    order_batch,
    owed,
    pick_pairs,
)
from human_eval_app.schema import answers, assignments, members, pairs, projects, tasks
from pixeval.records import QUESTIONS, Purpose, Question

AHEAD = 3
"""Assignments that an annotator is told of: the one to show and two whose images can be loaded ahead."""
WINDOW = 2000
"""Pairs looked at for a batch; of larger studies a random part."""
PRESENT_SECONDS = 1800.0
"""Who took a batch within this time is expected to share the rest of the work."""


@dataclass(frozen=True)
class Tally:
    """What an annotator was given so far, without what was taken back."""

    given: dict[Cell, int]
    """Work by pair of labels."""
    sides: dict[Any, Sides]
    """By (cell, question, purpose)."""
    by_purpose: dict[str, int]


def begin(connection: sa.Connection, secret: str, project: Project, annotator: str) -> None:
    """Note that the introduction has been read, and give the training round if there is one."""
    lock_project(connection, project.id)
    member = _member(connection, project.id, annotator)
    if member["begun_at"] is not None:
        return
    mine = (members.c.project == project.id, members.c.annotator == annotator)
    connection.execute(sa.update(members).where(*mine).values(begun_at=now()))
    drafts = [_draft(row, "training") for row in _unseen(connection, project, annotator, "training")]
    rng = random.Random(f"{secret}/{project.design.seed}/{project.id}/{annotator}/training")
    _hand_out(connection, secret, project, annotator, order_batch(drafts, rng), 0)


def take_batch(connection: sa.Connection, secret: str, project: Project, annotator: str) -> None:
    """See to it that an annotator who has begun has at least :data:`AHEAD` open assignments, if there are any."""
    if project.state != "open" or _enough(connection, project.id, annotator):
        return
    lock_project(connection, project.id)
    member = _member(connection, project.id, annotator)
    if member["begun_at"] is None or _enough(connection, project.id, annotator):
        return
    if project.design.votes_per_pair is not None:
        _release(connection, project.id, annotator)
        _reclaim(connection, project, annotator)
        if _enough(connection, project.id, annotator):
            return
    batch = member["batches"] + 1
    rng = random.Random(f"{secret}/{project.design.seed}/{project.id}/{annotator}/{batch}")
    drafts = _next_drafts(connection, project, annotator, rng)
    if drafts:
        _hand_out(connection, secret, project, annotator, order_batch(drafts, rng), batch)
    remaining = _remaining(connection, project, annotator) if drafts else 0
    mine = (members.c.project == project.id, members.c.annotator == annotator)
    change = {"batches": batch if drafts else batch - 1, "seen": time.time(), "remaining": remaining}
    connection.execute(sa.update(members).where(*mine).values(change))


def renew_leases(connection: sa.Connection, project: Project, annotator: str) -> None:
    """An annotator who is at work keeps what they were given."""
    seconds = 60 * project.design.lease_minutes
    soon = assignments.c.leased_until < time.time() + seconds / 2
    change = sa.update(assignments).where(*_open(project.id, annotator), soon)
    connection.execute(change.values(leased_until=time.time() + seconds))


def _next_drafts(connection: sa.Connection, project: Project, annotator: str, rng: random.Random) -> list[Draft]:
    """A batch of work with the gold pairs and repeats that go with it; repeats alone when there is no work left."""
    design = project.design
    tally = _tally(connection, project.id, annotator)
    picks = pick_pairs(_candidates(connection, project, annotator, rng), BATCH, tally.given, design, rng)
    drafts = [
        Draft(pick.candidate.pair, pick.candidate.cell, question, "work", pick.propensity)
        for pick in picks
        for question in pick.candidate.questions
    ]
    work = tally.by_purpose.get("work", 0) + len(drafts)
    if picks:
        gold = _unseen(connection, project, annotator, "gold")
        missing = owed(design.gold, work, tally.by_purpose.get("gold", 0))
        drafts += [_draft(row, "gold") for row in rng.sample(gold, min(missing, len(gold)))]
    missing = owed(design.repeats, work, tally.by_purpose.get("repeat", 0))
    again = _repeatable(connection, project.id, annotator) if missing else []
    drafts += rng.sample(again, min(missing, len(again)))
    return drafts


def _candidates(connection: sa.Connection, project: Project, annotator: str, rng: random.Random) -> list[Candidate]:
    """Pairs of which this annotator was not given every question that still wants answers; at most a window full."""
    start = rng.randrange(2**31)
    rows = _wanted(connection, project, annotator, pairs.c.shuffle >= start)
    if len(rows) < WINDOW * len(QUESTIONS):
        rows += _wanted(connection, project, annotator, pairs.c.shuffle < start)
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    return [
        Candidate(
            pair=pair,
            cell=(own[0]["first_label"], own[0]["second_label"]),
            questions=tuple(cast(Question, row["question"]) for row in own),
            claims=sum(row["claims"] for row in own),
            votes=sum(row["votes"] for row in own),
            first_score=sum(row["first_score"] for row in own),
        )
        for pair, own in list(found.items())[:WINDOW]
    ]


def _wanted(connection: sa.Connection, project: Project, annotator: str, within: Any) -> list[Any]:
    query = _tasks(project, annotator, "work").where(within).order_by(pairs.c.shuffle, pairs.c.id)
    if project.design.votes_per_pair is not None:
        query = query.where(tasks.c.claims < project.design.votes_per_pair)
    limit = WINDOW * len(QUESTIONS)
    rows = list(connection.execute(query.limit(limit)).mappings())
    if len(rows) == limit:
        # The last pair may have been cut in two.
        rows = [row for row in rows if row["id"] != rows[-1]["id"]]
    return rows


def _unseen(connection: sa.Connection, project: Project, annotator: str, purpose: Purpose) -> list[Any]:
    """Questions of known answer that this annotator was not given yet."""
    query = _tasks(project, annotator, purpose).where(tasks.c.known.is_not(None))
    return list(connection.execute(query.order_by(pairs.c.shuffle, pairs.c.id, tasks.c.question)).mappings())


def _tasks(project: Project, annotator: str, purpose: Purpose) -> Any:
    """Tasks of a purpose, without those that this annotator has or had."""
    mine = sa.select(assignments.c.id).where(
        assignments.c.annotator == annotator,
        assignments.c.pair == tasks.c.pair,
        assignments.c.question == tasks.c.question,
        assignments.c.purpose == purpose,
    )
    columns = (pairs.c.id, pairs.c.first_label, pairs.c.second_label)
    return (
        sa.select(*columns, tasks.c.question, tasks.c.claims, tasks.c.votes, tasks.c.first_score)
        .join(tasks, tasks.c.pair == pairs.c.id)
        .where(pairs.c.project == project.id, pairs.c.purpose == purpose)
        .where(tasks.c.question.in_(project.design.questions), ~mine.exists())
    )


def _repeatable(connection: sa.Connection, project: str, annotator: str) -> list[Draft]:
    """What this annotator judged and was not asked again, with sides swapped; oldest first."""
    asked = assignments.alias()
    again = sa.select(asked.c.id).where(
        asked.c.annotator == annotator,
        asked.c.pair == assignments.c.pair,
        asked.c.question == assignments.c.question,
        asked.c.purpose == "repeat",
    )
    query = (
        sa.select(pairs.c.id, pairs.c.first_label, pairs.c.second_label, pairs.c.first)
        .add_columns(assignments.c.question, assignments.c.left)
        .join(assignments, assignments.c.pair == pairs.c.id)
        .join(answers, sa.and_(answers.c.project == project, answers.c.number == assignments.c.answer))
        .where(assignments.c.project == project, assignments.c.annotator == annotator)
        .where(assignments.c.purpose == "work", answers.c.choice.in_(list(SCORES)), ~again.exists())
        .order_by(assignments.c.position)
        .limit(WINDOW)
    )
    rows = connection.execute(query).mappings()
    return [
        Draft(
            row["id"],
            (row["first_label"], row["second_label"]),
            cast(Question, row["question"]),
            "repeat",
            first_left=row["left"] != row["first"],
        )
        for row in rows
    ]


def _draft(row: Any, purpose: Purpose) -> Draft:
    return Draft(row["id"], (row["first_label"], row["second_label"]), cast(Question, row["question"]), purpose)


def _tally(connection: sa.Connection, project: str, annotator: str) -> Tally:
    columns = (pairs.c.first_label, pairs.c.second_label, assignments.c.question, assignments.c.purpose)
    first_left = sa.case((assignments.c.left == pairs.c.first, 1), else_=0)
    query = (
        sa.select(*columns, sa.func.count().label("count"), sa.func.sum(first_left).label("left"))
        .join(pairs, pairs.c.id == assignments.c.pair)
        .where(assignments.c.project == project, assignments.c.annotator == annotator)
        .where(assignments.c.released.is_(False))
        .group_by(*columns)
    )
    tally = Tally({}, {}, {})
    for a, b, question, purpose, count, left in connection.execute(query):
        tally.sides[(a, b), question, purpose] = Sides(count, int(left))
        tally.by_purpose[purpose] = tally.by_purpose.get(purpose, 0) + count
        if purpose == "work":
            tally.given[a, b] = tally.given.get((a, b), 0) + count
    return tally


def _hand_out(
    connection: sa.Connection, secret: str, project: Project, annotator: str, drafts: Sequence[Draft], batch: int
) -> None:
    """Write the assignments of a batch, in order."""
    if not drafts:
        return
    rng = random.Random(f"{secret}/{project.design.seed}/{project.id}/{annotator}/{batch}/sides")
    sides = _tally(connection, project.id, annotator).sides
    decided = decide_sides(drafts, sides, rng)
    of_pair = sa.select(pairs.c.id, pairs.c.first, pairs.c.second).where(pairs.c.id.in_({d.pair for d in drafts}))
    images = {identity: (first, second) for identity, first, second in connection.execute(of_pair)}
    mine = (assignments.c.project == project.id, assignments.c.annotator == annotator)
    last = connection.execute(sa.select(sa.func.max(assignments.c.position)).where(*mine)).scalar()
    place = 0 if last is None else last + 1
    lease = time.time() + 60 * project.design.lease_minutes
    rows: list[dict[str, Any]] = []
    for draft, first_left in zip(drafts, decided, strict=True):
        left, right = images[draft.pair] if first_left else images[draft.pair][::-1]
        rows.append(
            {
                "id": opaque(secret, "assignment", annotator, draft.pair, draft.question, draft.purpose),
                "project": project.id,
                "annotator": annotator,
                "pair": draft.pair,
                "question": draft.question,
                "purpose": draft.purpose,
                "batch": batch,
                "position": place + len(rows),
                "left": left,
                "right": right,
                "propensity": draft.propensity,
                "leased_until": lease,
                "released": False,
                "revision": 0,
                "answer": None,
            }
        )
    connection.execute(sa.insert(assignments), rows)
    work = [{"task_pair": d.pair, "task_question": d.question} for d in drafts if d.purpose == "work"]
    _claim(connection, project.id, work, 1)


def _claim(connection: sa.Connection, project: str, claimed: Collection[dict[str, str]], by: int) -> None:
    """Count that so many more annotators have these tasks."""
    if claimed:
        where = (tasks.c.pair == sa.bindparam("task_pair"), tasks.c.question == sa.bindparam("task_question"))
        connection.execute(sa.update(tasks).where(*where).values(claims=tasks.c.claims + by), list(claimed))
        total = projects.c.claims + by * len(claimed)
        connection.execute(sa.update(projects).where(projects.c.id == project).values(claims=total))


def _release(connection: sa.Connection, project: str, annotator: str) -> None:
    """Take back from others what they did not answer in time."""
    query = sa.select(assignments.c.id, assignments.c.pair, assignments.c.question).where(
        assignments.c.project == project,
        assignments.c.released.is_(False),
        assignments.c.answer.is_(None),
        assignments.c.leased_until < time.time(),
        assignments.c.annotator != annotator,
        assignments.c.purpose == "work",
    )
    late = list(connection.execute(query))
    if late:
        taken = sa.update(assignments).where(assignments.c.id == sa.bindparam("taken"))
        connection.execute(taken.values(released=True), [{"taken": row.id} for row in late])
        _claim(connection, project, [{"task_pair": r.pair, "task_question": r.question} for r in late], -1)


def _reclaim(connection: sa.Connection, project: Project, annotator: str) -> None:
    """Give an annotator who comes back what was taken from them and nobody else has."""
    query = (
        sa.select(assignments.c.id, assignments.c.pair, assignments.c.question)
        .join(tasks, sa.and_(tasks.c.pair == assignments.c.pair, tasks.c.question == assignments.c.question))
        .where(assignments.c.project == project.id, assignments.c.annotator == annotator)
        .where(assignments.c.released, assignments.c.answer.is_(None))
        .where(tasks.c.claims < project.design.votes_per_pair)
    )
    found = list(connection.execute(query))
    if found:
        lease = time.time() + 60 * project.design.lease_minutes
        again = sa.update(assignments).where(assignments.c.id == sa.bindparam("again"))
        connection.execute(again.values(released=False, leased_until=lease), [{"again": row.id} for row in found])
        _claim(connection, project.id, [{"task_pair": r.pair, "task_question": r.question} for r in found], 1)


def _remaining(connection: sa.Connection, project: Project, annotator: str) -> int:
    """How many answers this annotator may be asked for after those they have: their share of what is missing."""
    row = connection.execute(sa.select(projects.c.tasks, projects.c.claims).where(projects.c.id == project.id)).one()
    by_purpose = _tally(connection, project.id, annotator).by_purpose
    work = by_purpose.get("work", 0)
    rest = int(row.tasks) - work
    if project.design.votes_per_pair is not None:
        here = sa.select(sa.func.count()).where(
            members.c.project == project.id,
            members.c.annotator != annotator,
            members.c.seen > time.time() - PRESENT_SECONDS,
        )
        others = connection.execute(here).scalar_one()
        missing = max(0, project.design.votes_per_pair * row.tasks - row.claims)
        rest = min(rest, math.ceil(missing / (1 + others)))
    rest = max(0, rest)
    repeats: int = owed(project.design.repeats, work + rest, by_purpose.get("repeat", 0))
    gold = len(_unseen(connection, project, annotator, "gold"))
    gold = min(gold, owed(project.design.gold, work + rest, by_purpose.get("gold", 0))) if rest else 0
    return rest + repeats + gold


def _member(connection: sa.Connection, project: str, annotator: str) -> Any:
    query = sa.select(members).where(members.c.project == project, members.c.annotator == annotator)
    return connection.execute(query).mappings().one()


def _open(project: str | sa.BindParameter[str], annotator: str | sa.BindParameter[str]) -> tuple[Any, ...]:
    return (
        assignments.c.project == project,
        assignments.c.annotator == annotator,
        assignments.c.answer.is_(None),
        assignments.c.released.is_(False),
    )


# Built once, since every vote runs it.
FIRST_OPEN = (
    sa.select(assignments.c.id).where(*_open(sa.bindparam("of_project"), sa.bindparam("of_annotator"))).limit(AHEAD)
)


def _enough(connection: sa.Connection, project: str, annotator: str) -> bool:
    mine = {"of_project": project, "of_annotator": annotator}
    return len(connection.execute(FIRST_OPEN, mine).all()) >= AHEAD
