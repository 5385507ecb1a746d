"""All pairs of vectors in memory, compared by the steps of `engine`: with threads on the processor, or on a GPU."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import distances, engine, scoring
from image_similarity.knn.backends import Backend
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.candidates import NONE, Keys, Lists
from image_similarity.knn.distances import METRICS, Indices, Metric, Values, Vectors
from image_similarity.knn.engine import MAX_UNCERTAIN_SHARE, Pair, Ranked, Search
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import Screen

T = TypeVar("T")
R = TypeVar("R")

_LEAST_STRIP_ROWS = 256
"""In smaller tiles most of the time is Python's, in which threads wait for one another."""
_LEAST_STRIPS = 16
_STRIPS_PER_THREAD = 3
"""A strip is in one tile at a time. With this many threads find two that are free, and end together. The number of
tiles grows with the square of it: with 128 strips, 16 threads took three times as long as 4 threads with 32."""
_MEASURED_VALUES = 2**22
"""Values that a thread measures at once."""
_BRUTE_FORCE_BYTES = 2**27
"""Memory of a thread for distances in float64."""


class AllPairs:
    """All pairs of vectors in memory, compared on one backend; on the processor with threads.

    ``vectors``: their positions are 0, 1, 2... ``is_new`` (n,): pairs of vectors that are both not new are not
    compared; their lists are in ``known`` (n rows each), and are merged in. ``block_rows``: most vectors in a strip.
    ``list_lengths``: the places of lists that are kept; those of the search, unless others are given.
    """

    def __init__(
        self,
        search: Search,
        vectors: Part,
        threads: int = 1,
        block_rows: int | None = None,
        is_new: NDArray[np.bool_] | None = None,
        known: Pair | None = None,
        backend: Backend | None = None,
        list_lengths: tuple[int, int] | None = None,
    ):
        self._backend = backend or Cpu()
        self.search, self.vectors, self._threads, self._known = search, vectors, max(1, threads), known
        self._is_new = np.ones(len(vectors), dtype=np.bool_) if is_new is None else is_new
        self._block_rows = block_rows or self._backend.block_rows
        self._list_lengths = search.list_lengths if list_lengths is None else list_lengths
        new, old = np.nonzero(self._is_new)[0], np.nonzero(~self._is_new)[0]
        self._rows = [*self._cut(new)]
        self._new_strips = len(self._rows)
        self._rows += self._cut(old)
        self._strips: list[Any] = []
        self.pairs = len(new) * (len(new) - 1) // 2 + len(new) * len(old)
        """The number of pairs to compare."""
        self.pairs_done = 0
        self._ending = False
        similar, dissimilar = self._widths()
        self.lists = Lists.empty(len(vectors), similar), Lists.empty(len(vectors), dissimilar)
        """Exact lists of all vectors, by position."""
        self.uncertain = np.zeros(len(vectors), dtype=np.bool_)
        """The vectors whose lists scores did not prove."""
        self._done, self._to_do = 0, 1

    def _widths(self) -> tuple[int, int]:
        similar, dissimilar = self._list_lengths
        if self._known is None:
            return similar, dissimilar
        return max(similar, self._known[0].keys.shape[1]), max(dissimilar, self._known[1].keys.shape[1])

    def _cut(self, rows: Indices) -> list[Indices]:
        if not len(rows):
            return []
        strips = max(_LEAST_STRIPS, _STRIPS_PER_THREAD * self._threads)
        wanted = max(_LEAST_STRIP_ROWS, -(-len(rows) // strips))
        count = -(-len(rows) // min(self._block_rows, wanted))
        return np.array_split(rows, count)

    def _part(self, rows: Indices) -> Part:
        is_slice = len(rows) and rows[-1] - rows[0] == len(rows) - 1
        return self.vectors[slice(int(rows[0]), int(rows[-1]) + 1)] if is_slice else self.vectors[rows]

    def strips(self) -> Sequence[Any]:
        """The vectors while they are compared."""
        if not self._strips:
            with one_core(self.search.precision):
                self._strips = self._in_threads(self._strip, self._rows)
        return self._strips

    def _strip(self, rows: Indices) -> Any:
        return self.search.strip(self._backend, self._part(rows))

    def compare(self) -> None:
        """Collect the candidates of all vectors, by scores."""
        if not self._new_strips:  # there is nothing to compare
            return
        self.strips()
        with one_core(self.search.precision):
            tiles = _Tiles(self._new_strips, len(self._rows), self._threads)
            self._in_threads(lambda _: self._compare_tiles(tiles), range(self._threads))

    def _compare_tiles(self, tiles: "_Tiles") -> None:
        while not self._ending and (tile := tiles.take()) is not None:
            i, j = tile
            try:
                self._strips[i].offer(self._strips[j])
            finally:
                rows = len(self._rows[i])
                tiles.give_back(i, j, rows * (rows - 1) // 2 if i == j else rows * len(self._rows[j]))
            self.pairs_done = tiles.pairs_done

    def rerank(self) -> int:
        """Give all candidates exact distances. Returns the number of vectors whose neighbours this does not prove."""
        with one_core(self.search.precision):
            self._in_threads(self._rerank_strip, range(len(self._rows)))
        return int(self.uncertain.sum())

    def _rerank_strip(self, number: int) -> None:
        rows = self._rows[number]
        lists = self._known_of(rows)
        if self._strips:
            lists = self._backend.rerank(
                self._strips[number], self._strips, self.vectors, self.search.comparison, self._list_lengths, lists
            )
        if lists is not None:
            self._keep(rows, lists)
            self.uncertain[rows] = ~engine.certify(self.search, lists)

    def _known_of(self, rows: Indices) -> Pair | None:
        if self._known is None or self._is_new[rows[0]]:
            return None
        similar, dissimilar = (Lists(lists.keys[rows], lists.lower_bound[rows]) for lists in self._known)
        return similar, dissimilar

    def _keep(self, rows: Indices, lists: Pair) -> None:
        for kept, given in zip(self.lists, lists):
            width = min(given.keys.shape[1], kept.keys.shape[1])
            kept.keys[rows, :width], kept.keys[rows, width:] = given.keys[:, :width], NONE
            kept.lower_bound[rows] = given.lower_bound

    def complete(self) -> None:
        """Compare the vectors that scores did not prove with all others by brute force."""
        rows, dimensions = np.nonzero(self.uncertain)[0], self.search.dimensions
        if len(rows):
            others = max(map(len, self._rows))
            at_once = _BRUTE_FORCE_BYTES // (8 * (dimensions + 3 * others))
            at_once = max(1, min(self._block_rows, at_once, -(-len(rows) // self._threads)))
            chunks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
            self._to_do = len(chunks) * len(self.strips())
            with one_core(self.search.precision):
                self._in_threads(self._by_brute_force, chunks)
        self._strips = []

    @property
    def completed_share(self) -> float:
        """The share of `complete` that is done."""
        return self._done / self._to_do

    def _by_brute_force(self, rows: Indices) -> None:
        lists = engine.best_of(self._exact_keys(self.vectors[rows]), len(rows), *self._list_lengths)
        if not self._ending:
            self._keep(rows, lists)

    def _exact_keys(self, rows: Part) -> Iterator[tuple[Keys, Keys]]:
        for strip in self._strips:
            if self._ending:
                return
            yield strip.brute_force(rows, *self._list_lengths)
            self._done += 1

    def _in_threads(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The results of ``work``, in the order of ``items``. After an error, or a signal, the rest is not done."""
        if self._threads == 1:  # a GPU is the current device of one thread
            return [work(item) for item in items]

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

    def __init__(self, new: int, strips: int, threads: int):
        self._waiting = _in_rounds(new, strips) if threads > 1 else _in_rows(new, strips)
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


def _in_rows(new: int, strips: int) -> list[tuple[int, int]]:
    """All tiles, row by row: a strip stays where it is fast to read."""
    return [(i, j) for i in range(new) for j in range(i, strips)]


def _in_rounds(new: int, strips: int) -> list[tuple[int, int]]:
    """All tiles, in an order in which neighbouring ones seldom share a strip."""
    old, longest = strips - new, max(new, strips - new)
    tiles = [(i, (r - i) % new) for r in range(new) for i in range(new)]
    tiles = [(i, j) for i, j in tiles if i <= j]
    tiles += [(i, new + (i + r) % longest) for r in range(longest if old else 0) for i in range(new)]
    return [(i, j) for i, j in tiles if j < strips]


@contextmanager
def one_core(screen: Screen) -> Iterator[None]:
    """Within this context a product takes one core: threads multiply side by side."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), screen.one_thread():
        yield


def neighbours(
    vectors: Values,
    metric: str,
    similar: int,
    dissimilar: int,
    block_rows: int | None = None,
    screen: Screen | None = None,
    backend: Backend | None = None,
    threads: int = 1,
    report: Callable[[str, int], None] = lambda phase, rows: None,
) -> tuple[Ranked, Ranked]:
    """Similar and dissimilar neighbours among ``vectors`` (n, d) float32.

    ``metric``: a name in `distances.METRICS`; all ``vectors`` must be usable for it. ``similar``, ``dissimilar``: the
    most neighbours of each row. ``block_rows``: most vectors in a block. ``backend``: the processor if it is None. The
    result is the same on every backend. ``threads``: how many compare at once; on the processor only. ``report``:
    called after each phase, with the number of rows that it was about.
    """
    backend, n = backend or Cpu(), len(vectors)
    whole = _measured(vectors, METRICS[metric])
    common_scale = scoring.scale_of(_largest(vectors, METRICS[metric]), vectors.shape[1], METRICS[metric])
    report("measure", n)
    counts = min(similar, n), min(dissimilar, n)  # lists no longer than they can get
    screens = [screen] if screen else backend.screens
    for precision in screens:
        search = Search(metric, precision.name, vectors.shape[1], common_scale, *counts, max(0, n - 1), backend.kind)
        pairs = AllPairs(search, whole, threads, block_rows, backend=backend, list_lengths=counts)
        pairs.strips()
        report("copy", n)
        pairs.compare()
        report(f"compare in {precision.name}", n)
        uncertain = pairs.rerank()
        report("rerank", n)
        if uncertain <= MAX_UNCERTAIN_SHARE * n:
            break
    pairs.complete()
    report("certify", uncertain)
    near, far = pairs.lists
    results = (
        engine.ranked(near.keys[:, : counts[0]], whole.index, False),
        engine.ranked(far.keys[:, : counts[1]], whole.index, True),
    )
    report("table", n)
    return results


def _largest(vectors: Values, metric: Metric) -> float:
    return 0.0 if metric.angular else float(np.abs(vectors).max(initial=0))


def _measured(vectors: Values, metric: Metric) -> Part:
    """``vectors`` with shifts and scales, measured in as many threads as there are processors."""
    index = np.arange(len(vectors), dtype=np.int64)
    values, step = np.ascontiguousarray(vectors), max(1, _MEASURED_VALUES // max(1, vectors.shape[1]))
    with ThreadPoolExecutor(os.cpu_count(), "measure") as pool:
        chunks = [values[start : start + step] for start in range(0, len(values), step)] or [values]
        parts = list(pool.map(lambda chunk: distances.measured(chunk, metric), chunks))
    shift, scale = (np.concatenate([getattr(part, name) for part in parts]) for name in ("shift", "scale"))
    return Part(Vectors(values, shift, scale), index.astype(np.int32), index)
