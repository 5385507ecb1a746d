"""Vectors by part: each has a home, the part with the nearest centre, and other parts that it visits.

A *slot* is the place of a vector in the order of homes, and of numbers within a home: that depends on the vectors
alone, however they came. Parts that are near to one another share a block: `Blocks` whose positions are slots."""

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
from image_similarity.stages.neighbours.numbers import ALIVE, alive_file, load, save
from image_similarity.stages.neighbours.plan import TASKS_OF_A_CORE, cores_of, sample_for
from image_similarity.stages.neighbours.vectors import Blocks, Packed
from image_similarity.storage import uris

PLACE = np.dtype([("block", np.int32), ("place", np.int32)])
"""Where a vector is: the block, and the place among those of the block that are compared."""


@dataclass(frozen=True)
class Layout:
    """What tasks need to know of parts; the large arrays are in files of ``folder``."""

    packed: Blocks
    """As the vectors came."""
    blocks: Blocks
    """Some parts each, near to one another: what tasks read and write."""
    folder: str
    metric: str
    common_scale: float
    visits: int
    """Parts that are known for each vector, its home among them, nearest first."""
    first: list[int]
    """The first slot of each part, and the end of the last."""
    of_block: list[int]
    """The first part in each block, and the end of the last."""
    descent_rows: int
    """Parts with as many vectors have a block of their own, and go through pynndescent."""

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def size(self) -> int:
        return sum(self.blocks.new)

    def descended(self, block: int) -> bool:
        """Whether one part alone, so large that pynndescent is to look at it, is all that the block has."""
        sizes = np.diff(self.first[self.of_block[block] : self.of_block[block + 1] + 1])
        return bool(sizes.max() == self.blocks.new[block] >= self.descent_rows)

    def slots(self, block: int) -> NDArray[np.int32]:
        return np.arange(self.blocks.first[block], self.blocks.first[block] + self.blocks.new[block], dtype=np.int32)

    def home(self, slots: NDArray[Any]) -> Indices:
        """The blocks that ``slots`` (n,) are in."""
        return np.searchsorted(self.blocks.first, slots, side="right") - 1

    def array(self, name: str) -> Any:
        """One of the files: ``places`` (`PLACE`, by slot), ``visits`` (n, v), ``slots`` (by number)."""
        return load(uris.join(self.folder, f"{name}.npy"))

    def gathered(self, slots: NDArray[Any]) -> Part:
        """The vectors of ``slots`` (n,), in that order."""
        places = np.empty(len(slots), dtype=PLACE)
        places["block"] = self.home(slots)
        places["place"] = slots - np.array(self.blocks.first)[places["block"]]
        return gathered(self.blocks, places, slots)

    def copies(self, part: Part) -> scoring.Copies:
        return scoring.copies(part.vectors, METRICS[self.metric], FLOAT32, self.common_scale)

    def move_in(self, block: int) -> None:
        """Write the vectors of ``block``, from where they were packed."""
        slots = self.slots(block)
        vectors = gathered(self.packed, self.array("places")[slots], slots)
        alive = np.empty(len(vectors), dtype=ALIVE)
        alive["row"], alive["index"], alive["new"] = np.arange(len(vectors)), vectors.index, True
        alive["shift"], alive["scale"] = vectors.vectors.shift, vectors.vectors.scale
        save(uris.join(self.folder, self.blocks.files[block]), vectors.vectors.values)
        save(alive_file(self.folder, self.blocks.files[block]), alive)


def gathered(blocks: Blocks, places: NDArray[Any], positions: NDArray[Any]) -> Part:
    """The vectors at ``places`` (`PLACE`) as one part, in that order, under ``positions``."""
    values = np.empty((len(places), blocks.dimensions), dtype=np.float32)
    shift, scale, index = np.empty(len(places)), np.empty(len(places)), np.empty(len(places), dtype=np.int64)
    order = np.argsort(places["block"], kind="stable")
    ends = np.searchsorted(places["block"][order], np.arange(len(blocks) + 1))
    for block in np.nonzero(np.diff(ends))[0].tolist():
        chosen = order[ends[block] : ends[block + 1]]
        part = blocks.part(block)
        place = places["place"][chosen]
        values[chosen], shift[chosen] = part.vectors.values[place], part.vectors.shift[place]
        scale[chosen], index[chosen] = part.vectors.scale[place], part.index[place]
    return Part(Vectors(values, shift, scale), positions.astype(np.int32), index)


