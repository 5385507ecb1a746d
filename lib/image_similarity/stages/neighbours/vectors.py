"""Vectors on their way to being compared: checked, and written as blocks that workers read by path.

Vectors pass once, in the order in which they come: they are large; what is sorted and joined are their keys (see
`numbers`)."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import WrongInput
from image_similarity.knn import rerank
from image_similarity.knn.candidates import MAX_INDEX, Lists
from image_similarity.knn.distances import METRICS, Indices, Metric, Values, Vectors, measured
from image_similarity.knn.rerank import Part, Reranker
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.numbers import ALIVE, Numbers, alive_file, load, numbered, save, save_alive
from image_similarity.stages.neighbours.sources import Source
from image_similarity.storage import uris
from image_similarity.warehouse.workspace import Workspace

FAILURE_REASONS = {
    "no_vector": "the embedding is null or empty",
    "wrong_length": "the embedding has another length than most",
    "non_finite": "the embedding has nulls, infinite or undefined values",
    "zero_vector": "all values are 0: no direction, so no cosine distance",
    "constant_vector": "all values are the same: no correlation distance",
}
"""Every ``reason`` that `find_neighbours` writes into ``failures``."""

_PACKED = pa.schema(
    [
        ("content", pa.string()),
        ("reason", pa.string()),
        ("length", pa.int32()),
        ("digest", pa.binary()),
        ("file", pa.string()),
        ("row", pa.int32()),
        ("shift", pa.float64()),
        ("scale", pa.float64()),
        ("largest", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Blocks:
    """Vectors as files: row ``r`` of block ``b`` has the position ``first[b] + r``."""

    folder: str
    files: list[str]
    """Each has one beside it that tells which of its rows are compared, and under which numbers
    (`numbers.alive_file`)."""
    first: list[int]
    new: list[int]
    """How many of each are compared and new since the run before, and how many are compared and are not."""
    old: list[int]
    dimensions: int

    def __len__(self) -> int:
        return len(self.files)

    def part(self, block: int, new: bool | None = None) -> Part:
        """The vectors of ``block`` that are compared; on this machine's own disk not read before they are used.

        ``new``: only those that are new since the run before, or only the others.
        """
        alive = load(alive_file(self.folder, self.files[block]))
        if new is not None:
            alive = alive[alive["new"] == new]
        values = load(uris.join(self.folder, self.files[block]))
        if len(alive) < len(values):
            values = values[alive["row"]]
        vectors = Vectors(values, alive["shift"].copy(), alive["scale"].copy())
        return Part(vectors, (alive["row"] + self.first[block]).astype(np.int32), alive["index"].copy())

    def whole(self, block: int) -> Part:
        """All vectors of ``block``, without a copy, for those who look up only rows that are compared; the rest has no
        numbers."""
        alive = load(alive_file(self.folder, self.files[block]))
        values = load(uris.join(self.folder, self.files[block]))
        numbers = np.zeros(len(values), dtype=ALIVE)
        numbers[alive["row"]] = alive
        positions = np.arange(self.first[block], self.first[block] + len(values), dtype=np.int32)
        return Part(
            Vectors(values, numbers["shift"].copy(), numbers["scale"].copy()), positions, numbers["index"].copy()
        )

    def rescore(self, reranker: Reranker) -> None:
        """Show it all vectors that are candidates; blocks without one are not read."""
        for block, (first, end) in enumerate(zip(self.first, [*self.first[1:], MAX_INDEX])):
            if reranker.wants(first, end):
                reranker.add(self.whole(block))

    def brute_force(self, rows: Part, metric: Metric, similar: int, dissimilar: int) -> tuple[Lists, Lists]:
        """The lists of ``rows`` from comparing them with all, without screening."""
        lists = Lists.empty(len(rows), similar), Lists.empty(len(rows), dissimilar)
        for other in map(self.part, range(len(self))):
            near, far = rerank.brute_force(
                metric, rows.vectors, rows.index, other.vectors, other.index, similar, dissimilar
            )
            lists = lists[0].merged(Lists.complete(near)), lists[1].merged(Lists.complete(far))
        return lists


@dataclass(frozen=True)
class Kept:
    """Vectors that the run before had: their numbers now and then, and the blocks they are in; (n,) each."""

    vector: Indices
    old: Indices
    block: Indices
    place: Indices
    """Which of the block's vectors that are not new each is, in the order of `Blocks.part`."""


