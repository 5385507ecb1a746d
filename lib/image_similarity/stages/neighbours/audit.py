"""The true neighbours of some vectors, to tell how good lists are: they are compared with all others, exactly."""

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
from image_similarity.knn import candidates, recall, scoring
from image_similarity.knn.candidates import NONE, Keys, Lists, Strip
from image_similarity.knn.distances import METRICS, Indices, Reals
from image_similarity.knn.recall import Recall
from image_similarity.knn.rerank import Part, Reranker, Scored
from image_similarity.knn.scoring import FLOAT32, candidate_count
from image_similarity.runtime.progress import progress
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours.layout import gathered, places_of
from image_similarity.stages.neighbours.numbers import NOTHING_KNOWN, Images, Sharing
from image_similarity.stages.neighbours.plan import TASKS_OF_A_CORE, cores_of
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
    how: ApproximateSettings,
    scratch: Workspace,
) -> Recall:
    """Recall of the similar neighbours in ``table``, which was made from ``source`` with ``settings``."""
    packed = pack(source, settings, settings.block_rows, NOTHING_KNOWN, scratch)
    common_scale = scoring.scale_of(packed.largest, packed.dimensions, METRICS[settings.metric])
    asked = Audit.begin(spark, packed, common_scale, settings, how)
    return asked.recall(_found(spark, table, asked.ids, settings.similar))


@dataclass(frozen=True)
class Audit:
    """A sample of images, by a hash of image_id and seed, and their true neighbours."""

    ids: pa.Array
    """(n,), ascending."""
    image: Indices
    """Their numbers."""
    vectors: Indices
    """(m,): the numbers of their vectors, each once, and for each image (n,) the place of its own."""
    vector_of: Indices
    nearest: Keys
    """(m, k): the true neighbours of the vectors, and those of the images (n, k)."""
    true: Keys
    _settings: NeighboursSettings
    _seed: int
    _everyone: int
    _sharing: Sharing | None

    @classmethod
    def begin(
        cls,
        spark: SparkSession,
        packed: Packed,
        common_scale: float,
        settings: NeighboursSettings,
        how: ApproximateSettings,
    ) -> "Audit":
        """Choose images and find their true neighbours."""
        images = Images.load(packed.blocks.folder)
        ids = _sample(spark, images, how)
        image = pc.index_in(ids, value_set=images.ids).to_numpy().astype(np.int64)
        vectors, vector_of = np.unique(packed.numbers.vector[image], return_inverse=True)
        of_vectors = true_keys(
            spark, packed.blocks, places_of(packed.blocks, vectors), settings.metric, common_scale, settings.similar
        )
        asked = cls(
            ids, image, vectors, vector_of, of_vectors, of_vectors, settings, how.seed, len(images.ids), images.sharing
        )
        return replace(asked, true=asked.of_images(of_vectors))

    def of_images(self, keys: Keys) -> Keys:
        """(n, k): the lists of the images, from those of their vectors (m, any)."""
        k, vector = self._settings.similar, self.vectors[self.vector_of]
        if self._sharing is None:
            return keys[self.vector_of, :k]
        return lists_of(
            self._sharing, self.image, vector, keys[self.vector_of, :k], k, False, self._settings.drop_duplicates
        )

    def recall(self, found: Reals) -> Recall:
        """``found``: (n, any) the distances of neighbours of the images, nan for nothing."""
        return recall.estimated(recall.of_each(found, candidates.distances_of(self.true)), self._seed, self._everyone)


def check(images: int, how: ApproximateSettings) -> None:
    """Raise ``WrongInput`` where even a table without a miss could not reach the target, since too few are asked."""
    least = 1 - how.recall_target + how.recall_slack
    if how.audit_queries < images and how.audit_queries * least < recall.RULE_OF_THREE:
        needed = "all" if least <= 0 else f"{math.ceil(recall.RULE_OF_THREE / least):,}"
        raise WrongInput(
            f"approximate.audit_queries = {how.audit_queries:,} are too few to tell whether recall is "
            f"{how.recall_target - how.recall_slack:.4g} or more: ask {needed}, or set recall_slack to more"
        )


