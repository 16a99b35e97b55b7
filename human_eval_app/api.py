"""The REST API of the comparator. What it sends names no label, path, sample id, seed or model.

====== ============================= =========================================================================
GET    ``/api/next?annotator=``      progress and the next three assignments (enrols a new annotator)
GET    ``/api/progress?annotator=``  progress alone
POST   ``/api/vote``                 stores one answer exactly once; replies as ``next``
POST   ``/api/undo``                 takes the latest answer back; replies as ``next``
GET    ``/api/image/KEY``            one image as PNG without metadata
GET    ``/api/export?token=``        all votes as JSON lines, for the lead only
====== ============================= =========================================================================
"""

import datetime as dt
import hmac
import io
import json
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from human_eval_app.session import Open, undo_of
from human_eval_app.store import Answer
from human_eval_app.study import Study
from pixeval.images import UnreadableImage, read_image, to_uint8
from pixeval.records import Choice

PREFETCHED = 3
"""Assignments in one reply: the one to show and two whose images can be loaded ahead."""
CACHED_IMAGES = 128

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")]


class Ballot(BaseModel):
    """The body of a vote."""

    model_config = ConfigDict(extra="forbid")
    annotator: Name
    assignment: str = Field(max_length=64)
    revision: int = Field(ge=0)
    choice: Choice
    seconds: float = Field(ge=0, le=1e6, allow_inf_nan=False)


class Undo(BaseModel):
    """The body of an undo: which answer the annotator means, so that a repeated request undoes nothing more."""

    model_config = ConfigDict(extra="forbid")
    annotator: Name
    assignment: str = Field(max_length=64)
    revision: int = Field(ge=0)


def create_api(study: Study, export_token: str) -> FastAPI:
    """The application that serves ``study``; ``export_token`` opens the export."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    keys = {study.image_key(sample.id): study.images[sample.id] for m in study.matchups for sample in (m.a, m.b)}

    @lru_cache(maxsize=CACHED_IMAGES)
    def png(key: str) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(to_uint8(read_image(keys[key])[None])[0]).save(buffer, "PNG", compress_level=3)
        return buffer.getvalue()

    @app.get("/api/next")
    def following(annotator: Annotated[Name, Query()]) -> dict[str, Any]:
        study.join(annotator)
        return _state(study, annotator)

    @app.get("/api/progress")
    def progress(annotator: Annotated[Name, Query()]) -> dict[str, int]:
        now = study.standing(annotator)
        return {"done": now.done, "total": now.total}

    @app.post("/api/vote")
    def vote(ballot: Ballot) -> dict[str, Any]:
        if study.store.assignment(ballot.assignment, ballot.annotator) is None:
            raise HTTPException(404, "this annotator has no such assignment")
        # Odd revisions are undoings; those have their own route.
        if ballot.revision != _next_revision(study, ballot.annotator, ballot.assignment):
            return {"stored": False, **_state(study, ballot.annotator)}
        stored = study.store.append([Answer(ballot.assignment, ballot.revision, ballot.choice, ballot.seconds, _now())])
        return {"stored": stored, **_state(study, ballot.annotator)}

    @app.post("/api/undo")
    def undo(request: Undo) -> dict[str, Any]:
        last = study.standing(request.annotator).last
        stored = False
        if last is not None and (last.assignment, last.revision) == (request.assignment, request.revision):
            stored = study.store.append([undo_of(last, _now())])
        return {"stored": stored, **_state(study, request.annotator)}

    @app.get("/api/image/{key}")
    def image(key: str) -> Response:
        if key not in keys:
            raise HTTPException(404, "no such image")
        try:
            data = png(key)
        except UnreadableImage:
            # The reason names the file, which must not reach the annotator.
            raise HTTPException(422, "this image cannot be read") from None
        headers = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return Response(data, media_type="image/png", headers=headers)

    @app.get("/api/export")
    def export(token: str = "") -> Response:
        if not hmac.compare_digest(token.encode(), export_token.encode()):
            raise HTTPException(403, "the export needs the token printed when the app was started")
        lines = "".join(json.dumps(asdict(vote), ensure_ascii=False) + "\n" for vote in study.store.votes())
        return Response(lines, media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})

    return app


def _state(study: Study, annotator: str) -> dict[str, Any]:
    """What the comparator needs to go on."""
    now = study.standing(annotator)
    return {
        "done": now.done,
        "total": now.total,
        "queue": [_shown(study, item) for item in now.queue[:PREFETCHED]],
        "last": None if now.last is None else {"assignment": now.last.assignment, "revision": now.last.revision},
    }


def _shown(study: Study, item: Open) -> dict[str, Any]:
    assignment = item.assignment
    return {
        "assignment": assignment.id,
        "revision": item.revision,
        "question": assignment.question,
        # Flaws are judged without knowing what was asked for, as in the paper; so the prompt is not even sent.
        "prompt": None if assignment.question == "flaws" else assignment.prompt,
        "left": study.image_key(assignment.left),
        "right": study.image_key(assignment.right),
    }


def _next_revision(study: Study, annotator: str, assignment: str) -> int | None:
    """The revision that an answer to this assignment must have now; None when it is answered."""
    found = [item.revision for item in study.standing(annotator).queue if item.assignment.id == assignment]
    return found[0] if found else None


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
