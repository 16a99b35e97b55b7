"""Settings of all tests."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of other tests, or of the user, must not be found; commands started by a test inherit this."""
    monkeypatch.setenv("PIXEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of a running PostgreSQL server."""
    from label_database import postgres_programs, postgres_server

    if postgres_programs() is None and "CI" not in os.environ:
        pytest.skip("no PostgreSQL is installed (with CI set this fails instead)")
    with postgres_server() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a labelling database can be made: a file, or a URL of PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "db" / "votes.sqlite3")
    from label_database import new_database

    return new_database(request.getfixturevalue("postgres"), f"test{next(_numbers)}")
