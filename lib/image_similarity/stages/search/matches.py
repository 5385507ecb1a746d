"""Answers -> the rows of ``matches``, and what they say of each query."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.grouping import verdicts
from image_similarity.grouping.verdicts import NEAR, NO, YES
from image_similarity.knn.distances import Indices, Values
from image_similarity.stages.search import judging
from image_similarity.stages.search.judging import Judge, Thumbprints
from image_similarity.warehouse.schemas import DISSIMILAR, SCHEMAS, SIMILAR
from image_similarity.warehouse.snapshot import Snapshot

_QUERIES_AT_ONCE = 4096
VERDICTS = (YES, NEAR, NO)


@dataclass(frozen=True)
class Lists:
    """The images that answer n queries, of one relation, ranked.

    ``image``: (n, k) int64, places among ids; -1 where there are fewer. ``distance``: (n, k) float32, inf there.
    """

    image: Indices
    distance: Values

    @classmethod
    def of(cls, row: Indices, rank: NDArray[np.int32], image: Indices, distance: Values, queries: int) -> "Lists":
        """From long form: ``row`` of a query, ``rank`` from 1."""
        k = int(rank.max(initial=0))
        lists = cls(np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), np.inf, dtype=np.float32))
        lists.image[row, rank - 1], lists.distance[row, rank - 1] = image, distance
        return lists

    def first(self, k: int) -> "Lists":
        return Lists(self.image[:, :k], self.distance[:, :k])


@dataclass(frozen=True)
class Known:
    """What is known of n queries or images beside their vectors.

    ``content``: (n,), where in ``contents`` the file's bytes are; -1 where they are not known. ``contents``: strings,
    each once, the same for queries and images. ``thumbprints``: of ``contents``.
    """

    content: Indices
    contents: pa.Array
    thumbprints: Thumbprints


def known(published: Snapshot, fingerprint: str, key: str | None, ids: pa.Array) -> Known:
    """Of images of the collection, by the bytes that are embedded."""
    import pyarrow.dataset as ds

    nothing = np.full(len(ids), -1, dtype=np.int64)
    if key is None:
        return Known(
            nothing, pa.array([], pa.string()), judging.thumbprints(published, None, pa.array([], pa.string()))
        )
    wanted = ids.cast(pa.string())
    rows = published.dataset("embeddings", fingerprint).to_table(
        columns=["image_id", "content_sha256"], filter=ds.field("image_id").isin(wanted)
    )
    place = pc.index_in(wanted, value_set=rows["image_id"].combine_chunks())
    of_image = rows["content_sha256"].combine_chunks().take(place)
    contents = of_image.drop_null().unique()
    content = pc.fill_null(pc.index_in(of_image, value_set=contents), -1).to_numpy(zero_copy_only=False)
    return Known(content.astype(np.int64), contents, judging.thumbprints(published, key, contents))


@dataclass(frozen=True)
class Judged:
    """The verdict on each pair of lists, and the best one of each query: (n,), None where nothing was judged."""

    similar: NDArray[np.object_]
    dissimilar: NDArray[np.object_]

    @property
    def of_queries(self) -> NDArray[np.object_]:
        found = np.full(len(self.similar), None, dtype=object)
        for verdict in reversed(VERDICTS):
            found[(self.similar == verdict).any(axis=1)] = verdict
        return found


def judged(
    judge: Judge | None,
    similar: Lists,
    dissimilar: Lists,
    ids: pa.Array,
    images: Known,
    query_contents: pa.Array,
    queries: Thumbprints,
) -> Judged:
    """``ids``: of the images that `Lists` name. ``query_contents``: (n,) strings, null where bytes are not known.
    ``queries``: the thumbprints of all n.

    Without a ``judge`` only the same bytes are told: they are the same picture whatever a limit is.
    """
    content = pc.fill_null(pc.index_in(query_contents, value_set=images.contents), -1).to_numpy(zero_copy_only=False)
    scale, image_scale = np.empty(0, np.float32), np.empty(0, np.float32)
    if judge is not None:
        scale = verdicts.scales(similar.distance, np.append(images.content, -1)[similar.image])
        image_scale = judge.scales(ids)
    verdict = [np.full(lists.image.shape, None, dtype=object) for lists in (similar, dissimilar)]
    for start in range(0, len(content), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        for lists, found in zip((similar, dissimilar), verdict):
            image, distance = lists.image[rows], lists.distance[rows]
            of_image = np.append(images.content, -1)[image]
            same = (of_image == content[rows, None]) & (of_image >= 0)
            if judge is None:
                found[rows][same] = YES
                continue
            part = Thumbprints(queries.pixels[rows], queries.is_there[rows])
            scales = np.append(image_scale, np.float32(0))[image]
            found[rows] = judge.verdicts(distance, scale[rows], scales, same, part, images.thumbprints, of_image)
    return Judged(*verdict)


@dataclass(frozen=True)
class Table:
    """The columns of ``matches`` that are the same in all rows."""

    queries: str
    fingerprint: str
    metric: str

    def rows(
        self, rows: pa.Table, ids: pa.Array, similar: Lists, dissimilar: Lists, judged: Judged
    ) -> Iterator[pa.RecordBatch]:
        """All rows: those of similar images first, each relation in the order of the queries ``rows``, then by rank."""
        relations = ((SIMILAR, similar, judged.similar), (DISSIMILAR, dissimilar, judged.dissimilar))
        for relation, lists, verdict in relations:
            for start in range(0, len(rows), _QUERIES_AT_ONCE):
                row, place = np.nonzero(lists.image[start : start + _QUERIES_AT_ONCE] >= 0)
                if len(row):
                    yield self._batch(rows, ids, relation, lists, verdict, row + start, place)

    def _batch(
        self,
        rows: pa.Table,
        ids: pa.Array,
        relation: str,
        lists: Lists,
        verdict: NDArray[np.object_],
        row: Indices,
        place: Indices,
    ) -> pa.RecordBatch:
        taken = pa.array(row)
        columns = {
            "query_id": rows["query_id"].take(taken).combine_chunks(),
            "query_uri": rows["query_uri"].take(taken).combine_chunks(),
            "image_id": ids.take(pa.array(lists.image[row, place])).cast(pa.string()),
            "rank": pa.array(place + 1, pa.int32()),
            "distance": pa.array(lists.distance[row, place]),
            "verdict": pa.array(verdict[row, place], pa.string()),
        }
        same = {"queries": self.queries, "fingerprint": self.fingerprint, "metric": self.metric, "relation": relation}
        columns |= {name: pa.repeat(pa.scalar(value, pa.string()), len(row)) for name, value in same.items()}
        schema = SCHEMAS["matches"]
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
