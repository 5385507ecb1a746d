"""Exact distances of candidates, and the proof that they are the best.

`Reranker` computes the exact distances of the candidates (`distances`), and a *lower bound*: no dropped neighbour is
nearer. If the k-th exact distance is below the lower bound, the k nearest candidates are the k nearest neighbours. Then
the result does not depend on the order and size of blocks, or on the precision of the scores. All other rows are
compared by brute force (`brute_force`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import distances, scoring
from image_similarity.knn.candidates import NONE, Keys, Lists, key_of, positions_of, scores_of
from image_similarity.knn.distances import Bits, Indices, Metric, Reals, Values, Vectors
from image_similarity.knn.scoring import Comparison


def least_possible(scores: Reals, error: Reals, length: Reals, comparison: Comparison, farthest: bool) -> Keys:
    """Keys that are a lower bound for pairs with ``scores``. ``error``, ``length``: see `scoring.best_possible`."""
    metric, common_scale = comparison.metric, comparison.common_scale
    best = scoring.best_possible(scores, error, length, metric, comparison.screen, comparison.dimensions, farthest)
    bits = (
        scoring.farthest_possible(metric, -best, common_scale)
        if farthest
        else scoring.nearest_possible(metric, best, common_scale)
    )
    return key_of(bits, np.zeros(1, dtype=np.int64), farthest)


def lower_bound_of(worst: Keys, error: Values, length: Reals, comparison: Comparison, farthest: bool) -> Keys:
    """(n,): a lower bound on the keys of neighbours that are not in lists of scores, whose greatest keys are ``worst``
    (n,).

    Each list has every neighbour whose score beats the worst score in the list. ``length``: (n,) the rows' lengths. The
    bound is `NONE` if ``worst`` is: the list is not full and dropped nothing.
    """
    lower_bound = least_possible(scores_of(worst), error.astype(np.float64), length, comparison, farthest)
    return np.where(worst == NONE, NONE, lower_bound)


def brute_force(
    metric: Metric, rows: Vectors, row_index: Indices, others: Vectors, index: Indices, similar: int, dissimilar: int
) -> tuple[Keys, Keys]:
    """Exact keys of the best ``similar`` and ``dissimilar`` of ``others`` for each of ``rows``: all pairs are compared.

    ``index``, ``row_index``: the indices of ``others`` and ``rows``. They stand in the keys, and a row is not its own
    neighbour.
    """
    best = distances.best_of_block(metric, rows, others, row_index, index, similar, dissimilar)
    near, far = (
        np.where(of < 0, NONE, key_of(values.view(np.uint32), of, farthest))
        for farthest, (values, of) in zip((False, True), best)
    )
    return near, far


@dataclass(frozen=True)
class Part:
    """A set of vectors with their positions and indices, (n,) each: lists of scores name a vector by its position, and
    ties between distances are broken by index.
    """

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
    """Lists of scores: the candidates of a set of rows, before their exact distances are computed."""

    similar: Keys
    dissimilar: Keys
    error: Values
    """(n, 2): see `scoring.bounds`."""
    comparison: Comparison

    def rows(self, rows: slice) -> "Scored":
        """Those of some rows."""
        return Scored(self.similar[rows], self.dissimilar[rows], self.error[rows], self.comparison)


Pairs = Callable[[Metric, Vectors, Vectors, Indices, Indices], Bits]
"""Exact distances of pairs: `distances.pairs`, or what gives the same."""


class Reranker:
    """Exact lists from lists of scores. The vectors of the candidates are added one part after the other.

    ``known``: lists that the result will be merged with. A candidate that can only come after all of their entries is
    skipped. ``pairs``: computes the distances.
    """

    def __init__(
        self,
        rows: Part,
        scored: Scored,
        known: tuple[Lists, Lists] | None = None,
        pairs: Pairs = distances.pairs,
    ):
        self._metric, self._rows, self._pairs = scored.comparison.metric, rows, pairs
        length = scoring.lengths(rows.vectors, self._metric, scored.comparison.common_scale)
        self._candidates = [
            _Candidates(
                best,
                length,
                scored,
                farthest,
                known[farthest].keys[:, -1] if known and known[farthest].keys.size else None,
            )
            for farthest, best in ((False, scored.similar), (True, scored.dissimilar))
        ]

    def wants(self, first: int, end: int) -> bool:
        """Whether a candidate has a position from ``first`` to before ``end``."""
        return any(np.diff(np.searchsorted(candidates.position, [first, end]))[0] for candidates in self._candidates)

    def add(self, part: Part) -> None:
        """Compute the exact distances of the candidates in ``part``, whose positions ascend."""
        for farthest, candidates in zip((False, True), self._candidates):
            first, last = np.searchsorted(candidates.position, [part.positions[0], part.positions[-1] + 1])
            chosen = slice(int(first), int(last))
            columns = np.searchsorted(part.positions, candidates.position[chosen])
            bits = self._pairs(self._metric, self._rows.vectors, part.vectors, candidates.row[chosen], columns)
            candidates.exact[candidates.row[chosen], candidates.place[chosen]] = key_of(
                bits, part.index[columns], farthest
            )

    def lists(self) -> tuple[Lists, Lists]:
        """The exact lists of similar and of dissimilar neighbours, once all parts were added."""
        similar, dissimilar = (
            Lists(np.sort(candidates.exact, axis=1), candidates.lower_bound) for candidates in self._candidates
        )
        return similar, dissimilar


class _Candidates:
    """The pairs (row, candidate) of one relation, ordered by the candidate's position.

    ``last``: (n,) keys; a candidate whose key must be greater is left out.
    """

    def __init__(self, best: Keys, length: Reals, scored: Scored, farthest: bool, last: Keys | None):
        self.exact = np.full(best.shape, NONE)
        comparison = scored.comparison
        self.lower_bound = lower_bound_of(
            best.max(axis=1) if best.shape[1] else np.full(len(best), NONE),
            scored.error,
            length,
            comparison,
            farthest,
        )
        is_candidate = best != NONE
        if last is not None:
            error = scored.error[:, None, :].astype(np.float64)
            is_candidate &= (
                least_possible(scores_of(best), error, length[:, None], comparison, farthest) <= last[:, None]
            )
            self.lower_bound = np.where(
                last == NONE, self.lower_bound, np.minimum(self.lower_bound, last + (last != NONE))
            )
        row, place = np.nonzero(is_candidate)
        position = positions_of(best[row, place])
        order = np.argsort(position, kind="stable")
        self.row, self.place, self.position = row[order], place[order], position[order]