@dataclass(frozen=True)
class Packed:
    """All vectors, ready to be compared."""

    blocks: Blocks
    numbers: Numbers
    failures: DataFrame
    """image_id, reason, detail: of images that are not usable."""
    unusable: int
    kept: Kept
    largest: float
    """The largest absolute value in any."""

    @property
    def usable(self) -> int:
        return len(self.numbers)

    @property
    def vectors(self) -> int:
        """Different ones."""
        return sum(self.blocks.new) + sum(self.blocks.old)

    @property
    def dimensions(self) -> int:
        """Length of a usable vector; 0 if there is none."""
        return self.blocks.dimensions


def pack(
    source: Source,
    settings: NeighboursSettings,
    block_rows: int,
    before: NDArray[Any],
    scratch: Workspace,
) -> Packed:
    """Check the vectors of ``source`` and write the usable ones as blocks.

    Vectors of another length than most are not usable, those of no image are passed over. ``before``: the vectors of
    the run before, as `numbers.KNOWN`."""
    folder, images = scratch.location("blocks"), source.images
    told = scratch.write(
        "packed",
        source.vectors.mapInArrow(_packing(METRICS[settings.metric], block_rows, folder), from_arrow_schema(_PACKED)),
    )
    written = _Written.read(scratch.parts("packed", ["reason", "length", "file", "largest"]))
    known = told.withColumn("image_id", F.col("content")) if images is None else images.join(told, "content")
    is_usable = F.col("reason").isNull() & (F.col("length") == written.dimensions)
    columns = ["image_id", "digest", "file", "row", "shift", "scale"]
    by_content = settings.drop_duplicates and images is not None
    columns += ["content"] if by_content else []
    scratch.write("ids", known.where(is_usable).select(*columns).orderBy("image_id"))
    numbers = numbered(scratch.parts("ids", columns), written.files, by_content, folder)
    failures = _failures(known.where(~is_usable) if written.unusable else known.limit(0), written.dimensions)
    vector, then = numbers.kept(before)
    new, old = save_alive(numbers, written.files, vector, folder)
    first = np.cumsum([0, *written.rows], dtype=np.int64)
    if first[-1] >= MAX_INDEX:
        raise WrongInput(f"{first[-1]:,} vectors: at most {MAX_INDEX - 1:,} can be compared")
    alive = np.nonzero(new + old)[0]
    files = [written.files[file] for file in alive]
    blocks = Blocks(folder, files, first[alive].tolist(), new[alive].tolist(), old[alive].tolist(), written.dimensions)
    kept = _placed(numbers, vector, then, alive)
    return Packed(blocks, numbers, failures, failures.count() if written.unusable else 0, kept, written.largest)


def _placed(numbers: Numbers, vector: Indices, old: Indices, alive: Indices) -> Kept:
    order = np.lexsort((numbers.row[vector], numbers.file[vector]))
    vector, old = vector[order], old[order]
    block = np.searchsorted(alive, numbers.file[vector])
    return Kept(vector, old, block, np.arange(len(block)) - np.searchsorted(block, block))


def _failures(known: DataFrame, dimensions: int) -> DataFrame:
    has_values = F.col("reason").isNull()
    detail = F.when(has_values, F.concat_ws(" ", "length", F.lit(f"values, not {dimensions}")))
    reason = F.when(has_values, F.lit("wrong_length")).otherwise(F.col("reason"))
    return known.select("image_id", reason.alias("reason"), detail.alias("detail"))


@dataclass(frozen=True)
class _Written:
    """The files of vectors with the length that most have."""

    files: list[str]
    rows: list[int]
    dimensions: int
    """0 if there is no usable vector."""
    largest: float
    unusable: int
    """Vectors that are in none of the files."""

    @classmethod
    def read(cls, parts: Iterable[pa.Table]) -> "_Written":
        """From rows of `_PACKED`."""
        each = [part.group_by(["file", "length"]).aggregate([([], "count_all"), ("largest", "max")]) for part in parts]
        together = pa.concat_tables(each).group_by(["file", "length"]) if each else None
        told = together.aggregate([("count_all", "sum"), ("largest_max", "max")]).to_pylist() if together else []
        files = [row for row in told if row["file"] is not None]
        rows_of_length: dict[int, int] = {}
        for row in files:
            rows_of_length[row["length"]] = rows_of_length.get(row["length"], 0) + row["count_all_sum"]
        dimensions = min(rows_of_length, key=lambda length: (-rows_of_length[length], length), default=0)
        chosen = sorted((row for row in files if row["length"] == dimensions), key=lambda row: str(row["file"]))
        rows = [row["count_all_sum"] for row in chosen]
        return cls(
            [row["file"] for row in chosen],
            rows,
            dimensions,
            max((row["largest_max_max"] for row in chosen), default=0.0),
            sum(row["count_all_sum"] for row in told) - sum(rows),
        )


