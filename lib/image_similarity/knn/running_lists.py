"""Lists of the best scores so far, as machine code: what `probing` offers them.

A list is a heap, the least score first; of equal scores the greatest position. It does not depend on the order of
offers.
"""

import numpy as np

from image_similarity.knn.compiled import compiled

_RUN = 32  # scores that are tested together


@compiled()
def gather(values, rows, chosen):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        chosen[i] = values[rows[i]]


@compiled()
def least(distances, home, nearest):  # type: ignore[no-untyped-def]
    """The numbers of the least of each row of ``distances``, ascending, into ``nearest``; ``home`` comes first."""
    count = nearest.shape[1]
    least = np.empty(count, dtype=np.float32)
    for i in range(distances.shape[0]):
        least[:] = np.inf
        nearest[i] = home[i]
        least[0] = -np.inf
        last = least[count - 1]
        for c in range(distances.shape[1]):
            distance = distances[i, c]
            if distance < last and c != home[i]:
                place = count - 1
                while least[place - 1] > distance:
                    least[place], nearest[i, place] = least[place - 1], nearest[i, place - 1]
                    place -= 1
                least[place], nearest[i, place] = distance, c
                last = least[count - 1]


@compiled()
def keep(scores, positions, cut, i, score, position):  # type: ignore[no-untyped-def]
    """Offer ``position`` to list ``i``: a heap, the least score first, of equal ones the greatest position.

    A list has each position once, with the greater of its scores.
    """
    k = scores.shape[1]
    if score < scores[i, 0] or (score == scores[i, 0] and position > positions[i, 0] >= 0):
        return
    hole = 0
    for place in range(k):
        if positions[i, place] == position:
            if scores[i, place] >= score:
                return
            hole = place
            break
    while True:
        child = 2 * hole + 1
        if child >= k:
            break
        right = child + 1
        if right < k and (
            scores[i, right] < scores[i, child]
            or (scores[i, right] == scores[i, child] and positions[i, right] > positions[i, child])
        ):
            child = right
        if scores[i, child] > score or (scores[i, child] == score and positions[i, child] < position):
            break
        scores[i, hole], positions[i, hole] = scores[i, child], positions[i, child]
        hole = child
    scores[i, hole], positions[i, hole] = score, position
    cut[i] = scores[i, 0]


@compiled()
def keep_best(product, half, own, first, scores, positions, cut):  # type: ignore[no-untyped-def]
    """Offer the columns, whose places begin at ``first``, to the lists of the rows, whose places are ``own``."""
    columns = product.shape[1]
    for i in range(product.shape[0]):
        for start in range(0, columns, _RUN):
            end = min(start + _RUN, columns)
            least, any_passes = cut[i], False
            for j in range(start, end):
                any_passes |= product[i, j] - half[j] >= least
            if any_passes:
                for j in range(start, end):
                    score = product[i, j] - half[j]
                    if score >= cut[i] and first + j != own[i]:
                        keep(scores, positions, cut, i, score, np.int32(first + j))


@compiled()
def keep_within(product, half, first_row, first_column, scores, positions, cut):  # type: ignore[no-untyped-def]
    """Offer the pairs (a < b) of ``product`` to both lists: rows and columns are places from the first ones."""
    columns = product.shape[1]
    for i in range(product.shape[0]):
        a = np.int32(first_row + i)
        for start in range(max(0, a + 1 - first_column), columns, _RUN):
            end = min(start + _RUN, columns)
            least, own, any_passes = cut[a], half[a], False
            for j in range(start, end):
                score = product[i, j] - own - half[first_column + j]
                any_passes |= (score >= least) | (score >= cut[first_column + j])
            if any_passes:
                for j in range(start, end):
                    b = np.int32(first_column + j)
                    score = product[i, j] - half[a] - half[b]
                    if score >= cut[a]:
                        keep(scores, positions, cut, a, score, b)
                    if score >= cut[b]:
                        keep(scores, positions, cut, b, score, a)


@compiled()
def keep_of_probers(product, probers, first, half, scores, positions, cut, to, offered, score_of):  # type: ignore[no-untyped-def]
    """Offer the rows of ``product`` to the lists of its columns, the places from ``first``.

    Writes what the columns offer to the rows, the places ``probers``, into ``to``, ``offered`` and ``score_of``, and
    returns how much that is.
    """
    columns, count = product.shape[1], 0
    for i in range(product.shape[0]):
        a = probers[i]
        own, least = half[a], cut[a]
        for start in range(0, columns, _RUN):
            end = min(start + _RUN, columns)
            any_passes = False
            for j in range(start, end):
                score = product[i, j] - own - half[first + j]
                any_passes |= (score >= least) | (score >= cut[first + j])
            if any_passes:
                for j in range(start, end):
                    b = np.int32(first + j)
                    score = product[i, j] - own - half[b]
                    if score >= least:
                        to[count], offered[count], score_of[count] = a, b, score
                        count += 1
                    if score >= cut[b]:
                        keep(scores, positions, cut, b, score, a)
    return count


@compiled()
def merge(to, offered, score_of, begin, end, scores, positions, cut):  # type: ignore[no-untyped-def]
    """Keep the offers to the places from ``begin`` to before ``end``."""
    for p in range(len(to)):
        a = to[p]
        if begin <= a < end and score_of[p] >= cut[a]:
            keep(scores, positions, cut, a, score_of[p], offered[p])
