"""``pixeval label``: serve a study, or export its votes."""

import os
import secrets
import socket
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from human_eval_app.export import export_votes
from human_eval_app.store import Store
from human_eval_app.study import open_study, read_arms
from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Question


@dataclass(frozen=True)
class LabelConfig:
    """Compare the images of two or more runs, blind and side by side, in a browser."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two or more run folders; RUN:LABEL picks one set of images of a run that holds several."""
    db: Path | None = None
    """SQLite file of the votes; continued when it exists. Default: votes/votes.sqlite3 in the first run."""
    questions: tuple[Question, ...] = QUESTIONS
    """What is asked about each pair."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in (there are no passwords, so only in a network you trust)."""
    port: int = 7860
    """Port to listen on."""
    export: Path | None = None
    """Write the votes to this run folder, .parquet or .jsonl file, and exit."""
    seed: int = 0
    """Of order and sides; a database keeps the seed it was started with."""


def label(config: LabelConfig) -> None:
    """Serve until Ctrl-C, then write the votes into the first run; or export and return.

    Raises:
        InputError: bad runs, nothing to compare, a port in use, no votes to export.
    """
    arms = read_arms(config.runs)
    database = config.db or arms.first_run / "votes" / "votes.sqlite3"
    if config.export is not None and not database.exists():
        raise InputError(f"there is no vote database {database}; give the one that was used with --db")
    with closing(Store.at(database)) as store:
        if config.export is not None:
            _tell(export_votes(store, config.export))
            return
        study = open_study(arms, config.questions, config.seed, store)
        token = secrets.token_urlsafe(16)
        address = f"http://{config.host}:{config.port}"
        listener = _listen(config.host, config.port)
        # Set before gradio is imported, which reads it: nothing is sent anywhere.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import uvicorn

        from human_eval_app.ui import create_app

        app = create_app(study, token)
        questions = ", ".join(study.questions)
        print(f"{len(study.matchups)} pairs, questions: {questions}; votes are kept in {database}", file=sys.stderr)
        print(f"lead's export: {address}/api/export?token={token}", file=sys.stderr)
        print(f"open {address}   (Ctrl-C stops)", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            listener.close()
        if store.votes():
            _tell(export_votes(store, arms.first_run))


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is found before anything is loaded."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen on {host}:{port} ({error.strerror}); give another --port or --host") from error
    return listener


def _tell(files: list[Path]) -> None:
    for file in files:
        print(f"votes written to {file}", file=sys.stderr)