def _packing(metric: Metric, block_rows: int, folder: str) -> Any:
    def packing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        blocks = _Writer(metric, block_rows, folder)
        for batch in batches:
            yield from blocks.add(batch.column("content").cast(pa.string()), batch.column("embedding"))
        yield from blocks.close()

    return packing


class _Writer:
    """Collects usable vectors of one length after another into files, and tells about each vector."""

    def __init__(self, metric: Metric, block_rows: int, folder: str):
        self._metric, self._block_rows, self._folder = metric, block_rows, folder
        self._waiting: dict[int, list[tuple[pa.Array, Values]]] = {}
        context = TaskContext.get()
        # A task that is tried again, or twice at once, writes other files than before; only told ones are read.
        self._task = f"{context.partitionId():06d}-{context.taskAttemptId()}" if context is not None else "0"
        self._written = 0

    def add(self, contents: pa.Array, embeddings: pa.ListArray) -> Iterator[pa.RecordBatch]:
        for rows, values in by_length(embeddings):
            reasons = self._reasons(values)
            bad = np.nonzero(reasons != None)[0]  # noqa: E711 (element by element)
            if len(bad):
                yield _told(contents.take(pa.array(rows[bad])), reason=reasons[bad], length=values.shape[1])
            good = np.nonzero(reasons == None)[0]  # noqa: E711
            if len(good):
                usable = values if len(good) == len(values) else values[good]
                self._waiting.setdefault(values.shape[1], []).append((contents.take(pa.array(rows[good])), usable))
                yield from self._full_blocks(values.shape[1])

    def _reasons(self, values: Values) -> NDArray[np.object_]:
        reasons = np.full(len(values), None, dtype=object)
        if values.shape[1] == 0:
            reasons[:] = "no_vector"
            return reasons
        reasons[self._metric.unusable(values)] = self._metric.unusable_reason
        reasons[~np.isfinite(values).all(axis=1)] = "non_finite"
        return reasons

    def _full_blocks(self, length: int) -> Iterator[pa.RecordBatch]:
        waiting = self._waiting[length]
        if sum(len(values) for _, values in waiting) < self._block_rows:
            return
        contents, values = _concatenated(waiting)
        whole = len(values) - len(values) % self._block_rows
        for start in range(0, whole, self._block_rows):
            yield self._write(contents.slice(start, self._block_rows), values[start : start + self._block_rows])
        self._waiting[length] = [(contents.slice(whole), values[whole:].copy())]

    def close(self) -> Iterator[pa.RecordBatch]:
        for waiting in self._waiting.values():
            contents, values = _concatenated(waiting)
            if len(values):
                yield self._write(contents, values)

    def _write(self, contents: pa.Array, values: Values) -> pa.RecordBatch:
        name = f"{self._task}-{self._written:06d}.npy"
        self._written += 1
        save(uris.join(self._folder, name), values)
        vectors = measured(values, self._metric)
        return _told(
            contents,
            length=values.shape[1],
            # Adding 0 makes -0.0 the 0.0 that it is equal to.
            digest=[hashlib.sha1(row, usedforsecurity=False).digest() for row in values + np.float32(0)],
            file=name,
            row=np.arange(len(values), dtype=np.int32),
            shift=vectors.shift,
            scale=vectors.scale,
            largest=np.abs(values).max(axis=1),
        )


def _concatenated(waiting: list[tuple[pa.Array, Values]]) -> tuple[pa.Array, Values]:
    return pa.concat_arrays([contents for contents, _ in waiting]), np.concatenate([values for _, values in waiting])


def _told(contents: pa.Array, **columns: Any) -> pa.RecordBatch:
    """Rows of `_PACKED`; a column that is one value stands in every row, one that is not given is null."""
    arrays = [contents]
    for field in list(_PACKED)[1:]:
        value = columns.get(field.name)
        one = value is None or isinstance(value, (str, int))
        arrays.append(pa.repeat(pa.scalar(value, field.type), len(contents)) if one else pa.array(value, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=_PACKED)


def by_length(lists: pa.ListArray) -> Iterator[tuple[NDArray[np.int64], Values]]:
    """Rows of ``lists`` (list<float>) with equal lengths: their places, and their values (n, length) float32; null is
    nan."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    for length in np.unique(lengths):
        rows = np.nonzero(lengths == length)[0]
        of_one_length = lists if len(rows) == len(lists) else lists.take(pa.array(rows))
        values = of_one_length.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        yield rows, values.reshape(len(rows), int(length))
