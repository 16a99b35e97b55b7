"""Prompt suites: bundled ones by name, published ones as NAME=PATH, others from a TOML, text, CSV or JSONL file."""

import csv
import io
import re
import tomllib
from pathlib import Path
from typing import Any

from pixeval.errors import InputError, unknown_name
from pixeval.json_lines import parse_json_lines
from pixeval.published_suites import PUBLISHED, load_published, published_suite
from pixeval.records import RELATIONS, ObjectSpec, Prompt, RelationSpec

SUITES = Path(__file__).parent / "suites"


def suite_names() -> list[str]:
    """The bundled suites."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_prompts(source: str) -> list[Prompt]:
    """Prompts of a bundled suite, a published suite or a file.

    ``parti-prompts=PATH`` reads a published suite from its authors' files, ``parti-prompts=hub`` fetches them first
    (:mod:`pixeval.published_suites`); nothing else touches the network.

    A ``.txt`` file has one prompt a line; ``.csv`` and ``.jsonl`` have a column ``prompt`` (or ``text``, or
    ``caption``) and may have ``id`` and ``tags``; ``.toml`` has ``[[prompt]]`` tables with the fields of ``Prompt``
    (an object may say ``count = 3`` for at least and at most 3). ``.jsonl`` may have those fields too.

    Raises:
        InputError: no such suite or file, nothing in it, or two prompts with one id.
    """
    name, equals, place = source.partition("=")
    published = equals and not Path(source).exists()
    prompts = load_published(name, place) if published else _parse(_file(source))
    if not prompts:
        raise InputError(f"{source} holds no prompts; write one prompt a line.")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise InputError(f"{source} has the prompt id {prompt.id!r} twice; ids must differ.")
        seen.add(prompt.id)
    return prompts


def _file(source: str) -> Path:
    path = Path(source)
    if not path.suffix and not path.exists():
        if (published := published_suite(source)) is not None:
            hub = "" if published.hub is None else f", or {source}=hub to fetch it"
            raise InputError(f"{source} is not bundled; give {source}=PATH of {published.expects}{hub}.")
        if source not in suite_names():
            raise unknown_name("prompt suite", source, [*suite_names(), *(suite.name for suite in PUBLISHED)])
        path = SUITES / f"{source}.toml"
    if path.is_dir():
        raise InputError(f"{source} is a folder; give a file of prompts. Bundled suites: {', '.join(suite_names())}.")
    if not path.is_file():
        raise InputError(f"prompt file {source} does not exist. Bundled suites: {', '.join(suite_names())}.")
    return path


def _parse(path: Path) -> list[Prompt]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"prompt file {path} cannot be read: {error.strerror or error}.") from error
    try:
        if path.suffix == ".toml":
            rows = tomllib.loads(text).get("prompt", [])
        elif path.suffix in (".jsonl", ".ndjson"):
            rows = parse_json_lines(text, path)
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        else:
            rows = [{"text": line.strip()} for line in text.splitlines() if line.strip()]
    except (tomllib.TOMLDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: 'prompt' must be [[prompt]] tables, got {rows!r}.")
    return [_prompt(row, index, path) for index, row in enumerate(rows)]


def _prompt(row: object, index: int, path: Path) -> Prompt:
    where = f"{path}, entry {index + 1}"
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with a field 'prompt', got {row!r}.")
    text = next((row[key] for key in ("prompt", "text", "caption") if row.get(key)), None)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: no 'prompt' (or 'text', 'caption') in it.")
    tags = row.get("tags")
    if isinstance(tags, str):
        tags = [tag for tag in re.split(r"[;,]\s*", tags) if tag]
    objects = tuple(_object(spec, where) for spec in _several(row, "objects", where))
    return Prompt(
        id=str(row.get("id") or f"p{index:04d}"),
        text=text.strip(),
        tags=tuple(str(tag) for tag in _several(row | {"tags": tags}, "tags", where)),
        questions=tuple(str(question) for question in _several(row, "questions", where)),
        objects=objects,
        relations=tuple(_relation(spec, len(objects), where) for spec in _several(row, "relations", where)),
    )


def _several(row: dict[str, Any], name: str, where: str) -> list[Any]:
    """The list in a field, which may be absent."""
    value = row.get(name) or []
    if not isinstance(value, list):
        raise InputError(f"{where}: {name!r} must be a list, got {value!r}.")
    return value


def _object(spec: object, where: str) -> ObjectSpec:
    """An object from its table: ``name``, perhaps ``colour``, and either ``count`` (exact) or bounds."""
    known = {"name", "colour", "count", "at_least", "at_most"}
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str) or not set(spec) <= known:
        raise InputError(f"{where}: an object needs 'name' and may have {', '.join(sorted(known))}; got {spec!r}.")
    count: Any = spec.get("count")
    at_most: Any = spec.get("at_most", count)
    at_least: Any = spec.get("at_least", 1 if count is None else count)
    whole = all(type(bound) is int and bound >= 0 for bound in (at_least, at_least if at_most is None else at_most))
    if not whole or (at_most is not None and at_least > at_most):
        raise InputError(f"{where}: object {spec['name']!r} needs whole numbers 0 <= at_least <= at_most.")
    colour = spec.get("colour")
    return ObjectSpec(spec["name"], None if colour is None else str(colour), at_least, at_most)


def _relation(spec: object, objects: int, where: str) -> RelationSpec:
    ends = [spec.get("subject"), spec.get("object")] if isinstance(spec, dict) else []
    fits = len(ends) == 2 and all(type(end) is int and 0 <= end < objects for end in ends) and ends[0] != ends[1]
    if not isinstance(spec, dict) or not fits or spec.get("relation") not in RELATIONS:
        raise InputError(
            f"{where}: a relation needs 'subject' and 'object', two different places in 'objects' counted from 0, "
            f"and 'relation', one of {', '.join(RELATIONS)}; got {spec!r}."
        )
    return RelationSpec(spec["subject"], spec["relation"], spec["object"])
