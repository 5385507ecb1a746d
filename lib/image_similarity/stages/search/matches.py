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

    def only(self, is_listed: NDArray[np.bool_]) -> "Lists":
        """Those of ``is_listed`` (n, k), at the ranks that they have."""
        return Lists(np.where(is_listed, self.image, -1), np.where(is_listed, self.distance, np.float32(np.inf)))


@dataclass(frozen=True)
class Known:
    """What is known of n queries or images beside their vectors.

    ``content``: (n,), where in ``contents`` the file's bytes are; -1 where they are not known. ``contents``: strings,
    each once, the same for queries and images. ``thumbprints``: of ``contents``.
    """

    content: Indices
    contents: pa.Array
    thumbprints: Thumbprints


def copies(published: Snapshot, fingerprint: str, key: str | None, query_contents: pa.Array) -> pa.Array:
    """The images of the collection whose bytes are those of a query: of each content the first by its id."""
    import pyarrow.dataset as ds

    contents = query_contents.cast(pa.string()).drop_null().unique()
    if key is None or not len(contents):
        return pa.array([], pa.string())
    rows = published.dataset("embeddings", fingerprint).to_table(
        columns=["image_id", "content_sha256"], filter=ds.field("content_sha256").isin(contents)
    )
    return rows.group_by("content_sha256").aggregate([("image_id", "min")])["image_id_min"].combine_chunks()


def with_copies(similar: Lists, ids: pa.Array, images: "Known", query_contents: pa.Array) -> Lists:
    """``similar``, with an image of the query's own bytes in each list if there is one among ``ids``.

    A list lacks it only where it is full of images with the same vector, which go by their names. So the copy is as
    near as the last of them, whose place it takes.
    """
    content = _places(query_contents, images.contents)
    copy = np.full(len(images.contents) + 1, -1, dtype=np.int64)
    last_first = pc.sort_indices(ids).to_numpy()[::-1].astype(np.int64)
    copy[images.content[last_first]] = last_first
    copy[-1] = -1
    of_image = np.append(images.content, -1)[similar.image]
    lacks = (copy[content] >= 0) & ~(of_image == content[:, None]).any(axis=1)
    image = similar.image.copy()
    if image.shape[1]:
        image[lacks, -1] = copy[content[lacks]]
    return Lists(image, similar.distance)


def _places(contents: pa.Array, among: pa.Array) -> Indices:
    """(n,): where each of ``contents`` is in ``among``; -1 for null, and for others."""
    place = pc.fill_null(pc.index_in(contents.cast(pa.string()), value_set=among, skip_nulls=True), -1)
    places: Indices = place.to_numpy(zero_copy_only=False).astype(np.int64)
    return places


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
    """The verdict on each pair of lists (n, k), and the best one of each query: (n,), None where nothing was judged."""

    similar: NDArray[np.object_]
    dissimilar: NDArray[np.object_]
    is_same: NDArray[np.bool_]
    """(n, k): whether the similar image has the query's own bytes."""

    @property
    def of_queries(self) -> NDArray[np.object_]:
        best = np.full(len(self.similar), None, dtype=object)
        for verdict in reversed(VERDICTS):
            best[(self.similar == verdict).any(axis=1)] = verdict
        return best

    def listed(self, k: int) -> NDArray[np.bool_]:
        """(n, m): which similar images a query's list has: the first ``k``, and the one that says most, which may come
        later: the first with the query's own bytes, or else the first with its best verdict.
        """
        is_best: NDArray[np.bool_] = self.similar == self.of_queries[:, None]
        has_same = self.is_same.any(axis=1, keepdims=True)
        is_best = (has_same & self.is_same) | (~has_same & is_best)
        is_first_of_them = is_best & (np.cumsum(is_best, axis=1) == 1)
        is_listed: NDArray[np.bool_] = is_first_of_them | (np.arange(self.similar.shape[1]) < k)
        return is_listed


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
    content = _places(query_contents, images.contents)
    scale, image_scale = np.empty(0, np.float32), np.empty(0, np.float32)
    if judge is not None:
        scale = verdicts.scales(similar.distance, np.append(images.content, -1)[similar.image])
        image_scale = judge.scales(ids)
    verdict = [np.full(lists.image.shape, None, dtype=object) for lists in (similar, dissimilar)]
    is_same = [np.zeros(lists.image.shape, dtype=np.bool_) for lists in (similar, dissimilar)]
    for start in range(0, len(content), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        for lists, words, same_of_list in zip((similar, dissimilar), verdict, is_same):
            image, distance = lists.image[rows], lists.distance[rows]
            of_image = np.append(images.content, -1)[image]
            same = same_of_list[rows] = (of_image == content[rows, None]) & (of_image >= 0)
            if judge is None:
                words[rows][same] = YES
                continue
            part = Thumbprints(queries.pixels[rows], queries.is_there[rows])
            scales = np.append(image_scale, np.float32(0))[image]
            words[rows] = judge.verdicts(distance, scale[rows], scales, same, part, images.thumbprints, of_image)
    return Judged(verdict[0], verdict[1], is_same[0])


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
