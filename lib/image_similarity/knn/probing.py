"""Likely pairs of vectors in memory: each vector is compared with the partitions whose centres are nearest to it.

The vectors are cut into partitions. A vector's *home* is the partition with the nearest centre; a vector of rank r to a
partition has r centres that are nearer. With nprobe p, a pair is compared if either vector has a rank below p to the
other's home. So the share of true neighbours that p finds is known from a sample before anything is compared (`ranks`).

A list holds the best of all pairs that were compared, in the order of score and position. It does not depend on threads
or on the order in which pairs are compared.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.candidates import Keys, keys_of_scores
from image_similarity.knn.distances import Indices, Values
from image_similarity.knn.running_lists import gather, keep_best, keep_of_probers, keep_within, least, merge
from image_similarity.knn.scoring import Copies
from image_similarity.knn.threads import in_threads

T = TypeVar("T")
R = TypeVar("R")

_ROWS_AT_ONCE = 4096
_PROBERS_AT_ONCE, _RESIDENTS_AT_ONCE = 1024, 2048
"""Vectors that are multiplied at once: rows, and columns of the partition."""
_PROBES_AT_ONCE = 2**17
"""Pairs of a vector and a partition between two merges: what they offer is in memory."""

Offers = tuple[NDArray[np.int32], NDArray[np.int32], Values]
"""Arrays (m,): a row, its candidate, and their score."""


class Probing:
    """Lists of ``list_length`` candidates for vectors in memory, by the pairs that partitions suggest.

    ``copied``: makes copies of some of n vectors, by row (`scoring.copies`); ``index`` (n,): what orders those of one
    partition, and decides between equal scores; ``centres``: (m, d), see `partitioning.centres`.
    """

    def __init__(
        self, copied: Callable[[Indices], Copies], index: Indices, centres: Values, list_length: int, threads: int
    ):
        self._threads, self._centres = max(1, threads), centres
        self._half_centres = (np.einsum("ij,ij->i", centres, centres) / 2).astype(np.float32)
        n, everyone = len(index), np.arange(len(index))
        home = np.empty(n, dtype=np.int32)

        def assign(rows: slice) -> None:
            home[rows] = self._distances(copied(everyone[rows]).low).argmin(axis=1)

        self._each(assign, _slices(0, n, _ROWS_AT_ONCE))
        self.order: Indices = np.lexsort((index, home))
        """(n,): the row of the vector at each place. Places are ordered by home."""
        self._home, self._half = home[self.order], np.empty(n, dtype=np.float32)
        self._starts = np.searchsorted(self._home, np.arange(len(centres) + 1))
        self._low = np.empty((n, centres.shape[1]), dtype=np.float32)

        def place(rows: slice) -> None:
            copies = copied(self.order[rows])
            self._low[rows], self._half[rows] = copies.low, copies.half

        self._each(place, _slices(0, n, _ROWS_AT_ONCE))
        self._scores = np.full((n, list_length), -np.inf, dtype=np.float32)
        self._positions = np.full((n, list_length), -1, dtype=np.int32)
        self._cut = np.full(n, -np.inf, dtype=np.float32)
        self._probes = np.empty((n, 0), dtype=np.int32)
        self.nprobe = 0
        """Partitions that every vector was compared with, its home among them."""
        self.pairs_done = 0

    def __len__(self) -> int:
        return len(self._home)

    @property
    def nlist(self) -> int:
        return len(self._centres)

    def pairs(self, nprobe: int) -> int:
        """About how many pairs are multiplied until every vector has probed ``nprobe`` partitions."""
        sizes = np.diff(self._starts).astype(np.float64)
        return int((sizes**2).sum() * (min(nprobe, self.nlist) - 0.5))

    def _distances(self, rows: Values) -> Values:
        """(n, m): half of the squared distance to each centre, less a constant of each row."""
        distances: Values = self._half_centres - rows @ self._centres.T
        return distances

    # -- what a sample tells before anything is compared ---------------------------------------------------------------

    def nearest(self, places: Indices, k: int) -> NDArray[np.int32]:
        """(s, min(k, n - 1)): the places of the nearest others of the vectors at ``places``, by scores of all."""
        k = min(k, len(self) - 1)
        nearest = np.empty((len(places), k), dtype=np.int32)

        def compare(rows: slice) -> None:
            chosen = places[rows]
            scores = np.full((len(chosen), k), -np.inf, dtype=np.float32)
            positions = np.full((len(chosen), k), -1, dtype=np.int32)
            cut = np.full(len(chosen), -np.inf, dtype=np.float32)
            for columns in _slices(0, len(self), _ROWS_AT_ONCE):
                product = self._low[chosen] @ self._low[columns].T
                keep_best(product, self._half[columns], chosen, columns.start, scores, positions, cut)
            nearest[rows] = positions

        self._each(compare, _slices(0, len(places), max(1, min(256, -(-len(places) // self._threads)))))
        return nearest

    def ranks(self, places: Indices, others: NDArray[np.int32]) -> NDArray[np.int32]:
        """(s, k): for each pair of ``places`` (s,) and ``others`` (s, k) the least rank that either has to the other's
        home. nprobe must exceed it for the pair to be compared.
        """
        ranks = np.empty(others.shape, dtype=np.int32)

        def rank(rows: slice) -> None:
            mine, theirs = places[rows], others[rows].ravel()
            row = np.repeat(np.arange(len(mine)), others.shape[1])
            to_theirs = _rank(self._distances(self._low[mine]), row, self._home[theirs])
            to_mine = _rank(self._distances(self._low[theirs]), np.arange(len(theirs)), self._home[mine][row])
            ranks[rows] = np.minimum(to_theirs, to_mine).reshape(-1, others.shape[1])

        self._each(rank, _slices(0, len(places), 64))
        return ranks

    # -- comparing -----------------------------------------------------------------------------------------------------

    def compare(self, nprobe: int) -> None:
        """Compare every vector with the ``nprobe`` partitions that are nearest, so far as it was not yet."""
        nprobe = min(nprobe, self.nlist)
        if nprobe <= self.nprobe:
            return
        if not self.nprobe:
            self._each(self._within, range(self.nlist))
        first = max(1, self.nprobe)
        self._probes = self._nearest_partitions(nprobe)
        while first < nprobe:
            # Few at first: what they find keeps most of the later pairs out of the lists.
            end = min(2 * first, nprobe)
            self._probe(first, end)
            first = end
        self.nprobe = nprobe

    def _nearest_partitions(self, count: int) -> NDArray[np.int32]:
        probes = np.empty((len(self), count), dtype=np.int32)

        def choose(rows: slice) -> None:
            least(self._distances(self._low[rows]), self._home[rows], probes[rows])

        self._each(choose, _slices(0, len(self), _ROWS_AT_ONCE // 4))
        return probes

    def _within(self, partition: int) -> None:
        """All pairs of the vectors of one partition."""
        start, end = self._starts[partition : partition + 2].tolist()
        lists = self._scores, self._positions, self._cut
        for rows in _slices(start, end, _PROBERS_AT_ONCE):
            for columns in _slices(rows.start, end, _PROBERS_AT_ONCE):
                product = self._low[rows] @ self._low[columns].T
                keep_within(product, self._half, rows.start, columns.start, *lists)
        self.pairs_done += (end - start) ** 2 // 2

    def _probe(self, first: int, end: int) -> None:
        """Compare every vector with its nearest partitions from number ``first`` to before ``end``."""
        partition = self._probes[:, first:end].ravel()
        order = np.argsort(partition, kind="stable")
        probers = (order // (end - first)).astype(np.int32)
        starts = np.searchsorted(partition[order], np.arange(self.nlist + 1))
        for partitions in _bundles(np.diff(starts)):
            offers = self._each(lambda of: self._compare_with(of, probers[starts[of] : starts[of + 1]]), partitions)
            joined = _joined(offers)
            bounds = np.linspace(0, len(self), self._threads + 1).astype(np.int64)
            lists = self._scores, self._positions, self._cut
            self._each(partial(_merge_part, joined, lists), list(zip(bounds, bounds[1:])))

    def _compare_with(self, partition: int, probers: NDArray[np.int32]) -> Offers:
        """Compare ``probers`` with the vectors of ``partition``, whose lists are updated. Returns what is offered to
        the probers, whose lists other threads may be updating.
        """
        start, end = self._starts[partition : partition + 2].tolist()
        kept = [_offers(0)]  # of earlier chunks
        lists = self._half, self._scores, self._positions, self._cut
        for rows in _slices(0, len(probers) if end > start else 0, _PROBERS_AT_ONCE):
            chunk = probers[rows]
            low = np.empty((len(chunk), self._low.shape[1]), dtype=np.float32)
            gather(self._low, chunk, low)
            best = _offers(0)
            for columns in _slices(start, end, _RESIDENTS_AT_ONCE):
                product = low @ self._low[columns].T
                to, other, score = _offers(product.size)
                count = keep_of_probers(product, chunk, columns.start, *lists, to, other, score)
                offers = _joined([best, (to[:count], other[:count], score[:count])])
                best = _best(offers, len(chunk), self._scores.shape[1])
            kept.append(best)
        self.pairs_done += len(probers) * (end - start)
        return _joined(kept)

    # -- the result ----------------------------------------------------------------------------------------------------

    def keys(self, places: Indices | slice) -> Keys:
        """(s, list_length): the candidates of the vectors at ``places`` as keys of scores, which hold rows;
        unsorted.
        """
        positions = self._positions[places]
        rows = np.where(positions < 0, -1, self.order[np.maximum(positions, 0)]).astype(np.int32)
        return keys_of_scores(self._scores[places], rows)

    def homes(self) -> NDArray[np.int32]:
        """(n,): the home of each row."""
        home = np.empty_like(self._home)
        home[self.order] = self._home
        return home

    def _each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        return in_threads(self._threads, work, items)


def _merge_part(offers: Offers, lists: tuple[Values, NDArray[np.int32], Values], part: tuple[int, int]) -> None:
    merge(*offers, *part, *lists)


def _slices(begin: int, end: int, size: int) -> Iterator[slice]:
    for start in range(begin, end, size):
        yield slice(start, min(start + size, end))


def _offers(count: int) -> Offers:
    return np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.float32)


def _joined(offers: Iterable[Offers]) -> Offers:
    to, other, score = (np.concatenate(arrays) for arrays in zip(*offers))
    return to, other, score


def _best(offers: Offers, probers: int, list_length: int) -> Offers:
    """What may enter the lists of ``probers``: the ``list_length`` best offers to each, in the order of lists. Where
    vectors are much alike nearly all pairs are offered, more than memory holds.
    """
    to, other, score = offers
    if len(to) <= 2 * probers * list_length:
        return offers
    order = np.lexsort((other, -score, to))
    starts = np.searchsorted(to[order], to[order])
    order = order[np.arange(len(order)) - starts < list_length]
    return to[order], other[order], score[order]


def _bundles(sizes: NDArray[np.int64]) -> Iterator[list[int]]:
    """Consecutive numbers of ``sizes``, together about `_PROBES_AT_ONCE`."""
    bundle = (np.cumsum(sizes) - sizes) // _PROBES_AT_ONCE
    for each in np.unique(bundle).tolist():
        yield np.nonzero(bundle == each)[0].tolist()


def _rank(distances: Values, row: Indices, home: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many centres are nearer than ``home`` (p,), or as near and of a lower number, for the rows ``row`` (p,)."""
    ranks = np.empty(len(row), dtype=np.int64)
    for some in _slices(0, len(row), 256):
        of_row = distances[row[some]]
        own = np.take_along_axis(of_row, home[some][:, None].astype(np.int64), axis=1)
        is_lower = np.arange(distances.shape[1])[None, :] < home[some][:, None]
        ranks[some] = ((of_row < own) | ((of_row == own) & is_lower)).sum(axis=1)
    return ranks
