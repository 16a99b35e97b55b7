"""What every request and reply passes: hosts, sizes, origins, roles of the lead's pages, security headers."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 256 * 1024
"""Bytes of a request; a vote with a hundred marks has a tenth of that."""
# Gradio builds its page with scripts in the page and compiles components' scripts, so those two must be allowed. What
# a script could send away still goes nowhere: the page talks to its own server only.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
HTTPS_HEADERS = {"strict-transport-security": "max-age=31536000"}
SHUT = ("/gradio_api/file", "/gradio_api/upload", "/gradio_api/proxy", "/gradio_api/stream", "/file=", "/upload")
"""Gradio's own ways to files, which the app has no use for."""


@dataclass(frozen=True)
class Guard:
    """ASGI middleware around the whole application, Gradio included.

    A request is refused when its host is not ours, its body is too long, another site sent it, or when it changes
    something and is neither the app's REST (which checks session and token itself) nor from the lead.
    """

    app: App
    is_admin: Callable[[str | None], Awaitable[bool]]
    """Whether the cookie header is that of a lead's session."""
    hosts: frozenset[str] | None = None
    """Names under which the app may be called; None for any."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers) or await self._closed(scope, headers)
        if scope["type"] == "websocket":
            # Nothing here speaks it.
            await send({"type": "websocket.close", "code": 1008})
        elif refusal is not None:
            await _reply(refusal, _with_headers(send, scope))
        else:
            await self.app(scope, _limited(receive), _with_headers(send, scope))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.hosts is not None and urlsplit(f"//{host}").hostname not in self.hosts:
            return 421, "this server has another name; the lead can allow this one with --public-url"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"a request may have {MAX_BODY} bytes"
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin = headers.get("origin")
            foreign = origin is not None and urlsplit(origin).netloc != host
            if foreign or headers.get("sec-fetch-site") not in (None, "same-origin", "none"):
                return 403, "this request comes from another site"
        return None

    async def _closed(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        path = scope["path"]
        if any(part in path for part in SHUT):
            return 404, "there is no such page"
        if path.startswith("/admin") and not await self.is_admin(headers.get("cookie")):
            return 303, "/"
        if scope["method"] not in ("GET", "HEAD") and not path.startswith(("/api/", "/admin/")):
            return 405, "nothing can be changed here"
        return None


def _limited(receive: Receive) -> Receive:
    """``receive``, ending bodies that came without their length and are too long."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            # What the application makes of a client that went away in the middle.
            return {"type": "http.disconnect"}
        return message

    return limited


def _with_headers(send: Send, scope: Scope) -> Send:
    """``send``, with the security headers on every reply."""
    added = HEADERS | (HTTPS_HEADERS if scope.get("scheme") == "https" else {})

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(n, v) for n, v in message.get("headers", []) if n.lower() not in (b"server", b"x-powered-by")]
            there = {name.lower() for name, _ in kept}
            new = [(n.encode(), v.encode()) for n, v in added.items() if n.encode() not in there]
            message["headers"] = kept + new
        await send(message)

    return sending


async def _reply(refusal: tuple[int, str], send: Send) -> None:
    status, text = refusal
    body = b"" if status == 303 else json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 303:
        headers.append((b"location", text.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
