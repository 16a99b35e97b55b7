"""The REST of the labelling app, without its pages: what votes go through."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from human_eval_app import account_api, admin_api, api
from human_eval_app.guard import Guard
from human_eval_app.web import Server, admin_check


def create_rest(server: Server) -> FastAPI:
    """The routes of accounts, annotators and administration."""
    rest = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    rest.state.server = server
    for part in (account_api, api, admin_api):
        rest.include_router(part.routes)
    rest.add_exception_handler(RequestValidationError, _unfit)
    rest.add_exception_handler(Exception, _failed)
    return rest


def guard(app: FastAPI, server: Server, hosts: frozenset[str] | None = None) -> None:
    """Put the guard around everything that was added to ``app``; ``hosts`` are its names, None for any."""
    app.add_middleware(Guard, is_admin=admin_check(server), hosts=hosts)


async def _unfit(_request: Any, error: Exception) -> JSONResponse:
    """What is wrong with a request, for people; nothing of what was sent is sent back."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, int) or str(part).isidentifier())
    return JSONResponse({"detail": f"{where or 'the request'}: {first['msg']}"}, 422)


async def _failed(_request: Any, _error: Exception) -> JSONResponse:
    """What went wrong is for the server's own output; it may name files."""
    return JSONResponse({"detail": "the server made a mistake; try again"}, 500)
