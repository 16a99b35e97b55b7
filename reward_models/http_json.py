"""One question in JSON over HTTP. Whatever goes wrong is one exception with one line for people."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

MOST_BYTES = 64_000_000
"""Of an answer; more is cut off, and then no JSON."""
TOLD = 300
"""Characters of what a stranger says that are shown."""


class NoAnswer(Exception):
    """Nothing came back that can be read."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        """Of HTTP, where the other side refused; None where it did not answer, or not in JSON."""


class _Unredirected(urllib.request.HTTPRedirectHandler):
    """Redirects are refusals: urllib would take the key along to whatever host they name."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Unredirected)


def ask_json(address: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout: float = 60.0) -> Any:
    """What ``address`` answers to a GET, or to a POST of ``body`` where that is given.

    Raises:
        NoAnswer: it does not answer, refuses, redirects, or answers something that is no JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(address, data, {"Content-Type": "application/json", **(headers or {})})
        with _OPENER.open(request, timeout=timeout) as answer:
            return json.loads(answer.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        raise NoAnswer(f"refused with {error.code} {_said(error)}", error.code) from error
    # http.client has errors that are no OSError, and addresses that are none are ValueErrors, as what is no JSON
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise NoAnswer(f"{type(error).__name__}: {one_line(error)}") from error


def one_line(said: object) -> str:
    """What a stranger says, short and without control characters."""
    return "".join(c if c.isprintable() else " " for c in str(said)[: 4 * TOLD]).strip()[:TOLD]


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return one_line(f"{error.reason} {error.read(4 * TOLD).decode('utf-8', 'replace')}")
    except (OSError, http.client.HTTPException):
        return one_line(error.reason)
