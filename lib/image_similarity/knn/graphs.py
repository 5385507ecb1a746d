"""Lists of neighbours as a graph: merged, and improved by what neighbours know.

A neighbour of a neighbour is likely to be a neighbour (Dong, Moses, Li: Efficient k-nearest neighbor graph construction
for generic similarity measures, WWW 2011). Lists are rows of keys (see `topk`), sorted, padded with `NONE`."""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.candidates import NONE, Keys
from image_similarity.knn.compiled import compiled

_LOW = np.int64(2**32 - 1)
_ROOM = 2**24
"""Pairs that are looked at together."""


def merged(
    keys: Keys, row: NDArray[np.int64], offered: Keys, fresh: NDArray[np.bool_] | None = None
) -> tuple[Keys, NDArray[np.bool_]]:
    """``keys`` (n, k) sorted, with ``offered[i]`` for the list of ``row[i]``; and which entries (n, k) are new.

    A list has each neighbour once: of two keys with the same index the lesser stays. ``fresh``: (n, k) which of
    ``keys`` count as new, too."""
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
        end = k - 1  # the place that is lost: the last, or where the same neighbour is
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
    slots: NDArray[np.int32],
    fresh: NDArray[np.bool_],
    first: int,
    among: bool,
    near: NDArray[np.int32],
    of: NDArray[np.int32],
    of_fresh: NDArray[np.bool_],
    visits: NDArray[np.int32],
    theirs: NDArray[np.int32],
    home: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Pairs (row, slot) worth a look: neighbours of neighbours, by a way that is new, that were not compared before.

    ``slots``, ``fresh``: (n, k) the lists of the rows, -1 where there is none, and what is new in them; the rows are
    the slots from ``first``; ``among``: all of them were compared with one another. ``near``: (n, k) for each neighbour
    its row in ``of`` and ``of_fresh`` (m, k), the same of the neighbours. ``visits``, ``theirs``: (n, v), (all, v) the
    parts that rows and all slots were compared with, their homes first; ``home``: (all,). Two of which one visited the
    other's home were compared; two of one home only if they are ``among`` them."""
    reach = slots.shape[1]
    at_once = max(1, _ROOM // max(reach, 1) ** 2)
    rows, found = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    compared = (first, first + len(slots)) if among else (0, 0)
    for start in range(0, len(slots), at_once):
        some = slice(start, start + at_once)
        room = np.empty((len(slots[some]), reach**2), dtype=np.int32)
        count = _second(
            slots[some],
            fresh[some],
            first + start,
            *compared,
            near[some],
            of,
            of_fresh,
            visits[some],
            theirs,
            home,
            room,
        )
        rows.append(np.repeat(np.arange(start, start + len(room)), count))
        found.append(room[np.arange(room.shape[1])[None, :] < count[:, None]])
    return np.concatenate(rows), np.concatenate(found)


@compiled()
def _second(slots, fresh, first, begin, end, near, of, of_fresh, visits, theirs, home, room):  # type: ignore[no-untyped-def]
    """``begin``, ``end``: between these slots all were compared."""
    n, v = visits.shape
    reach = slots.shape[1]
    count = np.zeros(n, dtype=np.int64)
    for i in range(n):
        found = 0
        for a in range(reach):
            if slots[i, a] < 0:
                break
            for b in range(reach):
                other = of[near[i, a], b]
                if other < 0:
                    break
                if not (fresh[i, a] or of_fresh[near[i, a], b]) or other == first + i:
                    continue
                compared = begin <= other < end
                for c in range(1, v):
                    compared |= (visits[i, c] == home[other]) | (theirs[other, c] == visits[i, 0])
                if not compared:
                    room[i, found] = other
                    found += 1
        each = np.unique(room[i, :found])
        room[i, : len(each)] = each
        count[i] = len(each)
    return count
