"""People: names, passwords, invitations, sessions. Of every token only a hash is kept."""

import hmac
import secrets
import threading
import time
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import argon2
import sqlalchemy as sa

from human_eval_app.names import digest, opaque
from human_eval_app.projects import Project, add_member, list_projects, now
from human_eval_app.schema import failures, invitations, sessions, users

Role = Literal["annotator", "admin"]
SESSION_DAYS: dict[str, float] = {"annotator": 30.0, "admin": 1.0}
INVITATION_DAYS = 14.0
WINDOW_SECONDS = 900.0
FAILURES_PER_NAME = 10
FAILURES_PER_ADDRESS = 40
"""Refused sign-ins within a quarter of an hour, after which that name, or that address, has to wait."""
LONGEST_PASSWORD = 256

# OWASP's recommendation for argon2id: 19 MiB, two passes, one lane.
_hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Hashing is dear on purpose; two at a time leave the rest of the server alone.
_hashing = threading.Semaphore(2)
_NOBODY = _hasher.hash(secrets.token_hex(16))


class Refused(Exception):
    """A sign-in or invitation that does not hold; the message is for the person."""


class TooMany(Exception):
    """Too many refused sign-ins; ``seconds`` says when to try again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many attempts; try again in {max(1, round(seconds / 60))} minutes")
        self.seconds = max(1, round(seconds))


class NameTaken(Exception):
    """Somebody else has this name."""


@dataclass(frozen=True)
class User:
    """Somebody with an account."""

    id: str
    name: str
    role: Role


def fold(name: str) -> str:
    """What two names that look alike have in common: neither case, nor compatibility forms, nor outer spaces."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()[:256]


def add_user(
    connection: sa.Connection,
    secret: str,
    name: str,
    role: Role = "annotator",
    password_hash: str | None = None,
    simulated: bool = False,
) -> User:
    """Make an account.

    Raises:
        NameTaken: there is one of that name.
    """
    folded = fold(name)
    if find_user(connection, name) is not None:
        raise NameTaken(name)
    identity = opaque(secret, "user", folded)
    row = {"id": identity, "name": name, "folded": folded, "role": role, "password": password_hash}
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(users).values(**row, simulated=simulated, disabled=False, created_at=now()))
    except sa.exc.IntegrityError as error:
        raise NameTaken(name) from error
    return User(identity, name, role)


def find_user(connection: sa.Connection, name: str) -> User | None:
    """The account of that name."""
    row = connection.execute(sa.select(users).where(users.c.folded == fold(name))).mappings().first()
    return None if row is None else _user(row)


def hash_password(password: str) -> str:
    """Argon2id, with a salt of its own."""
    with _hashing:
        return _hasher.hash(password)


def check_password(connection: sa.Connection, name: str, password: str) -> User | None:
    """The user of that name if the password is theirs; takes as long when there is no such user."""
    row = connection.execute(sa.select(users).where(users.c.folded == fold(name))).mappings().first()
    kept = row["password"] if row is not None and row["password"] and not row["disabled"] else None
    try:
        with _hashing:
            _hasher.verify(kept or _NOBODY, password)
    except argon2.exceptions.VerificationError:
        return None
    return None if row is None or kept is None else _user(row)


# ---- invitations -----------------------------------------------------------------------------------------------------


def invite(
    connection: sa.Connection, role: Role, project: str | None, user: str | None = None, days: float = INVITATION_DAYS
) -> str:
    """The token of a link that works once: makes an account, or signs ``user`` in."""
    token = secrets.token_urlsafe(24)
    row = {"token": digest(token), "role": role, "project": project, "user": user}
    connection.execute(sa.insert(invitations).values(**row, expires=time.time() + 86400 * days))
    return token


def withdraw_invitations(connection: sa.Connection, user: str) -> None:
    """Make unused links that sign ``user`` in worthless."""
    unused = (invitations.c.user == user, invitations.c.used_at.is_(None))
    connection.execute(sa.delete(invitations).where(*unused))


def enrolment_token(secret: str, project: Project) -> str:
    """The token of the open enrolment link: the same until it is renewed, and good for any number of people."""
    return opaque(secret, "enrol", project.id, str(project.enrolment))


