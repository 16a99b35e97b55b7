"""``pixeval reward serve``: a reward behind a small JSON service, so that a model whose dependencies clash can run in
an environment of its own. Nothing is unpickled, and one bad item costs itself only.

::

    GET  /v1/model   {"name", "fingerprint", "higher_is_better": true}
    POST /v1/score   {"items": [{"prompt": "...", "image": "base64 of PNG, JPEG or WebP"}, ...]}
                     {"fingerprint", "results": [{"reward": 1.2, "deviation": 0.1}, {"error": "..."}, ...]}

A request that is refused as a whole gets ``{"error": "..."}`` with status 413 or 422, and nothing of it is repeated.
"""

import base64
import binascii
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import tyro
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, decode_image
from reward_models.http_json import one_line
from reward_models.remote import MOST_BODY, MOST_ITEMS
from reward_models.sources import Source, in_parts, open_source

MOST_CHARACTERS = 20_000
"""Of a prompt."""
MOST_BYTES = 32_000_000
"""Of one image, encoded."""
MOST_PIXELS = 32_000_000
"""Of one image; a small file can hold very many, and each takes 12 bytes."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""Pillow knows many more, and runs other programs for some."""


@dataclass(frozen=True)
class RewardServeConfig:
    """Serve a reward over HTTP."""

    model: Annotated[str, tyro.conf.Positional]
    """A metric of the catalogue that judges single images; or a folder that 'pixeval reward train' wrote, with
    #QUESTION for the head of one question (rewards/mine#flaws)."""
    weights: tuple[str, ...] = ()
    """NAME=PATH where the metric needs weights."""
    clip: str = "bundled"
    """CLIP of metrics that take one, as of 'pixeval score' (laion_aesthetic: ViT-L-14/openai)."""
    host: str = "127.0.0.1"
    """Address to listen on; there is no password, so take another only in a network you trust."""
    port: int = 7870
    """Port to listen on; 0 for a free one."""
    device: str = "cpu"
    """Where it runs."""


def serve(config: RewardServeConfig) -> None:
    """Serve until Ctrl-C.

    Raises:
        InputError: no such model, or a port that is in use or none.
    """
    import uvicorn

    listener = _listen(config.host, config.port)
    source = open_source(config.model, config.weights, config.device, config.clip)
    port = listener.getsockname()[1]
    print(f"{source.name} at http://{config.host}:{port}/v1/score; Ctrl-C ends it", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(service(source), log_level="warning")).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is told before the model is loaded."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(f"cannot listen on {host}:{port} ({error}); give another --port or --host") from error
    return listener


def service(source: Source) -> FastAPI:
    """The application; requests are scored one after the other."""
    app = FastAPI(title="pixeval reward", docs_url=None, redoc_url=None)

    @app.get("/v1/model")
    async def model() -> dict[str, Any]:
        return {"name": source.name, "fingerprint": source.fingerprint, "higher_is_better": True}

    # async, and no wait once the body is there: one request at a time has the model
    @app.post("/v1/score")
    async def score(request: Request) -> JSONResponse:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY:
                return _refused(413, f"a request has at most {MOST_BODY // 10**6} MB")
        try:
            items = read_items(body)
        except ValueError as error:
            return _refused(422, str(error))
        return JSONResponse({"fingerprint": source.fingerprint, "results": score_items(source, items)})

    return app


def _refused(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status)


def read_items(body: bytes | bytearray) -> list[Any]:
    """The items of a request; they are looked at one by one later, so that a bad one does not spoil the others.

    Raises:
        ValueError: what it says is short, and repeats nothing of the body.
    """

    def refuse(_: str) -> NoReturn:
        raise ValueError

    try:
        found = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise ValueError("the request is no JSON") from None
    items = found.get("items") if isinstance(found, dict) else None
    if not isinstance(items, list) or not items:
        raise ValueError("the request must be an object with 'items', a list of one or more")
    if len(items) > MOST_ITEMS:
        raise ValueError(f"the request has {len(items)} items; {MOST_ITEMS} are the most")
    return items


def score_items(source: Source, items: Sequence[Any]) -> list[dict[str, Any]]:
    """A reward or an error for each item, in their order. They are decoded and scored in parts that fit in memory.

    Args:
        items: as they came; good ones are objects with ``image`` and, where the reward takes one, ``prompt``.
    """
    results: list[dict[str, Any]] = [{} for _ in items]
    for part in in_parts(_decoded(source, items, results)):
        prompts = [items[place].get("prompt", "") for place, _ in part]
        found = source.rewards([image for _, image in part], prompts)
        for (place, _), one in zip(part, found, strict=True):
            results[place] = {"error": one_line(one)} if isinstance(one, str) else dict(zip(KEYS, one, strict=True))
    return results


KEYS = ("reward", "deviation")


def _decoded(source: Source, items: Sequence[Any], results: list[dict[str, Any]]) -> Iterator[tuple[int, Tensor]]:
    """The images that can be read, with their places; of the others the reason is put into ``results``."""
    for place, item in enumerate(items):
        reason = _wrong(item, source.takes_prompt)
        if reason is None:
            try:
                data = base64.b64decode(item["image"], validate=True)
                yield place, decode_image(data, "the image", FORMATS, MOST_PIXELS)
                continue
            except (UnreadableImage, binascii.Error, ValueError) as error:
                reason = one_line(error)
        results[place] = {"error": reason}


def _wrong(item: Any, takes_prompt: bool) -> str | None:
    """Why an item cannot be scored, by its form alone."""
    if not isinstance(item, dict):
        return "an item must be an object with 'prompt' and 'image'"
    limits = {"prompt": MOST_CHARACTERS} if takes_prompt else {}
    for name, most in {**limits, "image": MOST_BYTES * 4 // 3 + 4}.items():
        value = item.get(name)
        if not isinstance(value, str):
            return f"{name!r} must be a string"
        if not value.strip():
            return f"the {name} is empty"
        if len(value) > most:
            return f"the {name} is longer than {most} characters"
    if takes_prompt and any("\ud800" <= character <= "\udfff" for character in item["prompt"]):
        return "the prompt is no text: it has half of a surrogate pair"
    return None
