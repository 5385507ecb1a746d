"""Where images and vectors come from: runs of the warehouse, or the user's own Parquet."""

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, NumericType, StringType

from image_similarity.errors import WrongInput, near_files
from image_similarity.runtime.session import SPARK_ERRORS, cause_of
from image_similarity.storage import blobs, foreign, uris
from image_similarity.warehouse.warehouse import Warehouse

_FEW_ENOUGH_TO_SEND = 5_000_000


@dataclass(frozen=True)
class Source:
    """Images, and vectors by content."""

    images: DataFrame | None
    """image_id, content; None where each content is an image."""
    vectors: DataFrame
    """content, embedding (array<float>); each content once."""
    count: int
    """How many images."""


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


def from_parquet(warehouse: Warehouse, uri: str) -> Source:
    """The images and vectors of the user's own Parquet, with columns image_id and embedding.

    Raises ``WrongInput`` if the Parquet cannot be read, lacks a column, has a column of another type, or repeats or
    omits an image_id.
    """
    location = uris.absolute(uri)
    if uris.is_local(location) and not blobs.exists(location):
        raise WrongInput(f"--embeddings {uri}: no such file or folder{near_files(location)}")
    table = _read(warehouse, location, uri)
    missing = [name for name in ("image_id", "embedding") if name not in table.columns]
    if missing:
        raise WrongInput(
            f"--embeddings {uri}: no column {' and no '.join(missing)}; its columns are: {', '.join(table.columns)}"
        )
    kind = table.schema["embedding"].dataType
    if not (isinstance(kind, ArrayType) and isinstance(kind.elementType, NumericType)):
        raise WrongInput(f"--embeddings {uri}: embedding is {kind.simpleString()}, not an array of numbers")
    if not isinstance(table.schema["image_id"].dataType, (StringType, NumericType)):
        raise WrongInput(
            f"--embeddings {uri}: image_id is {table.schema['image_id'].dataType.simpleString()}, not a string or "
            "number"
        )
    vectors = table.select(F.col("image_id").cast("string").alias("content"), F.col("embedding").cast("array<float>"))
    return Source(None, vectors, _checked(vectors.select(F.col("content").alias("image_id")), uri))


def _read(warehouse: Warehouse, location: str, uri: str) -> DataFrame:
    try:
        return warehouse.read_parquet(location)
    except SPARK_ERRORS as error:  # of one column, perhaps, whose type Spark does not know
        try:
            return warehouse.from_arrow(foreign.read(location))
        except (OSError, ValueError, *SPARK_ERRORS):
            raise WrongInput(f"--embeddings {uri}: cannot be read as Parquet: {cause_of(error)}") from None


def _checked(ids: DataFrame, uri: str) -> int:
    """The number of ids. Raises ``WrongInput`` if there is none, or if one is null or stands in several rows."""
    counts = ids.groupBy("image_id").count()
    rows, nulls, largest = counts.agg(
        F.sum("count"),
        F.sum(F.when(F.col("image_id").isNull(), F.col("count"))),
        F.max(F.when(F.col("image_id").isNotNull(), F.col("count"))),
    ).collect()[0]
    if not rows:
        raise WrongInput(f"--embeddings {uri}: no rows")
    if nulls:
        raise WrongInput(f"--embeddings {uri}: {nulls:,} rows have no image_id")
    if largest > 1:
        repeated = counts.where("count > 1").orderBy("image_id").limit(5).collect()
        names = ", ".join(repr(row.image_id) for row in repeated)
        raise WrongInput(f"--embeddings {uri}: image_id must be unique, but these stand more than once: {names}")
    return int(rows)
