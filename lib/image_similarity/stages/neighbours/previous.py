"""Lists that the previous run left, for the vectors that still exist, in the present numbers and blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.errors import JobFailed
from image_similarity.knn import engine
from image_similarity.knn.candidates import Lists
from image_similarity.knn.distances import Indices
from image_similarity.knn.engine import Pair, Search
from image_similarity.knn.rerank import Part
from image_similarity.stages.neighbours.numbers import Numbers, load, save
from image_similarity.storage import blobs, uris
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR
from image_similarity.warehouse.workspace import Workspace

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from image_similarity.stages.neighbours.vectors import Packed

LISTS = [
    ("index", pa.binary()),
    ("similar", pa.binary()),
    ("similar_floor", pa.binary()),
    ("dissimilar", pa.binary()),
    ("dissimilar_floor", pa.binary()),
]
"""Columns of a row about several vectors: their numbers, and their `Lists`; arrays as bytes."""
SETTLED, SETTLED_BY_BRUTE_FORCE = "lists", "lists-in-full"
"""Folders of the lists in a run's state: proven by scores, and found by brute force."""
_KNOWN_FILE = "vectors.npy"
_OTHER_VECTORS = (
    "the lists of the run before are not those of the vectors that were kept: run with --set "
    "neighbours.incremental=false"
)
SETTLED_LISTS = pa.schema([("block", pa.int32()), *LISTS, ("uncertain", pa.binary())])
"""Exact lists of some vectors of a block, and the positions of the vectors whose lists are not proven."""
_PREVIOUS = pa.schema([("block", pa.int32()), ("piece", pa.int32()), *LISTS])

RENUMBERED = np.dtype([("vector", np.int64), ("block", np.int32), ("piece", np.int32)])
"""One entry for each vector number of the previous run: the vector's present number, block, and piece of that block;
the number is -1 if the vector is gone."""


@dataclass(frozen=True)
class PreviousRun:
    """What a run left in its state for the next run."""

    known: NDArray[Any]
    """`numbers.KNOWN`: the vectors that the run compared, and their numbers."""
    state: Workspace
    folders: tuple[str, ...]
    """Folders of ``state`` with `LISTS` of those vectors; the lists are longer than the table's."""
    similar: int
    """The number of similar neighbours that the lists prove; 0 after approximate search, which leaves none."""

    @classmethod
    def read(cls, state: Workspace, similar: int) -> "PreviousRun | None":
        """The state of a run; None if it is incomplete or damaged, that is, if a file cannot be read, or if not every
        vector has its lists in one of the folders.
        """
        if not all(blobs.exists(state.location(name)) for name in (_KNOWN_FILE, SETTLED)):
            return None
        names = [name for name in (SETTLED, SETTLED_BY_BRUTE_FORCE) if blobs.exists(state.location(name))]
        try:
            known = load(state.location(_KNOWN_FILE))
            lengths = [
                pc.sum(pc.binary_length(part.column("index")))
                for name in names
                for part in state.parts(name, ["index"])
            ]
        except (OSError, ValueError):
            return None
        if sum(length.as_py() or 0 for length in lengths) != known["vector"].nbytes:
            return None
        return cls(known, state, tuple(names), similar)

    def frame(self) -> "DataFrame":
        """The lists, `LISTS`, for Spark."""
        frames = [self.state.read(name, pa.schema(LISTS)) for name in self.folders]
        return reduce(lambda a, b: a.unionAll(b), frames)

    def lists(self, numbers: Indices, kept: int) -> tuple[Indices, Pair]:
        """The lists of the ``kept`` vectors that still exist: their present numbers, and their lists in present
        numbers.

        ``numbers``: the present number of each previous one; negative if the vector is gone. Raises ``JobFailed`` if
        the lists are not those of these vectors.
        """
        vectors: list[Indices] = []
        lists: dict[str, list[Lists]] = {SIMILAR: [], DISSIMILAR: []}
        for row in self._rows():
            old = np.frombuffer(row["index"], np.int64)
            now = np.where(old < len(numbers), numbers[np.minimum(old, len(numbers) - 1)], -1)
            vectors.append(now[now >= 0])
            for relation, of_relation in lists.items():
                moved = _lists(row, relation, len(old)).renumbered(numbers)
                of_relation.append(Lists(moved.keys[now >= 0], moved.lower_bound[now >= 0]))
        vector = np.concatenate([np.empty(0, np.int64), *vectors])
        if len(np.unique(vector)) != kept:
            raise JobFailed(_OTHER_VECTORS)
        return vector, (stacked(lists[SIMILAR]), stacked(lists[DISSIMILAR]))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for name in self.folders:
            for part in self.state.parts(name, [column for column, _ in LISTS]):
                yield from part.to_pylist()


