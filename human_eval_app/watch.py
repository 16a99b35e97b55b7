"""Looks at running studies whether their stopping rule is reached, soon after votes and never in their way."""

import threading
import time

from human_eval_app.projects import find_project
from human_eval_app.stopping import declared, stop_if_reached, take_look
from human_eval_app.store import Store

PAUSE_SECONDS = 10.0
"""Between two looks at one project, at least; a look reads all its votes on one question."""
SHARE = 20
"""A pause is at least so many times as long as the look before, which in large studies takes seconds."""


class Watch:
    """One per server. A vote calls :meth:`voted`; a thread of its own looks, at most every so many seconds."""

    def __init__(self, store: Store, pause: float = PAUSE_SECONDS) -> None:
        self._store = store
        self._pause = pause
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        self._next: dict[str, float] = {}

    def voted(self, project: str) -> None:
        """A vote was stored: a look follows, so that the last vote of a study is always looked at."""
        with self._lock:
            if project in self._waiting:
                return
            self._waiting.add(project)
            wait = self._next.get(project, 0.0) - time.monotonic()
        timer = threading.Timer(max(0.0, wait), self._look, (project,))
        timer.daemon = True
        timer.start()

    def _look(self, project: str) -> None:
        with self._lock:
            # From here on a vote may be missed by this look, so it gets another.
            self._waiting.discard(project)
            self._next[project] = time.monotonic() + self._pause
        began = time.monotonic()
        self.look(project)
        done = time.monotonic()
        with self._lock:
            self._next[project] = max(began + self._pause, done + SHARE * (done - began))

    def look(self, project: str) -> bool:
        """Look now; True when that paused the project."""
        with self._store.read() as connection:
            found = find_project(connection, project)
            rule = declared(connection, project)
            if found is None or found.state != "open" or rule is None or rule.reached_at is not None:
                return False
            seen = take_look(connection, found)
        if seen is None or not seen.stop:
            return False
        with self._store.write() as connection:
            return stop_if_reached(connection, found, seen)
