"""JSON: a list of records, records one after the other (JSON lines), or one object with the list ``data``."""

import json
import math
import re
from collections.abc import Collection, Iterator
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from image_similarity.storage.tables import text
from image_similarity.storage.tables.table import Header, Table, batch_rows, rows_of

_PIECE = 1 << 20
_BETWEEN = re.compile(r"[\s,]*")

Record = dict[str, Any]


class _Number(str):
    """A number, as it was written."""


def open_file(uri: str) -> Table:
    """The table of a file. It is read once to its end, because any record may have a column of its own."""
    names, nested = dict[str, None](), set[str]()
    for record in _records(uri):
        names.update(dict.fromkeys(record))
        nested.update(name for name, value in record.items() if isinstance(value, (dict, list)))
    header = Header(list(names))
    return Table(header.names, (), frozenset(nested), header.notes, partial(_batches, uri, header.names))


def _batches(uri: str, own: list[str], names: Collection[str]) -> Iterator[pa.RecordBatch]:
    wanted = [name for name in own if name in names]
    records = _records(uri)
    while batch := list(islice(records, batch_rows(len(wanted)))):
        yield rows_of({name: text.cells([_cell(record.get(name)) for record in batch]) for name in wanted}, len(batch))


def _cell(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else compact(value)


# -- reading -----------------------------------------------------------------------------------------------------------


def _records(uri: str) -> Iterator[Record]:
    """The records, decoded one by one; those without any value are passed over."""
    with text.open_text(uri) as stream:
        for value in _unwrapped(_Values(stream)):
            if not isinstance(value, dict):
                raise ValueError(f"{str(value)[:50]!r} is no record")
            if any(item is not None and item != "" for item in value.values()):
                yield value


def _unwrapped(values: Iterator[Any]) -> Iterator[Any]:
    """``values``, or the list ``data`` of the only one."""
    begun = list(islice(values, 2))
    if len(begun) == 1 and isinstance(begun[0], dict) and isinstance(begun[0].get("data"), list):
        begun = begun[0]["data"]
    yield from begun
    yield from values


class _Values:
    """The values in a JSON list, or those that follow one another. A piece of the text is in memory at a time."""

    def __init__(self, stream: Any):
        self._stream, self._text, self._position, self._count = stream, "", 0, 0
        self._decoder = json.JSONDecoder(
            object_pairs_hook=_record, parse_float=_Number, parse_int=_Number, parse_constant=_Number
        )
        self._is_list = self._next_character() == "["
        self._position += self._is_list

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        character = self._next_character()
        if not character and self._is_list:
            raise ValueError("the list has no end")
        if self._is_list and character == "]":
            self._position += 1
            if self._next_character():
                raise ValueError("there is more after the end of the list")
            self._is_list = False
            raise StopIteration
        if not character:
            raise StopIteration
        return self._value()

    def _next_character(self) -> str:
        """The next character that is no white space and no comma; empty at the end."""
        while True:
            self._position = _BETWEEN.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def _value(self) -> Any:
        self._count += 1
        while True:
            try:
                value, self._position = self._decoder.raw_decode(self._text, self._position)
                return value
            except json.JSONDecodeError as error:
                if not self._read_more():  # the value does not end with this piece of the text
                    raise ValueError(f"record {self._count:,}: {error.msg}") from None
            except ValueError as error:
                raise ValueError(f"record {self._count:,}: {error}") from None
            except RecursionError:
                raise ValueError(f"record {self._count:,}: nested too deeply") from None

    def _read_more(self) -> bool:
        """Adds as much again as there is, so that long values are not decoded many times. False at the end."""
        rest = self._text[self._position :]
        try:
            more = self._stream.read(max(_PIECE, len(rest)))
        except UnicodeDecodeError as error:
            raise text.not_utf8(error) from None
        self._text, self._position = rest + more, 0
        return bool(more)


def _record(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    filled = [(name, value) for name, value in pairs if value is not None and value != ""]
    names = [name for name, _ in filled]
    if len(set(names)) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands several times")
    return dict(filled)


# -- writing -----------------------------------------------------------------------------------------------------------


def compact(value: Any, kind: pa.DataType | None = None) -> str | None:
    """A value as JSON without spaces; nulls in records are left out. None for an empty list or record.

    ``kind``: its Arrow type, if it has one.
    """
    if isinstance(value, (dict, list)) and not value:
        return None
    try:
        return _json(value, kind)
    except RecursionError:
        raise ValueError("a cell is nested too deeply") from None


def _json(value: Any, kind: pa.DataType | None) -> str:
    if isinstance(value, dict):
        return _object([(name, item, kind if kind is None else kind.field(name).type) for name, item in value.items()])
    if isinstance(value, list) and kind is not None and pa.types.is_map(kind):
        return _object([(str(name), item, kind.item_type) for name, item in value])
    if isinstance(value, list):
        return f"[{','.join(_json(item, kind if kind is None else kind.value_type) for item in value)}]"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(np.float32(value)) if kind in (pa.float16(), pa.float32()) else repr(value)
    if isinstance(value, (_Number, int, Decimal)):
        return str(value)
    return json.dumps(str(value), ensure_ascii=False)


def _object(items: list[tuple[str, Any, pa.DataType | None]]) -> str:
    present = ((json.dumps(name, ensure_ascii=False), item, kind) for name, item, kind in items if item is not None)
    return f"{{{','.join(f'{name}:{_json(item, kind)}' for name, item, kind in present)}}}"
