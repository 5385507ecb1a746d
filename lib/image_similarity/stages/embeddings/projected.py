"""Projected fingerprints: computed from the vectors of a base fingerprint. No image is read.

A projection is fitted once, on a sample, and stored in the table ``projections``. Later vectors are projected onto the
same components, so old and new vectors can be compared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import WrongInput, counted
from image_similarity.fingerprints import pca
from image_similarity.fingerprints.pca import Projection
from image_similarity.settings import PcaSettings
from image_similarity.stages.embeddings.checkpoints import as_lists
from image_similarity.stages.embeddings.projections import MEAN, stored
from image_similarity.warehouse.parquet import spark_schema
from image_similarity.warehouse.schemas import SCHEMAS

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Fitted:
    """A projection, and the key of the vectors that it was fitted to."""

    base_key: str
    projection: Projection

    @property
    def key(self) -> str:
        """The key of the projected vectors: 16 hexadecimal digits."""
        return pca.key_of(self.base_key, self.projection)

    @property
    def explained(self) -> float:
        """The share of the variance that the components explain."""
        return float(self.projection.explained_variance.sum())


def published(rows: DataFrame, base_key: str, declared: PcaSettings) -> Fitted | None:
    """The projection in ``rows`` of ``projections``; None unless it was fitted as ``declared`` and to ``base_key``."""
    ordered = sorted(rows.collect(), key=lambda row: int(row.component))
    if len(ordered) != declared.dimensions + 1:
        return None
    if any((row.base_key, row["sample"], row.seed) != (base_key, declared.sample, declared.seed) for row in ordered):
        return None
    return Fitted(base_key, stored([row.asDict() for row in ordered]))


def fit(name: str, base: DataFrame, base_key: str, declared: PcaSettings) -> Fitted:
    """Fits the projection ``name`` to a sample of ``base`` (rows of ``vectors``), chosen by a hash of content and seed.

    Raises ``WrongInput`` if ``declared.dimensions`` exceeds the number of vectors or their length.
    """
    sample = base.select("content_sha256").orderBy(F.xxhash64(F.lit(declared.seed), "content_sha256"), "content_sha256")
    sample = sample.limit(declared.sample)
    table = base.join(F.broadcast(sample), "content_sha256").select("content_sha256", "embedding").toArrow()
    vectors = _matrix(table.sort_by("content_sha256")["embedding"])  # a fixed order: floating-point sums depend on it
    try:
        return Fitted(base_key, pca.fit(vectors, declared.dimensions, declared.seed))
    except ValueError:
        count, length = vectors.shape
        raise WrongInput(
            f"fingerprints.{name}.dimensions is {declared.dimensions}, but {declared.base} has "
            f"{counted(count, 'vector')} of {counted(length, 'value')}: a projection has at most as many dimensions "
            "as either"
        ) from None


def rows_of(spark: SparkSession, name: str, fitted: Fitted, declared: PcaSettings) -> DataFrame:
    """``fitted`` as rows of ``projections``: the mean, then the components."""
    common = (name, fitted.key, fitted.base_key, declared.sample, declared.seed)
    rows: list[tuple[Any, ...]] = [(*common, MEAN, None, fitted.projection.mean.tolist())]
    for component, weights in enumerate(fitted.projection.components):
        rows.append((*common, component, float(fitted.projection.explained_variance[component]), weights.tolist()))
    return spark.createDataFrame(rows, spark_schema("projections"))


def renamed(rows: DataFrame, name: str, key: str | None = None) -> DataFrame:
    """Rows of the base's ``embeddings`` or ``failures``, renamed to fingerprint ``name`` of the same images."""
    columns = rows.columns
    own = rows.withColumn("fingerprint", F.lit(name))
    return (own.withColumn("fingerprint_key", F.lit(key)) if key else own).select(*columns)


def project(spark: SparkSession, base: DataFrame, fitted: Fitted) -> DataFrame:
    """Rows of ``vectors`` of the projected fingerprint, from ``base``, the rows of ``vectors`` of its base."""
    shared = spark.sparkContext.broadcast(fitted.projection)
    rows = base.select(*SCHEMAS["vectors"].names)
    return rows.mapInArrow(_projecting(shared, fitted.key), spark_schema("vectors"))


def _projecting(projection: "Broadcast[Projection]", key: str) -> Callable[[Batches], Batches]:
    def projected(batches: Batches) -> Batches:
        for batch in batches:
            if batch.num_rows:
                vectors = projection.value(_matrix(batch["embedding"]))
                yield _batch(batch, key, vectors)

    return projected


def _batch(base: pa.RecordBatch, key: str, vectors: NDArray[np.float32]) -> pa.RecordBatch:
    columns = {
        "content_sha256": base["content_sha256"],
        "fingerprint_key": pa.array([key] * len(vectors)),
        "width": base["width"],
        "height": base["height"],
        "embedding": as_lists(vectors),
        "thumbprint": base["thumbprint"],
    }
    return pa.RecordBatch.from_pydict(columns)


def _matrix(column: pa.Array | pa.ChunkedArray) -> NDArray[np.float32]:
    """A column of lists of equal length as a float32 array (n, d); (0, 0) without rows."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values: NDArray[np.float32] = whole.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(whole), -1) if len(whole) else np.zeros((0, 0), np.float32)
