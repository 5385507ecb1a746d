"""Vectors are checked and written as blocks, which workers read by path.

Vectors are large, so they are read once, in the order in which they come. Only their keys are sorted and joined (see
`numbers`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import WrongInput
from image_similarity.knn.candidates import MAX_INDEX
from image_similarity.knn.distances import METRICS, Indices, Metric, Values, Vectors, measured
from image_similarity.knn.rerank import Part, Reranker
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.numbers import ALIVE, Numbers, alive_file, load, numbered, save, save_alive
from image_similarity.stages.neighbours.sources import Source
from image_similarity.stages.neighbours.usable import by_length, digests_of, most_frequent, reasons_of
from image_similarity.storage import uris
from image_similarity.warehouse.workspace import Workspace

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
    """Vectors in files, one for each block; row ``r`` of block ``b`` has the position ``first[b] + r``."""

    folder: str
    files: list[str]
    """File names below ``folder``. A second file beside each holds the rows that are compared, and their numbers
    (`numbers.alive_file`)."""
    first: list[int]
    new: list[int]
    """For each block, the number of compared vectors that are new since the previous run."""
    old: list[int]
    """For each block, the number of compared vectors that are not new."""
    dimensions: int
    all_new: bool = False
    """Whether all vectors count as new, whatever the files beside them say."""

    def __len__(self) -> int:
        return len(self.files)

    def part(self, block: int, new: bool | None = None) -> Part:
        """The compared vectors of ``block``. Files on a local disk are read only where they are used.

        ``new``: True for only the vectors that are new since the previous run, False for only the others.
        """
        alive = load(alive_file(self.folder, self.files[block]))
        if new is not None:
            alive = alive[(alive["new"] | self.all_new) == new]
        values = load(uris.join(self.folder, self.files[block]))
        if len(alive) < len(values):
            values = values[alive["row"]]
        vectors = Vectors(values, alive["shift"].copy(), alive["scale"].copy())
        return Part(vectors, (alive["row"] + self.first[block]).astype(np.int32), alive["index"].copy())

    def whole(self, block: int) -> Part:
        """All vectors of ``block``, without a copy. Rows that are not compared have no valid number, shift or scale:
        callers must not look them up.
        """
        alive = load(alive_file(self.folder, self.files[block]))
        values = load(uris.join(self.folder, self.files[block]))
        numbers = np.zeros(len(values), dtype=ALIVE)
        numbers[alive["row"]] = alive
        positions = np.arange(self.first[block], self.first[block] + len(values), dtype=np.int32)
        return Part(
            Vectors(values, numbers["shift"].copy(), numbers["scale"].copy()), positions, numbers["index"].copy()
        )

    def rescore(self, reranker: Reranker) -> None:
        """Give ``reranker`` the vectors of all its candidates; blocks without a candidate are not read."""
        for block, (start, end) in enumerate(zip(self.first, [*self.first[1:], MAX_INDEX])):
            if reranker.wants(start, end):
                reranker.add(self.whole(block))

    def parts(self) -> Iterator[Part]:
        """The compared vectors of all blocks, one block after the other."""
        return map(self.part, range(len(self)))


@dataclass(frozen=True)
class Kept:
    """Vectors that the previous run also had; arrays (n,)."""

    vector: Indices
    """Their present numbers."""
    old: Indices
    """Their numbers in the previous run."""
    block: Indices
    place: Indices
    """The index of each among its block's vectors that are not new, in the order of `Blocks.part`."""


