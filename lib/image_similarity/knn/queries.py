"""Queries against a collection: the exact neighbours that vectors have among others.

Only the queries get lists. The steps are those of `engine`: scores, exact distances of the best, a proof, and brute
force for the queries whose neighbours that does not prove. A few queries are compared with all vectors exactly, without
scores: to copy the vectors for scores would take longer.

`nearest` is for vectors in memory. Spark's tasks call `list_lengths`, `settled` and `engine` for parts of a collection.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import all_pairs, candidates, distances, engine, scoring
from image_similarity.knn.backends.cpu import Cpu, CpuStrip
from image_similarity.knn.candidates import MAX_INDEX, NONE, Keys, Lists, key_of, least
from image_similarity.knn.distances import Indices, Metric
from image_similarity.knn.engine import Pair, Search
from image_similarity.knn.rerank import Part, Reranker, Scored
from image_similarity.knn.scoring import FLOAT32
from image_similarity.knn.threads import in_threads

T = TypeVar("T")

FEW = 8
"""The most queries that are compared exactly at once."""
STRIP_ROWS = 2048
"""Vectors of a collection that are compared at once."""
_QUERIES_AT_ONCE = 2**14
"""Queries of which each thread has lists. For more of them the collection is copied once more."""
_RERANKED_AT_ONCE = 1024
_BRUTE_FORCE_BYTES = 2**27
"""Memory of a thread for distances in float64."""


def nearest(
    metric: Metric, queries: Part, vectors: Part, similar: int, dissimilar: int, threads: int
) -> tuple[Keys, Keys]:
    """The ``similar`` nearest and the ``dissimilar`` farthest of ``vectors`` (n) for each of ``queries`` (m), exactly.

    Returns sorted keys, (m, similar) and (m, dissimilar) int64: see `candidates`. A key holds the index of a vector; of
    equal distances the least index comes first. Where there are fewer vectors, the rest of a list is `NONE`. A query is
    not its own neighbour: the vector with its index is left out. `strangers` gives queries indices that no vector has.
    All must be usable for ``metric``, and the positions of ``vectors`` must ascend.
    """
    if len(queries) <= FEW:
        return _exactly(metric, queries, vectors, similar, dissimilar, threads)
    dimensions = vectors.vectors.values.shape[1]
    common_scale = scoring.scale_of(_largest(metric, queries, vectors), dimensions, metric)
    search = Search(
        metric.name, FLOAT32.name, dimensions, common_scale, similar, dissimilar, others_of(queries, vectors)
    )
    return searched(search, queries, vectors, threads)


def searched(search: Search, queries: Part, vectors: Part, threads: int) -> tuple[Keys, Keys]:
    """`nearest` as ``search`` says, by scores however few the queries are."""
    answering = Answering(search, queries, vectors, threads)
    answering.compare()
    answering.rerank()
    answering.complete()
    return answering.keys


def strangers(queries: Part) -> Part:
    """``queries`` with indices that no vector has: none is left out of a list."""
    return Part(queries.vectors, queries.positions, queries.index + MAX_INDEX)


def others_of(queries: Part, vectors: Part) -> int:
    """The number of ``vectors`` that can be neighbours of each of ``queries``; of some it may be one less."""
    return len(vectors) - bool(len(vectors) and np.isin(queries.index, vectors.index).all())


def _largest(metric: Metric, *parts: Part) -> float:
    if metric.angular:
        return 0.0
    values = [part.vectors.values for part in parts]
    return float(max(max(of.max(initial=0), -of.min(initial=0)) for of in values))


def _exactly(
    metric: Metric, queries: Part, vectors: Part, similar: int, dissimilar: int, threads: int
) -> tuple[Keys, Keys]:
    """`nearest` by the exact distances of all pairs."""
    rows = np.arange(len(queries))

    def compared(start: int) -> list[Keys]:
        part = vectors[start : start + STRIP_ROWS]
        row, column = np.repeat(rows, len(part)), np.tile(np.arange(len(part)), len(rows))
        bits = distances.pairs(metric, queries.vectors, part.vectors, row, column).reshape(len(rows), len(part))
        itself = queries.index[:, None] == part.index
        # No more than the strip has: a list as long as all vectors would be filled up once for each strip.
        relations = (min(similar, len(part)), False), (min(dissimilar, len(part)), True)
        return [least(np.where(itself, NONE, key_of(bits, part.index, farthest)), k) for k, farthest in relations]

    lists = in_threads(threads, compared, range(0, len(vectors), STRIP_ROWS))
    best = (
        np.concatenate([np.full((len(rows), k), NONE), *(of_strip[relation] for of_strip in lists)], axis=1)
        for relation, k in enumerate((similar, dissimilar))
    )
    near, far = (np.sort(least(keys, k), axis=1) for keys, k in zip(best, (similar, dissimilar)))
    return near, far


# -- the steps, also for Spark's tasks ---------------------------------------------------------------------------------


def list_lengths(search: Search) -> tuple[int, int]:
    """The number of candidates in a list: one more than in other lists, for the vector itself."""
    similar, dissimilar = search.list_lengths
    return similar + bool(similar), dissimilar + bool(dissimilar)


def settled(
    search: Search, queries: Part, scored: Scored, add_vectors: Callable[[Reranker], None]
) -> tuple[Pair, NDArray[np.bool_]]:
    """Exact lists of ``queries`` from their best scores, and which of them (m,) are proven to be the best.

    ``scored``: of `list_lengths`, see `engine.merge`. ``add_vectors``: gives a `Reranker` the candidates' vectors.
    """
    similar, dissimilar = engine.rerank_candidates(queries, scored, add_vectors)
    lists = _without(similar, queries.index), _without(dissimilar, queries.index)
    return lists, engine.certify(search, lists)


def _without(lists: Lists, index: Indices) -> Lists:
    """``lists`` without the queries themselves."""
    itself = (lists.keys != NONE) & (candidates.positions_of(lists.keys) == index[:, None])
    return Lists(np.sort(np.where(itself, NONE, lists.keys), axis=1), lists.lower_bound)


# -- vectors in memory -------------------------------------------------------------------------------------------------


class Answering:
    """Queries and the vectors of a collection, all in memory, compared with threads: see `nearest`.

    `compare`, `rerank` and `complete` are called one after the other. The precision of scores is that of ``search``.
    """

    def __init__(self, search: Search, queries: Part, vectors: Part, threads: int):
        self.search, self.queries, self.vectors, self._threads = search, queries, vectors, max(1, threads)
        self.keys: tuple[Keys, Keys] = (
            np.full((len(queries), search.similar), NONE),
            np.full((len(queries), search.dissimilar), NONE),
        )
        """The sorted lists of all queries."""
        self.uncertain = np.zeros(len(queries), dtype=np.bool_)
        """The queries whose lists scores did not prove."""
        self.pairs = len(queries) * len(vectors)
        self._scored: list[tuple[int, Scored]] = []
        self._done: list[int] = []

    @property
    def pairs_done(self) -> int:
        """Of `pairs` while they are compared by scores; of those with uncertain queries while `complete` runs."""
        return sum(self._done)

    def compare(self) -> None:
        """Collect the candidates of all queries, by scores."""
        self._scored, self._done = [], []
        with all_pairs.one_core(self.search.precision):
            for start in range(0, len(self.queries) if len(self.vectors) else 0, _QUERIES_AT_ONCE):
                self._scored.append((start, self._scores(self.queries[start : start + _QUERIES_AT_ONCE])))

    def _scores(self, queries: Part) -> Scored:
        backend, lengths = Cpu(), list_lengths(self.search)
        strip: CpuStrip = self.search.strip(backend, queries, lengths)
        strips = _OfThreads(strip.with_empty_lists)

        def compare(start: int) -> None:
            part = self.vectors[start : start + STRIP_ROWS]
            engine.compare([strips.own], [self.search.strip(backend, part, (0, 0))])
            self._done.append(len(queries) * len(part))

        in_threads(self._threads, compare, range(0, len(self.vectors), STRIP_ROWS))
        similar, dissimilar = zip(*(of_thread.keys() for of_thread in strips.all))
        return engine.merge(self.search, similar, dissimilar, [of_thread.error for of_thread in strips.all], lengths)

    def rerank(self) -> int:
        """Give all candidates exact distances. Returns the number of queries whose neighbours this does not prove."""
        chunks = [
            (first, start, scored)
            for first, scored in self._scored
            for start in range(0, len(scored.error), _RERANKED_AT_ONCE)
        ]

        def rerank(chunk: tuple[int, int, Scored]) -> None:
            first, start, scored = chunk
            of_chunk = scored.rows(slice(start, start + _RERANKED_AT_ONCE))
            rows = np.arange(first + start, first + start + len(of_chunk.error))
            lists, proven = settled(
                self.search, self.queries[rows], of_chunk, lambda reranker: reranker.add(self.vectors)
            )
            self._keep(rows, lists)
            self.uncertain[rows] = ~proven

        in_threads(self._threads, rerank, chunks)
        self._scored = []
        return int(self.uncertain.sum())

    def complete(self) -> None:
        """Compare the queries that scores did not prove with all vectors by brute force."""
        uncertain, self._done = np.nonzero(self.uncertain)[0], []
        at_once = max(1, _BRUTE_FORCE_BYTES // (8 * (self.search.dimensions + 3 * STRIP_ROWS)))
        with all_pairs.one_core(self.search.precision):
            for start in range(0, len(uncertain), at_once):
                rows = uncertain[start : start + at_once]
                self._keep(rows, self._by_brute_force(self.queries[rows]))

    def _by_brute_force(self, queries: Part) -> Pair:
        k = self.search.similar, self.search.dissimilar
        lists = _OfThreads(lambda: [(Lists.empty(len(queries), k[0]), Lists.empty(len(queries), k[1]))])

        def compare(start: int) -> None:
            part = self.vectors[start : start + STRIP_ROWS]
            best = engine.brute_force(self.search.measure, queries, [part], *k)
            lists.own[0] = _merged(lists.own[0], best)
            self._done.append(len(queries) * len(part))

        in_threads(self._threads, compare, range(0, len(self.vectors), STRIP_ROWS))
        whole, *others = (of_thread[0] for of_thread in lists.all)
        for other in others:
            whole = _merged(whole, other)
        return whole

    def _keep(self, rows: Indices, lists: Pair) -> None:
        for kept, given in zip(self.keys, lists):
            width = min(kept.shape[1], given.keys.shape[1])
            kept[rows, :width] = given.keys[:, :width]


def _merged(a: Pair, b: Pair) -> Pair:
    return a[0].merged(b[0]), a[1].merged(b[1])


class _OfThreads(Generic[T]):
    """What each thread makes for itself. Threads that compare with the same queries would else wait for their lists."""

    def __init__(self, make: Callable[[], T]):
        self._make, self._local = make, threading.local()
        self.all: list[T] = []

    @property
    def own(self) -> T:
        if not hasattr(self._local, "made"):
            self._local.made = self._make()
            self.all.append(self._local.made)
        made: T = self._local.made
        return made
