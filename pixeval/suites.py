"""Prompt suites: bundled ones by name, others from a TOML, text, CSV or JSONL file."""

import csv
import json
import re
import tomllib
from pathlib import Path

from pixeval.errors import InputError, unknown_name
from pixeval.records import Prompt

SUITES = Path(__file__).parent / "suites"


def suite_names() -> list[str]:
    """The bundled suites."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_prompts(source: str) -> list[Prompt]:
    """Prompts of a bundled suite or a file.

    A ``.txt`` file has one prompt a line; ``.csv`` and ``.jsonl`` have a column ``prompt`` (or ``text``, or
    ``caption``) and may have ``id`` and ``tags``; ``.toml`` has ``[[prompt]]`` tables with the fields of ``Prompt``.

    Raises:
        InputError: no such suite or file, nothing in it, or two prompts with one id.
    """
    path = Path(source)
    if not path.suffix and not path.exists():
        if source not in suite_names():
            raise unknown_name("prompt suite", source, suite_names())
        path = SUITES / f"{source}.toml"
    if not path.is_file():
        raise InputError(f"prompt file {source} does not exist. Bundled suites: {', '.join(suite_names())}.")
    prompts = _parse(path)
    if not prompts:
        raise InputError(f"{source} holds no prompts; write one prompt a line.")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise InputError(f"{source} has the prompt id {prompt.id!r} twice; ids must differ.")
        seen.add(prompt.id)
    return prompts


def _parse(path: Path) -> list[Prompt]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    try:
        if path.suffix == ".toml":
            rows = tomllib.loads(text).get("prompt", [])
        elif path.suffix in (".jsonl", ".ndjson"):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
        else:
            rows = [{"text": line.strip()} for line in text.splitlines() if line.strip()]
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as {path.suffix[1:].upper()}: {error}") from error
    return [_prompt(row, index, path) for index, row in enumerate(rows)]


def _prompt(row: object, index: int, path: Path) -> Prompt:
    if not isinstance(row, dict):
        raise InputError(f"{path}, entry {index + 1}: expected an object with a field 'prompt', got {row!r}.")
    text = next((row[key] for key in ("prompt", "text", "caption") if row.get(key)), None)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{path}, entry {index + 1}: no 'prompt' (or 'text', 'caption') in it.")
    tags = row.get("tags") or ()
    if isinstance(tags, str):
        tags = tuple(tag for tag in re.split(r"[;,]\s*", tags) if tag)
    return Prompt(
        id=str(row.get("id") or f"p{index:04d}"),
        text=text.strip(),
        tags=tuple(str(tag) for tag in tags),
        questions=tuple(str(question) for question in row.get("questions") or ()),
    )
