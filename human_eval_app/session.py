"""Where an annotator stands in a project, and what they are to be shown."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from human_eval_app.desk import AHEAD, renew_leases, take_batch
from human_eval_app.projects import Project, image_key
from human_eval_app.schema import answers, assignments, images, members, pairs
from pixeval.records import Question

Mine = Mapping[str, str]
"""Whose rows: ``of_project`` and ``of_annotator``."""
Phase = Literal["introduction", "training", "work", "finished", "paused"]
RECENT = 40
"""Answers from which the time per answer is estimated."""
FEWEST = 5
"""Answers before an estimate is given."""

# Every vote runs all of these. Built once, they cost half of what they cost when each vote builds its own.
_PROJECT: sa.BindParameter[str] = sa.bindparam("of_project")
_ANNOTATOR: sa.BindParameter[str] = sa.bindparam("of_annotator")
_MINE = (assignments.c.project == _PROJECT, assignments.c.annotator == _ANNOTATOR)
_is_training = sa.case((assignments.c.purpose == "training", 1), else_=0)
_KIND = _is_training.label("kind")
MEMBER = sa.select(members).where(members.c.project == _PROJECT, members.c.annotator == _ANNOTATOR)
COUNTS = (
    sa.select(_KIND, sa.func.count(), sa.func.count(assignments.c.answer))
    .where(*_MINE, assignments.c.released.is_(False))
    .group_by(_KIND)
)
OPEN = (
    sa.select(assignments, pairs.c.prompt, pairs.c.checks)
    .join(pairs, pairs.c.id == assignments.c.pair)
    .where(*_MINE, _is_training == sa.bindparam("training"))
    .where(assignments.c.answer.is_(None), assignments.c.released.is_(False))
    .order_by(assignments.c.position)
    .limit(sa.bindparam("ahead"))
)
SIZES = sa.select(images.c.sample, images.c.width, images.c.height).where(
    images.c.project == _PROJECT, images.c.sample.in_(sa.bindparam("samples", expanding=True))
)
BATCH = sa.select(sa.func.count(assignments.c.answer), sa.func.count()).where(
    *_MINE, assignments.c.batch == sa.bindparam("number"), assignments.c.released.is_(False)
)
LAST = (
    sa.select(assignments.c.id, assignments.c.revision)
    .where(*_MINE, assignments.c.answer.is_not(None), assignments.c.purpose != "training")
    .order_by(assignments.c.answer.desc())
    .limit(1)
)
SECONDS = (
    sa.select(answers.c.seconds)
    .join(assignments, assignments.c.id == answers.c.assignment)
    .where(*_MINE, answers.c.project == _PROJECT, answers.c.number == assignments.c.answer)
    .order_by(assignments.c.answer.desc())
    .limit(RECENT)
)


@dataclass(frozen=True)
class ShownImage:
    """An image as the browser knows it."""

    key: str
    width: int
    height: int


@dataclass(frozen=True)
class Item:
    """An assignment that waits for an answer, with nothing in it that an annotator should not know."""

    assignment: str
    revision: int
    """The revision that the answer will have."""
    question: Question
    prompt: str | None
    """None for flaws, which are judged without knowing what was asked for, and where there is none."""
    checks: tuple[str, ...]
    left: ShownImage
    right: ShownImage


@dataclass(frozen=True)
class Batch:
    """Progress within the batch that is being judged."""

    done: int
    size: int


@dataclass(frozen=True)
class LastAnswer:
    """The answer that an undo takes back."""

    assignment: str
    revision: int


@dataclass(frozen=True)
class Standing:
    """What one annotator has done and has yet to do."""

    phase: Phase
    done: int
    total: int
    """An estimate while others share the work."""
    batch: Batch
    seconds_left: float | None
    queue: tuple[Item, ...]
    last: LastAnswer | None


def standing(connection: sa.Connection, secret: str, project: Project, annotator: str, ahead: int = AHEAD) -> Standing:
    """Where an annotator stands; gives them their next batch when it is time, so it needs a writing transaction.

    Args:
        ahead: how many open assignments to tell.
    """
    take_batch(connection, secret, project, annotator)
    if project.design.votes_per_pair is not None:
        renew_leases(connection, project, annotator)
    mine = {"of_project": project.id, "of_annotator": annotator}
    member = connection.execute(MEMBER, mine).mappings().one()
    training, work = _counts(connection, mine)
    phase: Phase = "work" if work[1] < work[0] else "finished"
    if member["begun_at"] is None:
        phase = "introduction"
    elif project.state != "open":
        phase = "paused"
    elif training[1] < training[0]:
        phase = "training"
    given, done = training if phase == "training" else work
    total = given if phase == "training" else given + member["remaining"]
    items, batch = [], Batch(0, 0)
    if phase in ("training", "work"):
        wanted = {**mine, "training": int(phase == "training"), "ahead": ahead}
        rows = list(connection.execute(OPEN, wanted).mappings())
        items = _items(connection, secret, project.id, rows)
        batch = Batch(*map(int, connection.execute(BATCH, {**mine, "number": rows[0]["batch"]}).one()))
    return Standing(
        phase=phase,
        done=done,
        total=total,
        batch=batch,
        seconds_left=_seconds_left(connection, mine, total - done),
        queue=tuple(items),
        last=None if phase == "training" else _last(connection, mine),
    )


def _counts(connection: sa.Connection, mine: Mine) -> tuple[tuple[int, int], tuple[int, int]]:
    """(given, answered) of training, and of everything else."""
    found = {bool(kind): (int(given), int(done)) for kind, given, done in connection.execute(COUNTS, mine)}
    return found.get(True, (0, 0)), found.get(False, (0, 0))


def _items(connection: sa.Connection, secret: str, project: str, rows: list[Any]) -> list[Item]:
    found = {"of_project": project, "samples": list({row[side] for row in rows for side in ("left", "right")})}
    sizes = {sample: (width, height) for sample, width, height in connection.execute(SIZES, found)}

    def shown(sample: str) -> ShownImage:
        return ShownImage(image_key(secret, project, sample), *sizes[sample])

    return [
        Item(
            assignment=row["id"],
            revision=row["revision"],
            question=row["question"],
            prompt=None if row["question"] == "flaws" else row["prompt"] or None,
            checks=tuple(json.loads(row["checks"])) if row["question"] == "alignment" else (),
            left=shown(row["left"]),
            right=shown(row["right"]),
        )
        for row in rows
    ]


def _last(connection: sa.Connection, mine: Mine) -> LastAnswer | None:
    row = connection.execute(LAST, mine).first()
    return None if row is None else LastAnswer(row.id, row.revision - 1)


def _seconds_left(connection: sa.Connection, mine: Mine, left: int) -> float | None:
    """The median time of recent answers, for each that is left."""
    seconds = connection.execute(SECONDS, mine).scalars().all()
    return round(statistics.median(seconds) * left, 1) if len(seconds) >= FEWEST else None
