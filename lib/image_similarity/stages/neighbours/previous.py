"""What the run before left: lists of vectors that are still there, in the numbers and blocks of now."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import JobFailed
from image_similarity.knn.candidates import Lists
from image_similarity.knn.distances import Indices
from image_similarity.stages.neighbours.numbers import Numbers, load, save
from image_similarity.stages.neighbours.vectors import Packed
from image_similarity.storage import blobs, uris
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR
from image_similarity.warehouse.workspace import Workspace

LISTS = [
    ("index", pa.binary()),
    ("similar", pa.binary()),
    ("similar_floor", pa.binary()),
    ("dissimilar", pa.binary()),
    ("dissimilar_floor", pa.binary()),
]
"""Columns of some vectors: their numbers, and their `Lists`."""
SETTLED, SETTLED_BY_BRUTE_FORCE = "lists", "lists-in-full"
"""Where they are in what a run leaves."""
_KNOWN_FILE = "vectors.npy"
_PREVIOUS = pa.schema([("block", pa.int32()), ("piece", pa.int32()), *LISTS])

RENUMBERED = np.dtype([("vector", np.int64), ("block", np.int32), ("piece", np.int32)])
"""By the number of a vector in the run before: its number, block and piece of it now; -1 if it is gone."""


@dataclass(frozen=True)
class Before:
    """What a run left for the next one."""

    known: NDArray[Any]
    """`numbers.KNOWN`: which vectors it compared, under which numbers."""
    lists: DataFrame
    """`LISTS`: theirs, longer than the table's."""

    @classmethod
    def read(cls, state: Workspace) -> "Before | None":
        """None if it is not whole: every vector has its lists in one of the folders."""
        if not all(blobs.exists(state.location(name)) for name in (_KNOWN_FILE, SETTLED)):
            return None
        known = load(state.location(_KNOWN_FILE))
        names = [name for name in (SETTLED, SETTLED_BY_BRUTE_FORCE) if blobs.exists(state.location(name))]
        lengths = [
            pc.sum(pc.binary_length(part.column("index"))) for name in names for part in state.parts(name, ["index"])
        ]
        if sum(length.as_py() or 0 for length in lengths) != known["vector"].nbytes:
            return None
        lists = [state.read(name, from_arrow_schema(pa.schema(LISTS))) for name in names]
        return cls(known, reduce(DataFrame.unionAll, lists))


def keep(numbers: Numbers, state: Workspace) -> None:
    """Leave the numbers to the next run, beside the lists."""
    save(state.location(_KNOWN_FILE), numbers.known)


def previous(before: Before, packed: Packed, piece_rows: int, scratch: Workspace) -> DataFrame:
    """block, piece, `LISTS`: those of ``before`` that are still there; several rows of a piece."""
    kept = packed.kept
    renumbered = np.full(int(kept.old.max(initial=-1)) + 1, -1, dtype=RENUMBERED)
    renumbered["vector"][kept.old], renumbered["block"][kept.old] = kept.vector, kept.block
    renumbered["piece"][kept.old] = kept.place // piece_rows
    file = uris.join(scratch.location("blocks"), "renumbered.npy")
    save(file, renumbered)

    def now(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        numbers = load(file)
        for batch in batches:
            for row in batch.to_pylist():
                yield from _by_block(row, numbers)

    return before.lists.mapInArrow(now, from_arrow_schema(_PREVIOUS))


def _by_block(row: dict[str, Any], renumbered: Any) -> Iterator[pa.RecordBatch]:
    old = np.frombuffer(row["index"], np.int64)
    there = old < len(renumbered)
    now = renumbered[np.where(there, old, 0)]
    there &= now["vector"] >= 0
    lists = {
        relation: _lists(row, relation, len(old)).renumbered(renumbered["vector"]) for relation in (SIMILAR, DISSIMILAR)
    }
    for block, piece in np.unique(now[["block", "piece"]][there]).tolist():
        some = there & (now["block"] == block) & (now["piece"] == piece)
        contents = [
            now["vector"][some],
            *(values[some] for of in lists.values() for values in (of.keys, of.lower_bound)),
        ]
        columns = [[block], [piece], *([content.tobytes()] for content in contents)]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, kind) for column, kind in zip(columns, _PREVIOUS.types)], schema=_PREVIOUS
        )


def _lists(row: dict[str, Any], relation: str, rows: int) -> Lists:
    return Lists.from_bytes(row[relation], row[f"{relation}_floor"], rows)


def lists_of(rows: pa.Table, index: Indices) -> tuple[Lists, Lists]:
    """Similar and dissimilar, of the vectors ``index`` (n,), from all rows of their piece."""
    told = rows.to_pylist()
    vector = np.concatenate([np.empty(0, np.int64), *(np.frombuffer(row["index"], np.int64) for row in told)])
    order = np.argsort(vector)
    if not np.array_equal(vector[order], np.sort(index)):
        raise JobFailed(
            "the lists of the run before are not those of the vectors that were kept: run with --set "
            "neighbours.incremental=false"
        )
    place = order[np.searchsorted(vector[order], index)]
    found = []
    for relation in (SIMILAR, DISSIMILAR):
        each = [_lists(row, relation, len(row["index"]) // 8) for row in told]
        width = max(of.keys.shape[1] for of in each)
        found.append(
            Lists(
                np.concatenate([of.widened(width).keys for of in each])[place],
                np.concatenate([of.lower_bound for of in each])[place],
            )
        )
    return found[0], found[1]
