"""Small files of the pictures, made by Spark tasks once for each content and kept from one rendering to the next."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity import images, storage
from image_similarity.kernels import decoding, pictures
from image_similarity.kernels.decoding import Unreadable
from image_similarity.settings import EmbeddingsSettings
from image_similarity.spark import progress, task_count
from image_similarity.stages.gallery.site import Site
from image_similarity.warehouse import Warehouse

FOLDER = "pictures"
INVENTORY = "_pictures"
"""Below a rendering: what is known of its pictures, so that the next one need not open them."""

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
_LEAST_PER_TASK, _MOST_PER_TASK = 16, 512


def name_of(content_sha256: Column, uri: Column, source_version: Column) -> Column:
    """The name of an image's picture: by its content, or, where that is not known, by its place and version."""
    known = F.coalesce(content_sha256, F.concat_ws("\n", uri, source_version))
    return F.substring(F.sha2(F.concat_ws("\n", F.lit(pictures.RECIPE), known), 256), 1, 32)


def path(picture: str, size: str) -> str:
    """The file of ``picture`` below the gallery; ``size``: small or large."""
    return f"{FOLDER}/{picture[:2]}/{picture}-{size}.webp"


def make(
    spark: SparkSession, wanted: DataFrame, site: Site, rendering: str, settings: EmbeddingsSettings, warehouse: Warehouse
) -> DataFrame:
    """Make the files of ``wanted`` (picture, uri) that are not there yet.

    Returns picture, width, height (pixels of the larger file), reason, detail (why there is none), made (in this run), which
    stay in the rendering's folder as its inventory.
    """
    before = inventory(spark, site, site.renderings[:1], warehouse).where("reason is null").select("picture", "width", "height")
    distinct = wanted.groupBy("picture").agg(F.min("uri").alias("uri"))
    count = distinct.count()
    tasks = task_count(spark, count, _LEAST_PER_TASK, _MOST_PER_TASK)
    rows = distinct.join(before, "picture", "left").repartition(tasks).select("picture", "uri", "width", "height")
    folder = _inventory_folder(site, rendering)
    with progress(spark, "pictures", count, "pictures", tasks):
        warehouse.write_parquet(folder, rows.mapInArrow(_maker(site.uri, settings), _COLUMNS))
    return inventory(spark, site, [rendering], warehouse)


def inventory(spark: SparkSession, site: Site, renderings: list[str], warehouse: Warehouse) -> DataFrame:
    """The rows that `make` returned for ``renderings``; none where there are none."""
    folders = [_inventory_folder(site, rendering) for rendering in renderings]
    there = [folder for folder in folders if site.files.entries(folder.removeprefix("file://"))]
    return warehouse.read_folders(there, _COLUMNS)


def _inventory_folder(site: Site, rendering: str) -> str:
    return f"{storage.for_spark(site.uri)}/{rendering}/{INVENTORY}"


def remove_unused(spark: SparkSession, site: Site, kept: list[str], warehouse: Warehouse) -> int:
    """Remove the files of pictures that no rendering in ``kept`` shows; how many."""
    shown = inventory(spark, site, kept, warehouse).select("picture").distinct()
    grouped = shown.groupBy(F.substring("picture", 1, 2).alias("shelf")).agg(F.collect_list("picture").alias("pictures"))
    shelves = spark.createDataFrame([(f"{number:02x}",) for number in range(256)], "shelf string")
    rows = shelves.join(grouped, "shelf", "left").select("shelf", "pictures")
    removed = rows.mapInArrow(_sweeper(site.uri), "removed long").agg(F.sum("removed")).collect()[0][0]
    return int(removed)


# -- in the workers ------------------------------------------------------------------------------------------------------------


def _maker(gallery: str, settings: EmbeddingsSettings):  # type: ignore[no-untyped-def]
    def made(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        decoding.prepare_process(settings.max_pixels)
        with decoding.quiet_decoders(), ThreadPoolExecutor(settings.decode_threads, "pictures") as pool:
            for batch in batches:
                rows = list(pool.map(lambda row: _make_one(row, gallery, settings), batch.to_pylist()))
                yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)

    return made


def _make_one(row: dict[str, Any], gallery: str, settings: EmbeddingsSettings) -> dict[str, Any]:
    """One row of the inventory. A picture that was there before and still is, is not opened."""
    picture = row["picture"]
    if row["width"] is not None and _is_there(gallery, picture, row["width"], row["height"]):
        return {"picture": picture, "width": row["width"], "height": row["height"], "made": False}
    try:
        if row["uri"] is None:
            raise Unreadable("not_found", "the manifest does not say where it is")
        made = pictures.thumbnails(images.fetch(row["uri"], settings.max_bytes), settings.max_pixels)
    except Unreadable as error:
        return {"picture": picture, "reason": error.reason, "detail": error.detail, "made": False}
    if made.large is not None:
        storage.write(f"{gallery}/{path(picture, 'large')}", made.large, "image/webp")
    storage.write(f"{gallery}/{path(picture, 'small')}", made.small, "image/webp")
    return {"picture": picture, "width": made.width, "height": made.height, "made": True}


def _is_there(gallery: str, picture: str, width: int, height: int) -> bool:
    sizes = ["small", "large"] if pictures.has_large(width, height) else ["small"]
    told = [storage.status(f"{gallery}/{path(picture, size)}") for size in sizes]
    return all(status is not None and status.size_bytes for status in told)


def _sweeper(gallery: str):  # type: ignore[no-untyped-def]
    def swept(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        removed = 0
        for batch in batches:
            for row in batch.to_pylist():
                removed += _sweep(f"{gallery}/{FOLDER}/{row['shelf']}", set(row["pictures"] or ()))
        yield pa.RecordBatch.from_pydict({"removed": [removed]})

    return swept


def _sweep(shelf: str, used: set[str]) -> int:
    """Delete the files in the folder ``shelf`` whose picture is not ``used``; how many pictures there were."""
    if not storage.exists(shelf):
        return 0
    unused = [file for file in storage.list_files(shelf) if file.path.partition("-")[0].partition(".")[0] not in used]
    for file in unused:
        storage.delete(file.uri)
    return len({file.path.partition("-")[0] for file in unused})
