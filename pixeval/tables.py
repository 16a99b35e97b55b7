"""Frozen dataclasses to Parquet and back, with an explicit schema, written atomically."""

import os
import types
import typing
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pixeval.errors import InputError

Record = TypeVar("Record")

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def schema_of(kind: type[Any]) -> pa.Schema:
    """The Arrow schema of a dataclass whose fields are str, int, float, bool, optional or tuples of these,
    or tuples of such dataclasses."""
    hints = typing.get_type_hints(kind)
    return pa.schema([_arrow_field(f.name, hints[f.name]) for f in fields(kind)])


def _arrow_field(name: str, hint: Any) -> pa.Field:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (some,) = (a for a in arguments if a is not type(None))
        return pa.field(name, _arrow_field(name, some).type, nullable=True)
    if origin is typing.Literal:
        return pa.field(name, pa.string(), nullable=False)
    if origin is tuple:
        inner: Any = arguments[0]
        item = pa.struct(list(schema_of(inner))) if isinstance(inner, type) and is_dataclass(inner) else _ARROW[inner]
        return pa.field(name, pa.list_(item), nullable=False)
    return pa.field(name, _ARROW[hint], nullable=False)


def write_records(path: Path, records: list[Record], kind: type[Record]) -> None:
    """Replace ``path`` by a table of ``records``; equal records give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([asdict(record) for record in records], schema=schema_of(kind))  # type: ignore[call-overload]
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """The records of a table; an absent file holds none.

    Raises:
        InputError: the file is damaged or lacks a column.
    """
    if not path.exists():
        return []
    table = read_table(path)
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    nested = _nested(kind)
    try:
        rows = _typed(table, kind).to_pylist()
        return [kind(**{k: _value(v, nested.get(k)) for k, v in row.items() if k in names}) for row in rows]
    except TypeError as error:
        raise InputError(f"{path} was not written by this version of pixeval ({error}); make it again") from error


def read_table(path: Path, kind: type[Any] | None = None) -> pa.Table:
    """The Arrow table of a file; with the columns of ``kind``, if given.

    Raises:
        InputError: the file is damaged or lacks a column.
    """
    try:
        table = pq.read_table(path)
        return table if kind is None else _typed(table.select(schema_of(kind).names), kind)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet ({error}); {_remedy(path)}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} was not written by this version of pixeval ({error}); make it again") from error


def _remedy(path: Path) -> str:
    """What to do about a damaged file. Votes and images' rows cannot be computed again, so nobody is told to delete."""
    if path.parent.name == "votes":
        return "restore it from a copy, or move it away and write it again with 'pixeval label --export'"
    if path.stem in ("samples", "prompts"):
        return "restore it from a copy, or move it away and run again the command that made the run"
    return "delete it and run the command again"


def _typed(table: pa.Table, kind: type[Any]) -> pa.Table:
    """The table with plain columns of the types of ``kind``.

    Raises:
        TypeError: naming a column that holds something else.
    """
    for field in schema_of(kind):
        place = table.schema.get_field_index(field.name)
        if place < 0 or pa.types.is_nested(field.type) or table.schema.field(place).type == field.type:
            continue
        held = table.schema.field(place).type
        try:
            table = table.set_column(place, field, table.column(place).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TypeError(f"column {field.name!r} holds {held} where {field.type} belongs") from error
    return table


def _nested(kind: type[Any]) -> dict[str, type[Any]]:
    """Fields that are tuples of dataclasses, and of which one."""
    items: dict[str, Any] = {
        name: typing.get_args(hint)[0] for name, hint in typing.get_type_hints(kind).items() if typing.get_args(hint)
    }
    return {name: item for name, item in items.items() if isinstance(item, type) and is_dataclass(item)}


def _value(value: Any, item: type[Any] | None) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(value) if item is None else tuple(item(**row) for row in value)
