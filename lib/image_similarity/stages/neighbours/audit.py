"""Recall of lists of neighbours. The true neighbours of a sample are found by comparing it with all vectors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import WrongInput
from image_similarity.knn import candidates, engine, queries, scoring
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.candidates import Keys
from image_similarity.knn.distances import METRICS, Reals
from image_similarity.knn.engine import Search
from image_similarity.knn.recall import Recall
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import FLOAT32
from image_similarity.runtime.progress import progress
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours.layout import gather, places_of
from image_similarity.stages.neighbours.numbers import NOTHING_KNOWN, Images
from image_similarity.stages.neighbours.plan import TASKS_PER_CORE, cores_of
from image_similarity.stages.neighbours.quality import Audit
from image_similarity.stages.neighbours.sources import Source
from image_similarity.stages.neighbours.vectors import Blocks, Packed, pack
from image_similarity.warehouse.schemas import SIMILAR
from image_similarity.warehouse.workspace import Workspace


def run(
    spark: SparkSession,
    source: Source,
    table: DataFrame,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
    scratch: Workspace,
    compared: str | None,
) -> Recall:
    """Recall of the similar neighbours in ``table``, which a run wrote from ``source`` with ``settings``.

    ``compared``: `Numbers.sha256` of the vectors that the run compared; None if its record does not say. Raises
    ``WrongInput`` if ``source`` now holds other vectors: the recall would be that of another table.
    """
    packed = pack(source, settings, settings.block_rows, NOTHING_KNOWN, scratch)
    if compared not in (None, packed.numbers.sha256):
        raise WrongInput(
            "the vectors are no longer those that the audited run compared: they were changed or replaced since then; "
            "run find_neighbours again"
        )
    common_scale = scoring.scale_of(packed.largest, packed.dimensions, METRICS[settings.metric])
    audit = begin(spark, packed, common_scale, settings, approximate)
    ids = Images.load(packed.blocks.folder).ids.take(pa.array(audit.image))
    return audit.recall(_listed_distances(spark, table, ids, settings.similar))


def begin(
    spark: SparkSession,
    packed: Packed,
    common_scale: float,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
    again: int = 0,
) -> Audit:
    """Choose a sample of images and find their true neighbours. ``again``: see `Audit.of`."""
    audit = Audit.of(packed.numbers, Images.load(packed.blocks.folder), settings, approximate, again)
    places = places_of(packed.blocks, audit.vectors)
    return audit.with_truth(true_keys(spark, packed.blocks, places, settings.metric, common_scale, settings.similar))


def _listed_distances(spark: SparkSession, table: DataFrame, ids: pa.Array, k: int) -> Reals:
    """The distances (n, k) in ``table`` for the images ``ids`` (n,), nan where the table has no entry."""
    sample = F.broadcast(spark.createDataFrame(pa.table({"image_id": ids.cast(pa.string())})))
    rows = (
        table.where(F.col("relation") == SIMILAR)
        .join(sample, "image_id", "left_semi")
        .select("image_id", "rank", "distance")
        .toArrow()
    )
    distances = np.full((len(ids), k), np.nan)
    row = pc.index_in(rows.column("image_id").cast(pa.large_string()), value_set=ids).to_numpy()
    distances[row, rows.column("rank").to_numpy() - 1] = rows.column("distance").to_numpy()
    return distances


_SCORES = pa.schema([("similar", pa.binary()), ("error", pa.binary())])
_KEYS = pa.schema([("keys", pa.binary())])


def true_keys(
    spark: SparkSession, blocks: Blocks, places: NDArray[Any], metric: str, common_scale: float, k: int
) -> Keys:
    """The sorted keys (n, k) of the ``k`` nearest of all compared vectors in ``blocks``, for the vectors at ``places``
    (n,) of `PLACE`.

    Where there are fewer than k others, the rest of a list is `NONE`.
    """
    if len(places) == 0 or k == 0:
        return np.empty((len(places), k), dtype=np.int64)
    tasks = max(1, min(len(blocks), TASKS_PER_CORE * cores_of(spark)))
    others = sum(blocks.new) + sum(blocks.old) - 1
    search = Search(metric, FLOAT32.name, blocks.dimensions, common_scale, k, 0, others)
    query = _Query(blocks, places, search, tasks)
    scores = spark.range(0, tasks, 1, tasks).mapInArrow(query.compared, from_arrow_schema(_SCORES))
    with progress(spark, "audit", len(places) * (others + 1), "pairs", tasks):
        (row,) = scores.repartition(1).mapInArrow(query.settled, from_arrow_schema(_KEYS)).collect()
    return candidates.keys_from_bytes(bytes(row["keys"]), len(places))


@dataclass(frozen=True)
class _Query:
    """The parameters of a task; plain values, sent to workers."""

    blocks: Blocks
    places: NDArray[Any]
    search: Search
    tasks: int

    def vectors(self) -> Part:
        return gather(self.blocks, self.places, np.arange(len(self.places)))

    def compared(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The best scores of the sample against every ``tasks``-th block: a row of `_SCORES`."""
        backend = Cpu()
        sample = self.search.strip(backend, self.vectors(), queries.list_lengths(self.search))
        for batch in batches:
            for task in batch.column("id").to_pylist():
                for block in range(task, len(self.blocks), self.tasks):
                    engine.compare([sample], [self.search.strip(backend, self.blocks.part(block), (0, 0))])
        arrays = sample.keys()[0].tobytes(), sample.error.tobytes()
        yield pa.RecordBatch.from_arrays([pa.array([array], pa.binary()) for array in arrays], schema=_SCORES)

    def settled(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One row of `_KEYS`: the neighbours by the best candidates of all tasks."""
        table, part = pa.Table.from_batches(batches, _SCORES), self.vectors()
        scores = [candidates.keys_from_bytes(content.as_py(), len(part)) for content in table.column("similar")]
        errors = [np.frombuffer(content.as_py(), np.float32).reshape(-1, 2) for content in table.column("error")]
        nothing = [np.empty((len(part), 0), np.int64)]
        scored = engine.merge(self.search, scores, nothing, errors, queries.list_lengths(self.search))
        (similar, _), proven = queries.settled(self.search, part, scored, self.blocks.rescore)
        keys = similar.keys[:, : self.search.similar].copy()
        if not proven.all():
            rows, k = np.nonzero(~proven)[0], self.search.similar
            keys[rows] = engine.brute_force(self.search.measure, part[rows], self.blocks.parts(), k, 0)[0].keys
        yield pa.RecordBatch.from_pydict({"keys": [keys.tobytes()]}, schema=_KEYS)
