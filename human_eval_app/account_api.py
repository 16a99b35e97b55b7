"""Routes of accounts: who am I, joining by invitation, signing in and out.

==== =============== =============================================================================================
GET  ``/api/me``     name, role, CSRF token and projects of who is signed in; 401 when nobody is
POST ``/api/join``   uses an invitation ``{token, name, password?}``; signs in
POST ``/api/login``  ``{name, password}``; signs in
POST ``/api/logout`` ends the session
==== =============== =============================================================================================
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from human_eval_app.accounts import (
    LONGEST_PASSWORD,
    SESSION_DAYS,
    NameTaken,
    Refused,
    TooMany,
    User,
    check_attempts,
    check_password,
    csrf_token,
    end_session,
    hash_password,
    record_failure,
    redeem,
    start_session,
)
from human_eval_app.projects import list_projects
from human_eval_app.web import COOKIE, Server, Visit, changing, present, server_of, visitor

Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Password = Annotated[str, Field(min_length=8, max_length=LONGEST_PASSWORD)]


class Join(BaseModel):
    """The body of joining."""

    model_config = ConfigDict(extra="forbid")
    token: Annotated[str, Field(min_length=1, max_length=128)]
    name: Name
    password: Password | None = None


class Login(BaseModel):
    """The body of signing in."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    password: Annotated[str, Field(max_length=LONGEST_PASSWORD)]


routes = APIRouter()


@routes.get("/api/me")
def me(visit: Annotated[Visit, Depends(visitor)], server: Annotated[Server, Depends(server_of)]) -> dict[str, Any]:
    """Who is signed in."""
    return _me(server, visit.user, visit.session)


@routes.post("/api/join")
def join(
    body: Join,
    request: Request,
    response: Response,
    server: Annotated[Server, Depends(server_of)],
    visit: Annotated[Visit | None, Depends(present)],
) -> dict[str, Any]:
    """Use an invitation."""
    address = _address(request)
    _allow(server, address)
    password = hash_password(body.password) if body.password is not None else None
    try:
        with server.store.write() as connection:
            user = redeem(
                connection, server.store.secret, body.token, body.name, password, visit.user if visit else None
            )
            token = start_session(connection, user)
    except Refused as refused:
        with server.store.write() as connection:
            record_failure(connection, address)
        raise HTTPException(403, str(refused)) from None
    except NameTaken:
        remedy = "choose another name; if it is yours, sign in with your password or ask the lead for a personal link"
        raise HTTPException(409, f"somebody is called {body.name!r} already: {remedy}") from None
    return _signed_in(server, user, token, request, response)


@routes.post("/api/login")
def login(
    body: Login, request: Request, response: Response, server: Annotated[Server, Depends(server_of)]
) -> dict[str, Any]:
    """Sign in with a password."""
    address = _address(request)
    _allow(server, address, body.name)
    with server.store.read() as connection:
        user = check_password(connection, body.name, body.password)
    if user is None:
        with server.store.write() as connection:
            record_failure(connection, address, body.name)
        raise HTTPException(403, "name and password do not belong together")
    with server.store.write() as connection:
        token = start_session(connection, user)
    return _signed_in(server, user, token, request, response)


@routes.post("/api/logout")
def logout(
    response: Response, visit: Annotated[Visit, Depends(changing)], server: Annotated[Server, Depends(server_of)]
) -> dict[str, bool]:
    """End the session, here and in every tab."""
    with server.store.write() as connection:
        end_session(connection, visit.session)
    response.delete_cookie(COOKIE, path="/")
    return {"ended": True}


def _signed_in(server: Server, user: User, token: str, request: Request, response: Response) -> dict[str, Any]:
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(86400 * SESSION_DAYS[user.role]),
        path="/",
        httponly=True,
        samesite="strict",
        secure=server.secure or request.url.scheme == "https",
    )
    return _me(server, user, token)


def _me(server: Server, user: User, session: str) -> dict[str, Any]:
    with server.store.read() as connection:
        projects = list_projects(connection, user.id)
    return {
        "name": user.name,
        "role": user.role,
        "csrf": csrf_token(server.store.secret, session),
        "projects": [{"id": project.id, "title": project.title} for project in projects],
    }


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _allow(server: Server, address: str, name: str | None = None) -> None:
    try:
        with server.store.read() as connection:
            check_attempts(connection, address, name)
    except TooMany as many:
        raise HTTPException(429, str(many), headers={"Retry-After": str(many.seconds)}) from None
