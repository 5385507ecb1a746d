"""Small files of the pictures. Spark tasks make them once for each content, and later renderings use them again."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, sandbox, thumbnails
from image_similarity.imaging.sandbox import Shrink
from image_similarity.pages import paths
from image_similarity.pages.site import Site
from image_similarity.runtime import shelves
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import decoders, over_chunks, task_count
from image_similarity.settings import Settings
from image_similarity.storage import blobs, fetch, uris
from image_similarity.storage.budget import ByteBudget
from image_similarity.warehouse import parquet
from image_similarity.warehouse.warehouse import Warehouse
from image_similarity.warehouse.workspace import Workspace

Batches = Iterator[pa.RecordBatch]

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
        ("small", pa.string()),
        ("large", pa.string()),
        ("pixel_width", pa.int32()),
        ("pixel_height", pa.int32()),
        ("format", pa.string()),
    ]
)
_COLUMNS = (
    "picture string, width int, height int, reason string, detail string, made boolean, small string, large string, "
    "pixel_width int, pixel_height int, format string"
)
ORIGINAL = ["pixel_width", "pixel_height", "format"]
"""The columns about the original: null where it could not be read, or was read by an earlier version."""
_MAKING = pa.schema(
    [
        ("picture", pa.string()),
        ("uris", pa.list_(pa.string())),
        ("content_sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("small", pa.string()),
        ("large", pa.string()),
        ("pixel_width", pa.int32()),
        ("pixel_height", pa.int32()),
        ("format", pa.string()),
    ]
)
"""What `_maker` takes: a picture, and what the last inventory says of it, if anything."""
_COPIES_TRIED = 8
_LEAST_PER_TASK, _MOST_PER_TASK = 16, 512


def name_of(content_sha256: Column, uri: Column, source_version: Column) -> Column:
    """The name of an image's picture: a hash of its content, or of its uri and version if the content is unknown."""
    identity = F.coalesce(content_sha256, F.concat_ws("\n", uri, source_version))
    return F.substring(F.sha2(F.concat_ws("\n", F.lit(thumbnails.RECIPE), identity), 256), 1, 32)


