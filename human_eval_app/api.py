"""The routes that annotators use. What they send names no label, path, sample id, seed, model or purpose.

==== ============================== ==========================================================================
GET  ``/api/project/ID``            title, guideline, questions, reasons to skip, categories of flaws
GET  ``/api/project/ID/next``       where the annotator stands: phase, progress, the next three assignments
POST ``/api/project/ID/begin``      the introduction has been read; replies as ``next``
POST ``/api/project/ID/vote``       stores one answer exactly once; replies as ``next``, in training with feedback
POST ``/api/project/ID/undo``       takes the latest answer back; replies as ``next``
GET  ``/api/image/KEY``             one image as PNG without metadata
==== ============================== ==========================================================================
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from human_eval_app.answers import Answer, append, undo_of
from human_eval_app.desk import begin
from human_eval_app.images import UnusableImage
from human_eval_app.projects import Project, now
from human_eval_app.schema import assignments, images, members, pairs, tasks
from human_eval_app.session import Standing, standing
from human_eval_app.texts import GUIDELINE, MARK_CATEGORIES, QUESTION_TEXTS, SKIP_REASONS
from human_eval_app.web import Server, Visit, changing, project_of, server_of, visitor
from pixeval.records import CheckAnswer, CheckReply, Choice, FlawCategory, FlawMark, Severity, Side

MAX_MARKS = 100
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=500)]


class Mark(BaseModel):
    """A flaw marked on an image."""

    model_config = ConfigDict(extra="forbid")
    side: Side
    category: FlawCategory
    severity: Severity
    x: Share
    y: Share
    width: Share = 0.0
    height: Share = 0.0

    @model_validator(mode="after")
    def within_the_image(self) -> "Mark":
        """Refuse a box that leaves the image, beyond rounding."""
        if self.x + self.width > 1 + 1e-6 or self.y + self.height > 1 + 1e-6:
            raise ValueError("the box leaves the image")
        return self


class Check(BaseModel):
    """A yes/no question answered for both images."""

    model_config = ConfigDict(extra="forbid")
    question: Text
    left: CheckReply
    right: CheckReply


class Ballot(BaseModel):
    """The body of a vote."""

    model_config = ConfigDict(extra="forbid")
    assignment: Annotated[str, Field(max_length=64)]
    revision: Annotated[int, Field(ge=0, le=10_000)]
    choice: Choice
    seconds: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    reason: Text | None = None
    marks: Annotated[list[Mark], Field(max_length=MAX_MARKS)] = []
    words: Annotated[list[Annotated[int, Field(ge=0, le=10_000)]], Field(max_length=1000)] = []
    checks: Annotated[list[Check], Field(max_length=100)] = []


class Undo(BaseModel):
    """The body of an undo: which answer the annotator means, so that a repeated request undoes nothing more."""

    model_config = ConfigDict(extra="forbid")
    assignment: Annotated[str, Field(max_length=64)]
    revision: Annotated[int, Field(ge=0, le=10_000)]


# Built once, since every vote and every image runs them.
IMAGE = (
    sa.select(images.c.path)
    .join(members, members.c.project == images.c.project)
    .where(images.c.key == sa.bindparam("of_key"), members.c.annotator == sa.bindparam("of_annotator"))
)
ASSIGNED = (
    sa.select(assignments, pairs.c.first, pairs.c.prompt, tasks.c.known, tasks.c.why)
    .join(pairs, pairs.c.id == assignments.c.pair)
    .join(tasks, sa.and_(tasks.c.pair == assignments.c.pair, tasks.c.question == assignments.c.question))
    .where(assignments.c.id == sa.bindparam("of_id"), assignments.c.project == sa.bindparam("of_project"))
)

routes = APIRouter()
Serving = Annotated[Server, Depends(server_of)]
Reading = Annotated[Visit, Depends(visitor)]
Changing = Annotated[Visit, Depends(changing)]


@routes.get("/api/project/{project}")
def project(project: str, visit: Reading, server: Serving) -> dict[str, Any]:
    """What there is to know before the first pair."""
    with server.store.read() as connection:
        found = project_of(connection, project, visit.user)
    return {
        "id": found.id,
        "title": found.title,
        "questions": [asdict(QUESTION_TEXTS[question]) for question in found.design.questions],
        "guideline": found.guideline or GUIDELINE,
        "skip_reasons": SKIP_REASONS,
        "mark_categories": [{"id": key, "title": title} for key, title in MARK_CATEGORIES.items()],
    }


@routes.get("/api/project/{project}/next")
def following(project: str, visit: Reading, server: Serving) -> dict[str, Any]:
    """Where the annotator stands."""
    with server.store.write() as connection:
        found = project_of(connection, project, visit.user)
        return _state(standing(connection, server.store.secret, found, visit.user.id))


@routes.post("/api/project/{project}/begin")
def begin_work(project: str, visit: Changing, server: Serving) -> dict[str, Any]:
    """The introduction has been read."""
    with server.store.write() as connection:
        found = project_of(connection, project, visit.user, changing=True)
        begin(connection, server.store.secret, found, visit.user.id)
        return _state(standing(connection, server.store.secret, found, visit.user.id))


@routes.post("/api/project/{project}/vote")
def vote(project: str, ballot: Ballot, visit: Changing, server: Serving) -> dict[str, Any]:
    """Store one answer exactly once."""
    answer = Answer(
        ballot.assignment,
        ballot.revision,
        ballot.choice,
        ballot.seconds,
        now(),
        ballot.reason,
        tuple(FlawMark(**mark.model_dump()) for mark in ballot.marks),
        tuple(sorted(set(ballot.words))),
        tuple(CheckAnswer(**check.model_dump()) for check in ballot.checks),
    )
    with server.store.write() as connection:
        found = project_of(connection, project, visit.user, changing=True)
        assigned = _assigned(connection, found, visit, ballot.assignment)
        _fits(assigned, ballot)
        _accepts(found)
        # Odd revisions are undoings; those have their own route.
        stored = ballot.revision % 2 == 0 and append(connection, server.store.secret, found.id, answer)
        state = _state(standing(connection, server.store.secret, found, visit.user.id))
    if stored:
        server.watch.voted(found.id)
    return {"stored": stored, "feedback": _feedback(assigned, ballot.choice), **state}


@routes.post("/api/project/{project}/undo")
def undo(project: str, body: Undo, visit: Changing, server: Serving) -> dict[str, Any]:
    """Take the latest answer back."""
    secret = server.store.secret
    with server.store.write() as connection:
        found = project_of(connection, project, visit.user, changing=True)
        _assigned(connection, found, visit, body.assignment)
        _accepts(found)
        state = standing(connection, secret, found, visit.user.id)
        last = state.last
        stored = False
        if last is not None and (last.assignment, last.revision) == (body.assignment, body.revision):
            stored = append(connection, secret, found.id, undo_of(body.assignment, body.revision, now()))
            state = standing(connection, secret, found, visit.user.id)
    return {"stored": stored, **_state(state)}


@routes.get("/api/image/{key}")
def image(key: str, visit: Reading, server: Serving) -> Response:
    """One image of a project that the annotator judges."""
    with server.store.read() as connection:
        path = connection.execute(IMAGE, {"of_key": key, "of_annotator": visit.user.id}).scalar()
    if path is None:
        # The same for images of other projects, so that nobody learns which there are.
        raise HTTPException(404, "there is no such image")
    try:
        data = server.images.png(key, Path(path))
    except UnusableImage:
        # The reason names the file, which must not reach the annotator.
        raise HTTPException(422, "this image cannot be read") from None
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=31536000, immutable"})


def _assigned(connection: sa.Connection, project: Project, visit: Visit, assignment: str) -> Any:
    """An assignment of this annotator in this project, with what is known of its answer."""
    row = connection.execute(ASSIGNED, {"of_id": assignment, "of_project": project.id}).mappings().first()
    if row is None:
        raise HTTPException(404, "there is no such assignment")
    if row["annotator"] != visit.user.id:
        raise HTTPException(403, "this assignment is somebody else's")
    return row


def _accepts(project: Project) -> None:
    if project.state != "open":
        raise HTTPException(409, "this study is paused; ask its lead")


def _fits(assigned: Any, ballot: Ballot) -> None:
    """422 for an answer that the question does not ask for."""
    text = QUESTION_TEXTS[assigned["question"]]
    if ballot.choice not in text.choices:
        raise HTTPException(422, f"{ballot.choice!r} is no answer to this question")
    if (ballot.marks and not text.marks) or (ballot.words and not text.words) or (ballot.checks and not text.checks):
        raise HTTPException(422, "this question takes no such marks")
    if ballot.words and max(ballot.words) >= len(assigned["prompt"].split()):
        raise HTTPException(422, "there is no such word in the text")


def _feedback(assigned: Any, choice: Choice) -> dict[str, Any] | None:
    """In training, whether the answer was the known one, and why that is right."""
    if assigned["purpose"] != "training":
        return None
    first_left = assigned["left"] == assigned["first"]
    sides = {"first": "left" if first_left else "right", "second": "right" if first_left else "left", "tie": "tie"}
    expected = sides[assigned["known"]]
    return {"correct": choice == expected, "expected": expected, "why": assigned["why"]}


def _state(now_at: Standing) -> dict[str, Any]:
    return asdict(now_at)
