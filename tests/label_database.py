"""A real PostgreSQL server for the tests of the labelling app, and databases in it."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


def postgres_programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``: Debian keeps them out of PATH."""
    found = shutil.which("pg_ctl")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda p: int(p.parts[4].split(".")[0]))
    return Path(found).parent if found else debian[-1].parent if debian else None


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a server in a folder of its own, reached by a socket there; yields the folder.

    PostgreSQL refuses to run as root; then it runs as the user ``postgres`` that its Debian package makes.
    """
    programs = postgres_programs()
    assert programs is not None, "PostgreSQL is not installed: make postgres"
    folder = Path(tempfile.mkdtemp(prefix="pixeval-postgres-"))
    become: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, pwd.getpwnam("postgres").pw_uid)
        become = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    # Only the app is killed in tests, never the machine, so the server need not wait for the disk.
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c max_connections=200"
    try:
        start = [str(programs / "initdb"), "-D", str(data), "-U", "tests", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run([*become, *start], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        control = [*become, str(programs / "pg_ctl"), "-D", str(data), "-w"]
        log = str(folder / "log")
        subprocess.run([*control, "-l", log, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        try:
            yield str(folder)
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd=folder)
    finally:
        shutil.rmtree(folder)


def new_database(server: str, name: str) -> str:
    """The URL of a new, empty database of the server in that folder."""
    with psycopg.connect(f"host={server} user=tests dbname=postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"postgresql://tests@/{name}?host={server}"
