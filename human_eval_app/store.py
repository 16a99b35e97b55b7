"""Assignments and answers in a SQL database; answers are only ever appended.

An assignment's answers are numbered: 0 is the first answer, 1 its undoing, 2 the next answer, and so on. The pair
(assignment, revision) is unique, so an answer that arrives twice is stored once. As a :class:`pixeval.records.Vote`
each revision supersedes the one before, and an undoing is a ``skip``.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from human_eval_app.schedule import Assignment
from pixeval.errors import InputError
from pixeval.records import Choice, Vote

FORMAT = "1"

_metadata = sa.MetaData()
_settings = sa.Table(
    "settings",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_assignments = sa.Table(
    "assignments",
    _metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("annotator", sa.String(64), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("question", sa.String(16), nullable=False),
    sa.Column("prompt_id", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("left", sa.String(64), nullable=False),
    sa.Column("right", sa.String(64), nullable=False),
    sa.Column("left_label", sa.Text, nullable=False),
    sa.Column("right_label", sa.Text, nullable=False),
    sa.UniqueConstraint("annotator", "position"),
)
_answers = sa.Table(
    "answers",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("assignment", sa.String(64), sa.ForeignKey("assignments.id"), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("choice", sa.String(16), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("answered_at", sa.String(40), nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.UniqueConstraint("assignment", "revision"),
)


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
    simulated: bool = False

    @property
    def undoes(self) -> bool:
        """Whether this row takes an answer back."""
        return self.revision % 2 == 1


class Store:
    """The database of one study."""

    def __init__(self, url: str, secret: str | None = None) -> None:
        """Open or make the database at a SQLAlchemy ``url``; ``secret`` is kept when it is new (default: random).

        Raises:
            InputError: it cannot be opened, or another version wrote it.
        """
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _set_sqlite_pragmas)
        try:
            _metadata.create_all(self._engine)
            self._keep("format", FORMAT)
            self.secret = self._keep("secret", secret or secrets.token_hex(16))
            found = self._keep("format", FORMAT)
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise InputError(f"the vote database {url} cannot be used ({cause}); give another with --db") from error
        if found != FORMAT:
            raise InputError(f"{url} is a vote database of format {found}, this version reads {FORMAT}; use another")

    @classmethod
    def at(cls, path: Path, secret: str | None = None) -> "Store":
        """The SQLite database in the file ``path``; folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{path}", secret)

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    def setting(self, name: str, default: str) -> str:
        """A setting of the study; ``default`` is kept when it is not there yet."""
        return self._keep(name, default)

    def enrol(self, planned: Iterable[Assignment]) -> None:
        """Add the assignments of one annotator that are not there yet, after those that are.

        Assignments already there keep their sides and places, so new images can join a study that is under way.
        """
        planned = list(planned)
        if not planned:
            return
        annotator = planned[0].annotator
        there = self.assignments(annotator)
        known, offset = {a.id for a in there}, 1 + max((a.position for a in there), default=-1)
        new = [asdict(a) for a in planned if a.id not in known]
        for place, row in enumerate(new):
            row["position"] = offset + place
        if new:
            try:
                with self._engine.begin() as connection:
                    connection.execute(sa.insert(_assignments), new)
            except sa.exc.IntegrityError:
                # The same person's second tab enrolled first, with the same plan.
                if not {row["id"] for row in new} <= {a.id for a in self.assignments(annotator)}:
                    raise

    def assignments(self, annotator: str) -> list[Assignment]:
        """Of one annotator, in order."""
        query = sa.select(_assignments).where(_assignments.c.annotator == annotator).order_by(_assignments.c.position)
        with self._engine.connect() as connection:
            return [Assignment(**row) for row in connection.execute(query).mappings()]

    def assignment(self, assignment_id: str, annotator: str) -> Assignment | None:
        """One assignment, if it exists and is that annotator's."""
        query = sa.select(_assignments).where(_assignments.c.id == assignment_id, _assignments.c.annotator == annotator)
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else Assignment(**row)

    def answers(self, annotator: str) -> list[Answer]:
        """Of one annotator, every revision, in the order they were stored."""
        query = (
            sa.select(_answers)
            .join(_assignments, _answers.c.assignment == _assignments.c.id)
            .where(_assignments.c.annotator == annotator)
            .order_by(_answers.c.number)
        )
        with self._engine.connect() as connection:
            return [_answer(row) for row in connection.execute(query).mappings()]

    def append(self, answers: Sequence[Answer]) -> bool:
        """Store answers in one transaction; on return they are on disk.

        Returns:
            False, and nothing is stored, when one of them is there already (same assignment and revision).
        """
        if not answers:
            return True
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(_answers), [asdict(a) for a in answers])
        except sa.exc.IntegrityError:
            return False
        return True

    def votes(self) -> list[Vote]:
        """Everything that was answered, superseded and undone answers included, in order."""
        query = (
            sa.select(_assignments, _answers)
            .join(_answers, _answers.c.assignment == _assignments.c.id)
            .order_by(_answers.c.number)
        )
        with self._engine.connect() as connection:
            return [_vote(row, self.secret) for row in connection.execute(query).mappings()]

    def _keep(self, name: str, value: str) -> str:
        """The stored value of a setting, storing ``value`` first when there is none."""
        query = sa.select(_settings.c.value).where(_settings.c.name == name)
        with self._engine.connect() as connection:
            stored = connection.execute(query).scalar()
        if stored is not None:
            return str(stored)
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(_settings).values(name=name, value=value))
        except sa.exc.IntegrityError:
            return self._keep(name, value)
        return value


def _answer(row: Any) -> Answer:
    return Answer(
        assignment=row["assignment"],
        revision=row["revision"],
        choice=cast(Choice, row["choice"]),
        seconds=row["seconds"],
        answered_at=row["answered_at"],
        simulated=row["simulated"],
    )


def _vote(row: Any, secret: str) -> Vote:
    revision = row["revision"]
    return Vote(
        id=_vote_id(secret, row["assignment"], revision),
        annotator=row["annotator"],
        question=row["question"],
        prompt_id=row["prompt_id"],
        prompt=row["prompt"],
        left=row["left"],
        right=row["right"],
        left_label=row["left_label"],
        right_label=row["right_label"],
        choice=row["choice"],
        seconds=row["seconds"],
        answered_at=row["answered_at"],
        supersedes=_vote_id(secret, row["assignment"], revision - 1) if revision else None,
        simulated=row["simulated"],
    )


def _vote_id(secret: str, assignment: str, revision: int) -> str:
    return hashlib.sha256(f"{secret}/{assignment}/{revision}".encode()).hexdigest()[:16]


def _set_sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
