"""What was found for each query, as ids and distances, whichever runner compared."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.knn import engine
from image_similarity.knn.candidates import Keys
from image_similarity.knn.distances import Indices
from image_similarity.knn.engine import Ranked
from image_similarity.knn.screening import Choice

_KEYS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Answers:
    """The images that look most, and least, like each query. ``row`` and ``neighbour`` of a relation are indices into
    ``queries`` and ``images``; its rows are in the order of queries, then of ranks.
    """

    queries: pa.Array
    """The ids of all queries that were compared (large_string), in the order of their bytes."""
    images: pa.Array
    """The ids that occur in answers (large_string), in the order of their bytes."""
    similar: Ranked
    dissimilar: Ranked
    failures: pa.Table
    """image_id, reason, detail (strings): the queries that could not be compared, with the reasons of
    `find_neighbours`."""
    compared: int
    """The images of the collection that queries were compared with."""
    left_out: int
    """The images of the collection whose vectors have no such distance, or another length than the others."""
    dimensions: int
    brute_force: int
    """The number of distinct queries whose scores did not prove their answers, and which were compared by brute
    force."""
    screen: Choice
    """The precision of scores, and why."""

    @property
    def query_ids(self) -> pa.Array:
        """The ids of all queries (large_string), those that could not be compared, too, in the order of their bytes."""
        failed = self.failures["image_id"].cast(pa.large_string()).combine_chunks()
        ids = pa.concat_arrays([self.queries.cast(pa.large_string()), failed])
        return ids.take(pc.sort_indices(ids))


@dataclass(frozen=True)
class Nearest:
    """What a runner found for distinct queries (m): their numbers, and their sorted lists of distinct vectors."""

    vector: Indices
    similar: Keys
    dissimilar: Keys
    brute_force: int
    screen: Choice


class Images(Protocol):
    """Ids by number, and which of them share a vector."""

    @property
    def ids(self) -> pa.Array: ...

    def best(self, keys: Keys, k: int) -> Keys:
        """The best images, from the lists of the best vectors."""
        ...

    def with_vectors(self, vector: Indices) -> tuple[Indices, Indices]:
        """The images of vectors, ascending, and for each the index of its vector in ``vector``."""
        ...


class Vectors(Protocol):
    """The usable vectors of one side, checked and numbered, and what is known of the others."""

    @property
    def failures(self) -> pa.Table: ...

    @property
    def dimensions(self) -> int:
        """Length of a vector; 0 if there is none."""
        ...

    @property
    def largest(self) -> float:
        """The largest absolute value in any vector."""
        ...


def named(queries: Images, failures: pa.Table, collection: Images, vectors: Vectors, neighbours: Nearest) -> Answers:
    """``neighbours`` with ids. ``queries``: the images with the vectors of ``neighbours``; ``failures``: the others.

    ``collection``: the images of ``vectors``.
    """
    image, row = queries.with_vectors(neighbours.vector)
    similar, dissimilar = (
        engine.ranked(_of_images(collection, keys)[row], image, farthest)
        for farthest, keys in ((False, neighbours.similar), (True, neighbours.dissimilar))
    )
    occurring = np.unique(np.concatenate([similar.neighbour, dissimilar.neighbour]))
    similar, dissimilar = (
        replace(ranked, neighbour=np.searchsorted(occurring, ranked.neighbour)) for ranked in (similar, dissimilar)
    )
    everyone = pa.array(np.arange(len(queries.ids)))
    return Answers(
        queries.ids.take(everyone),  # a copy: the file that they are in may be gone soon
        collection.ids.take(pa.array(occurring)),
        similar,
        dissimilar,
        failures.select(["image_id", "reason", "detail"]),
        len(collection.ids),
        len(vectors.failures),
        vectors.dimensions,
        neighbours.brute_force,
        neighbours.screen,
    )


def _of_images(collection: Images, keys: Keys) -> Keys:
    """``keys`` (m, k) of vectors as keys of images."""
    k = keys.shape[1]
    step = max(1, _KEYS_AT_ONCE // max(1, k * k))
    best = [collection.best(keys[start : start + step], k) for start in range(0, len(keys), step)]
    return np.concatenate([np.empty((0, k), np.int64), *best])
