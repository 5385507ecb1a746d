"""Lists of vectors, which hold numbers, become rows of the table, which hold ids of images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from image_similarity.knn import candidates, engine
from image_similarity.knn.candidates import NONE, Keys
from image_similarity.knn.distances import Indices
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.numbers import Images, Sharing
from image_similarity.stages.neighbours.plan import EXACT
from image_similarity.warehouse.schemas import DISSIMILAR, SCHEMAS, SIMILAR

ROWS = pa.schema(
    [
        ("image_id", pa.string()),
        ("relation", pa.string()),
        ("rank", pa.int32()),
        ("neighbour_id", pa.string()),
        ("distance", pa.float32()),
    ]
)
_ROWS_AT_ONCE = 2**18


@dataclass(frozen=True)
class Naming:
    """The parameters of a task; plain values, sent to workers."""

    similar: int
    dissimilar: int
    drop_duplicates: bool
    """Whether only the first of the files with the same bytes can be a neighbour, and never of one of its copies."""

    def named(self, folder: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """`ROWS` for every image of the vectors in ``batches`` (lists as `exact` and `approximate` leave them), in
        order. ``folder``: that of `Images`.
        """
        images = Images.load(folder)
        for batch in batches:
            yield from self.rows_of(images, batch)

    def rows_of(self, images: Images, lists: pa.RecordBatch | pa.Table) -> Iterator[pa.RecordBatch]:
        """The same for some ``lists``."""
        for row in lists.to_pylist():
            vector = np.frombuffer(row["index"], np.int64)
            keys = [candidates.keys_from_bytes(row[relation], len(vector)) for relation in (SIMILAR, DISSIMILAR)]
            yield from self.rows(images, vector, keys[0], keys[1])

    def rows(self, images: Images, vector: Indices, similar: Keys, dissimilar: Keys) -> Iterator[pa.RecordBatch]:
        """`ROWS` for every image of ``vector`` (n,). ``similar``, ``dissimilar`` (n, any): the lists of the vectors."""
        relations = (SIMILAR, self.similar, similar), (DISSIMILAR, self.dissimilar, dissimilar)
        for relation, k, keys in relations:
            step = max(1, _ROWS_AT_ONCE // (k + 1))
            for start in range(0, len(vector) if k else 0, step):
                chunk = slice(start, start + step)
                yield from self._rows(images, vector[chunk], keys[chunk], k, relation)

    def _rows(self, images: Images, vector: Indices, keys: Keys, k: int, relation: str) -> Iterator[pa.RecordBatch]:
        farthest = relation == DISSIMILAR
        if images.sharing is None:
            yield _named(images, engine.ranked(keys[:, :k], vector, farthest), relation)
            return
        image, row = images.sharing.all.of_vectors(vector)
        step = max(1, _ROWS_AT_ONCE // (k + 1))
        for start in range(0, len(image), step):
            chunk = slice(start, start + step)
            image_keys = lists_of(
                images.sharing,
                image[chunk],
                vector[row[chunk]],
                keys[row[chunk], :k],
                k,
                farthest,
                self.drop_duplicates,
            )
            yield _named(images, engine.ranked(image_keys, image[chunk], farthest), relation)


Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


def labelled(rows: Rows, settings: NeighboursSettings, table: str, method: str = EXACT) -> Rows:
    """``rows`` of a search by ``method`` in the schema of ``table``."""
    labels = {"fingerprint": settings.fingerprint, "metric": settings.metric, "method": method}
    columns = []
    for field in SCHEMAS[table]:
        if field.name in rows.schema.names:
            columns.append(rows.column(field.name).cast(field.type))
        else:
            columns.append(pa.repeat(pa.scalar(labels.get(field.name), field.type), len(rows)))
    return type(rows).from_arrays(columns, schema=SCHEMAS[table])


def lists_of(
    sharing: Sharing, image: Indices, vector: Indices, keys: Keys, k: int, farthest: bool, drop_duplicates: bool
) -> Keys:
    """The keys (n, k) of the neighbours of each ``image`` (n,).

    ``vector`` (n,) is the vector of each image, and ``keys`` (n, any) are the keys of that vector's neighbours.
    """
    vectors, row = np.unique(vector, return_inverse=True)
    first = np.zeros(len(vectors), dtype=np.int64)
    first[row[::-1]] = np.arange(len(vector))[::-1]
    best = _shared(sharing, vectors, keys[first], k, farthest, drop_duplicates)
    excluded = sharing.content[image] if drop_duplicates else image
    return _without(excluded, best[row])[:, :k]


def _named(images: Images, ranked: engine.Ranked, relation: str) -> pa.RecordBatch:
    columns = [
        images.ids.take(pa.array(ranked.row)).cast(pa.string()),
        pa.repeat(pa.scalar(relation), len(ranked.row)),
        pa.array(ranked.rank),
        images.ids.take(pa.array(ranked.neighbour)).cast(pa.string()),
        pa.array(ranked.distance),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)


def _shared(sharing: Sharing, vector: Indices, keys: Keys, k: int, farthest: bool, drop_duplicates: bool) -> Keys:
    """The keys (n, k + 1) of the best images for each vector, from the ``keys`` (n, any) of the best other vectors.

    The vector's own images are among the candidates. The lists have one entry more than ``k`` because an image (or the
    image that stands for its copies) is not its own neighbour and is removed later.
    """
    own_key = candidates.key_of(
        np.zeros(len(vector), np.uint32), vector, farthest
    )  # images of one vector are at distance 0 from one another
    with_own = np.concatenate([own_key[:, None], keys], axis=1)
    return (sharing.once if drop_duplicates else sharing.all).best(with_own, k + 1)


def _without(excluded: Indices, keys: Keys) -> Keys:
    """``keys`` (n, any) without ``excluded`` (n,), sorted; `NONE` stands at the end of a list that lost its entry."""
    return np.sort(np.where((keys != NONE) & (candidates.positions_of(keys) == excluded[:, None]), NONE, keys), axis=1)
