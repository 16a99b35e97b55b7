"""Scores and features by content, shared by all runs of a user: what was computed once is not computed again.

A score is kept under the SHA-256 of the image file, the prompt, and the fingerprint of the metric (code version,
parameters, weights); features under image and encoder. So a copied, renamed or regenerated identical image costs
nothing, and nothing stale can be found. Losing the cache loses time only.
"""

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from pixeval.errors import InputError

FILE = "scores-1.sqlite"
"""The number is that of the layout."""
LAYOUT = """
CREATE TABLE IF NOT EXISTS score (key BLOB PRIMARY KEY, value REAL NOT NULL, metric TEXT NOT NULL, day INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feature (key BLOB PRIMARY KEY, vector BLOB NOT NULL, encoder TEXT NOT NULL,
    day INTEGER NOT NULL) WITHOUT ROWID;
"""
ASK = 500
"""Keys in one query; SQLite takes 999 in any version."""


class Cache:
    """An SQLite file that several processes may use at a time.

    A cache that cannot be read or written (a full disk, a damaged file) is left alone from then on, with a warning:
    it never ends a run.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._database: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.file, timeout=60)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(LAYOUT)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def scores(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """The values that are there, by key."""
        return dict(self._ask("SELECT key, value FROM score WHERE key IN", keys))

    def put_scores(self, rows: Iterable[tuple[bytes, float, str]]) -> None:
        """Keep (key, value, metric)."""
        today = _day()
        self._write("INSERT OR REPLACE INTO score VALUES (?, ?, ?, ?)", ((*row, today) for row in rows))

    def features(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """The feature vectors that are there, by key."""
        found = self._ask("SELECT key, vector FROM feature WHERE key IN", keys)
        return {key: np.frombuffer(vector, dtype=np.float32) for key, vector in found}

    def put_features(self, rows: Iterable[tuple[bytes, NDArray[np.float32]]], encoder: str) -> None:
        """Keep (key, vector) of an encoder."""
        today = _day()
        entries = ((key, vector.astype(np.float32).tobytes(), encoder, today) for key, vector in rows)
        self._write("INSERT OR REPLACE INTO feature VALUES (?, ?, ?, ?)", entries)

    def _ask(self, query: str, keys: Sequence[bytes]) -> list[tuple[bytes, Any]]:
        found: list[tuple[bytes, Any]] = []
        for start in range(0, len(keys) if self._database is not None else 0, ASK):
            part = keys[start : start + ASK]
            try:
                assert self._database is not None
                found += self._database.execute(f"{query} ({','.join('?' * len(part))})", part).fetchall()
            except sqlite3.Error as error:
                self._give_up(error)
                break
        return found

    def _write(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        if self._database is None:
            return
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        logging.getLogger(__name__).warning("going on without the score cache %s: %s", self.file, error)
        self._database = None


def score_key(image: str, prompt: str | None, fingerprint: str) -> bytes:
    """The key of a score.

    Args:
        image: SHA-256 of the file, in hexadecimal.
        prompt: what the metric read besides the image; None for metrics that read none.
        fingerprint: of the metric.
    """
    return _key("score", image, "" if prompt is None else "p" + prompt, fingerprint)


def feature_key(image: str, encoder: str) -> bytes:
    """The key of a feature vector."""
    return _key("feature", image, encoder)


def _key(*parts: str) -> bytes:
    # lengths go in as well, so that no two lists of parts can run together
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).digest()[:16]


def default_folder() -> Path:
    """``$PIXEVAL_CACHE``, else ``pixeval`` in the user's cache folder."""
    if os.environ.get("PIXEVAL_CACHE"):
        return Path(os.environ["PIXEVAL_CACHE"])
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "pixeval"


def open_cache(folder: str = "default") -> Cache | None:
    """The cache at ``folder``; ``default`` is :func:`default_folder`, ``none`` is no cache."""
    if folder == "none":
        return None
    return Cache(default_folder() if folder == "default" else Path(folder))


def _day() -> int:
    return int(time.time() // 86400)


@dataclass(frozen=True)
class CacheConfig:
    """Show the score cache, or remove from it."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Metrics, or encoders by fingerprint; default: all."""
    prune: bool = False
    """Remove what is named instead of showing it."""
    older_than: int = 0
    """Only entries written at least so many days ago."""
    folder: str = "default"
    """Folder of the cache; default $PIXEVAL_CACHE, else ~/.cache/pixeval."""


def cache(config: CacheConfig) -> dict[str, Any]:
    """Carry out ``pixeval cache``: entries by metric and encoder, their ages in days, and the size of the file.

    Raises:
        InputError: a negative age, an unknown name, or a cache that cannot be read.
    """
    if config.older_than < 0:
        raise InputError(f"--older-than {config.older_than} is negative; give a number of days")
    file = (default_folder() if config.folder == "default" else Path(config.folder)) / FILE
    if not file.exists():
        return {"file": str(file), "megabytes": 0.0, "entries": [], "removed": 0}
    try:
        database = sqlite3.connect(file, timeout=60)
        removed = _prune(database, config) if config.prune else 0
        entries = _entries(database)
        database.close()
    except sqlite3.Error as error:
        raise InputError(f"{file} cannot be used ({error}); delete it: nothing but time is lost") from error
    shown = [row for row in entries if config.prune or not config.names or row["name"] in config.names]
    return {"file": str(file), "megabytes": round(file.stat().st_size / 1e6, 1), "entries": shown, "removed": removed}


def _entries(database: sqlite3.Connection) -> list[dict[str, Any]]:
    today = _day()
    rows = database.execute(
        "SELECT 'score', metric, count(*), min(day), max(day) FROM score GROUP BY metric UNION ALL "
        "SELECT 'features', encoder, count(*), min(day), max(day) FROM feature GROUP BY encoder ORDER BY 1 DESC, 2"
    )
    return [
        {"kind": kind, "name": name, "n": n, "oldest_days": today - first, "newest_days": today - last}
        for kind, name, n, first, last in rows
    ]


def _prune(database: sqlite3.Connection, config: CacheConfig) -> int:
    known = {row["name"] for row in _entries(database)}
    for name in config.names:
        if name not in known:
            raise InputError(f"nothing is cached for {name!r}; 'pixeval cache' shows what is")
    removed = 0
    with database:
        for table, column in (("score", "metric"), ("feature", "encoder")):
            condition, values = "day <= ?", [_day() - config.older_than, *config.names]
            if config.names:
                condition += f" AND {column} IN ({','.join('?' * len(config.names))})"
            removed += database.execute(f"DELETE FROM {table} WHERE {condition}", values).rowcount
    database.execute("VACUUM")
    return removed


def render(found: dict[str, Any]) -> str:
    """The result of :func:`cache` for a terminal."""
    lines = [f"{found['file']}: {found['megabytes']} MB"]
    if found["removed"]:
        lines.append(f"removed {found['removed']} entries")
    width = max((len(row["name"]) for row in found["entries"]), default=0) + 2
    for row in found["entries"]:
        age = f"{row['newest_days']} to {row['oldest_days']} days old"
        lines.append(f"  {row['kind']:10}{row['name']:{width}}{row['n']:>9}  {age}")
    return "\n".join(lines if found["entries"] else [*lines, "  empty"])
