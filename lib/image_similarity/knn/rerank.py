"""Exact distances for candidates, and the proof that they are the best.

`Reranker` gives the kept pairs their exact distances (`distances`), and a *lower bound*: nothing that was dropped can
be nearer. Where the k-th exact distance is below it, the k are the k nearest; the order in which blocks came, their
size, and the precision of the scores cannot show. Rows that fail are compared in full (`brute_force`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import distances, scoring
from image_similarity.knn.candidates import NONE, Keys, Lists, key_of, least, positions_of, scores_of
from image_similarity.knn.distances import Indices, Metric, Reals, Values, Vectors
from image_similarity.knn.scoring import Screen


def least_possible(
    scores: Reals, error: Values, metric: Metric, screen: Screen, common_scale: float, farthest: bool
) -> Keys:
    """What no pair with one of ``scores`` comes before. ``error``: how wrong the scores can be."""
    best = scores + np.where(np.isinf(scores), 0.0, np.abs(scores)) * screen.lost_at_the_end + error
    bits = (
        scoring.farthest_possible(metric, -best, common_scale)
        if farthest
        else scoring.nearest_possible(metric, best, common_scale)
    )
    return key_of(bits, np.zeros(1, dtype=np.int64), farthest)


def lower_bound_of(
    best: Keys, error: Values, metric: Metric, screen: Screen, common_scale: float, farthest: bool
) -> Keys:
    """(n,): from lists of scores (n, k), of which all are kept that beat the worst: what no other neighbour comes
    before.

    ``error``: (n,) how wrong a score can be. A list that is not full has dropped nothing; of one without room no more
    is asked."""
    if best.shape[1] == 0:
        return np.full(len(best), NONE)
    worst = scores_of(best.max(axis=1))
    lower_bound = least_possible(worst, error, metric, screen, common_scale, farthest)
    return np.where((best == NONE).any(axis=1), NONE, lower_bound)


def brute_force(
    metric: Metric, rows: Vectors, row_index: Indices, others: Vectors, index: Indices, similar: int, dissimilar: int
) -> tuple[Keys, Keys]:
    """Exact keys of the best of ``others`` for each of ``rows``, none left out; no row is its own neighbour.

    ``index``, ``row_index``: what stands in the keys, and tells rows from one another.
    """
    bits = distances.block(metric, rows, others)
    itself = row_index[:, None] == index[None, :]
    found = []
    for k, farthest in ((similar, False), (dissimilar, True)):
        keys = (
            np.where(itself, NONE, key_of(bits, index[None, :], farthest))
            if k
            else np.empty((len(rows), 0), dtype=np.int64)
        )
        found.append(least(keys, k))
    return found[0], found[1]


@dataclass(frozen=True)
class Part:
    """Some vectors with the positions by which lists name them and the indices by which ties are broken: (n,) each."""

    vectors: Vectors
    positions: NDArray[np.int32]
    index: Indices

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: NDArray[np.intp] | slice) -> "Part":
        return Part(self.vectors[rows], self.positions[rows], self.index[rows])


def joined(parts: Sequence[Part]) -> Part:
    """Several parts as one."""
    if len(parts) == 1:
        return parts[0]
    vectors = Vectors(
        *(np.concatenate([getattr(part.vectors, name) for part in parts]) for name in ("values", "shift", "scale"))
    )
    return Part(
        vectors, np.concatenate([part.positions for part in parts]), np.concatenate([part.index for part in parts])
    )


@dataclass(frozen=True)
class Scored:
    """Lists of scores: what was kept of comparisons, before it gets exact distances."""

    similar: Keys
    dissimilar: Keys
    error: Values
    """(n,): how wrong scores can be."""
    screen: Screen
    common_scale: float


class Reranker:
    """Exact lists from lists of scores, as the vectors of the candidates come by, one part after the other.

    ``known``: lists that the result is going to be merged with; what can only come behind all of these is passed over.
    """

    def __init__(self, metric: Metric, rows: Part, scored: Scored, known: tuple[Lists, Lists] | None = None):
        self._metric, self._rows = metric, rows
        self._wanted = [
            _Wanted(
                best,
                metric,
                scored,
                farthest,
                known[farthest].keys[:, -1] if known and known[farthest].keys.size else None,
            )
            for farthest, best in ((False, scored.similar), (True, scored.dissimilar))
        ]

    def wants(self, first: int, end: int) -> bool:
        """Whether there are candidates with positions from ``first`` to before ``end``."""
        return any(np.diff(np.searchsorted(wanted.position, [first, end]))[0] for wanted in self._wanted)

    def add(self, part: Part) -> None:
        """Score the candidates that are in ``part``, whose positions ascend."""
        for farthest, wanted in zip((False, True), self._wanted):
            first, last = np.searchsorted(wanted.position, [part.positions[0], part.positions[-1] + 1])
            chosen = slice(int(first), int(last))
            columns = np.searchsorted(part.positions, wanted.position[chosen])
            bits = distances.pairs(self._metric, self._rows.vectors, part.vectors, wanted.row[chosen], columns)
            wanted.exact[wanted.row[chosen], wanted.place[chosen]] = key_of(bits, part.index[columns], farthest)

    def lists(self) -> tuple[Lists, Lists]:
        """Similar and dissimilar."""
        similar, dissimilar = (Lists(np.sort(wanted.exact, axis=1), wanted.lower_bound) for wanted in self._wanted)
        return similar, dissimilar


class _Wanted:
    """The pairs of one relation, in the order of their candidates' positions; ``last``: (n,) none behind it is
    wanted."""

    def __init__(self, best: Keys, metric: Metric, scored: Scored, farthest: bool, last: Keys | None):
        how = metric, scored.screen, scored.common_scale, farthest
        self.exact = np.full(best.shape, NONE)
        self.lower_bound = lower_bound_of(best, scored.error, *how)
        wanted = best != NONE
        if last is not None:
            wanted &= least_possible(scores_of(best), scored.error[:, None], *how) <= last[:, None]
            self.lower_bound = np.where(
                last == NONE, self.lower_bound, np.minimum(self.lower_bound, last + (last != NONE))
            )
        row, place = np.nonzero(wanted)
        position = positions_of(best[row, place])
        order = np.argsort(position, kind="stable")
        self.row, self.place, self.position = row[order], place[order], position[order]
