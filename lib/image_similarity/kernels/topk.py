"""Exact nearest and farthest neighbours: blocks compared by fast scores, the best of each row kept, and proven to be the best.

1. `Strip.offer` multiplies two blocks and shows every score to the running lists of both; only scores that beat the last of a list
   touch it. Lists hold some more than the k that are asked for.
2. `Rescoring` gives the kept pairs their exact distances (`distances`), and a *floor*: nothing that was dropped can be nearer.
3. Where the k-th exact distance is below the floor, the k are the k nearest; the order in which blocks came, their size, and the
   precision of the scores cannot show. Rows that fail are compared in full (`in_full`).

Order is by distance, then by index. The bits of a distance above the index make one 64-bit integer, a *key*: integer order of keys
is the total order, and lists are plain arrays. Lists of scores are kept the same way: bits that order scores, above the position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.kernels import distances, screening
from image_similarity.kernels.compiled import compiled
from image_similarity.kernels.distances import BITS_MAX, Bits, Indices, Metric, Reals, Values, Vectors
from image_similarity.kernels.screening import Copies, Screen, candidates

Keys = NDArray[np.int64]

NONE = np.iinfo(np.int64).max
"""Stands in a list where there is no neighbour; behind every key."""

MAX_INDEX = 2**31
_LOW = 2**32 - 1
_RUN = 32  # scores that are looked at together


class Best:
    """For each row the ``k`` greatest scores seen so far, each with its position; a heap, the least of them first."""

    def __init__(self, rows: int, k: int, cut: Values | None = None):
        """``cut``: (n,) float32, what scores must exceed from the beginning."""
        self.scores = np.full((rows, k), -np.inf, dtype=np.float32)
        self.positions = np.full((rows, k), -1, dtype=np.int32)
        self.cut = np.full(rows, -np.inf if k else np.inf, dtype=np.float32) if cut is None else cut
        """What a score must exceed."""

    def keys(self) -> Keys:
        """(n, k): the lists as keys, greatest score first in their order."""
        return keys_of_scores(self.scores, self.positions)


def keys_of_scores(scores: Values, positions: NDArray[np.int32]) -> Keys:
    """Keys whose order is that of ``scores``, greatest first; `NONE` for negative positions."""
    bits = (-scores).view(np.int32)  # read as integers, negative floats are ordered backwards
    ordered = np.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).astype(np.int64)
    return np.where(positions < 0, NONE, (ordered << 32) | positions)


def scores_of(keys: Keys) -> Reals:
    """The scores in the keys of `Best`; -inf for `NONE`."""
    ordered = (keys >> 32).astype(np.int32)
    scores = -np.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(keys == NONE, -np.inf, scores)


@compiled()
def _push(scores, positions, cut, i, score, position):  # type: ignore[no-untyped-def]
    """The least of heap ``i`` gives way."""
    k = scores.shape[1]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= k:
            break
        if child + 1 < k and scores[i, child + 1] < scores[i, child]:
            child += 1
        if scores[i, child] >= score:
            break
        scores[i, hole], positions[i, hole] = scores[i, child], positions[i, child]
        hole = child
    scores[i, hole], positions[i, hole] = score, position
    cut[i] = max(cut[i], scores[i, 0])


@compiled()
def _offer(product, half_a, half_b, at_a, at_b, diagonal, near_a, near_b, far_a, far_b):  # type: ignore[no-untyped-def]
    """Every score of ``product`` to the lists of its row and of its column. ``near_*``, ``far_*``: scores, positions, cut."""
    near_cut_b, far_cut_b = near_b[2], far_b[2]
    columns = product.shape[1]
    for i in range(product.shape[0]):
        own = half_a[i]
        for start in range(i + 1 if diagonal else 0, columns, _RUN):
            end = min(start + _RUN, columns)
            near_cut, far_cut = near_a[2][i], far_a[2][i]
            any_passes = False
            for j in range(start, end):
                score = product[i, j] - own - half_b[j]
                any_passes |= (score > near_cut) | (-score > far_cut) | (score > near_cut_b[j]) | (-score > far_cut_b[j])
            if any_passes:
                for j in range(start, end):
                    score = product[i, j] - own - half_b[j]
                    if score > near_a[2][i]:
                        _push(near_a[0], near_a[1], near_a[2], i, score, at_b[j])
                    if -score > far_a[2][i]:
                        _push(far_a[0], far_a[1], far_a[2], i, -score, at_b[j])
                    if score > near_cut_b[j]:
                        _push(near_b[0], near_b[1], near_cut_b, j, score, at_a[i])
                    if -score > far_cut_b[j]:
                        _push(far_b[0], far_b[1], far_cut_b, j, -score, at_a[i])


class Pool:
    """Some vectors of which some are compared with some others, for nearest ones only: what parts of a collection are made of.

    ``positions``: (n,) int32, their names in lists; ``cut``: see `Best`.
    """

    def __init__(self, copies: Copies, positions: NDArray[np.int32], k: int, cut: Values | None = None):
        self._low, self._half, self.positions = copies.low, copies.half, positions
        self.similar = Best(len(positions), k, cut)

    def compare(self, a: Indices, b: Indices) -> None:
        """All pairs of places ``a`` with places ``b``, which have none in common or are the same array: both get their best."""
        product = self._low[a] @ self._low[b].T
        best = self.similar
        _offer_some(product, self._half, self.positions, a, b, a is b, best.scores, best.positions, best.cut)


@compiled()
def _offer_some(product, half, positions, a, b, diagonal, scores, found, cut):  # type: ignore[no-untyped-def]
    """The same as `_offer` for rows ``a`` and columns ``b`` of one pool, and one relation."""
    columns = len(b)
    cut_b, half_b = cut[b], half[b]
    for i in range(len(a)):
        at, own = a[i], half[a[i]]
        for start in range(i + 1 if diagonal else 0, columns, _RUN):
            end = min(start + _RUN, columns)
            near, any_passes = cut[at], False
            for j in range(start, end):
                score = product[i, j] - own - half_b[j]
                any_passes |= (score > near) | (score > cut_b[j])
            if any_passes:
                for j in range(start, end):
                    score = product[i, j] - own - half_b[j]
                    if score > cut[at]:
                        _push(scores, found, cut, at, score, positions[b[j]])
                    if score > cut[b[j]]:
                        _push(scores, found, cut, b[j], score, positions[at])
                        cut_b[j] = cut[b[j]]


class Strip:
    """A block on its way through comparisons: copies of its vectors, and for each the best so far.

    ``positions``: (n,) int32, the names of its rows in the lists of others.
    """

    def __init__(self, copies: Copies, positions: NDArray[np.int32], similar: int, dissimilar: int):
        self.copies, self.positions = copies, positions
        self.similar, self.dissimilar = Best(len(copies), similar), Best(len(copies), dissimilar)
        self.error = np.zeros(len(copies), dtype=np.float32)
        """How wrong scores against all that was offered can be."""

    def offer(self, other: "Strip", screen: Screen, room: Values, dimensions: int) -> None:
        """Compare with ``other``, which may be this strip itself: both get their best. ``room``: for the product."""
        product = screen.product(self.copies.low, other.copies.low, room)
        for of, against in ((self, other), (other, self)):
            np.maximum(of.error, screening.bounds(of.copies, against.copies, screen, dimensions), out=of.error)
        _offer(
            product,
            self.copies.half,
            other.copies.half,
            self.positions,
            other.positions,
            self is other,
            *((best.scores, best.positions, best.cut) for best in (self.similar, other.similar)),
            *((best.scores, best.positions, best.cut) for best in (self.dissimilar, other.dissimilar)),
        )


@dataclass(frozen=True)
class Lists:
    """For each row the keys kept for one relation, in order, and what is known of all others.

    ``keys``: (n, k) int64, padded with `NONE`; ``floor``: (n,) int64, a key that no neighbour outside the list comes before.
    For dissimilar ones the bits are those of the greatest possible distance minus the distance's.
    """

    keys: Keys
    floor: Keys

    @classmethod
    def empty(cls, rows: int, k: int) -> "Lists":
        return cls(np.full((rows, k), NONE), np.full(rows, NONE))

    @classmethod
    def complete(cls, keys: Keys) -> "Lists":
        """The k best keys of each row, in any order: all others come after them."""
        keys = np.sort(keys, axis=1)
        return cls(keys, keys[:, -1] + (keys[:, -1] != NONE) if keys.shape[1] else np.full(len(keys), NONE))

    def merged(self, *others: "Lists") -> "Lists":
        """The best of several lists of the same rows. Each pair of rows may be in one of them only."""
        keys = np.sort(np.concatenate([self.keys, *(other.keys for other in others)], axis=1), axis=1)
        k = self.keys.shape[1]
        cut = keys[:, k] if keys.shape[1] > k else np.full(len(keys), NONE)
        return Lists(keys[:, :k].copy(), np.minimum.reduce([self.floor, *(other.floor for other in others), cut]))

    @classmethod
    def from_bytes(cls, keys: bytes, floor: bytes, rows: int) -> "Lists":
        return cls(keys_from_bytes(keys, rows), np.frombuffer(floor, np.int64))

    def widened(self, k: int) -> "Lists":
        """The same with room for ``k``."""
        return Lists(np.pad(self.keys, ((0, 0), (0, k - self.keys.shape[1])), constant_values=NONE), self.floor)

    def renumbered(self, numbers: Indices) -> "Lists":
        """With ``numbers[old]`` for each neighbour; those with a negative number, or none, are removed.

        Among equal distances any number may be new and small now: the floor is the least key of its distance.
        """
        old = self.keys & _LOW
        numbered = np.where(old < len(numbers), numbers[np.minimum(old, len(numbers) - 1)], -1)
        there = (self.keys != NONE) & (numbered >= 0)
        keys = np.where(there, moved(self.keys, numbered), NONE)
        return Lists(np.sort(keys, axis=1), np.where(self.floor == NONE, NONE, self.floor & ~_LOW))

    def certain(self, k: int, others: int) -> NDArray[np.bool_]:
        """(n,): rows whose first min(``k``, ``others``) keys are proven to be the best of ``others``."""
        wanted = min(k, others)
        if wanted == 0:
            return np.ones(len(self.keys), dtype=np.bool_)
        if wanted > self.keys.shape[1]:
            return np.zeros(len(self.keys), dtype=np.bool_)
        proven: NDArray[np.bool_] = self.keys[:, wanted - 1] < self.floor
        return proven


def keys_from_bytes(content: bytes, rows: int) -> Keys:
    """(``rows``, k) keys, whatever k is, 0 too."""
    keys = np.frombuffer(content, np.int64)
    return keys.reshape(rows, len(keys) // max(rows, 1))


def distances_of(keys: Keys) -> Reals:
    """The distances in keys of similar ones; nan for `NONE`."""
    return np.where(keys == NONE, np.nan, (keys >> 32).astype(np.uint32).view(np.float32).astype(np.float64))


def key_of(bits: Bits, index: Indices, farthest: bool) -> Keys:
    order = bits.astype(np.int64)
    return ((BITS_MAX - order if farthest else order) << 32) | index


def least(keys: Keys, k: int) -> Keys:
    """The ``k`` least of each row, in no order, padded with `NONE`."""
    if keys.shape[1] > k > 0:
        keys = np.partition(keys, k - 1, axis=1)
    kept = keys[:, :k]
    if kept.shape[1] == k:
        return kept.copy()  # not a view that keeps the whole of a large array alive
    return np.pad(kept, ((0, 0), (0, k - kept.shape[1])), constant_values=NONE)


def least_possible(scores: Reals, error: Values, metric: Metric, screen: Screen, shrink: float, farthest: bool) -> Keys:
    """What no pair with one of ``scores`` comes before. ``error``: how wrong the scores can be."""
    best = scores + np.where(np.isinf(scores), 0.0, np.abs(scores)) * screen.lost_at_the_end + error
    bits = screening.farthest_possible(metric, -best, shrink) if farthest else screening.nearest_possible(metric, best, shrink)
    return key_of(bits, np.zeros(1, dtype=np.int64), farthest)


def floor_of(best: Keys, error: Values, metric: Metric, screen: Screen, shrink: float, farthest: bool) -> Keys:
    """(n,): from lists of scores (n, k), of which all are kept that beat the worst: what no other neighbour comes before.

    ``error``: (n,) how wrong a score can be. A list that is not full has dropped nothing; of one without room no more is asked.
    """
    if best.shape[1] == 0:
        return np.full(len(best), NONE)
    worst = scores_of(best.max(axis=1))
    floor = least_possible(worst, error, metric, screen, shrink, farthest)
    return np.where((best == NONE).any(axis=1), NONE, floor)


def positions_of(keys: Keys) -> NDArray[np.int64]:
    """Of keys that are not `NONE`: what stands below their bits."""
    return keys & _LOW


def moved(keys: Keys, index: Indices) -> Keys:
    """The same distances, of others."""
    return (keys & ~_LOW) | index


def in_full(
    metric: Metric, rows: Vectors, row_index: Indices, others: Vectors, index: Indices, similar: int, dissimilar: int
) -> tuple[Keys, Keys]:
    """Exact keys of the best of ``others`` for each of ``rows``, none left out; no row is its own neighbour.

    ``index``, ``row_index``: what stands in the keys, and tells rows from one another.
    """
    bits = distances.block(metric, rows, others)
    itself = row_index[:, None] == index[None, :]
    found = []
    for k, farthest in ((similar, False), (dissimilar, True)):
        keys = np.where(itself, NONE, key_of(bits, index[None, :], farthest)) if k else np.empty((len(rows), 0), dtype=np.int64)
        found.append(least(keys, k))
    return found[0], found[1]


@dataclass(frozen=True)
class Ranked:
    """Neighbours in long form, arrays of one length: row (int64), rank (int32, from 1), neighbour (int64), distance (float32)."""

    row: Indices
    rank: NDArray[np.int32]
    neighbour: Indices
    distance: Values


def ranked(keys: Keys, index: Indices, farthest: bool) -> Ranked:
    """The lists of the rows ``index``, sorted and taken apart. ``farthest``: they are of dissimilar ones."""
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
    vectors = Vectors(*(np.concatenate([getattr(part.vectors, name) for part in parts]) for name in ("values", "shift", "scale")))
    return Part(vectors, np.concatenate([part.positions for part in parts]), np.concatenate([part.index for part in parts]))


@dataclass(frozen=True)
class Scored:
    """Lists of scores: what was kept of comparisons, before it gets exact distances."""

    similar: Keys
    dissimilar: Keys
    error: Values
    """(n,): how wrong scores can be."""
    screen: Screen
    shrink: float


class Rescoring:
    """Exact lists from lists of scores, as the vectors of the candidates come by, one part after the other.

    ``known``: lists that the result is going to be merged with; what can only come behind all of these is passed over.
    """

    def __init__(self, metric: Metric, rows: Part, scored: Scored, known: tuple[Lists, Lists] | None = None):
        self._metric, self._rows = metric, rows
        self._wanted = [
            _Wanted(best, metric, scored, farthest, known[farthest].keys[:, -1] if known and known[farthest].keys.size else None)
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
        similar, dissimilar = (Lists(np.sort(wanted.exact, axis=1), wanted.floor) for wanted in self._wanted)
        return similar, dissimilar


class _Wanted:
    """The pairs of one relation, in the order of their candidates' positions; ``last``: (n,) none behind it is wanted."""

    def __init__(self, best: Keys, metric: Metric, scored: Scored, farthest: bool, last: Keys | None):
        how = metric, scored.screen, scored.shrink, farthest
        self.exact = np.full(best.shape, NONE)
        self.floor = floor_of(best, scored.error, *how)
        wanted = best != NONE
        if last is not None:
            wanted &= least_possible(scores_of(best), scored.error[:, None], *how) <= last[:, None]
            self.floor = np.where(last == NONE, self.floor, np.minimum(self.floor, last + (last != NONE)))
        row, place = np.nonzero(wanted)
        position = positions_of(best[row, place])
        order = np.argsort(position, kind="stable")
        self.row, self.place, self.position = row[order], place[order], position[order]