def settled_rows(search: Search, block: int, part: Part, lists: Pair) -> pa.Table:
    """One row of `SETTLED_LISTS`: the proven lists of ``part``, and the positions of the vectors whose lists are not
    proven.
    """
    certain = engine.certify(search, lists)
    of_lists = [content[certain] for of_relation in lists for content in (of_relation.keys, of_relation.lower_bound)]
    contents = [part.index[certain], *of_lists, part.positions[~certain]]
    columns = [[block], *([np.ascontiguousarray(content).tobytes()] for content in contents)]
    return pa.Table.from_arrays(
        [pa.array(column, dtype) for column, dtype in zip(columns, SETTLED_LISTS.types)], schema=SETTLED_LISTS
    )


def stacked(pieces: Sequence[Lists]) -> Lists:
    """The lists of several sets of vectors, one set after the other."""
    width = max((lists.keys.shape[1] for lists in pieces), default=0)
    return Lists(
        np.concatenate([np.empty((0, width), np.int64), *(lists.widened(width).keys for lists in pieces)]),
        np.concatenate([np.empty(0, np.int64), *(lists.lower_bound for lists in pieces)]),
    )


def save_known(numbers: Numbers, state: Workspace) -> None:
    """Save the vectors' digests and numbers beside the lists, for the next run."""
    save(state.location(_KNOWN_FILE), numbers.known)


def renumbered_lists(previous_run: PreviousRun, packed: "Packed", piece_rows: int, scratch: Workspace) -> "DataFrame":
    """block, piece, `LISTS`: the lists of ``previous_run`` for the vectors that still exist.

    A piece can have several rows. ``piece_rows``: the number of kept vectors in a piece.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    kept = packed.kept
    renumbered = np.full(int(kept.old.max(initial=-1)) + 1, -1, dtype=RENUMBERED)
    renumbered["vector"][kept.old], renumbered["block"][kept.old] = kept.vector, kept.block
    renumbered["piece"][kept.old] = kept.place // piece_rows
    file = uris.join(scratch.location("blocks"), "renumbered.npy")
    save(file, renumbered)

    def renumber(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        numbers = load(file)
        for batch in batches:
            for row in batch.to_pylist():
                yield from _by_block(row, numbers)

    return previous_run.frame().mapInArrow(renumber, from_arrow_schema(_PREVIOUS))


def _by_block(row: dict[str, Any], renumbered: Any) -> Iterator[pa.RecordBatch]:
    old = np.frombuffer(row["index"], np.int64)
    exists = old < len(renumbered)
    now = renumbered[np.where(exists, old, 0)]
    exists &= now["vector"] >= 0
    lists = {
        relation: _lists(row, relation, len(old)).renumbered(renumbered["vector"]) for relation in (SIMILAR, DISSIMILAR)
    }
    for block, piece in np.unique(now[["block", "piece"]][exists]).tolist():
        in_piece = exists & (now["block"] == block) & (now["piece"] == piece)
        contents = [
            now["vector"][in_piece],
            *(
                values[in_piece]
                for relation_lists in lists.values()
                for values in (relation_lists.keys, relation_lists.lower_bound)
            ),
        ]
        columns = [[block], [piece], *([content.tobytes()] for content in contents)]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, dtype) for column, dtype in zip(columns, _PREVIOUS.types)], schema=_PREVIOUS
        )


def _lists(row: dict[str, Any], relation: str, rows: int) -> Lists:
    return Lists.from_bytes(row[relation], row[f"{relation}_floor"], rows)


def lists_of(records: list[dict[str, Any]], index: Indices) -> tuple[Lists, Lists]:
    """The similar and the dissimilar lists of the vectors ``index`` (n,), from all rows of their piece.

    Raises ``JobFailed`` if ``records`` are not about exactly these vectors.
    """
    vector = np.concatenate([np.empty(0, np.int64), *(np.frombuffer(row["index"], np.int64) for row in records)])
    order = np.argsort(vector)
    if not np.array_equal(vector[order], np.sort(index)):
        raise JobFailed(_OTHER_VECTORS)
    place = order[np.searchsorted(vector[order], index)]
    by_relation = []
    for relation in (SIMILAR, DISSIMILAR):
        lists = stacked([_lists(row, relation, len(row["index"]) // 8) for row in records])
        by_relation.append(Lists(lists.keys[place], lists.lower_bound[place]))
    return by_relation[0], by_relation[1]
