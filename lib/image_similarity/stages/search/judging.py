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

from image_similarity.grouping import agreement, local_scale, verdicts
from image_similarity.grouping.local_scale import Limits
from image_similarity.knn.distances import Indices, Values
from image_similarity.storage import blobs
from image_similarity.warehouse.parquet import streaming
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import NEAR_DUPLICATES, SIMILAR, VECTORS
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    import pyarrow.dataset as ds

THUMBPRINT_BYTES = agreement.SIDE**2
_FEW = 1000
"""Images that are looked up one by one."""
_ROWS_AT_ONCE = 2**17
"""Each look-up prepares itself for all images."""
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

    def scales(self, ids: pa.Array, contents: "Contents | None" = None) -> Values:
        """(n,) float32: the local scale of each of ``ids``, from the published neighbours, as near-duplicates have it;
        0 where there is none.

        One pass over that table; little of it is in memory. Of a content that is several images only the nearest one
        counts, and none of the image's own. ``contents``: of all images, where the caller has them; else they are read.
        """
        wanted = ids.cast(pa.string())
        contents = contents or Contents.published(self.published, self.fingerprint)
        own = contents.find(wanted)
        parts = [(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))]
        for batch in self._listed(wanted):
            place = pc.fill_null(pc.index_in(batch["image_id"], value_set=wanted), -1).to_numpy()
            rows = batch.filter(pa.array(place >= 0))
            place, content = place[place >= 0].astype(np.int64), contents.find(rows["neighbour_id"])
            is_other = (content < 0) | (content != own[place])
            parts.append((place[is_other], rows["distance"].to_numpy()[is_other], content[is_other]))
        image, distance, content = (np.concatenate(columns) for columns in zip(*parts))
        order = np.lexsort((distance, image))
        image, distance, content = image[order], distance[order], content[order]
        rank = np.arange(len(image)) - np.searchsorted(image, np.arange(len(wanted)))[image]
        shape = len(wanted), int(rank.max(initial=-1)) + 1
        lists, of_list = np.full(shape, np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int64)
        lists[image, rank], of_list[image, rank] = distance, content
        lists[verdicts.repeated(of_list)] = np.inf
        lists.sort(axis=1)
        return local_scale.scales(lists)

    def _listed(self, wanted: pa.Array) -> Iterator[pa.RecordBatch]:
        """Rows of similar neighbours, those of ``wanted`` among them, in batches that are worth a look-up."""
        import pyarrow.dataset as ds

        table = self.published.dataset("neighbours", f"{self.fingerprint}/{self.metric}")
        is_listed = ds.field("relation") == SIMILAR
        if len(wanted) <= _FEW:  # then whole parts of the table can be passed over
            is_listed &= ds.field("image_id").isin(wanted)
        columns = ["image_id", "neighbour_id", "distance"]
        waiting: list[pa.RecordBatch] = []
        for batch in table.to_batches(columns=columns, filter=is_listed, **streaming()):
            waiting.append(batch)
            if sum(map(len, waiting)) >= _ROWS_AT_ONCE:
                yield pa.concat_batches(waiting)
                waiting = []
        if waiting:
            yield pa.concat_batches(waiting)

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


@dataclass(frozen=True)
class Contents:
    """The bytes of all images that are embedded, as numbers. Of vectors of one's own none are known.

    ``ids``: (n,) strings. ``number``: (n,) int64, -1 where bytes are not known.
    """

    ids: pa.Array
    number: Indices

    @classmethod
    def of(cls, ids: pa.Array, contents: pa.Array) -> "Contents":
        """``contents``: (n,) strings, null where bytes are not known."""
        number = contents.dictionary_encode().indices
        return cls(ids, pc.fill_null(number, -1).to_numpy(zero_copy_only=False).astype(np.int64))

    @classmethod
    def published(cls, published: Snapshot, fingerprint: str) -> "Contents":
        columns = ["image_id", "content_sha256"]
        batches = list(published.batches("embeddings", fingerprint, columns))
        table = pa.Table.from_batches(batches, pa.schema([(name, pa.string()) for name in columns]))
        return cls.of(*(table[name].combine_chunks() for name in columns))

    def find(self, ids: pa.Array) -> Indices:
        """(n,): -1 for those that are not known."""
        place = pc.fill_null(pc.index_in(ids.cast(self.ids.type), value_set=self.ids), -1).to_numpy(
            zero_copy_only=False
        )
        numbers: Indices = np.append(self.number, -1)[place]
        return numbers


def judge(published: Snapshot, fingerprint: str, metric: str, key: str | None) -> Judge | None:
    """What the published near-duplicates of ``fingerprint`` and ``metric`` say; None if none are published.

    ``key``: of the vectors that are searched, None for vectors of one's own. Limits of other vectors say nothing.
    """
    runs = published.run_ids("groups", f"{fingerprint}/{metric}/{NEAR_DUPLICATES}")
    record = published.runs.get(runs[0]) if runs else None
    limit = record.settings.get("limit") if record is not None else None
    if record is None or not limit or limit.get("fingerprint_key") != key:
        return None
    if key is None and not _are_of_the_same_vectors(published, record, f"{fingerprint}/{metric}"):
        return None
    limits = Limits(*(limit[name] for name in ("scaled", "strict", "wide", "least")))
    # Earlier versions did not record it. Any that is lower only asks pictures less.
    common = limit.get("common", limits.strict / limits.scaled)
    return Judge(published, fingerprint, metric, limits, common, record.run_id)


def _are_of_the_same_vectors(published: Snapshot, groups: Record, slot: str) -> bool:
    """Whether ``groups`` were made of the vectors of one's own whose neighbours are published now. They have no key."""
    read, now = groups.inputs.get("neighbours") or [], published.run_ids("neighbours", slot)
    if read == now:
        return True
    compared = [
        {published.runs[run].settings.get("compared_sha256") if run in published.runs else None for run in runs}
        for runs in (read, now)
    ]
    return compared[0] == compared[1] and len(compared[0]) == 1 and None not in compared[0]


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

    known = Thumbprints(_allocated(len(contents)), np.zeros(len(contents), dtype=np.bool_))
    wanted = contents.cast(pa.string()).drop_null().unique()
    if key is None or not len(wanted):
        return known
    pixels, is_there = _allocated(len(wanted)), np.zeros(len(wanted), dtype=np.bool_)
    is_wanted = ds.field("content_sha256").isin(wanted) & ds.field("thumbprint").is_valid()
    for table in (published.dataset(VECTORS, key), *_datasets(files)):
        for batch in table.to_batches(columns=["content_sha256", "thumbprint"], filter=is_wanted, **streaming()):
            if len(batch):
                place = pc.index_in(batch.column(0), value_set=wanted).to_numpy()
                joined = b"".join(batch.column(1).to_pylist())
                pixels[place] = np.frombuffer(joined, np.uint8).reshape(len(batch), THUMBPRINT_BYTES)
                is_there[place] = True
    place = pc.fill_null(pc.index_in(contents.cast(pa.string()), value_set=wanted), -1).to_numpy(zero_copy_only=False)
    is_known = (place >= 0) & np.append(is_there, False)[place]
    known.pixels[is_known], known.is_there[is_known] = pixels[place[is_known]], True
    return known


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
