"""Settings of ``pixeval train`` and ``pixeval label`` in a TOML file, ``--config FILE.toml``. Options given beside it
come first.

A key is the option without its dashes; a table holds the options that have its name before a point: ``[pixel]`` with
``band = [0.0, 0.5]`` is ``--pixel.band 0.0 0.5``. Relative paths are relative to where the command is called, as on the
command line.
"""

import dataclasses
import re
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pixeval.errors import InputError, unknown_name

OPTION = "--config"
TRAINER = "trainer"
"""Key that says which trainer a file is for."""


def take_config(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The file that ``--config`` names, and the other words.

    Raises:
        InputError: it names none, or two.
    """
    rest: list[str] = []
    files: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == OPTION:
            files.append(next(words, ""))
        elif word.startswith(OPTION + "="):
            files.append(word.removeprefix(OPTION + "="))
        else:
            rest.append(word)
    if not files:
        return None, rest
    if len(files) > 1 or not files[0] or files[0].startswith("--"):
        raise InputError(f"{OPTION} takes one TOML file, got {', '.join(map(repr, files))}")
    return Path(files[0]), rest


def read_config(file: Path) -> dict[str, Any]:
    """What a TOML file says.

    Raises:
        InputError: it is missing or no TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} cannot be read as TOML ({error})") from error


def trainer_of(file: Path) -> str:
    """The trainer that a file is for.

    Raises:
        InputError: it does not say.
    """
    trainer = read_config(file).get(TRAINER)
    if not isinstance(trainer, str):
        raise InputError(
            f'{file} does not say what is trained; add the line {TRAINER} = "sft" or "preference" at its top'
        )
    return trainer


def words_of(file: Path, config: type, verb: str, arguments: list[str]) -> list[str]:
    """The settings of ``file`` as words of a command line, without those that ``arguments`` give.

    Args:
        file: in TOML.
        config: the dataclass of the command's settings.
        verb: the command's name, which the key ``trainer`` must agree with.
        arguments: the words that were given; they come after these.

    Raises:
        InputError: the file is no TOML, for another trainer, or has an unknown key or a value of the wrong kind;
            naming the line.
    """
    settings = read_config(file)
    trainer = settings.pop(TRAINER, None)
    if trainer is not None and verb.split()[-1] != trainer:
        raise InputError(f"{file} is for 'pixeval train {trainer}', not for 'pixeval {verb}'")
    given = {word.split("=")[0].replace("-", "_") for word in arguments if word.startswith("--")}
    positional = _positional(config)
    first: list[str] = []
    words: list[str] = []
    for name, value in _options(settings, config, file):
        values = [str(one) for one in value] if isinstance(value, list) else [str(value)]
        if name in positional:
            # These have no dashes: what stands first on the command line replaces them.
            first += values if not arguments or arguments[0].startswith("--") else []
        elif f"__{name.replace('-', '_')}" not in given:
            words += [f"--{name.replace('_', '-')}", *values]
    return [*first, *words]


def _positional(config: type) -> set[str]:
    """Fields that are given without a name."""
    from tyro.conf import Positional

    hints = get_type_hints(config, include_extras=True)
    return {name for name, hint in hints.items() if Positional in getattr(hint, "__metadata__", ())}


def _options(settings: dict[str, Any], config: type, file: Path, above: str = "") -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(config)
    known = {field.name for field in dataclasses.fields(config)}
    for key, value in settings.items():
        name, where = above + key, f"{file}, line {_line(file, above + key)}"
        if key not in known:
            raise unknown_name(f"key in {where}:", name, {above + other for other in known})
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise InputError(f"{where}: {name} is a table, write its settings below [{name}]")
            assert isinstance(kind, type)
            yield from _options(value, kind, file, f"{name}.")
        elif not _fits(value, kind):
            raise InputError(f"{where}: {name} = {value!r} is not understood; it must be {_say(kind)}")
        else:
            yield name, value


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments and not isinstance(value, bool)
    if origin is tuple:
        if not isinstance(value, list):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return bool(value) and all(_fits(one, arguments[0]) for one in value)
        return len(value) == len(arguments) and all(_fits(*both) for both in zip(value, arguments, strict=True))
    if hasattr(kind, "__metadata__"):
        return _fits(value, arguments[0])
    if kind in (Path, str):
        return isinstance(value, str)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, int | float) if kind is float else kind is int and isinstance(value, int)


def _say(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_say(one) for one in arguments if one is not types.NoneType)
    if origin is Literal:
        return " or ".join(repr(one) for one in arguments)
    if origin is tuple:
        inside = _say(arguments[0])
        return f"a list with {inside}" if arguments[-1] is Ellipsis else f"a list of {len(arguments)} with {inside}"
    names = {Path: "a path", str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(kind, str(kind))


def _line(file: Path, name: str) -> int:
    """The line of a file that sets ``name``, counted from 1."""
    table = ""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
        if header:
            table = header[1].replace('"', "").replace(" ", "") + "."
            if table == name + ".":
                return number
            continue
        key = re.match(r"""\s*([\w.\-"' ]+?)\s*=""", line)
        if key and table + re.sub(r"""["' ]""", "", key[1]) == name:
            return number
    return 1