def neighbours(
    vectors: Values, metric: str, similar: int, dissimilar: int, block_rows: int = 2048, screen: Screen = screening.FLOAT32
) -> tuple[Ranked, Ranked]:
    """Similar and dissimilar neighbours among ``vectors`` (n, d), in one process: what the Spark stage does with many."""
    chosen = distances.METRICS[metric]
    found: list[list[Ranked]] = [[], []]
    parts = [
        Part(
            distances.measured(vectors[start : start + block_rows], chosen),
            np.arange(start, min(start + block_rows, len(vectors)), dtype=np.int32),
            np.arange(start, min(start + block_rows, len(vectors)), dtype=np.int64),
        )
        for start in range(0, len(vectors), block_rows)
    ]
    shrink = screening.shrink_of(
        max((float(np.abs(part.vectors.values).max(initial=0)) for part in parts), default=0.0), vectors.shape[1], chosen
    )
    strips = [
        Strip(
            screening.copies(part.vectors, chosen, screen, shrink),
            part.positions,
            candidates(similar, screen),
            candidates(dissimilar, screen),
        )
        for part in parts
    ]
    room = np.empty((block_rows, block_rows), dtype=np.float32)
    for i, strip in enumerate(strips):
        for other in strips[i:]:
            strip.offer(other, screen, room, vectors.shape[1])
    for part, strip in zip(parts, strips):
        rescoring = Rescoring(chosen, part, Scored(strip.similar.keys(), strip.dissimilar.keys(), strip.error, screen, shrink))
        for other_part in parts:
            rescoring.add(other_part)
        lists = rescoring.lists()
        for relation, keys in enumerate(_settled(chosen, part, parts, lists, (similar, dissimilar), len(vectors) - 1)):
            found[relation].append(ranked(keys, part.index, relation == 1))
    return _joined(found[0]), _joined(found[1])


def _settled(
    metric: Metric, part: Part, parts: Sequence[Part], lists: tuple[Lists, Lists], wanted: tuple[int, int], others: int
) -> tuple[Keys, Keys]:
    """The keys wanted, of rows that are not certain from a comparison in full."""
    uncertain = np.nonzero(~(lists[0].certain(wanted[0], others) & lists[1].certain(wanted[1], others)))[0]
    keys = [lists_of.keys[:, :k].copy() for lists_of, k in zip(lists, wanted)]
    if len(uncertain):
        found = [in_full(metric, part.vectors[uncertain], part.index[uncertain], p.vectors, p.index, *wanted) for p in parts]
        for relation, k in enumerate(wanted):
            keys[relation][uncertain] = np.sort(least(np.concatenate([of[relation] for of in found], axis=1), k), axis=1)
    return keys[0], keys[1]


def _joined(parts: Sequence[Ranked]) -> Ranked:
    kinds = {"row": np.int64, "rank": np.int32, "neighbour": np.int64, "distance": np.float32}
    return Ranked(
        **{name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)]) for name, kind in kinds.items()}
    )
