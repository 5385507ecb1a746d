"""The collection is cut into partitions, and the vectors are stored partition by partition.

Each vector has a home partition, the one with the nearest centre, and probes further partitions. The *position* of a
vector in the layout is its rank in the order of home partitions, and of numbers within a partition. Positions depend
only on the vectors, not on the order in which they come. Neighbouring partitions share a block. `Blocks` of the layout
use these positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from image_similarity.knn import partitioning, scoring
from image_similarity.knn.distances import METRICS, Indices, Values, Vectors
from image_similarity.knn.nndescent import LEAST_ROWS
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import FLOAT32
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours.numbers import ALIVE, alive_file, load, sampled, save
from image_similarity.stages.neighbours.partitions import sample_for
from image_similarity.stages.neighbours.plan import TASKS_PER_CORE, cores_of
from image_similarity.stages.neighbours.vectors import Blocks, Packed
from image_similarity.storage import uris

PLACE = np.dtype([("block", np.int32), ("place", np.int32)])
"""Where a vector is: its block, and its row among the block's compared vectors."""


@dataclass(frozen=True)
class Layout:
    """What tasks need to know about partitions; the large arrays are in files of ``folder``."""

    packed: Blocks
    """The blocks that `vectors.pack` wrote, in the order in which the vectors came."""
    blocks: Blocks
    """The blocks of the layout, each of one or more neighbouring partitions; tasks read and write these."""
    folder: str
    metric: str
    common_scale: float
    max_nprobe: int
    """The number of partitions stored for each vector, nearest first; the home partition is the first of them."""
    partition_starts: list[int]
    """The first position of each partition, and the end of the last."""
    block_partitions: list[int]
    """The first partition of each block, and the end of the last."""
    nndescent_rows: int
    """A partition with at least this many vectors has a block of its own, which is searched by pynndescent."""

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def size(self) -> int:
        return sum(self.blocks.new)

    def uses_nndescent(self, block: int) -> bool:
        """Whether ``block`` holds the vectors of a single partition that is large enough for pynndescent."""
        sizes = np.diff(self.partition_starts[self.block_partitions[block] : self.block_partitions[block + 1] + 1])
        return bool(sizes.max() == self.blocks.new[block] >= self.nndescent_rows)

    def positions(self, block: int) -> NDArray[np.int32]:
        return np.arange(self.blocks.first[block], self.blocks.first[block] + self.blocks.new[block], dtype=np.int32)

    def block_of(self, positions: NDArray[Any]) -> Indices:
        """The blocks (n,) that ``positions`` (n,) are in."""
        return np.searchsorted(self.blocks.first, positions, side="right") - 1

    def array(self, name: str) -> Any:
        """One of the files: ``places`` (n,), the `PLACE` in ``packed`` by position; ``probes`` (n, max_nprobe) int32,
        the partitions to probe by position; ``positions`` int32, by number, -1 for numbers that are not compared.
        """
        return load(uris.join(self.folder, f"{name}.npy"))

    def gather(self, positions: NDArray[Any]) -> Part:
        """The vectors at ``positions`` (n,), in that order."""
        places = np.empty(len(positions), dtype=PLACE)
        places["block"] = self.block_of(positions)
        places["place"] = positions - np.array(self.blocks.first)[places["block"]]
        return gather(self.blocks, places, positions)

    def copies(self, part: Part) -> scoring.Copies:
        return scoring.copies(part.vectors, METRICS[self.metric], FLOAT32, self.common_scale)

    def write_block(self, block: int) -> None:
        """Copy the vectors of ``block`` from the packed blocks into the layout's file."""
        positions = self.positions(block)
        vectors = gather(self.packed, self.array("places")[positions], positions)
        alive = np.empty(len(vectors), dtype=ALIVE)
        alive["row"], alive["index"], alive["new"] = np.arange(len(vectors)), vectors.index, True
        alive["shift"], alive["scale"] = vectors.vectors.shift, vectors.vectors.scale
        save(uris.join(self.folder, self.blocks.files[block]), vectors.vectors.values)
        save(alive_file(self.folder, self.blocks.files[block]), alive)


def gather(blocks: Blocks, places: NDArray[Any], positions: NDArray[Any]) -> Part:
    """The vectors at ``places`` (n,) of `PLACE` as one part, in that order; ``positions`` (n,) become theirs."""
    values = np.empty((len(places), blocks.dimensions), dtype=np.float32)
    shift, scale, index = np.empty(len(places)), np.empty(len(places)), np.empty(len(places), dtype=np.int64)
    order = np.argsort(places["block"], kind="stable")
    ends = np.searchsorted(places["block"][order], np.arange(len(blocks) + 1))
    for block in np.nonzero(np.diff(ends))[0].tolist():
        in_block = order[ends[block] : ends[block + 1]]
        part = blocks.part(block)
        row = places["place"][in_block]
        values[in_block], shift[in_block] = part.vectors.values[row], part.vectors.shift[row]
        scale[in_block], index[in_block] = part.vectors.scale[row], part.index[row]
    return Part(Vectors(values, shift, scale), positions.astype(np.int32), index)


