"""Attributes of images, a map for each, as columns of a file."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MOST_COLUMNS = 100
"""With more names than these, all attributes go into one column, as JSON."""
JSON_COLUMN, PREFIX = "attributes", "attribute_"


@dataclass(frozen=True)
class Columns:
    """Which columns there are for attributes: one for each name, or one for all."""

    columns: dict[str, str]
    """The name of an attribute -> its column. Empty if all are in `JSON_COLUMN`, or there are none."""
    as_json: bool = False

    @classmethod
    def of(cls, names: Iterable[str], taken: Collection[str]) -> "Columns":
        """Columns for the attributes ``names``, in the order of their bytes, beside the columns ``taken``.

        Readers take names that differ in capitals for the same column, and an empty one for none. Such an attribute,
        and one that is called like a column of ours, gets `PREFIX` until its name is its own.
        """
        ordered = sorted(set(names), key=lambda name: name.encode())
        if len(ordered) > MOST_COLUMNS:
            return cls({}, as_json=True)
        used, columns = {"", JSON_COLUMN, *map(str.casefold, taken)}, dict[str, str]()
        for name in ordered:
            column = name
            while column.strip().casefold() in used:
                column = PREFIX + column
            used.add(column.strip().casefold())
            columns[name] = column
        return cls(columns)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, pa.string()) for name in ([JSON_COLUMN] if self.as_json else self.columns.values())])

    def fill(self, attributes: pa.MapArray) -> list[pa.Array]:
        """The cells of `schema`, strings, for each of the maps ``attributes``; null where one has no such value."""
        if self.as_json:
            return [pa.array([_json(row) for row in attributes.to_pylist()], pa.string())]
        if not self.columns:
            return []
        offsets = attributes.offsets.to_numpy()
        items = slice(int(offsets[0]), int(offsets[-1]))
        row = np.repeat(np.arange(len(attributes)), np.diff(offsets))
        values = attributes.items[items]
        number = pc.index_in(attributes.keys[items], value_set=pa.array(list(self.columns), pa.string()))
        number = pc.fill_null(number, -1).to_numpy(zero_copy_only=False)
        by_name = np.argsort(number, kind="stable")
        ends = np.searchsorted(number[by_name], np.arange(len(self.columns) + 1))
        return [_scattered(values, row, by_name[first:last], len(attributes)) for first, last in zip(ends, ends[1:])]


def names_of(attributes: pa.MapArray) -> list[str]:
    """The names in the maps ``attributes``, each once."""
    offsets = attributes.offsets.to_numpy()
    names: list[str] = pc.unique(attributes.keys[int(offsets[0]) : int(offsets[-1])]).to_pylist()
    return names


def _scattered(values: pa.Array, row: np.ndarray, of_name: np.ndarray, rows: int) -> pa.Array:
    """``values`` at the places ``of_name``, each in its row; null in rows that have none."""
    place = np.full(rows, -1, np.int64)
    place[row[of_name]] = of_name
    return values.take(pa.array(place, mask=place < 0))


def _json(row: list[tuple[str, str | None]] | None) -> str | None:
    return json.dumps(dict(row), ensure_ascii=False, sort_keys=True) if row else None