def redeem(
    connection: sa.Connection, secret: str, token: str, name: str, password_hash: str | None, present: User | None
) -> User:
    """Use an invitation, one-time or open; the user it leads to is a member of its project.

    Args:
        name: of a new account; not looked at by a link that signs a user in.
        present: who is signed in already, if anybody; they join under the name they have.

    Raises:
        Refused: it does not hold, or was used.
        NameTaken: somebody else has this name.
    """
    for project in list_projects(connection):
        if hmac.compare_digest(enrolment_token(secret, project).encode(), token.encode()):
            user = present or add_user(connection, secret, name, "annotator", password_hash)
            add_member(connection, project.id, user.id)
            return user
    found = (
        connection.execute(sa.select(invitations).where(invitations.c.token == digest(token)).with_for_update())
        .mappings()
        .first()
    )
    if found is None or found["used_at"] is not None or found["expires"] < time.time():
        raise Refused("this invitation does not hold (any more); ask for a new one")
    used = sa.update(invitations).where(invitations.c.token == found["token"], invitations.c.used_at.is_(None))
    if connection.execute(used.values(used_at=now())).rowcount != 1:
        raise Refused("this invitation has been used; ask for a new one")
    if found["user"] is not None:
        row = connection.execute(sa.select(users).where(users.c.id == found["user"])).mappings().one()
        if row["disabled"]:
            raise Refused("this account is closed")
        user = _user(row)
    elif present is not None and present.role == found["role"]:
        user = present
    else:
        user = add_user(connection, secret, name, found["role"], password_hash)
    if found["project"] is not None:
        add_member(connection, found["project"], user.id)
    return user


# ---- sessions --------------------------------------------------------------------------------------------------------


def start_session(connection: sa.Connection, user: User) -> str:
    """The token of a new session; sessions that ran out are cleared away."""
    token = secrets.token_urlsafe(32)
    connection.execute(sa.delete(sessions).where(sessions.c.expires < time.time()))
    expires = time.time() + 86400 * SESSION_DAYS[user.role]
    connection.execute(sa.insert(sessions).values(token=digest(token), user=user.id, expires=expires))
    return token


# Built once, since every request runs it.
OF_SESSION = (
    sa.select(users)
    .join(sessions, sessions.c.user == users.c.id)
    .where(sessions.c.token == sa.bindparam("digest"), sessions.c.expires > sa.bindparam("at"))
    .where(users.c.disabled.is_(False))
)


def session_user(connection: sa.Connection, token: str) -> User | None:
    """Whose session it is; None when it ran out or never was."""
    row = connection.execute(OF_SESSION, {"digest": digest(token), "at": time.time()}).mappings().first()
    return None if row is None else _user(row)


def end_session(connection: sa.Connection, token: str) -> None:
    """Sign out."""
    connection.execute(sa.delete(sessions).where(sessions.c.token == digest(token)))


def csrf_token(secret: str, session: str) -> str:
    """What every change in a session must carry in a header, which another site cannot read."""
    return opaque(secret, "csrf", session)


# ---- refused attempts ------------------------------------------------------------------------------------------------


def check_attempts(connection: sa.Connection, address: str, name: str | None = None) -> None:
    """See whether another attempt is allowed, from this address and, to sign in, for this name.

    Raises:
        TooMany: not now.
    """
    since = time.time() - WINDOW_SECONDS
    for who, most in _counted(address, name):
        query = sa.select(sa.func.count(), sa.func.min(failures.c.at)).where(
            failures.c.who == who, failures.c.at > since
        )
        count, first = connection.execute(query).one()
        if count >= most:
            raise TooMany(first - since)


def record_failure(connection: sa.Connection, address: str, name: str | None = None) -> None:
    """Count a refused attempt."""
    at = time.time()
    connection.execute(sa.delete(failures).where(failures.c.at < at - WINDOW_SECONDS))
    connection.execute(sa.insert(failures), [{"who": who, "at": at} for who, _ in _counted(address, name)])


def _counted(address: str, name: str | None) -> list[tuple[str, int]]:
    """What failures are counted by, and how many are allowed."""
    by_address = (digest(f"address {address}"), FAILURES_PER_ADDRESS)
    return [by_address] if name is None else [by_address, (digest(f"name {fold(name)}"), FAILURES_PER_NAME)]


def _user(row: Any) -> User:
    return User(row["id"], row["name"], row["role"])
