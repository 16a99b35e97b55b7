"""JSON lines: one JSON value a line, as prompts are written."""

import json
from pathlib import Path
from typing import Any

from pixeval.errors import InputError


def parse_json_lines(text: str, path: Path) -> list[Any]:
    """The values of ``text``, which was read from ``path``; empty lines are left out.

    Raises:
        InputError: naming the first line that is no JSON, or whose text cannot be kept as UTF-8.
    """
    values = []
    # Not splitlines: a JSON text may hold U+2028 and other characters that it takes for the end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number},"
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{where} cannot be read as JSONL: {error.msg} at character {error.pos + 1}") from error
        except RecursionError as error:
            raise InputError(f"{where} cannot be read as JSONL: it is nested too deeply") from error
        try:
            json.dumps(values[-1], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise InputError(f"{where} holds {half}, half of a character; give both halves or none") from error
    return values
