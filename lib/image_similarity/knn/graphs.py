"""Lists of neighbours as a graph: they are merged, and improved by the neighbours of neighbours.

A neighbour of a neighbour is likely to be a neighbour (Dong, Moses, Li: Efficient k-nearest neighbor graph construction
for generic similarity measures, WWW 2011). Lists are rows of keys (see `candidates`), sorted, padded with `NONE`.
"""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.candidates import NONE, Keys
from image_similarity.knn.compiled import compiled

_LOW = np.int64(2**32 - 1)
_PAIRS_AT_ONCE = 2**24
"""Pairs whose memory is allocated at a time."""


def merged(
    keys: Keys, row: NDArray[np.int64], offered: Keys, fresh: NDArray[np.bool_] | None = None
) -> tuple[Keys, NDArray[np.bool_]]:
    """Merge ``offered[i]`` into list ``row[i]`` of ``keys`` (n, k) for every i: the sorted lists, and (n, k) bool which
    entries are new.

    A list has each neighbour once: of two keys with the same index the lesser stays. ``fresh``: (n, k) bool, entries of
    ``keys`` that still count as new. The arguments are not changed.
    """
    keys, fresh = keys.copy(), np.zeros(keys.shape, dtype=np.bool_) if fresh is None else fresh.copy()
    if keys.shape[1]:
        _merge(keys, fresh, row, offered)
    return keys, fresh


@compiled()
def _merge(keys, fresh, row, offered):  # type: ignore[no-untyped-def]
    k = keys.shape[1]
    for at in range(len(row)):
        i, key = row[at], offered[at]
        if key >= keys[i, k - 1]:
            continue
        end = k - 1  # the entry that is dropped: the last one, or the one of the same neighbour
        known = False
        for place in range(k):
            if keys[i, place] == NONE:
                break
            if (keys[i, place] & _LOW) == (key & _LOW):
                end, known = place, keys[i, place] <= key
                break
        if known:
            continue
        while end > 0 and keys[i, end - 1] > key:
            keys[i, end], fresh[i, end] = keys[i, end - 1], fresh[i, end - 1]
            end -= 1
        keys[i, end], fresh[i, end] = key, True


def second_neighbours(
    neighbours: NDArray[np.int32],
    fresh: NDArray[np.bool_],
    first: int,
    all_compared: bool,
    near: NDArray[np.int32],
    second: NDArray[np.int32],
    second_fresh: NDArray[np.bool_],
    probed: NDArray[np.int32],
    probed_by_all: NDArray[np.int32],
    home: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Candidates reached through a new edge and not compared yet: pairs (row, position).

    A candidate is a neighbour of a neighbour. Vectors are named by their position in the layout. The rows are the n
    vectors at the positions from ``first``.

    - ``neighbours``, ``fresh``: (n, k), the lists of the rows, -1 in places without a neighbour, and the new entries.
    - ``all_compared``: whether all rows were compared with one another.
    - ``near``: (n, k), for each neighbour of a row its row in ``second`` and ``second_fresh``.
    - ``second``, ``second_fresh``: (m, k), the lists of these neighbours, and the new entries.
    - ``probed``, ``probed_by_all``: (n, v) and (all, v), the partitions that the rows, and all vectors, probed. The
      home partition comes first.
    - ``home``: (all,), the home partition of every vector.

    A pair counts as compared if either vector probed the other's home partition. A pair with one home partition counts
    as compared only if both are rows and ``all_compared`` holds.
    """
    reach = neighbours.shape[1]
    at_once = max(1, _PAIRS_AT_ONCE // max(reach, 1) ** 2)
    rows, others = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    compared = (first, first + len(neighbours)) if all_compared else (0, 0)
    for start in range(0, len(neighbours), at_once):
        chunk = slice(start, start + at_once)
        buffer = np.empty((len(neighbours[chunk]), reach**2), dtype=np.int32)
        count = _second(
            neighbours[chunk],
            fresh[chunk],
            first + start,
            *compared,
            near[chunk],
            second,
            second_fresh,
            probed[chunk],
            probed_by_all,
            home,
            buffer,
        )
        rows.append(np.repeat(np.arange(start, start + len(buffer)), count))
        others.append(buffer[np.arange(buffer.shape[1])[None, :] < count[:, None]])
    return np.concatenate(rows), np.concatenate(others)


@compiled()
def _second(neighbours, fresh, first, begin, end, near, second, second_fresh, probed, probed_by_all, home, buffer):  # type: ignore[no-untyped-def]
    """One chunk of `second_neighbours`: writes the candidates of each row into ``buffer`` (n, k * k), and returns their
    numbers (n,).

    All vectors at positions from ``begin`` to before ``end`` were compared with one another.
    """
    n, v = probed.shape
    reach = neighbours.shape[1]
    count = np.zeros(n, dtype=np.int64)
    for i in range(n):
        pairs = 0
        for a in range(reach):
            if neighbours[i, a] < 0:
                break
            for b in range(reach):
                other = second[near[i, a], b]
                if other < 0:
                    break
                if not (fresh[i, a] or second_fresh[near[i, a], b]) or other == first + i:
                    continue
                compared = begin <= other < end
                for c in range(1, v):
                    compared |= (probed[i, c] == home[other]) | (probed_by_all[other, c] == probed[i, 0])
                if not compared:
                    buffer[i, pairs] = other
                    pairs += 1
        distinct = np.unique(buffer[i, :pairs])
        buffer[i, : len(distinct)] = distinct
        count[i] = len(distinct)
    return count
