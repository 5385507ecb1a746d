"""From lists of vectors, in numbers, to rows of the table, with the names of images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from image_similarity.knn import candidates, engine
from image_similarity.knn.candidates import NONE, Keys
from image_similarity.knn.distances import Indices
from image_similarity.stages.neighbours.numbers import Images, Sharing
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

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
    """What tasks need to know; plain values, sent to workers."""

    folder: str
    """Of `Images`."""
    similar: int
    dissimilar: int
    one_of_copies: bool
    """Of files with the same bytes only the first is a neighbour, and none of its own copies."""

    def named(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """`ROWS` from lists of vectors (`exact`, `approximate`): for every image with one of the vectors, in order."""
        images = Images.load(self.folder)
        for batch in batches:
            for lists in batch.to_pylist():
                vector = np.frombuffer(lists["index"], np.int64)
                for relation, k in ((SIMILAR, self.similar), (DISSIMILAR, self.dissimilar)):
                    keys = candidates.keys_from_bytes(lists[relation], len(vector))
                    step = max(1, _ROWS_AT_ONCE // (k + 1))
                    for start in range(0, len(vector) if k else 0, step):
                        some = slice(start, start + step)
                        yield from self._rows(images, vector[some], keys[some], k, relation)

    def _rows(self, images: Images, vector: Indices, keys: Keys, k: int, relation: str) -> Iterator[pa.RecordBatch]:
        farthest = relation == DISSIMILAR
        if images.sharing is None:
            yield _named(images, engine.ranked(keys[:, :k], vector, farthest), relation)
            return
        image, row = images.sharing.all.of(vector)
        step = max(1, _ROWS_AT_ONCE // (k + 1))
        for start in range(0, len(image), step):
            some = slice(start, start + step)
            own = lists_of(
                images.sharing, image[some], vector[row[some]], keys[row[some], :k], k, farthest, self.one_of_copies
            )
            yield _named(images, engine.ranked(own, image[some], farthest), relation)


def lists_of(
    sharing: Sharing, image: Indices, vector: Indices, keys: Keys, k: int, farthest: bool, one_of_copies: bool
) -> Keys:
    """(n, k): the keys of the neighbours of each ``image``, from the ``keys`` (n, any) of those of its ``vector``."""
    each, row = np.unique(vector, return_inverse=True)
    first = np.zeros(len(each), dtype=np.int64)
    first[row[::-1]] = np.arange(len(vector))[::-1]
    best = _shared(sharing, each, keys[first], k, farthest, one_of_copies)
    itself = sharing.content[image] if one_of_copies else image
    return _without(itself, best[row])[:, :k]


def _named(images: Images, found: engine.Ranked, relation: str) -> pa.RecordBatch:
    columns = [
        images.ids.take(pa.array(found.row)).cast(pa.string()),
        pa.repeat(pa.scalar(relation), len(found.row)),
        pa.array(found.rank),
        images.ids.take(pa.array(found.neighbour)).cast(pa.string()),
        pa.array(found.distance),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)


def _shared(sharing: Sharing, vector: Indices, keys: Keys, k: int, farthest: bool, one_of_copies: bool) -> Keys:
    """(n, k + 1): the best images for each vector, from the keys (n, any) of the best vectors; its own images are among
    them.

    One more than asked for, since an image (or the one that stands for its copies) is not its own neighbour.
    """
    own = candidates.key_of(
        np.zeros(len(vector), np.uint32), vector, farthest
    )  # they are at distance 0 from one another
    with_own = np.concatenate([own[:, None], keys], axis=1)
    row, place = np.nonzero(with_own != NONE)
    key = with_own[row, place]
    image, of = (sharing.once if one_of_copies else sharing.all).of(candidates.positions_of(key), k + 1)
    row, key = row[of], candidates.moved(key[of], image)
    order = np.lexsort((key, row))
    row, key = row[order], key[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    best = np.full((len(vector), k + 1), NONE)
    kept = place <= k
    best[row[kept], place[kept]] = key[kept]
    return best


def _without(itself: Indices, best: Keys) -> Keys:
    """``best`` (n, any) without ``itself`` (n,)."""
    return np.sort(np.where((best != NONE) & (candidates.positions_of(best) == itself[:, None]), NONE, best), axis=1)
