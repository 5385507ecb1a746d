"""Blocks of components by Spark's tasks: a task gets the vectors of some blocks and reads their lists."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.errors import JobFailed
from image_similarity.grouping.near_duplicates import Limits
from image_similarity.knn.distances import Indices, Values
from image_similarity.neighbour_graph import Images
from image_similarity.runtime.progress import progress
from image_similarity.stages.groups.blocks import FOUND, Block, work
from image_similarity.stages.groups.vectors import CONTENT, MISMATCH, VECTOR, BySpark, as_values, named
from image_similarity.storage import uris

_FOLDER, _ASSIGNED, _FOUND = "blocks", "blocks-of-vectors", "groups-found"
_ASSIGNMENT = pa.schema([(CONTENT, pa.string()), ("block", pa.int32()), ("row", pa.int32())])
_FEW_ENOUGH_TO_SEND = 1_000_000
_MOST_TASKS = 4096


def run(
    blocks: list[Indices],
    make: Callable[[Indices], Block],
    images: Images,
    source: BySpark,
    metric: str,
    limits: Limits,
) -> pa.Table:
    """`FOUND` of all ``blocks``, in any order of components."""
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    scratch, session = source.scratch, source.scratch.session
    folder = scratch.location(_FOLDER)
    rows = 0

    def assigned() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for number, chosen in enumerate(blocks):
            block = make(chosen)
            block.save(_file(folder, number))
            rows += len(block.node)
            columns = [
                named(images, block.node.astype(np.int64)),
                np.full(len(block.node), number),
                np.arange(len(block.node)),
            ]
            yield pa.RecordBatch.from_arrays(
                [pa.array(column, field.type) for column, field in zip(columns, _ASSIGNMENT)], schema=_ASSIGNMENT
            )

    assignment = scratch.store(_ASSIGNED, _ASSIGNMENT, assigned())
    assignment = F.broadcast(assignment) if rows < _FEW_ENOUGH_TO_SEND else assignment
    vectors = source.frame.join(assignment, CONTENT).select("block", "row", VECTOR)
    tasks = min(len(blocks), _MOST_TASKS)
    vectors = vectors.repartition(tasks, "block").sortWithinPartitions("block")
    found = vectors.mapInArrow(_task(folder, metric, limits), from_arrow_schema(FOUND))
    with progress(session, "compare images of groups", len(blocks), "blocks", tasks):
        scratch.write(_FOUND, found)
    parts = scratch.parts(_FOUND, FOUND.names)
    rows_of_all = pa.concat_tables([FOUND.empty_table(), *(part.cast(FOUND) for part in parts)])
    is_mark = rows_of_all["component"].is_null()
    if len(pc.unique(rows_of_all.filter(is_mark)["outside"])) != len(blocks):
        raise JobFailed(MISMATCH)  # no vector at all of a block is there
    return rows_of_all.filter(pc.invert(is_mark))


def _mark(number: int) -> pa.RecordBatch:
    """A row that says that a block is done: it may have no groups."""
    values = {"outside": number, "member": [], "distance": []}
    return pa.RecordBatch.from_pylist([values], schema=FOUND)


def _file(folder: str, number: int) -> str:
    return uris.join(folder, f"{number:06d}.npz")


def _task(folder: str, metric: str, limits: Limits) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def groups_of_blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        number, filling = -1, None
        for batch in batches:
            numbers = batch.column(0).to_numpy()
            for current in np.unique(numbers):
                if current != number:
                    if filling is not None:
                        yield from filling.done(metric, limits)
                        yield _mark(number)
                    number, filling = int(current), _Filling(Block.load(_file(folder, int(current))))
                chosen = pa.array(numbers == current)
                assert filling is not None
                filling.add(batch.column(1).filter(chosen).to_numpy(), as_values(batch.column(2).filter(chosen)))
        if filling is not None:
            yield from filling.done(metric, limits)
            yield _mark(number)

    return groups_of_blocks


class _Filling:
    """A block whose vectors come in batches."""

    def __init__(self, block: Block):
        self._block = block
        self._values = np.empty((0, 0), dtype=np.float32)
        self._is_there = np.zeros(len(block.node), dtype=np.bool_)

    def add(self, rows: Indices, values: Values) -> None:
        if not len(self._values):
            self._values = np.empty((len(self._is_there), values.shape[1]), dtype=np.float32)
        if values.shape[1] != self._values.shape[1]:
            raise JobFailed(MISMATCH)
        self._values[rows], self._is_there[rows] = values, True

    def done(self, metric: str, limits: Limits) -> Iterator[pa.RecordBatch]:
        if not self._is_there.all():
            raise JobFailed(MISMATCH)
        yield from work(self._block, self._values, metric, limits).to_batches()
