"""What a published state says of pairs of a query and an image: the limits of its near-duplicates, the scales of its
images, and their thumbprints. Read by this process, without Spark.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.grouping import agreement, verdicts
from image_similarity.grouping.local_scale import Limits
from image_similarity.knn.distances import Indices, Values
from image_similarity.storage import blobs
from image_similarity.warehouse.schemas import NEAR_DUPLICATES, SIMILAR, VECTORS
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    import pyarrow.dataset as ds

THUMBPRINT_BYTES = agreement.SIDE**2
_FEW = 1000
"""Images that are looked up one by one."""
_MOST_BYTES = 2**30
"""More thumbprints lie in a file."""


@dataclass(frozen=True)
class Judge:
    """The limits that near-duplicates of one fingerprint and metric were published with, by the run ``run``.

    ``common``: see `verdicts.shares`.
    """

    published: Snapshot
    fingerprint: str
    metric: str
    limits: Limits
    common: float
    run: str

    def scales(self, ids: pa.Array) -> Values:
        """(n,) float32: the local scale of each of ``ids``, from the published neighbours; 0 where there is none.

        One pass over that table; little of it is in memory.
        """
        import pyarrow.dataset as ds

        parts: list[tuple[Indices, Values]] = []
        wanted = ids.cast(pa.string())
        table = self.published.dataset("neighbours", f"{self.fingerprint}/{self.metric}")
        is_listed = (ds.field("relation") == SIMILAR) & (ds.field("distance") > 0)
        if len(wanted) <= _FEW:  # then whole parts of the table can be passed over
            is_listed &= ds.field("image_id").isin(wanted)
        for batch in table.to_batches(columns=["image_id", "distance"], filter=is_listed):
            place = pc.fill_null(pc.index_in(batch.column(0), value_set=wanted), -1).to_numpy()
            parts.append((place[place >= 0].astype(np.int64), batch.column(1).to_numpy()[place >= 0]))
        nothing = (np.empty(0, np.int64), np.empty(0, np.float32))
        image, distance = (np.concatenate(columns) for columns in zip(nothing, *parts))
        order = np.lexsort((distance, image))
        image, distance = image[order], distance[order]
        start = np.searchsorted(image, np.arange(len(wanted)))
        rank = np.arange(len(image)) - start[image]
        lists = np.full((len(wanted), int(rank.max(initial=-1)) + 1), np.inf, dtype=np.float32)
        lists[image, rank] = distance
        return verdicts.scales(lists)

    def verdicts(
        self,
        distance: Values,
        query_scale: Values,
        image_scale: Values,
        same: NDArray[np.bool_],
        queries: "Thumbprints",
        images: "Thumbprints",
        image: Indices,
    ) -> NDArray[np.object_]:
        """(m, k): see `verdicts.verdicts`. ``queries``: of all m. ``images``: of those in ``image`` (m, k), places; -1
        for padding.
        """
        share = verdicts.shares(distance, query_scale, image_scale, self.limits, self.common)
        known = np.append(images.is_there, False)[image]
        disagreement = verdicts.disagreements(
            share,
            queries.pixels,
            np.where(queries.is_there, np.arange(len(queries.is_there)), -1),
            images.pixels,
            np.where(known, image, -1),
        )
        return verdicts.verdicts(
            distance, query_scale, image_scale, self.limits, disagreement, common=self.common, same=same
        )


def judge(published: Snapshot, fingerprint: str, metric: str, key: str | None) -> Judge | None:
    """What the published near-duplicates of ``fingerprint`` and ``metric`` say; None if none are published.

    ``key``: of the vectors that are searched, None for vectors of one's own. Limits of other vectors say nothing.
    """
    runs = published.run_ids("groups", f"{fingerprint}/{metric}/{NEAR_DUPLICATES}")
    record = published.runs.get(runs[0]) if runs else None
    limit = record.settings.get("limit") if record is not None else None
    if record is None or not limit or limit.get("fingerprint_key") != key:
        return None
    limits = Limits(*(limit[name] for name in ("scaled", "strict", "wide", "least")))
    # Earlier versions did not record it. Any that is lower only asks pictures less.
    common = limit.get("common", limits.strict / limits.scaled)
    return Judge(published, fingerprint, metric, limits, common, record.run_id)


def why_none(published: Snapshot, fingerprint: str, metric: str) -> str:
    """Why `judge` finds nothing to judge by, and what to do."""
    runs = published.run_ids("groups", f"{fingerprint}/{metric}/{NEAR_DUPLICATES}")
    record = published.runs.get(runs[0]) if runs else None
    if record is None:
        return f"no near-duplicates by {fingerprint}/{metric} are published: group_images makes them"
    if not record.settings.get("limit"):
        return f"the near-duplicates of run {record.run_id} have no limit that is recorded: run group_images again"
    return (
        f"the near-duplicates of run {record.run_id} are of vectors that were replaced: run find_neighbours, then "
        "group_images"
    )


@dataclass(frozen=True)
class Thumbprints:
    """``pixels``: (n, 1024) uint8. ``is_there``: (n,) bool; images of earlier versions have none."""

    pixels: NDArray[np.uint8]
    is_there: NDArray[np.bool_]


def thumbprints(published: Snapshot, key: str | None, contents: pa.Array, files: Sequence[str] = ()) -> Thumbprints:
    """Those of ``contents`` (n,), strings or null, as the vectors of ``key`` have them, or ``files`` of vectors.

    None is known without a ``key``.
    """
    import pyarrow.dataset as ds

    found = Thumbprints(_allocated(len(contents)), np.zeros(len(contents), dtype=np.bool_))
    wanted = contents.cast(pa.string()).drop_null().unique()
    if key is None or not len(wanted):
        return found
    pixels, is_there = _allocated(len(wanted)), np.zeros(len(wanted), dtype=np.bool_)
    is_wanted = ds.field("content_sha256").isin(wanted) & ds.field("thumbprint").is_valid()
    for table in (published.dataset(VECTORS, key), *_datasets(files)):
        for batch in table.to_batches(columns=["content_sha256", "thumbprint"], filter=is_wanted):
            if len(batch):
                place = pc.index_in(batch.column(0), value_set=wanted).to_numpy()
                joined = b"".join(batch.column(1).to_pylist())
                pixels[place] = np.frombuffer(joined, np.uint8).reshape(len(batch), THUMBPRINT_BYTES)
                is_there[place] = True
    place = pc.fill_null(pc.index_in(contents.cast(pa.string()), value_set=wanted), -1).to_numpy(zero_copy_only=False)
    is_known = (place >= 0) & np.append(is_there, False)[place]
    found.pixels[is_known], found.is_there[is_known] = pixels[place[is_known]], True
    return found


def _datasets(files: Sequence[str]) -> "Iterator[ds.Dataset]":
    import pyarrow.dataset as ds

    for file in files:
        filesystem, path = blobs.filesystem_of(file)
        yield ds.dataset(path, format="parquet", filesystem=filesystem)


def _allocated(count: int) -> NDArray[np.uint8]:
    """(count, 1024) zeros. Many of them lie in a file without a name, which is gone with the last who uses it."""
    if count * THUMBPRINT_BYTES <= _MOST_BYTES:
        return np.zeros((count, THUMBPRINT_BYTES), dtype=np.uint8)
    with tempfile.TemporaryFile(prefix="thumbprints-") as opened:
        os.posix_fallocate(opened.fileno(), 0, count * THUMBPRINT_BYTES)  # a disk that is full is noticed now
        return np.memmap(opened, np.uint8, "r+", shape=(count, THUMBPRINT_BYTES))
