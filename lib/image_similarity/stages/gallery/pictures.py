"""Small files of the pictures. Spark tasks make them once for each content, and later renderings use them again."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, sandbox, thumbnails
from image_similarity.imaging.sandbox import Shrink
from image_similarity.pages.site import Site
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import decoders, task_count
from image_similarity.settings import Settings
from image_similarity.storage import blobs, fetch, uris
from image_similarity.storage.budget import ByteBudget
from image_similarity.warehouse import parquet
from image_similarity.warehouse.warehouse import Warehouse

Batches = Iterator[pa.RecordBatch]

FOLDER = "pictures"
INVENTORY = "_pictures"
"""A folder below each rendering. It records the pictures, so that the next rendering need not open them."""

_SCHEMA = pa.schema(
    [
        ("picture", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("made", pa.bool_()),
    ]
)
_COLUMNS = "picture string, width int, height int, reason string, detail string, made boolean"
_COPIES_TRIED = 8
_LEAST_PER_TASK, _MOST_PER_TASK = 16, 512


def name_of(content_sha256: Column, uri: Column, source_version: Column) -> Column:
    """The name of an image's picture: a hash of its content, or of its uri and version if the content is unknown."""
    identity = F.coalesce(content_sha256, F.concat_ws("\n", uri, source_version))
    return F.substring(F.sha2(F.concat_ws("\n", F.lit(thumbnails.RECIPE), identity), 256), 1, 32)


def path(picture: str, size: str) -> str:
    """The path of the file of ``picture`` below the gallery; ``size``: small or large."""
    return f"{FOLDER}/{picture[:2]}/{picture}-{size}.webp"


def make(
    spark: SparkSession, pictures: DataFrame, site: Site, rendering: str, settings: Settings, warehouse: Warehouse
) -> DataFrame:
    """Makes the files of ``pictures`` (picture, uri, content_sha256) that do not exist yet.

    Returns the inventory, which stays in the rendering's folder: picture; width, height (pixels of the larger file);
    reason, detail (why there is none: as from `fetch.fetch` and `decoding.decode`, or ``changed``); made (by this
    run).
    """
    previous = (
        inventory(spark, site, site.renderings[:1], warehouse)
        .where("reason is null")
        .select("picture", "width", "height")
    )
    # Copies of a file share one picture. If one of them is gone, another one may be readable.
    uris = F.slice(F.sort_array(F.collect_set("uri")), 1, _COPIES_TRIED)
    distinct = pictures.groupBy("picture").agg(uris.alias("uris"), F.first("content_sha256").alias("content_sha256"))
    count = distinct.count()
    tasks = task_count(spark, count, _LEAST_PER_TASK, _MOST_PER_TASK)
    rows = distinct.join(previous, "picture", "left").repartition(tasks)
    folder = _inventory_folder(site, rendering)
    with progress(spark, "pictures", count, "pictures", tasks):
        parquet.write_folder(folder, rows.mapInArrow(_maker(site.uri, settings), _COLUMNS))
    return inventory(spark, site, [rendering], warehouse)


def inventory(spark: SparkSession, site: Site, renderings: list[str], warehouse: Warehouse) -> DataFrame:
    """The rows that `make` returned for ``renderings``; no rows for those without an inventory."""
    folders = [_inventory_folder(site, rendering) for rendering in renderings]
    existing = [folder for folder in folders if site.files.entries(folder.removeprefix("file://"))]
    return warehouse.read_folders(existing, _COLUMNS)


def _inventory_folder(site: Site, rendering: str) -> str:
    return f"{uris.for_spark(site.uri)}/{rendering}/{INVENTORY}"


def remove_unused(spark: SparkSession, site: Site, kept: list[str], warehouse: Warehouse) -> int:
    """Removes the files of pictures that no rendering in ``kept`` shows, and returns their number."""
    shown = inventory(spark, site, kept, warehouse).select("picture").distinct()
    grouped = shown.groupBy(F.substring("picture", 1, 2).alias("shelf")).agg(
        F.collect_list("picture").alias("pictures")
    )
    shelves = spark.createDataFrame([(f"{number:02x}",) for number in range(256)], "shelf string")
    rows = shelves.join(grouped, "shelf", "left").select("shelf", "pictures")
    rows = rows.repartition(spark.sparkContext.defaultParallelism)  # else Spark may give all of them to one task
    removed = rows.mapInArrow(_sweeper(site.uri), "removed long").agg(F.sum("removed")).collect()[0][0]
    return int(removed)


