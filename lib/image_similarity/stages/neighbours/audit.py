"""Recall of lists of neighbours. The true neighbours of a sample are found by comparing it with all vectors."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import WrongInput
from image_similarity.knn import candidates, engine, recall, scoring
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.candidates import NONE, Keys, Lists
from image_similarity.knn.distances import METRICS, Indices, Reals
from image_similarity.knn.engine import Search
from image_similarity.knn.recall import Recall
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import FLOAT32
from image_similarity.runtime.progress import progress
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours.layout import gather, places_of
from image_similarity.stages.neighbours.numbers import NOTHING_KNOWN, Images, Sharing
from image_similarity.stages.neighbours.plan import TASKS_PER_CORE, cores_of
from image_similarity.stages.neighbours.sources import Source
from image_similarity.stages.neighbours.table import lists_of
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
    audit = Audit.begin(spark, packed, common_scale, settings, approximate)
    return audit.recall(_listed_distances(spark, table, audit.ids, settings.similar))


@dataclass(frozen=True)
class Audit:
    """A sample of images, by a hash of image_id and seed, and their true neighbours."""

    ids: pa.Array
    """The ids (n,) of the images, ascending."""
    image: Indices
    """The numbers (n,) of the images."""
    vectors: Indices
    """The numbers (m,) of the images' vectors, each once, ascending."""
    vector_of: Indices
    """For each image (n,), the index of its vector in ``vectors``."""
    nearest: Keys
    """The true neighbours (m, k) of the vectors."""
    true: Keys
    """The true neighbours (n, k) of the images."""
    _settings: NeighboursSettings
    _seed: int
    _collection_size: int
    _sharing: Sharing | None

    @classmethod
    def begin(
        cls,
        spark: SparkSession,
        packed: Packed,
        common_scale: float,
        settings: NeighboursSettings,
        approximate: ApproximateSettings,
    ) -> "Audit":
        """Choose a sample of images and find their true neighbours."""
        images = Images.load(packed.blocks.folder)
        ids = _sample(spark, images, approximate)
        image = pc.index_in(ids, value_set=images.ids).to_numpy().astype(np.int64)
        vectors, vector_of = np.unique(packed.numbers.vector[image], return_inverse=True)
        nearest = true_keys(
            spark, packed.blocks, places_of(packed.blocks, vectors), settings.metric, common_scale, settings.similar
        )
        audit = cls(
            ids,
            image,
            vectors,
            vector_of,
            nearest,
            nearest,
            settings,
            approximate.seed,
            len(images.ids),
            images.sharing,
        )
        return replace(audit, true=audit.of_images(nearest))

    def of_images(self, keys: Keys) -> Keys:
        """The lists (n, k) of the images, from the lists ``keys`` (m, any) of their vectors."""
        k, vector = self._settings.similar, self.vectors[self.vector_of]
        if self._sharing is None:
            return keys[self.vector_of, :k]
        return lists_of(
            self._sharing, self.image, vector, keys[self.vector_of, :k], k, False, self._settings.drop_duplicates
        )

    def recall(self, distances: Reals) -> Recall:
        """Recall of lists of the images; ``distances`` (n, any) are those of their neighbours, nan where a list has no
        entry.
        """
        return recall.estimated(
            recall.of_each(distances, candidates.distances_of(self.true)), self._seed, self._collection_size
        )


def check(images: int, approximate: ApproximateSettings) -> None:
    """Raise ``WrongInput`` where the sample is so small that even a table without a miss could not reach the target."""
    tolerated_share = 1 - approximate.recall_target + approximate.recall_slack
    if approximate.audit_queries < images and approximate.audit_queries * tolerated_share < recall.RULE_OF_THREE:
        needed = "all" if tolerated_share <= 0 else f"{math.ceil(recall.RULE_OF_THREE / tolerated_share):,}"
        raise WrongInput(
            f"approximate.audit_queries = {approximate.audit_queries:,} are too few to tell whether recall is "
            f"{approximate.recall_target - approximate.recall_slack:.4g} or more: ask {needed}, or set recall_slack to "
            "more"
        )


def _sample(spark: SparkSession, images: Images, approximate: ApproximateSettings) -> pa.Array:
    """The ids of the sampled images, ascending: those with the lowest hash of image_id and seed."""
    ids = spark.createDataFrame(pa.table({"image_id": images.ids.cast(pa.string())}))
    sample = (
        ids.orderBy(F.xxhash64("image_id", F.lit(approximate.seed)), "image_id")
        .limit(approximate.audit_queries)
        .toArrow()
    )
    return sample.column("image_id").combine_chunks().sort().cast(pa.large_string())


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

    @property
    def list_lengths(self) -> tuple[int, int]:
        """The number of candidates in a list: one more than in other lists, for the vector itself."""
        return self.search.list_lengths[0] + 1, 0

    def vectors(self) -> Part:
        return gather(self.blocks, self.places, np.arange(len(self.places)))

    def compared(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The best scores of the sample against every ``tasks``-th block: a row of `_SCORES`."""
        backend = Cpu()
        queries = self.search.strip(backend, self.vectors(), self.list_lengths)
        for batch in batches:
            for task in batch.column("id").to_pylist():
                for block in range(task, len(self.blocks), self.tasks):
                    engine.compare([queries], [self.search.strip(backend, self.blocks.part(block), (0, 0))])
        arrays = queries.keys()[0].tobytes(), queries.error.tobytes()
        yield pa.RecordBatch.from_arrays([pa.array([array], pa.binary()) for array in arrays], schema=_SCORES)

    def settled(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One row of `_KEYS`: exact distances for the best candidates of all tasks, and brute force for the vectors
        whose lists these do not prove.
        """
        table, part = pa.Table.from_batches(batches, _SCORES), self.vectors()
        scores = [candidates.keys_from_bytes(content.as_py(), len(part)) for content in table.column("similar")]
        errors = [np.frombuffer(content.as_py(), np.float32).reshape(-1, 2) for content in table.column("error")]
        nothing = [np.empty((len(part), 0), np.int64)]
        scored = engine.merge(self.search, scores, nothing, errors, self.list_lengths)
        lists, empty = engine.rerank_candidates(part, scored, self.blocks.rescore)
        keys = np.sort(np.where(candidates.positions_of(lists.keys) == part.index[:, None], NONE, lists.keys), axis=1)
        uncertain = np.nonzero(~engine.certify(self.search, (Lists(keys, lists.lower_bound), empty)))[0]
        k = self.search.similar
        keys = keys[:, :k].copy()
        if len(uncertain):
            alone = engine.brute_force(self.search.measure, part[uncertain], self.blocks.parts(), k, 0)
            keys[uncertain] = alone[0].keys
        yield pa.RecordBatch.from_pydict({"keys": [keys.tobytes()]}, schema=_KEYS)
