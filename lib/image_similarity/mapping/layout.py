"""Places of images in the plane: those that look alike are near. UMAP (McInnes, Healy and Melville: UMAP, 2018) on the
published neighbours, from a start that needs no vectors.

One thread and one seed: the places are the same bytes in each run on a machine, whatever its number of threads. On
another kind of processor the last bits of a sum may differ, and with them the layout.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from image_similarity.knn.distances import Reals, Values
from image_similarity.mapping.graph_start import Nodes, graph_start
from image_similarity.mapping.placement import beside

LEAST_NODES = 20
"""The fewest nodes for UMAP. Of fewer, the start is the layout."""

OnProgress = Callable[[int, int], None]
"""Is called with the epochs done, and with all."""


def lay_out(
    neighbour: Nodes, distance: Values, seed: int, epochs: int | None = None, on_progress: OnProgress | None = None
) -> Reals:
    """(n, 2) float64: the places of n nodes.

    ``neighbour`` (n, k) int32: the nearest other nodes of each, the nearest first, padded with -1; ``distance`` (n, k)
    float32, padded with inf. Lists may be shorter than k, or empty: a node that no edge touches lies on the edge of the
    layout. ``epochs``: passes over all edges; UMAP's own choice (500 up to 10,000 nodes, else 200) if None.
    """
    places = graph_start(neighbour, distance, seed)
    is_edge = neighbour >= 0
    has_edge = np.zeros(len(neighbour), dtype=np.bool_)
    has_edge[np.nonzero(is_edge)[0]] = has_edge[neighbour[is_edge]] = True
    if has_edge.sum() >= LEAST_NODES:
        places = _by_umap(neighbour, distance, places, seed, epochs, on_progress)
    return beside(places, has_edge, neighbour, distance)


def _by_umap(
    neighbour: Nodes,
    distance: Values,
    start: Reals,
    seed: int,
    epochs: int | None,
    on_progress: OnProgress | None,
) -> Reals:
    """(n, 2): nan for a node that no edge touches."""
    n, k = neighbour.shape
    itself = np.arange(n, dtype=np.int32)[:, None]
    # UMAP's lists begin with the node itself. It takes the scale of a node from all its distances, so that a shorter
    # list is padded with its greatest distance.
    filled = np.where(neighbour >= 0, distance, np.where(neighbour >= 0, distance, 0).max(axis=1, keepdims=True))
    lists = np.hstack([itself, neighbour]), np.hstack([np.zeros((n, 1), np.float32), filled.astype(np.float32)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tensorflow is absent, new points cannot be added, nodes have no edge
        from umap import UMAP  # here, since importing it takes more than a second

        umap = UMAP(
            n_neighbors=k + 1,
            precomputed_knn=lists,
            force_approximation_algorithm=True,
            init=start.astype(np.float32),
            n_epochs=epochs,
            random_state=seed,
            n_jobs=1,
            tqdm_kwds=_bar(on_progress) if on_progress else None,
        )
        return np.asarray(umap.fit_transform(np.zeros((n, 1), dtype=np.float32)), dtype=np.float64)


def _bar(on_progress: OnProgress) -> dict[str, Any]:
    """Settings of UMAP's progress bar, by which it tells ``on_progress`` what it would show."""
    return {"disable": False, "bar_format": "{n} {total}", "file": _Shown(on_progress)}


@dataclass(frozen=True)
class _Shown:
    """The screen of a progress bar that consists of two numbers."""

    on_progress: OnProgress

    def write(self, text: str) -> None:
        if len(numbers := text.split()) == 2:
            self.on_progress(int(numbers[0]), int(numbers[1]))

    def flush(self) -> None:
        pass
