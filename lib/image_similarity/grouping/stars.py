"""The groups of one component: stars, split until every pair is within the wider limit."""

import numpy as np

from image_similarity.knn.distances import Indices, Reals, Values


def of(distance: Values, limit: Reals, wide: float) -> list[Indices]:
    """The members of each group, from all distances of a component and the limits of its pairs, (m, m) each.

    Rows are in the order of their nodes. The centre of a group comes first, then by distance, ties by row.
    """
    near, far = distance <= limit, distance > wide * limit
    degree = near.sum(axis=1)
    free = np.ones(len(distance), dtype=np.bool_)
    groups = []
    for centre in np.argsort(-degree, kind="stable"):
        if not free[centre]:
            continue
        free[centre] = False
        candidates = np.nonzero(near[centre] & free)[0]
        members = [centre]
        for candidate in candidates[np.argsort(distance[centre, candidates], kind="stable")]:
            if not far[candidate, members].any():
                members.append(candidate)
        if len(members) > 1:
            free[members] = False
            groups.append(np.array(members))
    return groups


def weakest_link(distance: Values) -> float:
    """The longest edge of the minimum spanning tree, from all distances (m, m) of a group (Prim)."""
    reach = distance[0].copy()
    outside = np.ones(len(distance), dtype=np.bool_)
    outside[0] = False
    longest = 0.0
    while outside.any():
        nearest = int(np.argmin(np.where(outside, reach, np.inf)))
        longest = max(longest, float(reach[nearest]))
        outside[nearest] = False
        np.minimum(reach, distance[nearest], out=reach)
    return longest
