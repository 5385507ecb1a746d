"""Cards of the images that a report shows: texts, and a thumbnail; Spark tasks make them."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, sandbox, thumbnails
from image_similarity.imaging.sandbox import Shrink
from image_similarity.pages import captions
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import decoders, task_count
from image_similarity.settings import Settings
from image_similarity.storage import blobs, fetch
from image_similarity.storage.budget import ByteBudget

Batches = Iterator[pa.RecordBatch]

FOLDER = "pictures"
"""The folder of pictures, below the rendering."""

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("image_id", "title", "alt", "note", "label", "link", "picture", "reason")),
        *((name, pa.int32()) for name in ("width", "height")),
    ]
)
_COLUMNS = (
    "image_id string, title string, alt string, note string, label string, link string, picture string, reason string, "
    "width int, height int"
)
_LEAST_PER_TASK, _MOST_PER_TASK = 16, 512


@dataclass(frozen=True)
class Card:
    """What a report shows of an image."""

    image_id: str
    title: str
    alt: str
    note: str
    """The label; where no attribute is the label, the gallery's subtitle."""
    label: str | None
    """The label as the manifest has it; None where it is empty."""
    link: str | None
    """The address of the original, if it is on the web."""
    picture: str | None
    """The path of the picture below the rendering; None where there is no picture."""
    reason: str | None
    """Why there is no picture: a reason of `fetch.fetch` or `decoding.decode`."""
    width: int | None
    """Width of the picture, in pixels; None where there is no picture."""
    height: int | None


def make(
    spark: SparkSession, ids: set[str], manifest: DataFrame, attribute: str | None, settings: Settings, folder: str
) -> dict[str, Card]:
    """The cards of the images ``ids``, by id. Writes the pictures below ``folder``.

    ``attribute``: the name of the label, or None. An image that is not in ``manifest``, or that cannot be read, has a
    card without a picture.
    """
    if not ids:
        return {}
    tasks = task_count(spark, len(ids), _LEAST_PER_TASK, _MOST_PER_TASK)
    requested = spark.createDataFrame([(image_id,) for image_id in sorted(ids)], "image_id string")
    of_manifest = manifest.select("image_id", "uri", "attributes").join(F.broadcast(requested), "image_id")
    rows = requested.join(of_manifest, "image_id", "left").repartition(tasks)
    with progress(spark, "pictures", len(ids), "pictures", tasks):
        cards = rows.mapInArrow(_maker(attribute, settings, folder), _COLUMNS).collect()
    return {row.image_id: Card(**row.asDict()) for row in cards}


# -- in the workers ----------------------------------------------------------------------------------------------------


def _maker(attribute: str | None, settings: Settings, folder: str) -> Callable[[Batches], Batches]:
    def render(batches: Batches) -> Batches:
        embeddings = settings.embeddings
        decoding.prepare_process(embeddings.max_pixels)
        with decoding.quiet_decoders(), decoders(embeddings, sandbox.thumbnailer) as (pool, shrink, budget):
            for batch in batches:
                rows = list(
                    pool.map(lambda row: _make_one(row, attribute, settings, folder, budget, shrink), batch.to_pylist())
                )
                yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)

    return render


def _make_one(
    row: dict[str, Any], attribute: str | None, settings: Settings, folder: str, budget: ByteBudget, shrink: Shrink
) -> dict[str, Any]:
    attributes = dict(row["attributes"] or ())
    label = attributes.get(attribute, "") if attribute is not None else ""
    caption = captions.of_image(
        row["image_id"], attributes, settings.gallery.title_attributes, settings.gallery.subtitle_attributes
    )
    card = {
        "image_id": row["image_id"],
        "title": caption.title,
        "alt": caption.alt,
        "note": caption.subtitle if attribute is None else captions.clean(label)[: captions.LONGEST_TEXT],
        "label": label if label.strip(" ") else None,
        "link": captions.link(row["uri"] or ""),
    }
    return {**card, **_picture(row["image_id"], row["uri"], settings, folder, budget, shrink)}


def _name(image_id: str) -> str:
    """A file name for the picture of ``image_id``, whatever characters the id has."""
    return hashlib.sha256(image_id.encode()).hexdigest()[:32]


def _picture(
    image_id: str, uri: str | None, settings: Settings, folder: str, budget: ByteBudget, shrink: Shrink
) -> dict[str, Any]:
    max_bytes, read_seconds = settings.embeddings.max_bytes, settings.embeddings.read_seconds
    try:
        if uri is None:
            raise Unreadable("not_found", "the manifest does not say where it is")
        with fetch.fetched(uri, budget, max_bytes, settings.http, read_seconds) as content:
            thumbnail = shrink(content).small
    except Unreadable as error:
        return {"reason": error.reason}
    path = f"{FOLDER}/{_name(image_id)}.webp"
    blobs.write(f"{folder}/{path}", thumbnail, "image/webp")
    width, height = thumbnails.size_of(thumbnail)
    return {"picture": path, "width": width, "height": height}
