"""Small files of the pictures, made by Spark tasks once for each content and kept from one rendering to the next."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, thumbnails
from image_similarity.pages.site import Site
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import task_count
from image_similarity.settings import Settings
from image_similarity.storage import blobs, fetch, uris
from image_similarity.warehouse import parquet
from image_similarity.warehouse.warehouse import Warehouse

Batches = Iterator[pa.RecordBatch]

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
_COPIES_TRIED = 8
_LEAST_PER_TASK, _MOST_PER_TASK = 16, 512


def name_of(content_sha256: Column, uri: Column, source_version: Column) -> Column:
    """The name of an image's picture: by its content, or, where that is not known, by its place and version."""
    known = F.coalesce(content_sha256, F.concat_ws("\n", uri, source_version))
    return F.substring(F.sha2(F.concat_ws("\n", F.lit(thumbnails.RECIPE), known), 256), 1, 32)


def path(picture: str, size: str) -> str:
    """The file of ``picture`` below the gallery; ``size``: small or large."""
    return f"{FOLDER}/{picture[:2]}/{picture}-{size}.webp"


def make(
    spark: SparkSession, wanted: DataFrame, site: Site, rendering: str, settings: Settings, warehouse: Warehouse
) -> DataFrame:
    """Make the files of ``wanted`` (picture, uri, content_sha256) that are not there yet.

    Returns picture, width, height (pixels of the larger file), reason, detail (why there is none: what `fetch.fetch`
    and `decoding.decode` say, or ``changed``), made (in this run), which stay in the rendering's folder as its
    inventory."""
    before = (
        inventory(spark, site, site.renderings[:1], warehouse)
        .where("reason is null")
        .select("picture", "width", "height")
    )
    # Copies of a file make one picture: if one of them is gone, another may serve.
    uris = F.slice(F.sort_array(F.collect_set("uri")), 1, _COPIES_TRIED)
    distinct = wanted.groupBy("picture").agg(uris.alias("uris"), F.first("content_sha256").alias("content_sha256"))
    count = distinct.count()
    tasks = task_count(spark, count, _LEAST_PER_TASK, _MOST_PER_TASK)
    rows = distinct.join(before, "picture", "left").repartition(tasks)
    folder = _inventory_folder(site, rendering)
    with progress(spark, "pictures", count, "pictures", tasks):
        parquet.write_folder(folder, rows.mapInArrow(_maker(site.uri, settings), _COLUMNS))
    return inventory(spark, site, [rendering], warehouse)


def inventory(spark: SparkSession, site: Site, renderings: list[str], warehouse: Warehouse) -> DataFrame:
    """The rows that `make` returned for ``renderings``; none where there are none."""
    folders = [_inventory_folder(site, rendering) for rendering in renderings]
    there = [folder for folder in folders if site.files.entries(folder.removeprefix("file://"))]
    return warehouse.read_folders(there, _COLUMNS)


def _inventory_folder(site: Site, rendering: str) -> str:
    return f"{uris.for_spark(site.uri)}/{rendering}/{INVENTORY}"


def remove_unused(spark: SparkSession, site: Site, kept: list[str], warehouse: Warehouse) -> int:
    """Remove the files of pictures that no rendering in ``kept`` shows; how many."""
    shown = inventory(spark, site, kept, warehouse).select("picture").distinct()
    grouped = shown.groupBy(F.substring("picture", 1, 2).alias("shelf")).agg(
        F.collect_list("picture").alias("pictures")
    )
    shelves = spark.createDataFrame([(f"{number:02x}",) for number in range(256)], "shelf string")
    rows = shelves.join(grouped, "shelf", "left").select("shelf", "pictures")
    removed = rows.mapInArrow(_sweeper(site.uri), "removed long").agg(F.sum("removed")).collect()[0][0]
    return int(removed)


# -- in the workers ----------------------------------------------------------------------------------------------------


def _maker(gallery: str, settings: Settings) -> Callable[[Batches], Batches]:
    def made(batches: Batches) -> Batches:
        decoding.prepare_process(settings.embeddings.max_pixels)
        with decoding.quiet_decoders(), ThreadPoolExecutor(settings.embeddings.decode_threads, "pictures") as pool:
            for batch in batches:
                rows = list(pool.map(lambda row: _make_one(row, gallery, settings), batch.to_pylist()))
                yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)

    return made


def _make_one(row: dict[str, Any], gallery: str, settings: Settings) -> dict[str, Any]:
    """One row of the inventory. A picture whose files are there is not made again."""
    picture = row["picture"]
    if size := _known_size(gallery, picture, (row["width"], row["height"])):
        return {"picture": picture, "width": size[0], "height": size[1], "made": False}
    refused = Unreadable("not_found", "the manifest does not say where it is")
    for uri in row["uris"]:
        try:
            content = fetch.fetch(uri, settings.embeddings.max_bytes, settings.http)
            if row["content_sha256"] not in (None, hashlib.sha256(content).hexdigest()):
                raise Unreadable("changed", "since it was embedded: run embed_images again")
            made = thumbnails.thumbnails(content, settings.embeddings.max_pixels)
        except Unreadable as error:
            refused = error
            continue
        if made.large is not None:
            blobs.write(f"{gallery}/{path(picture, 'large')}", made.large, "image/webp")
        blobs.write(f"{gallery}/{path(picture, 'small')}", made.small, "image/webp")
        return {"picture": picture, "width": made.width, "height": made.height, "made": True}
    return {"picture": picture, "reason": refused.reason, "detail": refused.detail, "made": False}


def _known_size(gallery: str, picture: str, told: tuple[int | None, int | None]) -> tuple[int, int] | None:
    """Width and height of the files of ``picture``; None if they are not there. ``told``: what the last inventory
    says."""
    small, large = (f"{gallery}/{path(picture, size)}" for size in ("small", "large"))
    width, height = told
    if width is not None and height is not None:
        wanted = [small, large] if thumbnails.has_large(width, height) else [small]
        return (width, height) if all((status := blobs.status(file)) and status.size_bytes for file in wanted) else None
    # Not in the inventory, but perhaps made by a job that died afterwards. The small file is written last.
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
    """Delete the files in the folder ``shelf`` whose picture is not ``used``, and half-written ones; how many
    pictures."""
    if not blobs.exists(shelf):
        return 0
    files = [(file.path.partition("-")[0], file) for file in blobs.list_files(shelf)]
    for picture, file in files:
        if picture not in used or file.path.endswith(".tmp"):
            blobs.delete(file.uri)
    return len({picture for picture, _ in files} - used)
