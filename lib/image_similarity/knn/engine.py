"""Similar and dissimilar neighbours of vectors, exactly: scores of all pairs, exact distances of the best, and a proof.

1. `compare` offers the scores of strips of vectors to each other's lists of candidates.
2. `merge` joins the lists that the same vectors have from several comparisons.
3. `rerank` gives the candidates their exact distances, and a lower bound on what was dropped.
4. `certify` tells the vectors whose neighbours this proves. `brute_force` compares the others with all.

Spark's tasks call these for parts of a collection that is larger than a machine's memory. `Comparison` calls them for
one that is in memory, with threads.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import distances, rerank, scoring
from image_similarity.knn.candidates import _LOW, NONE, Keys, Lists, Strip, least
from image_similarity.knn.distances import BITS_MAX, METRICS, Indices, Metric, Values
from image_similarity.knn.rerank import Part, Reranker, Scored
from image_similarity.knn.scoring import SCREENS, Screen, candidate_count

T = TypeVar("T")
R = TypeVar("R")
Pair = tuple[Lists, Lists]
"""The similar and the dissimilar lists of the same vectors."""

MAX_UNCERTAIN_SHARE = 0.1
"""Share of the compared vectors that may be left to brute force. Above it, another pass in float32 costs less. Measured
with synthetic vectors of 4,096 values, where scores in bfloat16 left 98 % unproven: 8 s for the pass, 65 s for brute
force."""


@dataclass(frozen=True)
class Search:
    """What is looked for, and how it is scored: plain values, which can be sent to workers."""

    metric: str
    screen: str
    """A name in `scoring.SCREENS`: the precision of scores."""
    dimensions: int
    common_scale: float
    """See `scoring.scale_of`."""
    similar: int
    dissimilar: int
    others: int
    """The number of vectors that each vector is compared with."""

    @property
    def measure(self) -> Metric:
        return METRICS[self.metric]

    @property
    def precision(self) -> Screen:
        return SCREENS[self.screen]

    @property
    def list_lengths(self) -> tuple[int, int]:
        """The number of candidates in a list, similar and dissimilar."""
        return candidate_count(self.similar, self.precision), candidate_count(self.dissimilar, self.precision)

    def strip(self, part: Part, list_lengths: tuple[int, int] | None = None) -> Strip:
        """``part`` while it is compared. ``list_lengths``: others than those of the search."""
        copies = scoring.copies(part.vectors, self.measure, self.precision, self.common_scale)
        return Strip(copies, part.positions, *(self.list_lengths if list_lengths is None else list_lengths))

    def scored(self, similar: Keys, dissimilar: Keys, error: Values) -> Scored:
        return Scored(similar, dissimilar, error, self.measure, self.precision, self.dimensions, self.common_scale)


def compare(search: Search, rows: Sequence[Strip], columns: Sequence[Strip], buffer: Values) -> None:
    """Offer the scores of all pairs of ``rows`` and ``columns`` to the lists of both. They may be the same strips: then
    each pair is compared once.

    ``buffer``: float32 memory for the product of two strips.
    """
    for i, strip in enumerate(rows):
        for other in columns[i:] if rows is columns else columns:
            strip.offer(other, search.precision, buffer, search.dimensions)


def merge(
    search: Search,
    similar: Sequence[Keys],
    dissimilar: Sequence[Keys],
    errors: Sequence[Values],
    list_lengths: tuple[int, int] | None = None,
) -> Scored:
    """The lists of scores that the same vectors have from several comparisons, as one list for each vector.

    ``list_lengths``: others than those of the search.
    """
    lengths = search.list_lengths if list_lengths is None else list_lengths
    best = [least(np.concatenate(lists, axis=1), k) for lists, k in zip((similar, dissimilar), lengths)]
    return search.scored(best[0], best[1], np.maximum.reduce(errors))


def rerank_candidates(
    rows: Part, scored: Scored, add_vectors: Callable[[Reranker], None], known: Pair | None = None
) -> Pair:
    """Exact lists of ``rows``. ``add_vectors`` gives a `Reranker` the vectors of all its candidates.

    ``known``: exact lists that ``rows`` have of other neighbours; they are merged in.
    """
    reranker = Reranker(rows, scored, known)
    add_vectors(reranker)
    lists = reranker.lists()
    return lists if known is None else (known[0].merged(lists[0]), known[1].merged(lists[1]))


def certify(search: Search, lists: Pair) -> NDArray[np.bool_]:
    """(n,): whether the neighbours of a vector in both of its lists are proven to be the best."""
    similar, dissimilar = lists
    proven: NDArray[np.bool_] = similar.certain(search.similar, search.others) & dissimilar.certain(
        search.dissimilar, search.others
    )
    return proven


def brute_force(metric: Metric, rows: Part, others: Iterable[Part], similar: int, dissimilar: int) -> Pair:
    """The exact lists of ``rows`` among ``others``, all of which they are compared with, without scores."""
    lists = Lists.empty(len(rows), similar), Lists.empty(len(rows), dissimilar)
    for other in others:
        near, far = rerank.brute_force(
            metric, rows.vectors, rows.index, other.vectors, other.index, similar, dissimilar
        )
        lists = lists[0].merged(Lists.complete(near)), lists[1].merged(Lists.complete(far))
    return lists


# -- in memory ---------------------------------------------------------------------------------------------------------

_LEAST_STRIP_ROWS = 64
_STRIPS_PER_THREAD = 8
"""A strip is in one tile at a time. With this many, threads find one that is free, and end together."""
_BRUTE_FORCE_BYTES = 2**27
"""Memory of a thread for distances in float64."""


class Comparison:
    """All pairs of vectors in memory, compared with threads.

    ``vectors``: their positions are 0, 1, 2... ``is_new`` (n,): pairs of vectors that are both not new are not
    compared; their lists are in ``known`` (n rows each), and are merged in. ``block_rows``: most vectors in a strip.
    """

    def __init__(
        self,
        search: Search,
        vectors: Part,
        threads: int = 1,
        block_rows: int = 2048,
        is_new: NDArray[np.bool_] | None = None,
        known: Pair | None = None,
    ):
        self.search, self.vectors, self._threads, self._known = search, vectors, max(1, threads), known
        self._is_new = np.ones(len(vectors), dtype=np.bool_) if is_new is None else is_new
        new, old = np.nonzero(self._is_new)[0], np.nonzero(~self._is_new)[0]
        self._rows = [*self._cut(new, block_rows)]
        self._new_strips = len(self._rows)
        self._rows += self._cut(old, block_rows)
        self._block_rows = block_rows
        self._strips: list[Strip] = []
        self.pairs = len(new) * (len(new) - 1) // 2 + len(new) * len(old)
        """The number of pairs to compare."""
        self.pairs_done = 0
        self._ending = False
        similar, dissimilar = self._widths()
        self.lists = Lists.empty(len(vectors), similar), Lists.empty(len(vectors), dissimilar)
        """Exact lists of all vectors, by position."""
        self.uncertain = np.zeros(len(vectors), dtype=np.bool_)
        """The vectors whose lists scores did not prove."""
        self._blocks_done, self._blocks_to_do = 0, 1

    def _widths(self) -> tuple[int, int]:
        lengths = self.search.list_lengths
        if self._known is None:
            return lengths
        return tuple(max(k, known.keys.shape[1]) for k, known in zip(lengths, self._known))

    def _cut(self, rows: Indices, block_rows: int) -> list[Indices]:
        if not len(rows):
            return []
        wanted = max(_LEAST_STRIP_ROWS, -(-len(rows) // (_STRIPS_PER_THREAD * self._threads)))
        count = -(-len(rows) // min(block_rows, wanted))
        return np.array_split(rows, count)

    def _part(self, rows: Indices) -> Part:
        is_slice = len(rows) and rows[-1] - rows[0] == len(rows) - 1
        return self.vectors[slice(int(rows[0]), int(rows[-1]) + 1)] if is_slice else self.vectors[rows]

    def strips(self) -> Sequence[Strip]:
        """The vectors while they are compared."""
        if not self._strips:
            with one_core(self.search.screen):
                self._strips = self._in_threads(lambda rows: self.search.strip(self._part(rows)), self._rows)
        return self._strips

    def compare(self) -> None:
        """Collect the candidates of all vectors, by scores."""
        if not self._new_strips:  # there is nothing to compare
            return
        self.strips()
        with one_core(self.search.screen):
            tiles, largest = _Tiles(self._new_strips, len(self._rows)), max(map(len, self._rows))
            self._in_threads(lambda _: self._compare_tiles(tiles, largest), range(self._threads))

    def _compare_tiles(self, tiles: "_Tiles", largest: int) -> None:
        buffer = np.empty((largest, largest), dtype=np.float32)
        while not self._ending and (tile := tiles.take()) is not None:
            i, j = tile
            try:
                self._strips[i].offer(self._strips[j], self.search.precision, buffer, self.search.dimensions)
            finally:
                rows = len(self._rows[i])
                tiles.give_back(i, j, rows * (rows - 1) // 2 if i == j else rows * len(self._rows[j]))
            self.pairs_done = tiles.pairs_done

    def rerank(self) -> int:
        """Give all candidates exact distances. Returns the number of vectors whose neighbours this does not prove."""
        with one_core(self.search.screen):
            self._in_threads(self._rerank_strip, range(len(self._rows)))
        self._strips = []
        return int(self.uncertain.sum())

    def _rerank_strip(self, number: int) -> None:
        rows = self._rows[number]
        part, lists = self._part(rows), self._known_of(rows)
        if self._strips:
            strip = self._strips[number]
            scored = self.search.scored(strip.similar.keys(), strip.dissimilar.keys(), strip.error)
            lists = rerank_candidates(part, scored, lambda reranker: reranker.add(self.vectors), lists)
        if lists is not None:
            self._keep(rows, lists)
            self.uncertain[rows] = ~certify(self.search, lists)

    def _known_of(self, rows: Indices) -> Pair | None:
        if self._known is None or self._is_new[rows[0]]:
            return None
        similar, dissimilar = (Lists(lists.keys[rows], lists.lower_bound[rows]) for lists in self._known)
        return similar, dissimilar

    def _keep(self, rows: Indices, lists: Pair) -> None:
        for kept, given in zip(self.lists, lists):
            kept.keys[rows] = given.widened(kept.keys.shape[1]).keys
            kept.lower_bound[rows] = given.lower_bound

    def complete(self) -> None:
        """Compare the vectors that scores did not prove with all others by brute force."""
        rows, dimensions = np.nonzero(self.uncertain)[0], self.search.dimensions
        at_once = _BRUTE_FORCE_BYTES // (8 * (dimensions + 3 * self._block_rows))
        at_once = max(1, min(self._block_rows, at_once, -(-len(rows) // self._threads)))
        with one_core(self.search.screen):
            chunks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
            self._blocks_to_do = max(1, len(chunks) * -(-len(self.vectors) // self._block_rows))
            self._in_threads(self._by_brute_force, chunks)

    @property
    def completed_share(self) -> float:
        """The share of `complete` that is done."""
        return self._blocks_done / self._blocks_to_do

    def _by_brute_force(self, rows: Indices) -> None:
        lists = brute_force(self.search.measure, self.vectors[rows], self._blocks(), *self.search.list_lengths)
        if not self._ending:
            self._keep(rows, lists)

    def _blocks(self) -> Iterator[Part]:
        for start in range(0, len(self.vectors), self._block_rows):
            if self._ending:
                return
            yield self.vectors[start : start + self._block_rows]
            self._blocks_done += 1

    def _in_threads(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The results of ``work``, in the order of ``items``. After an error, or a signal, the rest is not done."""

        def guarded(item: T) -> R:
            with self._ending_after_errors():
                return work(item)

        with ThreadPoolExecutor(self._threads) as pool:
            futures = [pool.submit(guarded, item) for item in items]
            try:
                with self._ending_after_errors():
                    wait(futures, return_when=FIRST_EXCEPTION)
                    return [future.result() for future in futures if future.done()]
            finally:
                pool.shutdown(cancel_futures=True)

    @contextmanager
    def _ending_after_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # signals, too
            self._ending = True
            raise


