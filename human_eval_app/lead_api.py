"""Routes by which a lead sets up, watches and takes home a study; every one needs a session of role admin.

==== ============================================ ================================================================
POST ``/api/admin/projects``                      makes a project of runs below the server's working folder
GET  ``/api/admin/project/ID/overview``           progress, results, people, agreement, the stopping rule
GET  ``/api/admin/project/ID/judged``             pairs by disagreement or flaw marks, with everybody's answers
GET  ``/api/admin/project/ID/members``            names, when they joined, whether their account is closed
POST ``/api/admin/project/ID/member``             ``{name}``: lets somebody with an account judge the project
POST ``/api/admin/account``                       ``{name, closed}``: closes an annotator's account, or opens it again
GET  ``/api/admin/project/ID/export/NAME``        votes.parquet, votes.jsonl, or study.zip with pairs and flaw maps
GET  ``/api/admin/image/KEY``                     an image of any project
==== ============================================ ================================================================
"""

import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator

from human_eval_app.account_api import Name
from human_eval_app.accounts import find_user
from human_eval_app.admin_api import Changing, Reading, Serving
from human_eval_app.exclusion import ExclusionRule
from human_eval_app.export import write_votes
from human_eval_app.images import UnusableImage
from human_eval_app.judged import Order, judged_pairs
from human_eval_app.overview import overview
from human_eval_app.projects import Project, add_member, find_project, list_projects
from human_eval_app.schema import images, members, users
from human_eval_app.stopping import StoppingRule
from human_eval_app.store import Store
from human_eval_app.study_export import ExportConfig, export_study
from pixeval.errors import InputError
from pixeval.pairs import TiePolicy
from pixeval.records import QUESTIONS, Question

CHUNK = 1 << 20
EXPORTS = {
    "votes.parquet": "application/vnd.apache.parquet",
    "votes.jsonl": "application/x-ndjson",
    "study.zip": "application/zip",
}


