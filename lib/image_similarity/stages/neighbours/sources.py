"""Where images and vectors come from that Spark reads: runs of the warehouse, or the user's own Parquet."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import WrongInput
from image_similarity.runtime.session import cause_of, spark_errors
from image_similarity.stages.neighbours import own_vectors
from image_similarity.stages.neighbours.usable import most_frequent
from image_similarity.storage import uris
from image_similarity.warehouse.warehouse import Warehouse

_FEW_ENOUGH_TO_SEND = 5_000_000
_SAMPLE = 100


@dataclass(frozen=True)
class Source:
    """Images, and vectors by content."""

    images: DataFrame | None
    """image_id, content; None where each content is an image."""
    vectors: DataFrame
    """content, embedding (array<float>); each content once."""
    count: int
    """How many images."""

    def dimensions(self) -> int:
        """The length of most of the first vectors; 0 if there are none."""
        lengths = self.vectors.select(F.size("embedding").alias("length")).where("length > 0").take(_SAMPLE)
        return most_frequent(Counter(row["length"] for row in lengths))


def from_runs(warehouse: Warehouse, inputs: Mapping[str, list[str]]) -> Source:
    """The images of the runs of ``embeddings``, and their vectors from the runs of ``vectors``."""
    images = warehouse.read("embeddings", inputs["embeddings"]).select(
        "image_id", F.col("content_sha256").alias("content")
    )
    stored = warehouse.read("vectors", inputs["vectors"]).select(F.col("content_sha256").alias("content"), "embedding")
    # The store also keeps vectors of images that are gone. The filter holds hashes because a few bytes each can be
    # broadcast to every task; with whole contents Spark would sort the vectors. A hash collision lets a vector of no
    # image pass; `vectors.pack` drops it.
    hashes, count = images.select(F.xxhash64("content").alias("hash")).distinct(), images.count()
    hashes = F.broadcast(hashes) if count < _FEW_ENOUGH_TO_SEND else hashes
    return Source(images, stored.join(hashes, F.xxhash64(stored["content"]) == hashes["hash"], "left_semi"), count)


def from_parquet(spark: SparkSession, uri: str, read_seconds: float) -> Source:
    """The images and vectors of the user's own Parquet, with columns image_id and embedding.

    Raises ``WrongInput`` if the Parquet cannot be read, lacks a column, has a column of another type, or repeats or
    omits an image_id.
    """
    location = uris.absolute(uri)
    own_vectors.check(uri, read_seconds)
    try:
        own = own_vectors.read(spark, location, read_seconds)
    except (ValueError, TimeoutError) as error:
        raise WrongInput(f"--embeddings {uri}: {error}") from None
    except spark_errors() as error:
        raise WrongInput(f"--embeddings {uri}: cannot be read as Parquet: {cause_of(error)}") from None
    return Source(None, own.vectors.withColumnRenamed(own_vectors.ID, "content"), _checked(own.ids, uri))


def _checked(ids: DataFrame, uri: str) -> int:
    """The number of ids. Raises ``WrongInput`` if there is none, or if one is null or stands in several rows."""
    counts = ids.groupBy("image_id").count()
    rows, nulls, largest = counts.agg(
        F.sum("count"),
        F.sum(F.when(F.col("image_id").isNull(), F.col("count"))),
        F.max(F.when(F.col("image_id").isNotNull(), F.col("count"))),
    ).collect()[0]
    repeated = counts.where("count > 1").orderBy("image_id").limit(5).collect() if rows and largest > 1 else []
    own_vectors.check_ids(uri, rows or 0, nulls or 0, [row.image_id for row in repeated])
    return int(rows)
