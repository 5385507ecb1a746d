"""Lists as a graph: merging, and neighbours of neighbours, against what loops over sets would do."""

import numpy as np
import pytest

from image_similarity.knn import graphs
from image_similarity.knn.candidates import NONE

LOW = 2**32 - 1


def key(distance: int, index: int) -> int:
    return (distance << 32) | index


@pytest.mark.parametrize("seed", range(20))
def test_merging_keeps_the_best_of_each_neighbour(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k, offers = 7, 4, 60
    lists: list[dict[int, int]] = [{} for _ in range(n)]
    keys = np.full((n, k), NONE)
    for _ in range(3):
        row = np.sort(rng.integers(0, n, offers))
        offered = np.array([key(int(rng.integers(0, 9)), int(rng.integers(0, 12))) for _ in row])
        before = keys.copy()
        keys, fresh = graphs.merged(keys, row, offered)
        for i, of in enumerate(lists):
            for found in [*before[i][before[i] != NONE].tolist(), *offered[row == i].tolist()]:
                of[found & LOW] = min(of.get(found & LOW, NONE), found)
            best = sorted(of.values())[:k]
            lists[i] = {found & LOW: found for found in best}
            assert keys[i].tolist() == best + [NONE] * (k - len(best))
            assert fresh[i].tolist() == [found != NONE and found not in before[i] for found in keys[i].tolist()]


def test_merging_nothing_and_into_lists_without_room() -> None:
    nothing = np.empty(0, dtype=np.int64)
    keys, fresh = graphs.merged(np.full((2, 3), NONE), nothing, nothing)
    assert (keys == NONE).all() and not fresh.any()
    keys, fresh = graphs.merged(
        np.array([[key(1, 1), key(3, 3)]]), np.array([0]), np.array([key(2, 2)]), np.array([[True, False]])
    )
    assert keys.tolist() == [[key(1, 1), key(2, 2)]] and fresh.tolist() == [[True, True]]
    keys, _ = graphs.merged(np.empty((2, 0), dtype=np.int64), np.array([1]), np.array([key(1, 1)]))
    assert keys.shape == (2, 0)


@pytest.mark.parametrize("seed", range(20))
def test_second_neighbours_are_those_of_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    everyone, parts, k, visited, first, n = 60, 6, 5, 2, 20, 11
    home = np.sort(rng.integers(0, parts, everyone)).astype(np.int32)
    visits = np.array(
        [[h, *rng.choice([p for p in range(parts) if p != h], visited - 1)] for h in home], dtype=np.int32
    )
    lists = np.array([rng.choice(everyone, k, replace=False) for _ in range(everyone)], dtype=np.int32)
    lists[rng.random((everyone, k)) < 0.2] = -1
    lists = np.array([[*sorted(row[row >= 0]), *row[row < 0]] for row in lists], dtype=np.int32)
    fresh = rng.random((everyone, k)) < 0.5
    mine = lists[first : first + n]
    near = np.maximum(mine, 0)
    among = bool(seed % 2)
    row, slot = graphs.second_neighbours(
        mine, fresh[first : first + n], first, among, near, lists, fresh, visits[first : first + n], visits, home
    )
    right = set()
    for i in range(n):
        for a in range(k):
            for b in range(k):
                by, other = lists[first + i, a], lists[lists[first + i, a], b]
                if by < 0 or other < 0 or other == first + i or not (fresh[first + i, a] or fresh[by, b]):
                    continue
                if among and first <= other < first + n:
                    continue
                if home[other] not in visits[first + i, 1:] and home[first + i] not in visits[other, 1:]:
                    right.add((i, int(other)))
    assert set(zip(row.tolist(), slot.tolist())) == right and len(row) == len(right)