def _refused_as_value(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """What our own dataclasses refuse as what pydantic knows, so that it is a 422."""
    try:
        return check(value)
    except InputError as error:
        raise ValueError(str(error)) from None


class NewStudy(BaseModel):
    """The body of a new project; as the options of ``pixeval label``."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=128)]
    title: Annotated[str, Field(min_length=1, max_length=200)] = "Compare images"
    runs: Annotated[list[Annotated[str, Field(min_length=1, max_length=500)]], Field(min_length=1, max_length=50)]
    """Folders below the server's working folder, RUN or RUN:LABEL."""
    prompts: Annotated[str, Field(max_length=500)] | None = None
    questions: Annotated[list[Question], Field(min_length=1)] = list(QUESTIONS)
    guideline: Annotated[str, Field(max_length=50_000)] = ""
    votes_per_pair: Annotated[int, Field(ge=0, le=1000)] | None = None
    active: bool = False
    repeats: float = 0.05
    gold: float = 0.1
    planted_gold: Annotated[int, Field(ge=0, le=1000)] = 0
    planted_training: Annotated[int, Field(ge=0, le=100)] = 0
    stopping: Annotated[StoppingRule, WrapValidator(_refused_as_value)] = StoppingRule()
    exclusion: Annotated[ExclusionRule, WrapValidator(_refused_as_value)] = ExclusionRule()


class NewMember(BaseModel):
    """The body of a new member."""

    model_config = ConfigDict(extra="forbid")
    name: Name


class Account(BaseModel):
    """The body of closing an account."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    closed: bool


routes = APIRouter()


@routes.post("/api/admin/projects")
def new_project(body: NewStudy, visit: Changing, server: Serving) -> dict[str, str]:
    """Make a project."""
    try:
        made = make_study(server.store, body, Path.cwd())
    except InputError as error:
        raise HTTPException(422, str(error)) from None
    return {"id": made.id, "name": made.name}


@routes.get("/api/admin/project/{project}/overview")
def look_at(project: str, visit: Reading, server: Serving) -> dict[str, Any]:
    """Everything that the dashboard shows."""
    with server.store.read() as connection:
        return asdict(overview(connection, server.store.secret, found_project(connection, project)))


@routes.get("/api/admin/project/{project}/judged")
def judged(
    project: str,
    visit: Reading,
    server: Serving,
    question: Question = "flaws",
    order: Order = "contested",
    limit: Annotated[int, Query(ge=1, le=200)] = 12,
    skip: Annotated[int, Query(ge=0)] = 0,
) -> list[dict[str, Any]]:
    """Pairs with everybody's answers."""
    with server.store.read() as connection:
        found = found_project(connection, project)
        pairs = judged_pairs(connection, server.store.secret, found, question, order, limit, skip)
    return [{**asdict(pair), "disagreement": pair.disagreement, "counts": pair.counts} for pair in pairs]


@routes.get("/api/admin/project/{project}/members")
def all_members(project: str, visit: Reading, server: Serving) -> list[dict[str, Any]]:
    """Who judges a project."""
    with server.store.read() as connection:
        return list_members(connection, found_project(connection, project).id)


@routes.post("/api/admin/project/{project}/member")
def new_member(project: str, body: NewMember, visit: Changing, server: Serving) -> list[dict[str, Any]]:
    """Let somebody with an account judge a project."""
    with server.store.write() as connection:
        found = found_project(connection, project)
        user = find_user(connection, body.name)
        if user is None:
            raise HTTPException(404, f"nobody is called {body.name!r}; invite somebody new instead")
        add_member(connection, found.id, user.id)
        return list_members(connection, found.id)


@routes.post("/api/admin/account")
def account(body: Account, visit: Changing, server: Serving) -> dict[str, Any]:
    """Close an annotator's account or open it again; their votes stay."""
    with server.store.write() as connection:
        user = find_user(connection, body.name)
        if user is None:
            raise HTTPException(404, f"nobody is called {body.name!r}")
        if user.role == "admin":
            raise HTTPException(403, "accounts of leads are not closed here")
        close_account(connection, user.id, body.closed)
    return {"name": user.name, "closed": body.closed}


@routes.get("/api/admin/project/{project}/export/{name}")
def export(
    project: str,
    name: Literal["votes.parquet", "votes.jsonl", "study.zip"],
    visit: Reading,
    server: Serving,
    ties: TiePolicy = "drop",
    min_votes: Annotated[int, Query(ge=1, le=1000)] = 1,
    exclude: bool = False,
) -> StreamingResponse:
    """A file to keep."""
    with server.store.read() as connection:
        found = found_project(connection, project)
    folder = tempfile.TemporaryDirectory(prefix="pixeval-export-")
    try:
        file = _export(
            server.store, found, Path(folder.name), name, ExportConfig(ties=ties, min_votes=min_votes, exclude=exclude)
        )
    except InputError as error:
        folder.cleanup()
        raise HTTPException(409, str(error)) from None

    def content() -> Iterator[bytes]:
        with folder, file.open("rb") as opened:
            while part := opened.read(CHUNK):
                yield part

    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(content(), media_type=EXPORTS[name], headers=headers)


@routes.get("/api/admin/image/{key}")
def image(key: str, visit: Reading, server: Serving) -> Response:
    """An image of any project, as annotators get it."""
    with server.store.read() as connection:
        path = connection.execute(sa.select(images.c.path).where(images.c.key == key)).scalar()
    if path is None:
        raise HTTPException(404, "there is no such image")
    try:
        data = server.images.png(key, Path(path))
    except UnusableImage as error:
        raise HTTPException(422, str(error)) from None
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=31536000, immutable"})


def make_study(store: Store, body: NewStudy, root: Path) -> Project:
    """A new project of runs below ``root``, set up as by the command line.

    Raises:
        InputError: there is a project of that name, a path leaves ``root``, or what the command line would say.
    """
    from human_eval_app.serve import LabelConfig, set_up
    from human_eval_app.study import read_arms

    with store.read() as connection:
        if any(project.name == body.name for project in list_projects(connection)):
            raise InputError(f"there is a project {body.name!r} already; give another name")
    for place in [*body.runs, *([body.prompts] if body.prompts else [])]:
        if not (root / place).resolve().is_relative_to(root.resolve()):
            raise InputError(f"{place} is not below {root}, the folder in which the server was started")
    config = LabelConfig(
        runs=tuple(Path(run) for run in body.runs),
        prompts=Path(body.prompts) if body.prompts else None,
        project=body.name,
        title=body.title,
        questions=tuple(body.questions),
        votes_per_pair=body.votes_per_pair,
        active=body.active,
        repeats=body.repeats,
        gold=body.gold,
        planted_gold=body.planted_gold,
        planted_training=body.planted_training,
        stopping=body.stopping,
        exclusion=body.exclusion,
    )
    return set_up(store, read_arms(config.runs, config.prompts), config, body.guideline.strip())


def found_project(connection: sa.Connection, project: str) -> Project:
    """The project with that id; 404 when there is none."""
    found = find_project(connection, project)
    if found is None:
        raise HTTPException(404, "there is no such project")
    return found


def list_members(connection: sa.Connection, project: str) -> list[dict[str, Any]]:
    """Who judges a project, by name."""
    query = (
        sa.select(users.c.name, users.c.disabled, members.c.joined_at, members.c.begun_at)
        .join(members, members.c.annotator == users.c.id)
        .where(members.c.project == project)
        .order_by(users.c.folded)
    )
    return [
        {"name": row.name, "closed": row.disabled, "joined_at": row.joined_at, "begun_at": row.begun_at}
        for row in connection.execute(query)
    ]


def close_account(connection: sa.Connection, user: str, closed: bool) -> None:
    """Close an account, whose sessions end with it, or open it again."""
    connection.execute(sa.update(users).where(users.c.id == user).values(disabled=closed))


def _export(store: Store, project: Project, folder: Path, name: str, config: ExportConfig) -> Path:
    """Make a file in a folder of its own."""
    file = folder / name
    if name != "study.zip":
        votes = store.votes(project.id)
        if not votes:
            raise InputError("there are no votes to export yet")
        write_votes(file, votes)
        return file
    export_study(store, project, folder / "study", config)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for part in sorted((folder / "study").rglob("*")):
            if part.is_file():
                archive.write(part, part.relative_to(folder))
    return file
