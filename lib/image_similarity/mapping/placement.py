"""Places of further images in a layout that is there: each beside its neighbours."""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import Reals, Values

Nodes = NDArray[np.int32]

_NEAR = 0.3
"""In the layout's units: neighbours that are much farther from one another lie in different places. Images of a cluster
are some 0.1 apart (UMAP's ``min_dist``), and a whole layout is 10 to 30 wide."""
_MARGIN = 1.05
"""Of the layout's half width and height: how far from the middle nodes lie that no path leads to."""


def beside(positions: Reals, known: NDArray[np.bool_], neighbour: Nodes, distance: Values) -> Reals:
    """(n, 2): the places of all nodes. ``known`` (n,): those that stay at their ``positions`` (n, 2).

    ``neighbour`` (n, k) int32, padded with -1, and ``distance`` (n, k) float32, padded with inf: the nearest first.

    A node lies among its neighbours that have a place. These may lie in several places, and their mean would be in none
    of them: it is taken around the neighbour that has most of the others near. In each round those get a place that
    list a node with a place; if there are none, those that such a node lists, at the mean of all that list them. Nodes
    that no path leads to lie around the layout, in the order of their numbers.
    """
    places, has_place = np.where(known[:, None], positions, 0.0), known.copy()
    while not has_place.all():
        new = np.zeros(len(places), dtype=np.bool_)
        _among_listed(places, has_place, neighbour, distance, new)
        if not new.any():
            _among_listing(places, has_place, neighbour, new)
        if not new.any():
            break
        has_place |= new
    places[~has_place] = _around(places[has_place], int((~has_place).sum()))
    return places


@compiled()
def _among_listed(places, has_place, neighbour, distance, new):  # type: ignore[no-untyped-def]
    """A place for each node that lists nodes with a place."""
    k = neighbour.shape[1]
    near, weight = np.empty(k, dtype=np.int64), np.empty(k)
    for i in range(len(neighbour)):
        if has_place[i]:
            continue
        count, nearest = 0, 0.0
        for rank in range(k):
            j = neighbour[i, rank]
            if j < 0 or not has_place[j]:
                continue
            if count == 0:
                nearest = distance[i, rank]
            near[count] = j
            # The nearest weighs 1; equal pictures leave nothing to others.
            weight[count] = (nearest / distance[i, rank]) ** 2 if distance[i, rank] > 0 else 1.0
            count += 1
        if count > 0:
            _set_densest(places, near[:count], weight[:count], i)
            new[i] = True


@compiled()
def _set_densest(places, near, weight, i):  # type: ignore[no-untyped-def]
    """Node i to the mean of the nodes ``near``, around that of them which has most of their weight near itself."""
    most = -1.0
    for centre in near:
        x = y = total = 0.0
        for e in range(len(near)):
            across, down = places[near[e], 0] - places[centre, 0], places[near[e], 1] - places[centre, 1]
            share = weight[e] / (1.0 + (across * across + down * down) / (_NEAR * _NEAR))
            x, y, total = x + share * places[near[e], 0], y + share * places[near[e], 1], total + share
        if total > most:
            most, places[i, 0], places[i, 1] = total, x / total, y / total


@compiled()
def _among_listing(places, has_place, neighbour, new):  # type: ignore[no-untyped-def]
    """A place for each node that nodes with a place list: their mean."""
    count = np.zeros(len(places), dtype=np.int64)
    for i in range(len(neighbour)):
        if not has_place[i]:
            continue
        for j in neighbour[i]:
            if j >= 0 and not has_place[j]:
                places[j] += places[i]
                count[j] += 1
    for j in range(len(places)):
        if count[j] > 0:
            places[j] /= count[j]
            new[j] = True


def _around(places: Reals, count: int) -> Reals:
    """(count, 2): on an ellipse around ``places``; around (0, 0) if there are none."""
    low, high = (places.min(axis=0), places.max(axis=0)) if len(places) else (np.zeros(2), np.zeros(2))
    angle = 2 * np.pi * np.arange(count) / max(count, 1)
    half = (high - low) / 2 * _MARGIN
    half = np.where(half > 0, half, max(half.max(), 1.0))
    return np.asarray((low + high) / 2 + half * np.stack([np.cos(angle), np.sin(angle)], axis=1))
