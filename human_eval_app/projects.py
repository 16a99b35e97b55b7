"""Projects: what is compared, for whom; any number of them in one database."""

import datetime as dt
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from human_eval_app.answers import START, lock_project
from human_eval_app.names import opaque
from human_eval_app.schedule import Design
from human_eval_app.schema import images, members, pairs, projects, tasks
from pixeval.records import Purpose, Question

State = Literal["open", "paused"]
Known = Literal["first", "second", "tie"]
ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Project:
    """One project, as far as it does not change with every answer."""

    id: str
    name: str
    """What the lead calls it; never sent to annotators."""
    title: str
    guideline: str
    """Paragraphs, separated by blank lines; empty: the usual one."""
    state: State
    design: Design
    enrolment: int
    """Number of the open enrolment link that holds; earlier ones do not."""


@dataclass(frozen=True)
class PairImage:
    """One image of a pair: a file that can be read, its size in pixels, and where it comes from."""

    sample: str
    label: str
    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class NewPair:
    """A pair to be judged, and what is known of it already."""

    a: PairImage
    b: PairImage
    prompt_id: str
    prompt: str
    questions: tuple[Question, ...]
    checks: tuple[str, ...] = ()
    purpose: Purpose = "work"
    known: Mapping[Question, Literal["a", "b", "tie"]] | None = None
    why: Mapping[Question, str] | None = None
    """Why that is the answer."""


def keep_project(
    connection: sa.Connection, secret: str, name: str, title: str, guideline: str, design: Design
) -> Project:
    """The project of that name, made when there is none; one that is there keeps its seed.

    Writes title, guideline and design otherwise as given, so that they can be changed while a study is under way.
    """
    identity = opaque(secret, "project", name)
    chain = lock_project(connection, identity)
    if chain is None:
        row = {"id": identity, "name": name, "title": title, "guideline": guideline, "state": "open"}
        start = {"design": design.to_json(), "enrolment": 0, "answers": 0, "head": START, "tasks": 0, "claims": 0}
        connection.execute(sa.insert(projects).values(**row, **start, created_at=now()))
    else:
        kept = Design.from_json(chain["design"])
        merged = Design(**{**vars(design), "seed": kept.seed})
        change = {"title": title, "guideline": guideline, "design": merged.to_json()}
        connection.execute(sa.update(projects).where(projects.c.id == identity).values(change))
    found = find_project(connection, identity)
    assert found is not None
    return found


def find_project(connection: sa.Connection, identity: str, changing: bool = False) -> Project | None:
    """The project with that id; ``changing`` takes its row until the transaction ends."""
    query = sa.select(projects).where(projects.c.id == identity)
    row = lock_project(connection, identity) if changing else connection.execute(query).mappings().first()
    return None if row is None else _project(row)


def list_projects(connection: sa.Connection, annotator: str | None = None) -> list[Project]:
    """All projects, or those that a user is a member of, oldest first."""
    query = sa.select(projects).order_by(projects.c.created_at, projects.c.id)
    if annotator is not None:
        query = query.join(members, members.c.project == projects.c.id).where(members.c.annotator == annotator)
    return [_project(row) for row in connection.execute(query).mappings()]


def set_state(connection: sa.Connection, project: str, state: State) -> None:
    """Open a project, or pause it: then it gives no pairs and takes no answers."""
    connection.execute(sa.update(projects).where(projects.c.id == project).values(state=state))


def renew_enrolment(connection: sa.Connection, project: str) -> None:
    """Make the open enrolment link of a project, and every earlier one, worthless."""
    connection.execute(sa.update(projects).where(projects.c.id == project).values(enrolment=projects.c.enrolment + 1))


def add_member(connection: sa.Connection, project: str, annotator: str) -> None:
    """Let a user judge a project."""
    if not is_member(connection, project, annotator):
        row = {"project": project, "annotator": annotator, "joined_at": now(), "batches": 0, "seen": 0.0}
        connection.execute(sa.insert(members).values(**row, remaining=0))


# Built once, since every vote runs it.
MEMBER = sa.select(members.c.annotator).where(
    members.c.project == sa.bindparam("of_project"), members.c.annotator == sa.bindparam("of_annotator")
)


