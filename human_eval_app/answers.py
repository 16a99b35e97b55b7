"""Answers: stored once, never changed, each linked to the one before by its hash.

An assignment's answers are numbered: revision 0 is the first answer, 1 its undoing, 2 the next answer, and so on. The
pair (assignment, revision) is unique, so an answer that arrives twice is stored once. As a
:class:`pixeval.records.Vote` each revision supersedes the one before, and an undoing is a ``skip``.

The answers of a project form a chain: the hash of each covers the hash before it and the whole vote, with labels,
sides, prompt and annotator, so that nothing that a vote says can be changed later without breaking the chain.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from human_eval_app.schema import answers, assignments, pairs, projects, tasks, users
from pixeval.records import CheckAnswer, Choice, FlawMark, Vote

START = "0" * 64
"""The hash before the first answer."""
SCORES: dict[str, float] = {"left": 1.0, "tie": 0.5, "both_bad": 0.5, "right": 0.0}
"""What a choice gives the left image; other choices give nothing to either."""
ROWS_AT_ONCE = 2000


@dataclass(frozen=True)
class Answer:
    """One revision of the answer to an assignment."""

    assignment: str
    revision: int
    """Even: an answer. Odd: the undoing of the one before, with choice ``skip``."""
    choice: Choice
    seconds: float
    answered_at: str
    """ISO 8601, UTC."""
    reason: str | None = None
    marks: tuple[FlawMark, ...] = ()
    words: tuple[int, ...] = ()
    checks: tuple[CheckAnswer, ...] = ()


@dataclass(frozen=True)
class StoredAnswer:
    """A row of the chain."""

    project: str
    number: int
    vote: Vote
    hash: str


@dataclass(frozen=True)
class Broken:
    """The first row of a project at which the chain does not hold."""

    project: str
    number: int
    why: str


def undo_of(assignment: str, revision: int, answered_at: str) -> Answer:
    """The row that takes answer ``revision`` of an assignment back."""
    return Answer(assignment, revision + 1, "skip", 0.0, answered_at)


def link(previous: str, vote: Vote) -> str:
    """The hash of a vote that follows ``previous``: SHA-256 of that hash, a line feed, and the vote as JSON.

    The JSON has sorted keys, no spaces, and only ASCII.
    """
    content = json.dumps(asdict(vote), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()


# Built once, since every vote runs it.
LOCKED = sa.select(projects).where(projects.c.id == sa.bindparam("locked")).with_for_update(key_share=True)


def lock_project(connection: sa.Connection, project: str) -> Any:
    """The row of a project, which no other writer gets until the transaction ends; None when there is no such."""
    return connection.execute(LOCKED, {"locked": project}).mappings().first()


def append(connection: sa.Connection, secret: str, project: str, answer: Answer) -> bool:
    """Store an answer, in a writing transaction.

    Returns:
        False, and nothing is stored, unless it is the next revision of its assignment.
    """
    chain = lock_project(connection, project)
    which = {"of_id": answer.assignment, "of_project": project}
    assigned = connection.execute(ONE_ASSIGNED, which).mappings().first()
    if chain is None or assigned is None or answer.revision != assigned["revisions"]:
        return False
    number = chain["answers"] + 1
    row = {
        **asdict(answer),
        "project": project,
        "number": number,
        "marks": _json([asdict(mark) for mark in answer.marks]),
        "words": _json(answer.words),
        "checks": _json([asdict(check) for check in answer.checks]),
    }
    row["hash"] = link(chain["head"], _vote({**assigned, **row}, secret))
    connection.execute(sa.insert(answers).values(row))
    # An answer that comes when its pair may have been given to others counts too: nobody's work is thrown away.
    late = bool(assigned["released"]) and assigned["purpose"] == "work"
    end = {"answers": number, "head": row["hash"], "claims": projects.c.claims + int(late)}
    connection.execute(sa.update(projects).where(projects.c.id == project).values(end))
    stands = answer.revision % 2 == 0
    now = {"revision": answer.revision + 1, "answer": number if stands else None, "released": False}
    connection.execute(sa.update(assignments).where(assignments.c.id == answer.assignment).values(now))
    _count(connection, assigned, answer, late)
    return True


def _count(connection: sa.Connection, assigned: Any, answer: Answer, late: bool) -> None:
    """Keep the counts of a task, which active selection goes by.

    Answers that do not count change them by nothing, so that no answer takes longer for being one of those.
    """
    choice, sign = answer.choice, 1
    if answer.revision % 2:
        undone = sa.select(answers.c.choice).where(
            answers.c.assignment == answer.assignment, answers.c.revision == answer.revision - 1
        )
        choice, sign = connection.execute(undone).scalar_one(), -1
    if assigned["purpose"] != "work" or choice not in SCORES:
        sign = 0
    score = SCORES.get(choice, 0.0)
    gain = score if assigned["left"] == assigned["first"] else 1 - score
    change = {
        "claims": tasks.c.claims + int(late),
        "votes": tasks.c.votes + sign,
        "first_score": tasks.c.first_score + sign * gain,
    }
    where = (tasks.c.pair == assigned["pair"], tasks.c.question == assigned["question"])
    connection.execute(sa.update(tasks).where(*where).values(change))


def read_votes(connection: sa.Connection, secret: str, project: str | None = None) -> Iterator[StoredAnswer]:
    """The chain of one project, or of every project one after the other."""
    query = (
        _assigned()
        .add_columns(answers)
        .join(answers, answers.c.assignment == assignments.c.id)
        .order_by(answers.c.project, answers.c.number)
    )
    if project is not None:
        query = query.where(answers.c.project == project)
    for row in connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE}).mappings():
        yield StoredAnswer(row["project"], row["number"], _vote(row, secret), row["hash"])


def verify(connection: sa.Connection, secret: str, project: str) -> Broken | None:
    """Check the chain of a project, and that its assignments say what their answers say; None when all is well."""
    head = connection.execute(sa.select(projects.c.answers, projects.c.head).where(projects.c.id == project)).one()
    previous, number = START, 0
    for stored in read_votes(connection, secret, project):
        number += 1
        if stored.number != number:
            return Broken(project, number, f"answer {number} is missing, answer {stored.number} follows")
        if stored.hash != link(previous, stored.vote):
            return Broken(project, number, "the answer, or what it refers to, is not what was stored")
        previous = stored.hash
    if number != head.answers:
        return Broken(project, number + 1, f"{head.answers} answers were stored, {number} are there")
    if previous != head.head:
        return Broken(project, number, "the chain does not end in the hash that was kept")
    wrong = _miscounted(connection, project)
    return None if wrong is None else Broken(project, wrong, "its assignment does not say what its answers say")


def _miscounted(connection: sa.Connection, project: str) -> int | None:
    """The latest answer of an assignment that keeps a wrong number of answers, or a wrong one that stands."""
    kept = (
        sa.select(
            answers.c.assignment, sa.func.count().label("revisions"), sa.func.max(answers.c.number).label("latest")
        )
        .where(answers.c.project == project)
        .group_by(answers.c.assignment)
        .subquery()
    )
    revisions = sa.func.coalesce(kept.c.revisions, 0)
    stands = sa.case((revisions % 2 == 1, kept.c.latest), else_=0)
    wrong = sa.or_(assignments.c.revision != revisions, sa.func.coalesce(assignments.c.answer, 0) != stands)
    query = (
        sa.select(sa.func.coalesce(sa.func.min(kept.c.latest), 0), sa.func.count())
        .select_from(assignments.outerjoin(kept, kept.c.assignment == assignments.c.id))
        .where(assignments.c.project == project, wrong)
    )
    number, count = connection.execute(query).one()
    return int(number) if count else None


def _assigned() -> Any:
    """Assignments with what a vote says of their pair and annotator."""
    return (
        sa.select(
            assignments.c.id,
            assignments.c.pair,
            assignments.c.question,
            assignments.c.purpose,
            assignments.c.left,
            assignments.c.right,
            assignments.c.propensity,
            assignments.c.released,
            assignments.c.revision.label("revisions"),
            pairs.c.prompt_id,
            pairs.c.prompt,
            pairs.c.first,
            pairs.c.first_label,
            pairs.c.second_label,
            users.c.name,
            users.c.simulated,
        )
        .join(pairs, pairs.c.id == assignments.c.pair)
        .join(users, users.c.id == assignments.c.annotator)
    )


# Built once, since every vote runs it.
ONE_ASSIGNED = _assigned().where(
    assignments.c.id == sa.bindparam("of_id"), assignments.c.project == sa.bindparam("of_project")
)


def _vote(row: Any, secret: str) -> Vote:
    labels = (row["first_label"], row["second_label"])
    left_label, right_label = labels if row["left"] == row["first"] else labels[::-1]
    revision = row["revision"]
    return Vote(
        id=_vote_id(secret, row["assignment"], revision),
        annotator=row["name"],
        question=row["question"],
        prompt_id=row["prompt_id"],
        prompt=row["prompt"],
        left=row["left"],
        right=row["right"],
        left_label=left_label,
        right_label=right_label,
        choice=row["choice"],
        seconds=row["seconds"],
        answered_at=row["answered_at"],
        supersedes=_vote_id(secret, row["assignment"], revision - 1) if revision else None,
        simulated=row["simulated"],
        reason=row["reason"],
        marks=tuple(FlawMark(**mark) for mark in json.loads(row["marks"])),
        words=tuple(json.loads(row["words"])),
        checks=tuple(CheckAnswer(**check) for check in json.loads(row["checks"])),
        purpose=row["purpose"],
        propensity=row["propensity"],
    )


def _vote_id(secret: str, assignment: str, revision: int) -> str:
    return hashlib.sha256(f"{secret}/{assignment}/{revision}".encode()).hexdigest()[:16]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