class _Tiles:
    """Pairs of strips, each given to one thread. A tile updates the lists of both strips, so that no two tiles that are
    out have a strip in common.

    ``new``: the first strips, which are compared with one another and with all others.
    """

    def __init__(self, new: int, strips: int):
        self._waiting = _in_rounds(new, strips)
        self._busy: set[int] = set()
        self._changed = threading.Condition()
        self.pairs_done = 0

    def take(self) -> tuple[int, int] | None:
        """The next tile, once there is one whose strips are free; None if all were given."""
        with self._changed:
            while self._waiting:
                for number, (i, j) in enumerate(self._waiting):
                    if i not in self._busy and j not in self._busy:
                        del self._waiting[number]
                        self._busy |= {i, j}
                        return i, j
                self._changed.wait()
            return None

    def give_back(self, i: int, j: int, pairs: int) -> None:
        with self._changed:
            self._busy -= {i, j}
            self.pairs_done += pairs
            self._changed.notify_all()


def _in_rounds(new: int, strips: int) -> list[tuple[int, int]]:
    """All tiles, in an order in which neighbouring ones seldom share a strip."""
    old, longest = strips - new, max(new, strips - new)
    tiles = [(i, (r - i) % new) for r in range(new) for i in range(new)]
    tiles = [(i, j) for i, j in tiles if i <= j]
    tiles += [(i, new + (i + r) % longest) for r in range(longest if old else 0) for i in range(new)]
    return [(i, j) for i, j in tiles if j < strips]


