"""The manifest by the job's own process, with threads and without Spark. The rows are those of `by_spark`."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.reporting import note
from image_similarity.settings import HttpSettings, ManifestSettings
from image_similarity.stages.manifest import images as listing
from image_similarity.stages.manifest import lists
from image_similarity.storage import uris
from image_similarity.warehouse.schemas import SCHEMAS

MOST_IMAGES = 100_000
"""So many take about as long here as Spark needs to start: it looks at the files of a list on all cores."""

_ROWS = 10_000  # in a batch


@dataclass(frozen=True)
class Manifest:
    rows: Iterator[pa.RecordBatch]
    """Batches in the schema of ``manifest``, in the order of the listing."""
    skipped: dict[str, int]
    """reason -> files that were skipped."""


def run(images: str, settings: ManifestSettings, read_seconds: float, most: int = MOST_IMAGES) -> Manifest | None:
    """The manifest of ``images``, which are on this machine, as `by_spark.run` makes it, and with the same errors.

    None if there are more than ``most``, or if a list names places that are not on this machine.
    """
    location = uris.absolute(images)
    kind = listing.kind_of(location, read_seconds)
    if kind == "list":
        return _of_list(location, settings, read_seconds, most)
    files, skipped = listing.find(location, settings, read_seconds, is_glob=kind == "glob")
    return Manifest(map(_of_files, files.to_batches(_ROWS)), dict(skipped)) if len(files) <= most else None


def _of_files(files: pa.RecordBatch) -> pa.RecordBatch:
    ids, places, sizes, times = files.columns
    attributes = pa.MapArray.from_arrays([0] * (len(files) + 1), pa.nulls(0, pa.string()), pa.nulls(0, pa.string()))
    return _batch(ids, places, sizes, times, attributes)


def _of_list(location: str, settings: ManifestSettings, read_seconds: float, most: int) -> Manifest | None:
    table, id_column, uri_column = lists.open_list(location, settings, read_seconds)
    listed = lists.Listed(table, id_column, uri_column, settings.schemes)
    base, batches, rows = uris.parent(location), list[pa.RecordBatch](), 0
    with lists.reading(location):
        for batch in listed.batches():
            batches.append(batch)
            rows += len(batch)
            if rows > most or not all(_is_here(uri, base) for uri in batch["uri"].to_pylist()):
                return None
    for line in table.notes:
        note(f"{location}: {line}")
    lists.check(listed, location, lambda: _repeated(batches))
    return Manifest(_with_status(batches, base, read_seconds), dict(listed.skipped))


def elsewhere(images: str, settings: ManifestSettings, read_seconds: float) -> str | None:
    """The first place in the list ``images`` that is not on this machine; None if there is none, or it is no list."""
    location = uris.absolute(images)
    if listing.kind_of(location, read_seconds) != "list":
        return None
    table, id_column, uri_column = lists.open_list(location, settings, read_seconds)
    base = uris.parent(location)
    with lists.reading(location):
        for batch in lists.Listed(table, id_column, uri_column, settings.schemes).batches():
            for uri in batch["uri"].to_pylist():
                if not _is_here(uri, base):
                    return str(uri)
    return None


def _is_here(uri: str | None, base: str) -> bool:
    """Whether ``uri`` is of a file on this machine. A cell that is empty is refused later."""
    return uri is None or uris.is_local(lists.resolved(uri, base))


def _repeated(batches: Sequence[pa.RecordBatch]) -> list[str]:
    counts = Counter(image_id for batch in batches for image_id in batch["image_id"].to_pylist())
    return sorted(image_id for image_id, count in counts.items() if count > 1)[: lists.MOST_NAMED]


def _with_status(batches: Sequence[pa.RecordBatch], base: str, read_seconds: float) -> Iterator[pa.RecordBatch]:
    with ThreadPoolExecutor(lists.STATUS_THREADS) as pool:
        for batch in batches:
            places = [lists.resolved(uri, base) for uri in batch["uri"].to_pylist()]
            statuses = list(pool.map(lists.status_of, places, repeat(HttpSettings()), repeat(read_seconds)))
            sizes = pa.array([size for size, _, _ in statuses], pa.int64())
            times = pa.array([time for _, time, _ in statuses], pa.int64())
            yield _batch(batch["image_id"], pa.array(places, pa.string()), sizes, times, batch["attributes"])


def _batch(ids: pa.Array, places: pa.Array, sizes: pa.Array, times: pa.Array, attributes: pa.Array) -> pa.RecordBatch:
    """Rows of ``manifest``. ``times``: of the last change, in nanoseconds since 1970."""
    # The version includes the uri, because two files of equal name, size and time in two places are different files.
    # A version with a null is null.
    digests = pa.array([hashlib.sha256(uri.encode()).hexdigest()[:8] for uri in places.to_pylist()], pa.string())
    version = pc.binary_join_element_wise(sizes.cast(pa.string()), times.cast(pa.string()), digests, "-")
    schema = SCHEMAS["manifest"]
    modified = pc.divide(times, 1000).cast(schema.field("modified_at").type)
    return pa.RecordBatch.from_arrays([ids, places, sizes, modified, version, attributes], schema=schema)