def lay_out(
    spark: SparkSession,
    packed: Packed,
    metric: str,
    common_scale: float,
    nlist: int,
    max_nprobe: int,
    block_rows: int,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
    folder: str,
) -> Layout:
    """Train about ``nlist`` centres, store up to ``max_nprobe`` partitions for each vector, and write the blocks.

    A block holds about ``block_rows`` vectors, or one partition.
    """
    seed, nndescent_rows = approximate.seed, max(approximate.nndescent_rows, LEAST_ROWS)
    blocks = packed.blocks
    bare = Layout(
        blocks,
        Blocks(folder, [], [], [], [], blocks.dimensions),
        folder,
        metric,
        common_scale,
        0,
        [],
        [],
        nndescent_rows,
    )
    _train(spark, bare, _sample(packed, sample_for(packed.dimensions, nlist, settings), seed), nlist, seed)
    _assign(spark, bare, max_nprobe)
    numbers, places = _packed_places(blocks)
    assigned = np.concatenate([bare.array(f"assigned-{block}") for block in range(len(blocks))])
    order = np.lexsort((numbers, assigned[:, 0]))
    position = np.full(len(packed.numbers), -1, dtype=np.int32)
    position[numbers[order]] = np.arange(len(order))
    for name, values in (("places", places[order]), ("probes", assigned[order]), ("positions", position)):
        save(uris.join(folder, f"{name}.npy"), values)
    partition_starts = np.cumsum([0, *np.bincount(assigned[:, 0], minlength=len(bare.array("centres")))])
    block_partitions = _bundled(np.diff(partition_starts), block_rows, nndescent_rows)
    block_starts = partition_starts[block_partitions]
    files = [f"block-{block:06d}.npy" for block in range(len(block_partitions) - 1)]
    bundles = Blocks(
        folder, files, block_starts[:-1].tolist(), np.diff(block_starts).tolist(), [0] * len(files), blocks.dimensions
    )
    layout = Layout(
        blocks,
        bundles,
        folder,
        metric,
        common_scale,
        assigned.shape[1],
        partition_starts.tolist(),
        block_partitions,
        nndescent_rows,
    )
    _write_blocks(spark, layout)
    return layout


def _bundled(sizes: NDArray[np.int64], rows: int, alone_rows: int) -> list[int]:
    """The first partition of each bundle of about ``rows`` vectors, and the end of the last. No bundle is empty.

    A partition with at least ``alone_rows`` vectors does not share its bundle with other vectors.
    """
    starts, bundle_rows = [0], 0
    for partition, size in enumerate(sizes.tolist()):
        if bundle_rows and size and (bundle_rows + size > rows or max(bundle_rows, size) >= alone_rows):
            starts.append(partition)
            bundle_rows = 0
        bundle_rows += size
    return [*starts, len(sizes)]


def _sample(packed: Packed, size: int, seed: int) -> NDArray[Any]:
    """`PLACE` of ``size`` vectors, or of all, chosen by a hash of their values and ``seed``, in the order of that
    hash.
    """
    compared = packed.numbers.compared
    return places_of(packed.blocks, compared[sampled(packed.numbers.digest[compared], size, seed)])


def places_of(blocks: Blocks, numbers: Indices) -> NDArray[Any]:
    """`PLACE` (n,) of the vectors ``numbers`` (n,), all of which must be compared vectors."""
    compared, places = _packed_places(blocks)
    order = np.argsort(compared)
    return places[order[np.searchsorted(compared[order], numbers)]]


def _packed_places(blocks: Blocks) -> tuple[Indices, NDArray[Any]]:
    """The numbers of all compared vectors, and their `PLACE`, in the order of the blocks."""
    alive = [load(alive_file(blocks.folder, file))["index"] for file in blocks.files]
    places = np.empty(sum(map(len, alive)), dtype=PLACE)
    places["block"] = np.repeat(np.arange(len(alive)), list(map(len, alive)))
    places["place"] = np.concatenate([np.arange(len(rows)) for rows in alive])
    return np.concatenate(alive), places


def _train(spark: SparkSession, layout: Layout, sample: NDArray[Any], nlist: int, seed: int) -> None:
    metric = METRICS[layout.metric]

    def train(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            part = gather(layout.packed, sample, np.arange(len(sample)))
            centres = partitioning.centres(layout.copies(part).low, nlist, metric.angular, seed)
            save(uris.join(layout.folder, "centres.npy"), centres)
            yield pa.RecordBatch.from_pydict({"parts": [len(centres)]})

    spark.range(0, 1, 1, 1).mapInArrow(train, "parts long").collect()


def _assign(spark: SparkSession, layout: Layout, max_nprobe: int) -> None:
    def assign(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        centres: Values = layout.array("centres")
        for batch in batches:
            for block in batch.column("id").to_pylist():
                nearest = partitioning.nearest(layout.copies(layout.packed.part(block)).low, centres, max_nprobe)
                save(uris.join(layout.folder, f"assigned-{block}.npy"), nearest)
            yield batch

    spark.range(0, len(layout.packed), 1, max(1, min(len(layout.packed), TASKS_PER_CORE * cores_of(spark)))).mapInArrow(
        assign, "id long"
    ).count()


def _write_blocks(spark: SparkSession, layout: Layout) -> None:
    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column("id").to_pylist():
                layout.write_block(block)
            yield batch

    spark.range(0, len(layout), 1, min(len(layout), TASKS_PER_CORE * cores_of(spark))).mapInArrow(
        write, "id long"
    ).count()
