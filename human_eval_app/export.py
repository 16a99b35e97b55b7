"""Votes to files that pandas, ``datasets`` and the other verbs of pixeval read."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from human_eval_app.projects import list_projects
from human_eval_app.store import Store
from human_eval_app.study_facts import study_facts
from pixeval.errors import InputError
from pixeval.records import Vote
from pixeval.tables import write_records


def export_votes(store: Store, target: Path, project: str | None = None) -> list[Path]:
    """Write every vote, superseded ones included, at any moment of a study.

    Args:
        store: the database.
        target: a run folder (gets ``votes/study-XXXXXXXX.parquet`` and a ``.jsonl`` twin, with what was asked in
            ``.json``, replacing an earlier export of the same; ``simulated-`` when no vote is a person's), or
            a file that ends in ``.parquet`` or ``.jsonl``.
        project: id of the one to export; None: all of the database.

    Returns:
        The files written.

    Raises:
        InputError: there are no votes, or the target is neither.
    """
    votes = store.votes(project)
    if not votes:
        raise InputError("there are no votes to export yet")
    if (target / "run.json").exists():
        kind = "simulated" if all(vote.simulated for vote in votes) else "study"
        name = f"{kind}-{hashlib.sha256((store.secret + (project or '')).encode()).hexdigest()[:8]}"
        files = [target / "votes" / f"{name}.parquet", target / "votes" / f"{name}.jsonl"]
        _write_facts(store, target / "votes" / name, project)
    elif target.suffix in (".parquet", ".jsonl"):
        files = [target]
    else:
        raise InputError(f"{target} is neither a run folder nor a file ending in .parquet or .jsonl")
    for file in files:
        write_votes(file, votes)
    return files


def _write_facts(store: Store, stem: Path, project: str | None) -> None:
    """One file for each project, for the report."""
    with store.read() as connection:
        there = [found for found in list_projects(connection) if project in (None, found.id)]
        for place, found in enumerate(there):
            suffix = f"-{place + 1}" if len(there) > 1 else ""
            write_json(stem.with_name(f"{stem.name}{suffix}.json"), study_facts(connection, found))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """JSON for people and programs; replaces the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_votes(file: Path, votes: list[Vote]) -> None:
    """Votes as a table, or as JSON lines where the name ends in ``.jsonl``; replaces the file."""
    if file.suffix == ".jsonl":
        _write_jsonl(file, votes)
    else:
        write_records(file, votes, Vote)


def _write_jsonl(path: Path, votes: list[Vote]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for vote in votes:
            file.write(json.dumps(asdict(vote), ensure_ascii=False) + "\n")
    os.replace(partial, path)