@contextmanager
def one_core(screen: str) -> Iterator[None]:
    """Within this context a product takes one core: threads multiply side by side."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), SCREENS[screen].one_thread():
        yield


# -- lists as rows -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """Neighbours in long form, arrays of one length: row (int64), rank (int32, from 1), neighbour (int64), distance
    (float32).
    """

    row: Indices
    rank: NDArray[np.int32]
    neighbour: Indices
    distance: Values


def ranked(keys: Keys, index: Indices, farthest: bool) -> Ranked:
    """The lists of the rows ``index``, sorted, in long form. ``farthest``: the neighbours are dissimilar ones."""
    ordered = np.sort(keys, axis=1)
    row, place = np.nonzero(ordered != NONE)
    kept = ordered[row, place]
    bits = kept >> 32
    bits = BITS_MAX - bits if farthest else bits
    return Ranked(
        row=index[row],
        rank=(place + 1).astype(np.int32),
        neighbour=kept & _LOW,
        distance=bits.astype(np.uint32).view(np.float32),
    )


def neighbours(
    vectors: Values,
    metric: str,
    similar: int,
    dissimilar: int,
    block_rows: int = 2048,
    screen: Screen = scoring.FLOAT32,
    threads: int = 1,
) -> tuple[Ranked, Ranked]:
    """Similar and dissimilar neighbours among ``vectors`` (n, d) float32.

    ``metric``: a name in `distances.METRICS`; all ``vectors`` must be usable for it. ``similar``, ``dissimilar``: the
    most neighbours of each row. ``block_rows``: most vectors in a block. ``threads``: how many compare at once.
    """
    chosen, n = METRICS[metric], len(vectors)
    index = np.arange(n, dtype=np.int64)
    whole = Part(distances.measured(vectors, chosen), index.astype(np.int32), index)
    common_scale = scoring.scale_of(float(np.abs(vectors).max(initial=0)), vectors.shape[1], chosen)
    search = Search(metric, screen.name, vectors.shape[1], common_scale, similar, dissimilar, max(0, n - 1))
    comparison = Comparison(search, whole, threads, block_rows)
    comparison.compare()
    comparison.rerank()
    comparison.complete()
    near, far = comparison.lists
    return ranked(near.keys[:, :similar], index, False), ranked(far.keys[:, :dissimilar], index, True)
