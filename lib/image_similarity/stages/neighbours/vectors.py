"""Vectors on their way to being compared: checked, written as blocks that workers read by path, and numbered.

Vectors pass once, in the order in which they come: they are large; what is sorted and joined are their keys. The number of an image
is its place in the byte order of all usable ids, so that to compare numbers is to compare ids. Images with the same vector share
it: it is compared once, under the number of the first of them.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from image_similarity import storage
from image_similarity.errors import WrongInput
from image_similarity.kernels.distances import METRICS, Metric, Values, Vectors, measured
from image_similarity.kernels.topk import MAX_INDEX, Lists, Part
from image_similarity.spark import numbered
from image_similarity.tables import DISSIMILAR, SIMILAR
from image_similarity.warehouse import Scratch

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
_PACKED_DDL = (
    "content string, reason string, length int, digest binary, file string, row int, shift double, scale double, largest float"
)


@dataclass(frozen=True)
class Blocks:
    """Vectors as files: row ``r`` of block ``b`` has the position ``first[b] + r``."""

    folder: str
    files: list[str]
    """Each has one beside it that tells which of its rows are compared, and under which numbers (`_alive_file`)."""
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
        alive = _load(_alive_file(self.folder, self.files[block]))
        if new is not None:
            alive = alive[alive["new"] == new]
        values = _load(storage.join(self.folder, self.files[block]))
        if len(alive) < len(values):
            values = values[alive["row"]]
        vectors = Vectors(values, alive["shift"].copy(), alive["scale"].copy())
        return Part(vectors, (alive["row"] + self.first[block]).astype(np.int32), alive["index"].copy())

    def whole(self, block: int) -> Part:
        """All vectors of ``block``, without a copy, for those who look up only rows that are compared; the rest has no numbers."""
        alive = _load(_alive_file(self.folder, self.files[block]))
        values = _load(storage.join(self.folder, self.files[block]))
        numbers = np.zeros(len(values), dtype=_ALIVE)
        numbers[alive["row"]] = alive
        positions = np.arange(self.first[block], self.first[block] + len(values), dtype=np.int32)
        return Part(Vectors(values, numbers["shift"].copy(), numbers["scale"].copy()), positions, numbers["index"].copy())


_ALIVE = np.dtype([("row", np.int32), ("index", np.int64), ("shift", np.float64), ("scale", np.float64), ("new", np.bool_)])


def _alive_file(folder: str, file: str) -> str:
    return storage.join(folder, file.replace(".npy", "-alive.npy"))


def _load(file: str) -> Any:
    if storage.is_local(file):
        # Copy on write, since compiled functions are compiled again for arrays that cannot be written.
        return np.asarray(np.load(storage.local_path(file), mmap_mode="c"))
    return np.load(io.BytesIO(storage.read(file)))


def _save(file: str, values: NDArray[Any]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    # In one piece; numpy's own writing to memory copies many times.
    storage.write(file, b"".join((header.getvalue(), np.ascontiguousarray(values).data)), "application/octet-stream")


LISTS_DDL = "similar binary, similar_floor long, dissimilar binary, dissimilar_floor long"
"""Of one vector: its lists as `kernels.topk.Lists` has them, the keys as bytes of int64."""


@dataclass(frozen=True)
class Before:
    """What a run left for the next one: which image had which vector and number, and the lists, longer than the table's."""

    ids: DataFrame
    """image_id, index, digest, vector."""
    state: DataFrame
    """index (bytes of int64: the numbers of some vectors), and their lists (bytes); see `exact`."""

    def kept(self, ids: DataFrame, vectors: int, scratch: Scratch) -> DataFrame | None:
        """vector, old: the numbers, now and then, of vectors that were there before. None if they are too few to be worth it."""
        now = ids.where("index = vector").select("digest", "vector")
        then = self.ids.where("index = vector").select("digest", F.col("vector").alias("old"))
        kept = scratch.write("kept", now.join(then, "digest").select("vector", "old"))
        return kept if kept.count() > vectors * _WORTH_KEEPING else None

    def lists(self, kept: DataFrame, ids: DataFrame, blocks: Blocks, scratch: Scratch) -> DataFrame:
        """block, vector, `LISTS_DDL`: the lists of vectors that are still there, in the numbers of now."""
        pairs = kept.toArrow()
        old, now = (pairs.column(name).to_numpy() for name in ("old", "vector"))
        renumbered = np.full(int(old.max(initial=-1)) + 1, -1, dtype=np.int64)
        renumbered[old] = now
        file = storage.join(scratch.location("blocks"), "renumbered.npy")
        _save(file, renumbered)
        lists = self.state.mapInArrow(_renumbering(file), f"vector long, {LISTS_DDL}")
        numbers = F.broadcast(ids.sparkSession.createDataFrame(list(enumerate(blocks.files)), "block int, file string"))
        places = ids.where("index = vector").select("vector", "file").join(numbers, "file").select("vector", "block")
        return lists.join(places, "vector").select("block", "vector", *_LIST_COLUMNS)