def make(
    spark: SparkSession, pictures: DataFrame, site: Site, rendering: str, settings: Settings, warehouse: Warehouse
) -> DataFrame:
    """Makes the files of ``pictures`` (picture, uri, content_sha256) that do not exist yet.

    Returns the inventory, which stays in the rendering's folder: picture; width, height (pixels of the larger file);
    reason, detail (why there is none: as from `fetch.fetch` and `decoding.decode`, or ``changed``); made (by this
    run); small, large (what `_stamp` says of the two files); the columns of `ORIGINAL`.
    """
    previous = (
        _earlier_inventory(spark, site, site.renderings[:1])
        .where("reason is null")
        .select("picture", "width", "height", "small", "large", *ORIGINAL)
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


def make_here(
    spark: SparkSession,
    wanted: Mapping[str, tuple[set[str], str | None]],
    site: Site,
    rendering: str,
    settings: Settings,
    scratch: Workspace,
) -> dict[str, dict[str, Any]]:
    """As `make`, of pictures that this process knows: picture -> the uris of its copies, content_sha256.

    Spark tasks make the files. Returns the rows of the inventory by picture.
    """
    previous = {row["picture"]: row for row in _inventory_here(site, site.renderings[:1]) if row["reason"] is None}
    rows = [
        {**previous.get(picture, {}), "picture": picture, "uris": sorted(uris)[:_COPIES_TRIED], "content_sha256": sha}
        for picture, (uris, sha) in wanted.items()
    ]
    tasks = task_count(spark, len(rows), _LEAST_PER_TASK, _MOST_PER_TASK)
    chunks = [pa.RecordBatch.from_pylist(rows[number::tasks], schema=_MAKING) for number in range(tasks)]
    with progress(spark, "pictures", len(rows), "pictures", tasks):
        make_all = _maker(site.uri, settings)
        made = over_chunks(spark, scratch, "pictures", chunks, lambda chunk: make_all(iter([chunk])), _COLUMNS)
    parquet.write_file(f"{site.uri}/{rendering}/{INVENTORY}/part-00000.parquet", _SCHEMA, [made.cast(_SCHEMA)])
    return {row["picture"]: row for row in made.to_pylist()}


def _inventory_here(site: Site, renderings: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of `inventory`, read by this process."""
    folders = [f"{site.uri}/{rendering}/{INVENTORY}" for rendering in renderings]
    files = [file.uri for folder in folders if blobs.exists(folder) for file in blobs.list_files(folder)]
    return [row for file in files if file.endswith(".parquet") for row in _rows_of(file)]


def _rows_of(file: str) -> list[dict[str, Any]]:
    """The rows of a file of an inventory; none of a damaged one, whose pictures are looked at, or made again."""
    try:
        with blobs.open_input_file(file) as opened:
            table = pq.read_table(opened)
        known = [table[of.name].cast(of.type) if of.name in table.column_names else _nulls(of, table) for of in _SCHEMA]
    except (OSError, pa.ArrowException):
        return []
    rows: list[dict[str, Any]] = pa.table(known, schema=_SCHEMA).to_pylist()
    return rows


def _nulls(column: pa.Field, table: pa.Table) -> pa.Array:
    return pa.nulls(len(table), column.type)


def remove_unused_here(site: Site, own: Iterable[str], earlier: list[str]) -> int:
    """As `remove_unused`, by this process. ``own``: the pictures of this rendering."""
    shown = (*own, *(row["picture"] for row in _inventory_here(site, earlier)))
    return shelves.remove_others_here(f"{site.uri}/{paths.PICTURES}", shown)


def inventory(spark: SparkSession, site: Site, renderings: list[str], warehouse: Warehouse) -> DataFrame:
    """The rows that `make` returned for ``renderings``; no rows for those without an inventory."""
    return warehouse.read_folders(_existing(site, renderings), _COLUMNS)


def _earlier_inventory(spark: SparkSession, site: Site, renderings: list[str]) -> DataFrame:
    """The same of earlier renderings, whose files may be damaged meanwhile: these have no rows."""
    folders = [parquet.escape_glob(folder) for folder in _existing(site, renderings)]
    reader = spark.read.schema(_COLUMNS).option("ignoreCorruptFiles", "true")
    return reader.parquet(*folders) if folders else spark.createDataFrame([], _COLUMNS)


def _existing(site: Site, renderings: list[str]) -> list[str]:
    folders = [_inventory_folder(site, rendering) for rendering in renderings]
    return [folder for folder in folders if site.files.entries(folder.removeprefix("file://"))]


def _inventory_folder(site: Site, rendering: str) -> str:
    return f"{uris.for_spark(site.uri)}/{rendering}/{INVENTORY}"


def remove_unused(spark: SparkSession, site: Site, kept: list[str], warehouse: Warehouse) -> int:
    """Removes the files of pictures that no rendering in ``kept`` shows, and returns their number.

    The first of ``kept`` is this one. Its list is not damaged, or the job fails: no picture goes that it shows.
    """
    own, *earlier = kept
    both = inventory(spark, site, [own], warehouse).unionByName(_earlier_inventory(spark, site, earlier))
    return shelves.remove_others(spark, f"{site.uri}/{paths.PICTURES}", both.select("picture"))


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
    """One row of the inventory. A picture whose files exist is not made again.

    Its original is read once more if the inventory says nothing of it.
    """
    picture, known = row["picture"], _known(gallery, row)
    if known and known["format"]:
        return {"picture": picture, **known, "made": False}
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
        original = {name: getattr(thumbnail, name) for name in ORIGINAL}
        if known:
            return {"picture": picture, **known, **original, "made": False}
        large = None if thumbnail.large is None else _write(gallery, picture, "large", thumbnail.large)
        small = _write(gallery, picture, "small", thumbnail.small)
        size = {"width": thumbnail.width, "height": thumbnail.height}
        return {"picture": picture, **size, "small": small, "large": large, **original, "made": True}
    if known:
        return {"picture": picture, **known, "made": False}
    return {"picture": picture, "reason": failure.reason, "detail": failure.detail, "made": False}


def _write(gallery: str, picture: str, size: str, content: bytes) -> str:
    """Writes a file of ``picture``, and returns its stamp."""
    uri = f"{gallery}/{paths.picture_path(picture, size)}"
    blobs.write(uri, content, "image/webp")
    return _stamp(uri, hashlib.sha256(content).hexdigest())


def _stamp(uri: str, sha256: str) -> str:
    """What the inventory says of a file: bytes, modification time, and sha256."""
    status = blobs.status(uri)
    return f"{status and status.size_bytes} {status and status.modified_ns} {sha256}"


def _known(gallery: str, row: dict[str, Any]) -> dict[str, Any] | None:
    """What the inventory says of a picture whose files exist and are whole; None if they are to be made."""
    uris = {size: f"{gallery}/{paths.picture_path(row['picture'], size)}" for size in ("small", "large")}
    try:
        if row["width"] is None:
            # Not in the inventory, but perhaps made by a job that died before it wrote one.
            return None if blobs.status(uris["small"]) is None else {**_unrecorded(uris), **dict.fromkeys(ORIGINAL)}
        if not thumbnails.has_large(row["width"], row["height"]):
            del uris["large"]
        stamps = {size: _checked(uri, row[size]) for size, uri in uris.items()}
    except (OSError, ValueError):
        return None
    return {**{name: row.get(name) for name in ("width", "height", *ORIGINAL)}, **stamps}


def _checked(uri: str, stamp: str | None) -> str:
    """The stamp of a file that is as it was when it got ``stamp``. Raises ``ValueError`` for any other.

    A file with another modification time is read: it may be a copy, or not.
    """
    sha256 = (stamp or "").rpartition(" ")[2]
    if stamp != (now := _stamp(uri, sha256)) and hashlib.sha256(blobs.read(uri)).hexdigest() != sha256:
        raise ValueError(f"{uri} is another file")
    return now


def _unrecorded(uris: dict[str, str]) -> dict[str, Any]:
    """`_known` of the files at ``uris``. The small one is written last. Raises ``OSError``, or ``ValueError``."""
    small = blobs.read(uris["small"])
    width, height = thumbnails.size_of(small)
    stamps = {"small": _stamp(uris["small"], hashlib.sha256(small).hexdigest())}
    if blobs.exists(uris["large"]):
        large = blobs.read(uris["large"])
        width, height = thumbnails.size_of(large)
        stamps["large"] = _stamp(uris["large"], hashlib.sha256(large).hexdigest())
    elif max(width, height) >= thumbnails.SMALL:
        raise ValueError("perhaps there was a large file")
    return {"width": width, "height": height, **stamps}