def lay_out(
    spark: SparkSession,
    packed: Packed,
    metric: str,
    common_scale: float,
    parts: int,
    visits: int,
    block_rows: int,
    settings: NeighboursSettings,
    how: ApproximateSettings,
    folder: str,
) -> Layout:
    """Find about ``parts`` centres and up to ``visits`` parts for each vector; blocks have about ``block_rows`` or one
    part."""
    seed, descent_rows = how.seed, max(how.nndescent_rows, LEAST_ROWS)
    blocks = packed.blocks
    bare = Layout(
        blocks, Blocks(folder, [], [], [], [], blocks.dimensions), folder, metric, common_scale, 0, [], [], descent_rows
    )
    _train(spark, bare, _sample(packed, sample_for(packed.dimensions, parts, settings), seed), parts, seed)
    _assign(spark, bare, visits)
    number, places = _packed_places(blocks)
    assigned = np.concatenate([bare.array(f"assigned-{block}") for block in range(len(blocks))])
    order = np.lexsort((number, assigned[:, 0]))
    slot = np.full(len(packed.numbers), -1, dtype=np.int32)
    slot[number[order]] = np.arange(len(order))
    for name, values in (("places", places[order]), ("visits", assigned[order]), ("slots", slot)):
        save(uris.join(folder, f"{name}.npy"), values)
    first = np.cumsum([0, *np.bincount(assigned[:, 0], minlength=len(bare.array("centres")))])
    of_block = _bundled(np.diff(first), block_rows, descent_rows)
    ends = first[of_block]
    files = [f"block-{block:06d}.npy" for block in range(len(of_block) - 1)]
    bundles = Blocks(folder, files, ends[:-1].tolist(), np.diff(ends).tolist(), [0] * len(files), blocks.dimensions)
    layout = Layout(
        blocks, bundles, folder, metric, common_scale, assigned.shape[1], first.tolist(), of_block, descent_rows
    )
    _move_in(spark, layout)
    return layout


def _bundled(sizes: NDArray[np.int64], rows: int, alone: int) -> list[int]:
    """Where bundles of parts with about ``rows`` vectors begin, none of them without a vector, and the end of the last.

    Parts with ``alone`` vectors or more are not bundled.
    """
    starts, inside = [0], 0
    for part, size in enumerate(sizes.tolist()):
        if inside and size and (inside + size > rows or max(inside, size) >= alone):
            starts.append(part)
            inside = 0
        inside += size
    return [*starts, len(sizes)]


def _sample(packed: Packed, size: int, seed: int) -> NDArray[Any]:
    """`PLACE` of about ``size`` vectors, chosen by a hash of their values and ``seed``, in the order of that hash."""
    compared = packed.numbers.compared
    return places_of(packed.blocks, compared[sampled(packed.numbers.digest[compared], size, seed)])


def places_of(blocks: Blocks, number: Indices) -> NDArray[Any]:
    """`PLACE` of the vectors ``number`` (n,), which must be among those compared."""
    every, places = _packed_places(blocks)
    order = np.argsort(every)
    return places[order[np.searchsorted(every[order], number)]]


def _packed_places(blocks: Blocks) -> tuple[Indices, NDArray[Any]]:
    """The numbers of all compared vectors, and their `PLACE`, in the order of the blocks."""
    alive = [load(alive_file(blocks.folder, file))["index"] for file in blocks.files]
    places = np.empty(sum(map(len, alive)), dtype=PLACE)
    places["block"] = np.repeat(np.arange(len(alive)), list(map(len, alive)))
    places["place"] = np.concatenate([np.arange(len(of)) for of in alive])
    return np.concatenate(alive), places


def sampled(digests: NDArray[np.bytes_], size: int, seed: int) -> Indices:
    """Places of ``size`` of ``digests`` (n,), or of all: those that a hash with ``seed`` puts first."""
    words = np.frombuffer(digests.tobytes(), np.uint8).reshape(len(digests), -1)[:, :8].copy().view(np.uint64)[:, 0]
    # A digest is random already; the seed turns it into another random number (Steele et al., splitmix64).
    with np.errstate(over="ignore"):
        words = words + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.lexsort((digests, words))[:size]


def _train(spark: SparkSession, layout: Layout, sample: NDArray[Any], parts: int, seed: int) -> None:
    metric = METRICS[layout.metric]

    def train(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            part = gathered(layout.packed, sample, np.arange(len(sample)))
            found = partitioning.centres(layout.copies(part).low, parts, metric.angular, seed)
            save(uris.join(layout.folder, "centres.npy"), found)
            yield pa.RecordBatch.from_pydict({"parts": [len(found)]})

    spark.range(0, 1, 1, 1).mapInArrow(train, "parts long").collect()


def _assign(spark: SparkSession, layout: Layout, visits: int) -> None:
    def assign(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found: Values = layout.array("centres")
        for batch in batches:
            for block in batch.column("id").to_pylist():
                nearest = partitioning.nearest(layout.copies(layout.packed.part(block)).low, found, visits)
                save(uris.join(layout.folder, f"assigned-{block}.npy"), nearest)
            yield batch

    spark.range(
        0, len(layout.packed), 1, max(1, min(len(layout.packed), TASKS_OF_A_CORE * cores_of(spark)))
    ).mapInArrow(assign, "id long").count()


def _move_in(spark: SparkSession, layout: Layout) -> None:
    def move_in(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column("id").to_pylist():
                layout.move_in(block)
            yield batch

    spark.range(0, len(layout), 1, min(len(layout), TASKS_OF_A_CORE * cores_of(spark))).mapInArrow(
        move_in, "id long"
    ).count()