@dataclass(frozen=True)
class Packed:
    """All usable vectors, in blocks, and what is known of them."""

    blocks: Blocks
    numbers: Numbers
    failures: DataFrame
    """image_id, reason, detail: one row for each unusable image."""
    unusable: int
    kept: Kept
    largest: float
    """The largest absolute value in any usable vector."""

    def all_new(self) -> "Packed":
        """The same vectors, as if there had been no previous run."""
        counts = [new + old for new, old in zip(self.blocks.new, self.blocks.old)]
        blocks = replace(self.blocks, new=counts, old=[0] * len(counts), all_new=True)
        nothing = np.empty(0, dtype=np.int64)
        return replace(self, blocks=blocks, kept=Kept(nothing, nothing, nothing, nothing))

    @property
    def usable(self) -> int:
        return len(self.numbers)

    @property
    def vectors(self) -> int:
        """The number of distinct vectors."""
        return sum(self.blocks.new) + sum(self.blocks.old)

    @property
    def dimensions(self) -> int:
        """Length of a usable vector; 0 if there is none."""
        return self.blocks.dimensions


def pack(
    source: Source,
    settings: NeighboursSettings,
    block_rows: int,
    previous: NDArray[Any],
    scratch: Workspace,
) -> Packed:
    """Check the vectors of ``source`` and write the usable ones as blocks.

    A vector is usable only if it has the most frequent length. Vectors of no image are ignored. ``previous``: the
    vectors of the previous run, as `numbers.KNOWN`. Raises ``WrongInput`` for more vectors than can be numbered.
    """
    folder, images = scratch.location("blocks"), source.images
    packed = scratch.write(
        "packed",
        source.vectors.mapInArrow(_packing(METRICS[settings.metric], block_rows, folder), from_arrow_schema(_PACKED)),
    )
    written = _Written.read(scratch.parts("packed", ["reason", "length", "file", "largest"]))
    of_images = packed.withColumn("image_id", F.col("content")) if images is None else images.join(packed, "content")
    is_usable = F.col("reason").isNull() & (F.col("length") == written.dimensions)
    columns = ["image_id", "digest", "file", "row", "shift", "scale"]
    by_content = settings.drop_duplicates and images is not None
    columns += ["content"] if by_content else []
    scratch.write("ids", of_images.where(is_usable).select(*columns).orderBy("image_id"))
    numbers, named_images = numbered(scratch.parts("ids", columns), written.files, by_content)
    named_images.save(folder)
    failures = _failures(of_images.where(~is_usable) if written.unusable else of_images.limit(0), written.dimensions)
    vector, previous_number = numbers.kept(previous)
    new, old = save_alive(numbers, written.files, vector, folder)
    first = np.cumsum([0, *written.rows], dtype=np.int64)
    if first[-1] >= MAX_INDEX:
        raise WrongInput(f"{first[-1]:,} vectors: at most {MAX_INDEX - 1:,} can be compared")
    alive = np.nonzero(new + old)[0]
    files = [written.files[file] for file in alive]
    blocks = Blocks(folder, files, first[alive].tolist(), new[alive].tolist(), old[alive].tolist(), written.dimensions)
    kept = _placed(numbers, vector, previous_number, alive)
    return Packed(blocks, numbers, failures, failures.count() if written.unusable else 0, kept, written.largest)


def _placed(numbers: Numbers, vector: Indices, old: Indices, alive: Indices) -> Kept:
    by_file = np.lexsort((numbers.row[vector], numbers.file[vector]))
    vector, old = vector[by_file], old[by_file]
    block = np.searchsorted(alive, numbers.file[vector])
    return Kept(vector, old, block, np.arange(len(block)) - np.searchsorted(block, block))


def _failures(unusable: DataFrame, dimensions: int) -> DataFrame:
    has_values = F.col("reason").isNull()
    detail = F.when(has_values, F.concat_ws(" ", "length", F.lit(f"values, not {dimensions}")))
    reason = F.when(has_values, F.lit("wrong_length")).otherwise(F.col("reason"))
    return unusable.select("image_id", reason.alias("reason"), detail.alias("detail"))


