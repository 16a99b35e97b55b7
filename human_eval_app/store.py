"""The database of the labelling app: SQLite in a file, or PostgreSQL by URL.

Every change is one transaction that is on disk when it returns. Writers of one project take turns (SQLite: writers of
the whole file), which keeps the chain of answers and the assignment of pairs in order.
"""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from human_eval_app.answers import read_votes
from human_eval_app.schema import settings
from pixeval.errors import InputError
from pixeval.records import Vote

CONNECTIONS = 40
"""As many as the server has threads."""
UPGRADE_LOCK = 7160271


class Store:
    """An open database."""

    def __init__(self, url: str, secret: str | None = None) -> None:
        """Open or make the database at a SQLAlchemy ``url``; ``secret`` is kept when it is new (default: random).

        Raises:
            InputError: it cannot be opened, or another version wrote it.
        """
        self.url = sa.make_url(url)
        try:
            self._engine = sa.create_engine(self.url, pool_size=CONNECTIONS, pool_pre_ping=not self.is_sqlite)
        except ModuleNotFoundError as error:
            raise InputError(f"{self.shown_url} needs psycopg; pip install 'pixeval[postgres]'") from error
        self._turn = threading.Lock() if self.is_sqlite else nullcontext()
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._writing = self._engine.execution_options(writing=True)
        try:
            self._refuse_other_formats()
            with self.write() as connection:
                upgrade(connection)
            self.secret = self.setting("secret", secret or secrets.token_hex(32))
        except sa.exc.SQLAlchemyError as error:
            self.close()
            cause = str(getattr(error, "orig", None) or error).strip()
            raise InputError(
                f"the vote database {self.shown_url} cannot be used ({cause}); give another with --db"
            ) from error

    @classmethod
    def at(cls, place: Path | str, secret: str | None = None) -> "Store":
        """The database at a URL, or in the SQLite file of that path; folders are made."""
        if "://" in str(place):
            url = str(place)
            return cls(url.replace("postgresql://", "postgresql+psycopg://", 1), secret)
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(sa.URL.create("sqlite", database=str(path)).render_as_string(), secret)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def shown_url(self) -> str:
        """For people: the file, or the URL without its password."""
        return str(self.url.database) if self.is_sqlite else self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection in a transaction that only reads."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A connection in a transaction that is on disk when the block ends, and undone when it raises."""
        # Threads queue here in order; SQLite itself would let them poll with growing pauses.
        with self._turn, self._writing.begin() as connection:
            yield connection

    def setting(self, name: str, default: str) -> str:
        """A setting of the database; ``default`` is kept when it is not there yet."""
        query = sa.select(settings.c.value).where(settings.c.name == name)
        with self.read() as connection:
            stored = connection.execute(query).scalar()
        if stored is not None:
            return str(stored)
        try:
            with self.write() as connection:
                connection.execute(sa.insert(settings).values(name=name, value=default))
        except sa.exc.IntegrityError:
            return self.setting(name, default)
        return default

    def votes(self, project: str | None = None) -> list[Vote]:
        """Everything that was answered, superseded and undone answers included, in order; of all projects, or one."""
        with self.read() as connection:
            return [stored.vote for stored in read_votes(connection, self.secret, project)]

    def _refuse_other_formats(self) -> None:
        """Databases of the first version have no accounts and no projects, and do not say where images are."""
        inspector = sa.inspect(self._engine)
        if inspector.has_table("answers") and not inspector.has_table("alembic_version"):
            raise InputError(
                f"{self.shown_url} is a vote database of format 1, which had no accounts. Its votes stay usable where "
                "they were exported (votes/*.parquet of the run); give a new database with --db, or move the old one "
                "away"
            )


def upgrade(connection: sa.Connection) -> None:
    """Bring the tables up to date."""
    if connection.dialect.name == "postgresql":
        # Two servers that start at once take turns.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
    config = Config()
    config.set_main_option("script_location", "human_eval_app:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # Transactions are begun by the event below, not by the driver.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that will write takes its turn at once: it could not take it later, having read.
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
