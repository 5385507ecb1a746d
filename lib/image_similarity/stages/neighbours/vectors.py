"""Vectors are checked and written as blocks, which workers read by path.

Vectors are large, so they are read once, in the order in which they come. Only their keys are sorted and joined, by the
driver (see `numbers`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import WrongInput
from image_similarity.knn.candidates import MAX_INDEX
from image_similarity.knn.distances import METRICS, Indices, Metric, Values, Vectors, measured
from image_similarity.knn.rerank import Part, Reranker
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.local_source import LocalSource
from image_similarity.stages.neighbours.numbers import (
    ALIVE,
    Numbers,
    alive_file,
    load,
    numbered,
    of_images,
    save,
    save_alive,
)
from image_similarity.stages.neighbours.plan import TASKS_PER_CORE, cores_of
from image_similarity.stages.neighbours.sources import Source
from image_similarity.stages.neighbours.usable import by_length, digests_of, most_frequent, reasons_of, wrong_length
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
    failures: pa.Table
    """image_id, reason, detail: one row for each unusable image."""
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
    def unusable(self) -> int:
        return len(self.failures)

    @property
    def vectors(self) -> int:
        """The number of distinct vectors."""
        return sum(self.blocks.new) + sum(self.blocks.old)

    @property
    def dimensions(self) -> int:
        """Length of a usable vector; 0 if there is none."""
        return self.blocks.dimensions


def pack(
    source: Source | LocalSource,
    settings: NeighboursSettings,
    block_rows: int,
    previous: NDArray[Any],
    scratch: Workspace,
    dimensions: int | None = None,
    name: str = "",
) -> Packed:
    """Check the vectors of ``source`` and write the usable ones as blocks.

    A vector is usable only if it has ``dimensions`` values, or the most frequent length where that is None. Vectors of
    no image are ignored. ``previous``: the vectors of the previous run, as `numbers.KNOWN`. ``name``: how the names of
    folders in ``scratch`` begin. Raises ``WrongInput`` for more vectors than can be numbered.
    """
    folder = scratch.location(f"{name}blocks")
    packing = _Packing(METRICS[settings.metric], block_rows, folder)
    scratch.write(f"{name}packed", _packed_by_tasks(scratch.session, source, packing))
    packed = pa.concat_tables([_PACKED.empty_table(), *scratch.parts(f"{name}packed", _PACKED.names)])
    written = _Written.of(packed, dimensions)
    images = _images_of(source, scratch, f"{name}images")
    is_usable = pc.and_(pc.is_null(packed["reason"]), pc.equal(packed["length"], written.dimensions))
    failures = of_images(images, _failures(packed.filter(pc.invert(is_usable)), written.dimensions))
    ids = of_images(images, packed.filter(is_usable).select(["content", "digest", "file", "row", "shift", "scale"]))
    by_content = settings.drop_duplicates and images is not None
    numbers, named_images = numbered([ids], written.files, by_content)
    named_images.save(folder)
    vector, previous_number = numbers.kept(previous)
    new, old = save_alive(numbers, written.files, vector, folder)
    first = np.cumsum([0, *written.rows], dtype=np.int64)
    if first[-1] >= MAX_INDEX:
        raise WrongInput(f"{first[-1]:,} vectors: at most {MAX_INDEX - 1:,} can be compared")
    alive = np.nonzero(new + old)[0]
    files = [written.files[file] for file in alive]
    blocks = Blocks(folder, files, first[alive].tolist(), new[alive].tolist(), old[alive].tolist(), written.dimensions)
    kept = _placed(numbers, vector, previous_number, alive)
    return Packed(blocks, numbers, failures, kept, written.largest)


def _placed(numbers: Numbers, vector: Indices, old: Indices, alive: Indices) -> Kept:
    by_file = np.lexsort((numbers.row[vector], numbers.file[vector]))
    vector, old = vector[by_file], old[by_file]
    block = np.searchsorted(alive, numbers.file[vector])
    return Kept(vector, old, block, np.arange(len(block)) - np.searchsorted(block, block))


def _images_of(source: Source | LocalSource, scratch: Workspace, folder: str) -> pa.Table | None:
    """image_id, content; None where each content is an image."""
    if isinstance(source, LocalSource) or source.images is None:
        return source.images
    schema = pa.schema([(name, pa.string()) for name in ("image_id", "content")])
    scratch.write(folder, source.images.select(*schema.names))
    return pa.concat_tables([schema.empty_table(), *scratch.parts(folder, schema.names)])


def _failures(unusable: pa.Table, dimensions: int) -> pa.Table:
    """content, reason, detail, from rows of `_PACKED`."""
    lengths, reasons = unusable["length"].to_pylist(), unusable["reason"].to_pylist()
    details = [wrong_length(length, dimensions) if reason is None else None for length, reason in zip(lengths, reasons)]
    columns = {"reason": [reason or "wrong_length" for reason in reasons], "detail": details}
    texts = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    return pa.table({"content": unusable["content"], **texts})


@dataclass(frozen=True)
class _Written:
    """The files of vectors of one length."""

    files: list[str]
    rows: list[int]
    dimensions: int
    """0 if there is no usable vector."""
    largest: float

    @classmethod
    def of(cls, packed: pa.Table, dimensions: int | None) -> "_Written":
        """From rows of `_PACKED`. ``dimensions``: see `pack`."""
        counts = packed.group_by(["file", "length"]).aggregate([([], "count_all"), ("largest", "max")]).to_pylist()
        usable = [row for row in counts if row["file"] is not None]
        rows_of_length: Counter[int] = Counter()
        for row in usable:
            rows_of_length[row["length"]] += row["count_all"]
        if dimensions is None:
            dimensions = most_frequent(rows_of_length)
        chosen = sorted((row for row in usable if row["length"] == dimensions), key=lambda row: str(row["file"]))
        rows = [row["count_all"] for row in chosen]
        return cls(
            [row["file"] for row in chosen], rows, dimensions, max((row["largest_max"] for row in chosen), default=0.0)
        )


def _packed_by_tasks(spark: SparkSession, source: Source | LocalSource, packing: "_Packing") -> DataFrame:
    """Rows of `_PACKED`. Tasks read the vectors of files on this machine themselves: so these do not pass through the
    JVM.
    """
    if not isinstance(source, LocalSource):
        return source.vectors.mapInArrow(packing.pack, from_arrow_schema(_PACKED))
    groups = source.groups
    tasks = max(1, min(len(groups), TASKS_PER_CORE * cores_of(spark)))

    def read_and_pack(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        read = (batch for of in numbers for number in of.column("id").to_pylist() for batch in groups[number]())
        yield from packing.pack(read)

    return spark.range(0, len(groups), 1, tasks).mapInArrow(read_and_pack, from_arrow_schema(_PACKED))


@dataclass(frozen=True)
class _Packing:
    """The parameters of a task; plain values, sent to workers."""

    metric: Metric
    block_rows: int
    folder: str

    def pack(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Writes the vectors of ``batches`` (content, embedding) as blocks, and yields rows of `_PACKED`."""
        blocks = _Writer(self.metric, self.block_rows, self.folder)
        for batch in batches:
            yield from blocks.add(batch.column(0).cast(pa.string()), batch.column(1))
        yield from blocks.close()


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