@dataclass(frozen=True)
class _Written:
    """The files of vectors with the most frequent length."""

    files: list[str]
    rows: list[int]
    dimensions: int
    """0 if there is no usable vector."""
    largest: float
    unusable: int
    """The number of vectors that are in none of ``files``."""

    @classmethod
    def read(cls, tables: Iterable[pa.Table]) -> "_Written":
        """From rows of `_PACKED`."""
        counts = [
            table.group_by(["file", "length"]).aggregate([([], "count_all"), ("largest", "max")]) for table in tables
        ]
        merged_counts = pa.concat_tables(counts).group_by(["file", "length"]) if counts else None
        files = (
            merged_counts.aggregate([("count_all", "sum"), ("largest_max", "max")]).to_pylist() if merged_counts else []
        )
        usable = [row for row in files if row["file"] is not None]
        rows_of_length: dict[int, int] = {}
        for row in usable:
            rows_of_length[row["length"]] = rows_of_length.get(row["length"], 0) + row["count_all_sum"]
        dimensions = most_frequent(rows_of_length)
        chosen = sorted((row for row in usable if row["length"] == dimensions), key=lambda row: str(row["file"]))
        rows = [row["count_all_sum"] for row in chosen]
        return cls(
            [row["file"] for row in chosen],
            rows,
            dimensions,
            max((row["largest_max_max"] for row in chosen), default=0.0),
            sum(row["count_all_sum"] for row in files) - sum(rows),
        )


def _packing(metric: Metric, block_rows: int, folder: str) -> Any:
    def packing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        blocks = _Writer(metric, block_rows, folder)
        for batch in batches:
            yield from blocks.add(batch.column("content").cast(pa.string()), batch.column("embedding"))
        yield from blocks.close()

    return packing


class _Writer:
    """Collects usable vectors by length, writes them to files, and yields a row of `_PACKED` for each vector."""

    def __init__(self, metric: Metric, block_rows: int, folder: str):
        self._metric, self._block_rows, self._folder = metric, block_rows, folder
        self._waiting: dict[int, list[tuple[pa.Array, Values]]] = {}
        context = TaskContext.get()
        # A retried or speculative task attempt writes files of its own; only files in the rows of the successful
        # attempt are read.
        self._task = f"{context.partitionId():06d}-{context.taskAttemptId()}" if context is not None else "0"
        self._written = 0

    def add(self, contents: pa.Array, embeddings: pa.ListArray) -> Iterator[pa.RecordBatch]:
        for rows, values in by_length(embeddings):
            reasons = reasons_of(values, self._metric)
            unusable_rows = np.nonzero(reasons != None)[0]  # noqa: E711 (element by element)
            if len(unusable_rows):
                yield _packed_rows(
                    contents.take(pa.array(rows[unusable_rows])), reason=reasons[unusable_rows], length=values.shape[1]
                )
            usable_rows = np.nonzero(reasons == None)[0]  # noqa: E711
            if len(usable_rows):
                usable_values = values if len(usable_rows) == len(values) else values[usable_rows]
                self._waiting.setdefault(values.shape[1], []).append(
                    (contents.take(pa.array(rows[usable_rows])), usable_values)
                )
                yield from self._full_blocks(values.shape[1])

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
        return _packed_rows(
            contents,
            length=values.shape[1],
            digest=digests_of(values),
            file=name,
            row=np.arange(len(values), dtype=np.int32),
            shift=vectors.shift,
            scale=vectors.scale,
            largest=np.abs(values).max(axis=1),
        )


def _concatenated(waiting: list[tuple[pa.Array, Values]]) -> tuple[pa.Array, Values]:
    return pa.concat_arrays([contents for contents, _ in waiting]), np.concatenate([values for _, values in waiting])


def _packed_rows(contents: pa.Array, **columns: Any) -> pa.RecordBatch:
    """Rows of `_PACKED`. A single value is repeated in every row; a missing column is null."""
    arrays = [contents]
    for field in list(_PACKED)[1:]:
        value = columns.get(field.name)
        is_single = value is None or isinstance(value, (str, int))
        arrays.append(
            pa.repeat(pa.scalar(value, field.type), len(contents)) if is_single else pa.array(value, field.type)
        )
    return pa.RecordBatch.from_arrays(arrays, schema=_PACKED)
