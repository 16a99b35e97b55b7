"""``pixeval reward serve``: a reward behind a small JSON service, so that a model whose dependencies clash can run in
an environment of its own. Nothing is unpickled, and one bad item costs itself only.

::

    GET  /v1/model   {"name", "fingerprint", "higher_is_better": true}
    POST /v1/score   {"items": [{"prompt": "...", "image": "base64 of PNG, JPEG or WebP"}, ...]}
                     {"fingerprint", "results": [{"reward": 1.2, "deviation": 0.1}, {"error": "..."}, ...]}
"""

import base64
import binascii
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro
from fastapi import FastAPI
from pydantic import BaseModel, Field
from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, decode_image
from pixeval.scoring.image_pass import guarded
from reward_models.sources import Source, open_source

MOST_ITEMS = 256
MOST_CHARACTERS = 20_000
"""Of a prompt."""
MOST_BYTES = 32_000_000
"""Of one image, encoded."""
TOGETHER = 16


@dataclass(frozen=True)
class RewardServeConfig:
    """Serve a reward over HTTP."""

    model: Annotated[str, tyro.conf.Positional]
    """A folder that 'pixeval reward train' wrote, or a metric of the catalogue that takes a prompt."""
    weights: tuple[str, ...] = ()
    """NAME=PATH where the metric needs weights."""
    host: str = "127.0.0.1"
    """Address to listen on; there is no password, so take another only in a network you trust."""
    port: int = 7870
    """Port to listen on; 0 for a free one."""
    device: str = "cpu"
    """Where it runs."""


class Request(BaseModel):
    """What is asked. Items are looked at one by one, so that a bad one does not spoil the others."""

    items: list[Any] = Field(min_length=1, max_length=MOST_ITEMS)


def serve(config: RewardServeConfig) -> None:
    """Serve until Ctrl-C.

    Raises:
        InputError: no such model, or a port that is in use or none.
    """
    import uvicorn

    listener = _listen(config.host, config.port)
    source = open_source(config.model, config.weights, config.device)
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

    # async without a wait: one request at a time has the model
    @app.post("/v1/score")
    async def score(request: Request) -> dict[str, Any]:
        return {"fingerprint": source.fingerprint, "results": score_items(source, request.items)}

    return app


def score_items(source: Source, items: Sequence[Any]) -> list[dict[str, Any]]:
    """A reward or an error for each item, in their order; images of one size are scored together.

    Args:
        items: as they came; good ones are objects with ``prompt`` and ``image``.
    """
    results: list[dict[str, Any]] = [{} for _ in items]
    by_size: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    for place, item in enumerate(items):
        reason = _wrong(item) or source.hindrance(item["prompt"])
        if reason is None:
            try:
                image = decode_image(base64.b64decode(item["image"], validate=True), "the image")
                by_size.setdefault(tuple(image.shape), []).append((place, image))
                continue
            except (UnreadableImage, binascii.Error, ValueError) as error:
                reason = str(error)
        results[place] = {"error": reason}
    for members in by_size.values():
        for start in range(0, len(members), TOGETHER):
            _score_part(source, items, members[start : start + TOGETHER], results)
    return results


def _wrong(item: Any) -> str | None:
    """Why an item cannot be scored, by its form alone."""
    if not isinstance(item, dict):
        return "an item must be an object with 'prompt' and 'image'"
    for name, most in (("prompt", MOST_CHARACTERS), ("image", MOST_BYTES * 4 // 3 + 4)):
        value = item.get(name)
        if not isinstance(value, str):
            return f"{name!r} must be a string"
        if not value.strip():
            return f"the {name} is empty"
        if len(value) > most:
            return f"the {name} is longer than {most} characters"
    if any("\ud800" <= character <= "\udfff" for character in item["prompt"]):
        return "the prompt is no text: it has half of a surrogate pair"
    return None


def _score_part(
    source: Source, items: Sequence[Any], part: Sequence[tuple[int, Tensor]], results: list[dict[str, Any]]
) -> None:
    images, prompts = torch.stack([image for _, image in part]), [items[place]["prompt"] for place, _ in part]
    deviations: dict[int, float] = {}

    def compute(which: list[int]) -> Tensor:
        with torch.no_grad():
            asked = [prompts[i] for i in which]
            opinion = source.opinion(images[which], asked)
            if opinion is None:
                return source.values(images[which], asked)
            deviations.update(zip(which, opinion.deviation.tolist(), strict=True))
            return opinion.mean

    for number, (value, (place, _)) in enumerate(zip(guarded(compute, len(part)), part, strict=True)):
        if isinstance(value, str):
            results[place] = {"error": value}
        elif value - value != 0:
            results[place] = {"error": f"the reward is {value}, not a finite number"}
        else:
            results[place] = {"reward": value, "deviation": deviations.get(number)}
