"""The true neighbours of some vectors, to tell how good lists are: they are compared with all others, exactly."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.kernels import screening, topk
from image_similarity.kernels.distances import METRICS
from image_similarity.kernels.screening import FLOAT32, candidates
from image_similarity.kernels.topk import MAX_INDEX, NONE, Keys, Lists, Part, Rescoring, Scored, Strip
from image_similarity.spark import progress
from image_similarity.stages.neighbours.layout import gathered
from image_similarity.stages.neighbours.plan import cores_of
from image_similarity.stages.neighbours.vectors import Blocks

_SCORES = pa.schema([("similar", pa.binary()), ("error", pa.binary())])
_KEYS = pa.schema([("keys", pa.binary())])


def true_keys(spark: SparkSession, blocks: Blocks, places: NDArray[Any], metric: str, shrink: float, k: int) -> Keys:
    """(n, k) sorted: the keys of the ``k`` nearest of all compared vectors in ``blocks``, for those at ``places`` (`PLACE`).

    Fewer where there are not k others: the rest is `NONE`.
    """
    if len(places) == 0 or k == 0:
        return np.empty((len(places), k), dtype=np.int64)
    tasks = max(1, min(len(blocks), 4 * cores_of(spark)))
    query = _Query(blocks, places, metric, shrink, k, tasks)
    scores = spark.range(0, tasks, 1, tasks).mapInArrow(query.compared, from_arrow_schema(_SCORES))
    with progress(spark, "audit", len(places) * (query.others + 1), "pairs", tasks):
        (found,) = scores.repartition(1).mapInArrow(query.settled, from_arrow_schema(_KEYS)).collect()
    return topk.keys_from_bytes(bytes(found["keys"]), len(places))


@dataclass(frozen=True)
class _Query:
    """What tasks need to know; plain values, sent to workers."""

    blocks: Blocks
    places: NDArray[Any]
    metric: str
    shrink: float
    k: int
    tasks: int

    @property
    def others(self) -> int:
        return sum(self.blocks.new) + sum(self.blocks.old) - 1

    @property
    def kept(self) -> int:
        """One more than in other lists, for the vector itself."""
        return candidates(self.k, FLOAT32) + 1

    def vectors(self) -> Part:
        return gathered(self.blocks, self.places, np.arange(len(self.places)))

    def _strip(self, part: Part, kept: int) -> Strip:
        return Strip(screening.copies(part.vectors, METRICS[self.metric], FLOAT32, self.shrink), part.positions, kept, 0)

    def compared(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The best scores against every ``tasks``-th block."""
        queries = self._strip(self.vectors(), self.kept)
        for batch in batches:
            for task in batch.column("id").to_pylist():
                for block in range(task, len(self.blocks), self.tasks):
                    other = self._strip(self.blocks.part(block), 0)
                    room = np.empty((len(self.places), len(other.positions)), dtype=np.float32)
                    queries.offer(other, FLOAT32, room, self.blocks.dimensions)
        contents = queries.similar.keys().tobytes(), queries.error.tobytes()
        yield pa.RecordBatch.from_arrays([pa.array([of], pa.binary()) for of in contents], schema=_SCORES)

    def settled(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Exact distances for the best of all, and in full where that does not prove the answer."""
        told, part = pa.Table.from_batches(batches, _SCORES), self.vectors()
        scores = np.concatenate([topk.keys_from_bytes(of.as_py(), len(part)) for of in told.column("similar")], axis=1)
        error = np.maximum.reduce([np.frombuffer(of.as_py(), np.float32) for of in told.column("error")])
        scored = Scored(topk.least(scores, self.kept), np.empty((len(part), 0), np.int64), error, FLOAT32, self.shrink)
        rescoring = Rescoring(METRICS[self.metric], part, scored)
        for block, (first, end) in enumerate(zip(self.blocks.first, [*self.blocks.first[1:], MAX_INDEX])):
            if rescoring.wants(first, end):
                rescoring.add(self.blocks.whole(block))
        lists, _ = rescoring.lists()
        keys = np.sort(np.where(topk.positions_of(lists.keys) == part.index[:, None], NONE, lists.keys), axis=1)
        unsure = np.nonzero(~Lists(keys, lists.floor).certain(self.k, self.others))[0]
        keys = keys[:, : self.k].copy()
        if len(unsure):
            keys[unsure] = self._in_full(part[unsure])
        yield pa.RecordBatch.from_pydict({"keys": [keys.tobytes()]}, schema=_KEYS)

    def _in_full(self, part: Part) -> Keys:
        lists = Lists.empty(len(part), self.k)
        for block in range(len(self.blocks)):
            other = self.blocks.part(block)
            found, _ = topk.in_full(METRICS[self.metric], part.vectors, part.index, other.vectors, other.index, self.k, 0)
            lists = lists.merged(Lists.complete(found))
        return lists.keys
