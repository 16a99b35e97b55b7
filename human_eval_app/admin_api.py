"""Routes of the lead; every one needs a session of role admin, every change its CSRF token.

==== ======================================= ==================================================================
GET  ``/api/admin/projects``                 all projects with their counts and enrolment links
POST ``/api/admin/project/ID/state``         ``{state: open | paused}``
POST ``/api/admin/project/ID/enrolment``     makes the open link worthless; replies with a new one
POST ``/api/admin/project/ID/invitation``    a link that works once: ``{name?, role?}``
GET  ``/api/admin/project/ID/votes``         all votes as JSON lines
GET  ``/api/admin/project/ID/verify``        whether the chain of answers holds
==== ======================================= ==================================================================
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from human_eval_app.account_api import Name
from human_eval_app.accounts import Role, enrolment_token, find_user, invite
from human_eval_app.answers import read_votes, verify
from human_eval_app.projects import Project, State, find_project, list_projects, renew_enrolment, set_state
from human_eval_app.schema import members, projects
from human_eval_app.web import Server, Visit, admin, admin_changing, server_of


class NewState(BaseModel):
    """The body of opening or pausing."""

    model_config = ConfigDict(extra="forbid")
    state: State


class NewInvitation(BaseModel):
    """The body of an invitation."""

    model_config = ConfigDict(extra="forbid")
    name: Name | None = None
    """Of an account that the link signs in; None for a new account."""
    role: Role = "annotator"


routes = APIRouter()
Serving = Annotated[Server, Depends(server_of)]
Reading = Annotated[Visit, Depends(admin)]
Changing = Annotated[Visit, Depends(admin_changing)]


@routes.get("/api/admin/projects")
def all_projects(visit: Reading, server: Serving) -> list[dict[str, Any]]:
    """All projects of the database."""
    with server.store.read() as connection:
        return [_project(connection, server, project) for project in list_projects(connection)]


@routes.post("/api/admin/project/{project}/state")
def state(project: str, body: NewState, visit: Changing, server: Serving) -> dict[str, Any]:
    """Open or pause a project."""
    with server.store.write() as connection:
        set_state(connection, _found(connection, project).id, body.state)
        return _project(connection, server, _found(connection, project))


@routes.post("/api/admin/project/{project}/enrolment")
def enrolment(project: str, visit: Changing, server: Serving) -> dict[str, Any]:
    """A new open link, in place of the old one."""
    with server.store.write() as connection:
        renew_enrolment(connection, _found(connection, project).id)
        return _project(connection, server, _found(connection, project))


@routes.post("/api/admin/project/{project}/invitation")
def invitation(project: str, body: NewInvitation, visit: Changing, server: Serving) -> dict[str, str]:
    """A link that works once."""
    with server.store.write() as connection:
        found = _found(connection, project)
        user = find_user(connection, body.name) if body.name is not None else None
        if body.name is not None and user is None:
            raise HTTPException(404, f"nobody is called {body.name!r}; leave the name out to invite somebody new")
        token = invite(connection, user.role if user else body.role, found.id, user.id if user else None)
    return {"path": f"/#join={token}"}


@routes.get("/api/admin/project/{project}/votes")
def votes(project: str, visit: Reading, server: Serving) -> StreamingResponse:
    """All votes, superseded ones included, in the order of their chain."""
    with server.store.read() as connection:
        found = _found(connection, project)

    def lines() -> Iterator[str]:
        with server.store.read() as connection:
            for stored in read_votes(connection, server.store.secret, found.id):
                yield json.dumps(asdict(stored.vote), ensure_ascii=False) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})


@routes.get("/api/admin/project/{project}/verify")
def check(project: str, visit: Reading, server: Serving) -> dict[str, Any]:
    """Whether the chain of answers holds, and where it breaks first."""
    with server.store.read() as connection:
        found = _found(connection, project)
        broken = verify(connection, server.store.secret, found.id)
    return {"holds": broken is None, "broken": None if broken is None else asdict(broken)}


def _found(connection: sa.Connection, project: str) -> Project:
    found = find_project(connection, project)
    if found is None:
        raise HTTPException(404, "there is no such project")
    return found


def _project(connection: sa.Connection, server: Server, project: Project) -> dict[str, Any]:
    counts = sa.select(projects.c.answers, projects.c.head, projects.c.tasks).where(projects.c.id == project.id)
    row = connection.execute(counts).one()
    people = sa.select(sa.func.count()).select_from(members).where(members.c.project == project.id)
    return {
        "id": project.id,
        "name": project.name,
        "title": project.title,
        "state": project.state,
        "design": asdict(project.design),
        "answers": row.answers,
        "head": row.head,
        "tasks": row.tasks,
        "members": connection.execute(people).scalar_one(),
        "enrolment": f"/#join={enrolment_token(server.store.secret, project)}",
    }