def is_member(connection: sa.Connection, project: str, annotator: str) -> bool:
    """Whether a user may judge a project."""
    return connection.execute(MEMBER, {"of_project": project, "of_annotator": annotator}).first() is not None


def image_key(secret: str, project: str, sample: str) -> str:
    """The name under which the browser asks for an image."""
    return opaque(secret, "image", project, sample)


def open_images(connection: sa.Connection) -> list[tuple[str, Path]]:
    """Key and file of every image of the open projects."""
    query = sa.select(images.c.key, images.c.path).join(projects, projects.c.id == images.c.project)
    return [(key, Path(path)) for key, path in connection.execute(query.where(projects.c.state == "open"))]


def add_pairs(connection: sa.Connection, secret: str, project: Project, new: Sequence[NewPair]) -> int:
    """Add pairs that are not there yet; returns how many were added.

    The paths of images that are there are brought up to date, so a moved run is found again.
    """
    lock_project(connection, project.id)
    _keep_images(connection, secret, project.id, [image for pair in new for image in (pair.a, pair.b)])
    there = set(connection.execute(sa.select(pairs.c.id).where(pairs.c.project == project.id)).scalars())
    pair_rows: list[dict[str, Any]] = []
    task_rows: list[dict[str, Any]] = []
    for pair in new:
        row, questions = _rows(secret, project, pair)
        if row["id"] not in there:
            there.add(row["id"])
            pair_rows.append(row)
            task_rows += questions
    for table, rows in ((pairs, pair_rows), (tasks, task_rows)):
        for start in range(0, len(rows), ROWS_AT_ONCE):
            connection.execute(sa.insert(table), rows[start : start + ROWS_AT_ONCE])
    work = {row["id"] for row in pair_rows if row["purpose"] == "work"}
    added = sum(row["pair"] in work for row in task_rows)
    connection.execute(sa.update(projects).where(projects.c.id == project.id).values(tasks=projects.c.tasks + added))
    return len(pair_rows)


def _keep_images(connection: sa.Connection, secret: str, project: str, new: Sequence[PairImage]) -> None:
    query = sa.select(images.c.sample, images.c.path).where(images.c.project == project)
    there = {row.sample: row.path for row in connection.execute(query)}
    rows = {}
    for image in new:
        path = str(image.path.resolve())
        if image.sample not in there:
            size = {"width": image.width, "height": image.height}
            key = image_key(secret, project, image.sample)
            rows[image.sample] = {"key": key, "project": project, "sample": image.sample, "path": path, **size}
        elif there[image.sample] != path:
            where = (images.c.project == project, images.c.sample == image.sample)
            connection.execute(sa.update(images).where(*where).values(path=path))
    if rows:
        connection.execute(sa.insert(images), list(rows.values()))


def _rows(secret: str, project: Project, pair: NewPair) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of a pair and those of its tasks."""
    # In the order of labels, so that nothing depends on the order of the runs.
    first, second = sorted((pair.a, pair.b), key=lambda image: (image.label, image.sample))
    identity = opaque(secret, "pair", project.id, pair.purpose, *sorted((first.sample, second.sample)))
    row = {
        "id": identity,
        "project": project.id,
        "prompt_id": pair.prompt_id,
        "prompt": pair.prompt,
        "checks": json.dumps(pair.checks),
        "first": first.sample,
        "second": second.sample,
        "first_label": first.label,
        "second_label": second.label,
        "purpose": pair.purpose,
        "shuffle": random.Random(f"{project.design.seed}/{identity}").randrange(2**31),
    }
    known = pair.known or {}
    names: dict[str | None, Known | None] = {"tie": "tie", None: None}
    names |= {"a": "first", "b": "second"} if first is pair.a else {"a": "second", "b": "first"}
    why = pair.why or {}
    counts = {"claims": 0, "votes": 0, "first_score": 0.0}
    return row, [
        {"pair": identity, "question": q, "known": names[known.get(q)], "why": why.get(q, ""), **counts}
        for q in pair.questions
    ]


def _project(row: Any) -> Project:
    return Project(
        id=row["id"],
        name=row["name"],
        title=row["title"],
        guideline=row["guideline"],
        state=row["state"],
        design=Design.from_json(row["design"]),
        enrolment=row["enrolment"],
    )


def now() -> str:
    """The time, ISO 8601, UTC."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