# -- in the workers ----------------------------------------------------------------------------------------------------


def _maker(gallery: str, settings: Settings) -> Callable[[Batches], Batches]:
    def make_all(batches: Batches) -> Batches:
        embeddings = settings.embeddings
        decoding.prepare_process(embeddings.max_pixels)
        with decoding.quiet_decoders(), decoders(embeddings, sandbox.thumbnailer) as (pool, shrink, budget):
            for batch in batches:
                rows = list(pool.map(lambda row: _make_one(row, gallery, settings, budget, shrink), batch.to_pylist()))
                yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)

    return make_all


def _make_one(
    row: dict[str, Any], gallery: str, settings: Settings, budget: ByteBudget, shrink: Shrink
) -> dict[str, Any]:
    """One row of the inventory. A picture whose files exist is not made again."""
    picture = row["picture"]
    if size := _known_size(gallery, picture, (row["width"], row["height"])):
        return {"picture": picture, "width": size[0], "height": size[1], "made": False}
    failure = Unreadable("not_found", "the manifest does not say where it is")
    max_bytes, read_seconds = settings.embeddings.max_bytes, settings.embeddings.read_seconds
    for uri in row["uris"]:
        try:
            with fetch.fetched(uri, budget, max_bytes, settings.http, read_seconds) as content:
                if row["content_sha256"] not in (None, hashlib.sha256(content).hexdigest()):
                    raise Unreadable("changed", "since it was embedded: run embed_images again")
                thumbnail = shrink(content)
        except Unreadable as error:
            failure = error
            continue
        if thumbnail.large is not None:
            blobs.write(f"{gallery}/{path(picture, 'large')}", thumbnail.large, "image/webp")
        blobs.write(f"{gallery}/{path(picture, 'small')}", thumbnail.small, "image/webp")
        return {"picture": picture, "width": thumbnail.width, "height": thumbnail.height, "made": True}
    return {"picture": picture, "reason": failure.reason, "detail": failure.detail, "made": False}


def _known_size(gallery: str, picture: str, recorded: tuple[int | None, int | None]) -> tuple[int, int] | None:
    """Width and height of the existing files of ``picture`` in pixels; None if they do not exist.

    ``recorded``: width and height in the last inventory.
    """
    small, large = (f"{gallery}/{path(picture, size)}" for size in ("small", "large"))
    width, height = recorded
    if width is not None and height is not None:
        files = [small, large] if thumbnails.has_large(width, height) else [small]
        return (width, height) if all((status := blobs.status(file)) and status.size_bytes for file in files) else None
    # Not in the inventory, but perhaps made by a job that died before it wrote one. The small file is written last.
    try:
        if blobs.status(small) is None:
            return None
        size = thumbnails.size_of(blobs.read(small))
        return thumbnails.size_of(blobs.read(large)) if blobs.status(large) is not None else size
    except OSError:
        return None


def _sweeper(gallery: str) -> Callable[[Batches], Batches]:
    def swept(batches: Batches) -> Batches:
        removed = 0
        for batch in batches:
            for row in batch.to_pylist():
                removed += _sweep(f"{gallery}/{FOLDER}/{row['shelf']}", set(row["pictures"] or ()))
        yield pa.RecordBatch.from_pydict({"removed": [removed]})

    return swept


def _sweep(shelf: str, used: set[str]) -> int:
    """Deletes the files in the folder ``shelf`` whose picture is not in ``used``, and half-written ones.

    Returns the number of unused pictures.
    """
    if not blobs.exists(shelf):
        return 0
    files = [(file.path.partition("-")[0], file) for file in blobs.list_files(shelf)]
    for picture, file in files:
        if picture not in used or file.path.endswith(".tmp"):
            blobs.delete(file.uri)
    return len({picture for picture, _ in files} - used)