_WORTH_KEEPING = 0.5


def _renumbering(file: str) -> Any:
    """A function that makes one row for each vector of the state that is still there."""

    def renumbering(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        renumbered = _load(file)
        for batch in batches:
            for state in batch.to_pylist():
                old = np.frombuffer(state["index"], np.int64)
                vector = np.where(old < len(renumbered), renumbered[np.minimum(old, len(renumbered) - 1)], -1)
                there = vector >= 0
                columns: list[Any] = [pa.array(vector[there])]
                for relation in (SIMILAR, DISSIMILAR):
                    lists = Lists.from_bytes(state[relation], state[f"{relation}_floor"], len(old))
                    lists = Lists(lists.keys[there], lists.floor[there]).renumbered(renumbered)
                    columns += [pa.array([row.tobytes() for row in lists.keys], pa.binary()), pa.array(lists.floor)]
                yield pa.RecordBatch.from_arrays(columns, names=["vector", *_LIST_COLUMNS])

    return renumbering


_LIST_COLUMNS = [name for relation in (SIMILAR, DISSIMILAR) for name in (relation, f"{relation}_floor")]


@dataclass(frozen=True)
class Packed:
    """All vectors, ready to be compared."""

    blocks: Blocks
    ids: DataFrame
    """image_id, index, content, digest, vector: usable images; ``vector`` is the least index among those with the same vector."""
    failures: DataFrame
    """image_id, reason, detail: the others."""
    usable: int
    unusable: int
    vectors: int
    """Different ones."""
    new: int
    """Of these, the ones that the run before did not have."""
    previous: DataFrame | None
    """The lists of the run before, for vectors that are still there: block, vector, and the columns of `LISTS_DDL`."""
    largest: float
    """The largest absolute value in any."""

    @property
    def dimensions(self) -> int:
        """Length of a usable vector; 0 if there is none."""
        return self.blocks.dimensions


def pack(
    images: DataFrame | None, vectors: DataFrame, metric: str, block_rows: int, before: Before | None, scratch: Scratch
) -> Packed:
    """Check ``vectors`` (content string, embedding array<float>, each content once) and write the usable ones as blocks.

    ``images``: image_id, content; None: every content is an image. Vectors of another length than most are not usable.
    ``before``: what the run before left.
    """
    told = scratch.write(
        "packed", vectors.mapInArrow(_packing(METRICS[metric], block_rows, scratch.location("blocks")), _PACKED_DDL)
    )
    summary = told.groupBy("file", "length").agg(F.count("*").alias("rows"), F.max("largest").alias("largest")).collect()
    files = [row for row in summary if row["file"] is not None]
    rows_of_length: dict[int, int] = {}
    for row in files:
        rows_of_length[row["length"]] = rows_of_length.get(row["length"], 0) + row["rows"]
    dimensions = min(rows_of_length, key=lambda length: (-rows_of_length[length], length), default=0)
    chosen = sorted((row for row in files if row["length"] == dimensions), key=lambda row: str(row["file"]))
    ids, failures = _numbered(images, told, dimensions, scratch)
    counted = ids.agg(F.count("*").alias("usable"), F.count_if(F.col("index") == F.col("vector")).alias("vectors")).collect()[0]
    if counted["usable"] >= MAX_INDEX:
        raise WrongInput(f"{counted['usable']:,} vectors: at most {MAX_INDEX - 1:,} can be compared")
    kept = before.kept(ids, counted["vectors"], scratch) if before is not None else None
    blocks = _blocks(ids, [(row["file"], row["rows"]) for row in chosen], dimensions, kept, scratch)
    return Packed(
        blocks,
        ids,
        failures,
        counted["usable"],
        failures.count(),
        counted["vectors"],
        sum(blocks.new),
        before.lists(kept, ids, blocks, scratch) if before is not None and kept is not None else None,
        max((row["largest"] for row in chosen), default=0.0),
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
            bad = np.nonzero(reasons != None)[0]  # noqa: E711: element by element
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
        _save(storage.join(self._folder, name), values)
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
    """Rows of ``lists`` (list<float>) with equal lengths: their places, and their values (n, length) float32; null is nan."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    for length in np.unique(lengths):
        rows = np.nonzero(lengths == length)[0]
        of_one_length = lists if len(rows) == len(lists) else lists.take(pa.array(rows))
        values = of_one_length.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        yield rows, values.reshape(len(rows), int(length))


def _numbered(images: DataFrame | None, told: DataFrame, dimensions: int, scratch: Scratch) -> tuple[DataFrame, DataFrame]:
    """Usable images with their numbers and where their vectors are; the others with their reasons."""
    if images is None:
        # Nothing is known of files: equal vectors are copies.
        known = told.withColumn("image_id", F.col("content")).withColumn("content", F.hex("digest"))
    else:
        known = images.join(told, "content")
    is_other_length = F.col("reason").isNull() & (F.col("length") != dimensions)
    detail = F.when(is_other_length, F.concat_ws(" ", "length", F.lit(f"values, not {dimensions}")))
    reason = F.when(is_other_length, F.lit("wrong_length")).otherwise(F.col("reason"))
    failures = known.select("image_id", reason.alias("reason"), detail.alias("detail")).where("reason is not null")
    usable = known.where(F.col("reason").isNull() & (F.col("length") == dimensions))
    columns = ["image_id", "content", "digest", "file", "row", "shift", "scale"]
    ids = numbered(usable.select(*columns), ["image_id"], "index", scratch)
    if ids.groupBy("digest").count().where("count > 1").isEmpty():
        return ids.withColumn("vector", F.col("index")), failures
    first = F.min("index").over(Window.partitionBy("digest")).cast("long")
    return scratch.write("ids", ids.withColumn("vector", first)), failures


def _blocks(ids: DataFrame, files: list[tuple[str, int]], dimensions: int, kept: DataFrame | None, scratch: Scratch) -> Blocks:
    """Tell each block which of its rows are compared: of images with the same vector the first one's. ``kept``: not new."""
    folder = scratch.location("blocks")
    first = np.cumsum([0, *(rows for _, rows in files)], dtype=np.int64)
    if first[-1] >= MAX_INDEX:
        raise WrongInput(f"{first[-1]:,} vectors: at most {MAX_INDEX - 1:,} can be compared")
    compared = ids.where("index = vector").select("file", "row", "index", "shift", "scale")
    if kept is None:
        compared = compared.withColumn("new", F.lit(True))
    else:
        known = kept.select(F.col("vector").alias("index"), F.lit(False).alias("known"))
        compared = compared.join(known, "index", "left").withColumn("new", F.coalesce("known", F.lit(True)))
    compared = compared.repartition(max(1, -(-len(files) // 16)), "file")
    told = {row["file"]: row for row in compared.mapInArrow(_telling(folder), "file string, new long, old long").collect()}
    alive = [block for block, (name, _) in enumerate(files) if name in told]
    names = [files[block][0] for block in alive]
    return Blocks(
        folder,
        names,
        [int(first[block]) for block in alive],
        [told[name]["new"] for name in names],
        [told[name]["old"] for name in names],
        dimensions,
    )


def _telling(folder: str) -> Any:
    """A function that writes `_alive_file` for each file of its rows (file, row, index, shift, scale, new), and tells which."""

    def telling(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        collected = list(batches)
        if not collected:
            return
        table = pa.Table.from_batches(collected)
        for file in pc.unique(table.column("file")).to_pylist():
            rows = table.filter(pc.equal(table.column("file"), file)).sort_by("row")
            alive = np.empty(rows.num_rows, dtype=_ALIVE)
            for name in _ALIVE.names or ():
                alive[name] = rows.column(name).to_numpy(zero_copy_only=False)
            _save(_alive_file(folder, file), alive)
            new = int(alive["new"].sum())
            yield pa.RecordBatch.from_pydict({"file": [file], "new": [new], "old": [len(alive) - new]})

    return telling