def _sample(spark: SparkSession, images: Images, how: ApproximateSettings) -> pa.Array:
    """Ids, ascending."""
    ids = spark.createDataFrame(pa.table({"image_id": images.ids.cast(pa.string())}))
    chosen = ids.orderBy(F.xxhash64("image_id", F.lit(how.seed)), "image_id").limit(how.audit_queries).toArrow()
    return chosen.column("image_id").combine_chunks().sort().cast(pa.large_string())


def _found(spark: SparkSession, table: DataFrame, asked: pa.Array, k: int) -> Reals:
    """(n, k): the distances that the table has for the images ``asked``, nan for nothing."""
    wanted = F.broadcast(spark.createDataFrame(pa.table({"image_id": asked.cast(pa.string())})))
    rows = (
        table.where(F.col("relation") == SIMILAR)
        .join(wanted, "image_id", "left_semi")
        .select("image_id", "rank", "distance")
        .toArrow()
    )
    found = np.full((len(asked), k), np.nan)
    row = pc.index_in(rows.column("image_id").cast(pa.large_string()), value_set=asked).to_numpy()
    found[row, rows.column("rank").to_numpy() - 1] = rows.column("distance").to_numpy()
    return found


_SCORES = pa.schema([("similar", pa.binary()), ("error", pa.binary())])
_KEYS = pa.schema([("keys", pa.binary())])


def true_keys(
    spark: SparkSession, blocks: Blocks, places: NDArray[Any], metric: str, common_scale: float, k: int
) -> Keys:
    """(n, k) sorted: the keys of the ``k`` nearest of all compared vectors in ``blocks``, for those at ``places``
    (`PLACE`).

    Fewer where there are not k others: the rest is `NONE`.
    """
    if len(places) == 0 or k == 0:
        return np.empty((len(places), k), dtype=np.int64)
    tasks = max(1, min(len(blocks), TASKS_OF_A_CORE * cores_of(spark)))
    query = _Query(blocks, places, metric, common_scale, k, tasks)
    scores = spark.range(0, tasks, 1, tasks).mapInArrow(query.compared, from_arrow_schema(_SCORES))
    with progress(spark, "audit", len(places) * (query.others + 1), "pairs", tasks):
        (found,) = scores.repartition(1).mapInArrow(query.settled, from_arrow_schema(_KEYS)).collect()
    return candidates.keys_from_bytes(bytes(found["keys"]), len(places))


@dataclass(frozen=True)
class _Query:
    """What tasks need to know; plain values, sent to workers."""

    blocks: Blocks
    places: NDArray[Any]
    metric: str
    common_scale: float
    k: int
    tasks: int

    @property
    def others(self) -> int:
        return sum(self.blocks.new) + sum(self.blocks.old) - 1

    @property
    def kept(self) -> int:
        """One more than in other lists, for the vector itself."""
        return candidate_count(self.k, FLOAT32) + 1

    def vectors(self) -> Part:
        return gathered(self.blocks, self.places, np.arange(len(self.places)))

    def _strip(self, part: Part, kept: int) -> Strip:
        return Strip(
            scoring.copies(part.vectors, METRICS[self.metric], FLOAT32, self.common_scale), part.positions, kept, 0
        )

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
        scores = np.concatenate(
            [candidates.keys_from_bytes(of.as_py(), len(part)) for of in told.column("similar")], axis=1
        )
        error = np.maximum.reduce([np.frombuffer(of.as_py(), np.float32) for of in told.column("error")])
        scored = Scored(
            candidates.least(scores, self.kept), np.empty((len(part), 0), np.int64), error, FLOAT32, self.common_scale
        )
        reranker = Reranker(METRICS[self.metric], part, scored)
        self.blocks.rescore(reranker)
        lists, _ = reranker.lists()
        keys = np.sort(np.where(candidates.positions_of(lists.keys) == part.index[:, None], NONE, lists.keys), axis=1)
        unsure = np.nonzero(~Lists(keys, lists.lower_bound).certain(self.k, self.others))[0]
        keys = keys[:, : self.k].copy()
        if len(unsure):
            keys[unsure] = self.blocks.brute_force(part[unsure], METRICS[self.metric], self.k, 0)[0].keys
        yield pa.RecordBatch.from_pydict({"keys": [keys.tobytes()]}, schema=_KEYS)
