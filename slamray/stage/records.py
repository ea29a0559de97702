"""Small typed records as Arrow tables: how rows travel between actors. A dataclass's annotations are its schema."""

from __future__ import annotations

import types
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

Record = TypeVar("Record")
_SCALARS = {str: pa.string(), bytes: pa.large_binary(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@cache
def arrow_type(hint: Any) -> pa.DataType:
    """The Arrow type of str, bytes, int, float, bool, a record, tuple[X, ...] or Sequence[X], and X | None."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    if is_dataclass(hint):
        record: Any = hint
        return pa.struct(list(schema_of(record)))
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) and len(args) == 2 and args[1] is type(None):
        return arrow_type(args[0])
    if origin is tuple and Ellipsis not in args:  # of fixed length: a struct of its places
        return pa.struct([(str(place), arrow_type(kind)) for place, kind in enumerate(args)])
    assert origin in (tuple, Sequence), f"{hint} cannot travel"
    return pa.list_(arrow_type(args[0]))


def schema_of(kind: type) -> pa.Schema:
    """The columns of a table of these records."""
    return pa.schema([(name, arrow_type(hint)) for name, hint in _hints(kind).items()])


def to_table(records: Sequence[Any], kind: type) -> pa.Table:
    """One row for each record."""
    schema = schema_of(kind)
    columns = {name: [_plain(getattr(record, name), hint) for record in records] for name, hint in _hints(kind).items()}
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema)


def from_table(table: pa.Table, kind: type[Record]) -> list[Record]:
    """The inverse of `to_table`."""
    make: Any = kind
    columns = [[_typed(value, hint) for value in table[name].to_pylist()] for name, hint in _hints(make).items()]
    return [make(*values) for values in zip(*columns, strict=True)]


@cache
def _hints(kind: Hashable) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass


def _plain(value: Any, hint: Any) -> Any:
    if value is None or hint in _SCALARS:
        return value
    if is_dataclass(hint):
        record: Any = hint
        return {name: _plain(getattr(value, name), kind) for name, kind in _hints(record).items()}
    args = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return _plain(value, args[0])
    if get_origin(hint) is tuple and Ellipsis not in args:
        return {str(place): _plain(one, kind) for place, (one, kind) in enumerate(zip(value, args, strict=True))}
    return list(value) if args[0] in _SCALARS else [_plain(one, args[0]) for one in value]


def _typed(value: Any, hint: Any) -> Any:
    if value is None or hint in _SCALARS:
        return value
    if is_dataclass(hint):
        record: Any = hint
        return record(**{name: _typed(value[name], kind) for name, kind in _hints(record).items()})
    args = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return _typed(value, args[0])
    if get_origin(hint) is tuple and Ellipsis not in args:
        return tuple(_typed(value[str(place)], kind) for place, kind in enumerate(args))
    return tuple(value) if args[0] in _SCALARS else tuple(_typed(one, args[0]) for one in value)
