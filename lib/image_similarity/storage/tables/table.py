"""What a table is to those who read it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

_BATCH_ROWS = 16_384
_BATCH_CELLS = 1 << 20

Batches = Callable[[Collection[str]], Iterator[pa.RecordBatch]]
"""Names of columns -> all rows, with those of the columns that are there, as strings. None may be there."""


@dataclass(frozen=True)
class Table:
    """Columns of a file or folder. Only names are in memory; each call of `batches` reads the rows anew."""

    names: list[str]
    """The columns of text, in the order of the file; of a folder, those of all files."""
    binary: tuple[str, ...] = ()
    """Columns that hold bytes, also within lists or records. They are left out."""
    nested: frozenset[str] = frozenset()
    """Columns that hold lists or records."""
    notes: list[str] = field(default_factory=list)
    """What was left out, a line for each kind."""
    _batches: Batches = lambda names: iter(())

    def batches(self, names: Collection[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows, some thousands at a time, with the columns ``names`` (None: all); each column is of strings.

        Raises ``ValueError``, in one line, for a file or row that cannot be read.
        """
        return self._batches(self.names if names is None else names)

    def column(self, *candidates: str) -> str | None:
        """The first of ``candidates`` that is a column; None if none is.

        Raises ``ValueError`` if that column does not hold text, or if its name is written with other capitals or
        spaces: it would be taken for an attribute, and silently be missed.
        """
        for name in candidates:
            if name in self.binary:
                raise ValueError(f"{name} must be text, and the list has bytes there")
            if name in self.nested:
                raise ValueError(
                    f"{name} must be text, and holds lists or records; JSON needs one object for each image "
                    "(pandas: orient='records')"
                )
            if name in self.names:
                return name
            check_spelling(name, [*self.names, *self.binary])
        return None


def batch_rows(columns: int) -> int:
    """The rows of a batch with so many columns: many rows are fast, and few cells are little memory."""
    return max(1, min(_BATCH_ROWS, _BATCH_CELLS // max(1, columns)))


def rows_of(columns: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
    """``count`` rows of ``columns``. Arrow takes the number from the columns, and there may be none."""
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def check_spelling(name: str, columns: Iterable[str]) -> None:
    """Raise ``ValueError`` if one of ``columns`` is ``name`` but for capitals and spaces around it."""
    alike = [column for column in columns if column != name and column.strip().lower() == name.strip().lower()]
    if alike:
        raise ValueError(f"is the column {alike[0]!r} meant for {name}? Write it {name}")


class Header:
    """The names of columns by their places. A name that stands several times is one column, if only one has values."""

    def __init__(self, names: Sequence[str]):
        self._places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            if name:
                self._places.setdefault(name, []).append(place)
        self._filled: dict[str, set[int]] = {}
        self.names = list(self._places)
        self.notes = [] if all(names) else ["left out are columns without a name"]

    def batch(self, column: Callable[[int], pa.Array], names: Collection[str], count: int) -> pa.RecordBatch:
        """The columns ``names`` of ``count`` rows; ``column`` gives that at a place.

        Raises ``ValueError`` if two columns of one name have values, in these rows or in earlier ones.
        """
        arrays = {
            name: self._only_filled(name, [(place, column(place)) for place in places])
            for name, places in self._places.items()
            if name in names
        }
        return rows_of(arrays, count)

    def _only_filled(self, name: str, columns: list[tuple[int, pa.Array]]) -> pa.Array:
        if len(columns) == 1:
            return columns[0][1]
        filled = self._filled.setdefault(name, set())
        filled.update(place for place, column in columns if column.null_count < len(column))
        if len(filled) > 1:
            raise ValueError(f"the column {name!r} stands {len(columns)} times in the header: rename all but one")
        return next((column for place, column in columns if place in filled), columns[0][1])
