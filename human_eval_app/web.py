"""What the routes share: the open server, who is asking, and how fast they may."""

import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Annotated, Any

from fastapi import Depends, Header, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from human_eval_app.accounts import User, csrf_token, session_user
from human_eval_app.images import ImageCache
from human_eval_app.projects import Project, find_project, is_member
from human_eval_app.store import Store
from human_eval_app.watch import Watch

COOKIE = "pixeval_session"
BURST = 120
PER_SECOND = 10.0
"""Changes a session may make: so many at once, as after a time without connection, and then so many a second."""


class Pace:
    """Token buckets by session, in memory."""

    KEPT = 10_000

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, who: str) -> float:
        """0 when the caller may go on, and one unit is taken; otherwise seconds to wait."""
        with self._lock:
            at = time.monotonic()
            left, since = self._buckets.pop(who, (float(BURST), at))
            left = min(float(BURST), left + (at - since) * PER_SECOND)
            self._buckets[who] = (max(left - 1, 0.0) if left >= 1 else left, at)
            if len(self._buckets) > self.KEPT:
                self._buckets.popitem(last=False)
            return 0.0 if left >= 1 else (1 - left) / PER_SECOND


@dataclass(frozen=True)
class Server:
    """One running server."""

    store: Store
    images: ImageCache
    secure: bool = False
    """Whether cookies are for https only, whatever the connection looks like (behind a proxy)."""
    pace: Pace = field(default_factory=Pace)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "watch", Watch(self.store))


@dataclass(frozen=True)
class Visit:
    """A request of somebody who is signed in."""

    user: User
    session: str


# Only what asks the database is left to a thread; each change of threads costs a vote milliseconds under load.


async def server_of(request: Request) -> Server:
    """The server that got this request."""
    server: Server = request.app.state.server
    return server


def present(request: Request, server: Annotated[Server, Depends(server_of)]) -> Visit | None:
    """Who is asking; None when nobody is signed in."""
    token = request.cookies.get(COOKIE)
    if not token:
        return None
    with server.store.read() as connection:
        user = session_user(connection, token)
    return None if user is None else Visit(user, token)


async def visitor(visit: Annotated[Visit | None, Depends(present)]) -> Visit:
    """Who is asking; 401 when nobody is signed in."""
    if visit is None:
        raise HTTPException(401, "please sign in")
    return visit


async def changing(
    visit: Annotated[Visit, Depends(visitor)],
    server: Annotated[Server, Depends(server_of)],
    x_csrf_token: Annotated[str, Header(max_length=128)] = "",
) -> Visit:
    """Who wants to change something: 403 without the session's token, 429 when too fast."""
    if not hmac.compare_digest(x_csrf_token.encode(), csrf_token(server.store.secret, visit.session).encode()):
        raise HTTPException(403, "this page is out of date; reload it")
    wait = server.pace.wait(visit.session)
    if wait:
        raise HTTPException(429, "too fast; wait a moment", headers={"Retry-After": str(max(1, round(wait)))})
    return visit


async def admin(visit: Annotated[Visit, Depends(visitor)]) -> Visit:
    """The lead, reading."""
    if visit.user.role != "admin":
        raise HTTPException(403, "this is for the lead of the study")
    return visit


async def admin_changing(visit: Annotated[Visit, Depends(changing)]) -> Visit:
    """The lead, changing something."""
    return await admin(visit)


def project_of(connection: Any, project: str, user: User, changing: bool = False) -> Project:
    """A project that this user judges; 404 when there is none, 403 when it is not theirs.

    Args:
        changing: take the project's row before anything else is touched, so that writers cannot wait for each other
            in a circle, and none goes on with a project that was paused meanwhile.
    """
    found = find_project(connection, project, changing)
    if found is None:
        raise HTTPException(404, "there is no such project")
    if not is_member(connection, project, user.id):
        raise HTTPException(403, "you are not a member of this project")
    return found


def admin_check(server: Server) -> Callable[[str | None], Awaitable[bool]]:
    """Whether a cookie header is that of a lead's session."""

    def check(header: str | None) -> bool:
        try:
            morsel = SimpleCookie(header or "").get(COOKIE)
        except CookieError:
            return False
        if morsel is None:
            return False
        with server.store.read() as connection:
            user = session_user(connection, morsel.value)
        return user is not None and user.role == "admin"

    async def is_admin(header: str | None) -> bool:
        return await run_in_threadpool(check, header)

    return is_admin
