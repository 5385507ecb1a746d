"""How good a map is: whether layout and grid keep the neighbours that are published, and whether they invent others."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.knn import distances
from image_similarity.knn.distances import METRICS, Indices, Metric, Reals, Values, Vectors
from image_similarity.mapping import preservation, sample
from image_similarity.neighbour_graph import hashes
from image_similarity.runtime.session import cause_of, spark_errors
from image_similarity.stages.map.arrangement import Arrangement
from image_similarity.stages.map.shown import Shown

VectorsOf = Callable[[Indices], Values]
"""Nodes (m,) of the graph of the whole collection -> their vectors (m, d). It fails where they are gone."""

QUERIES = 500
"""Most images whose ranks are computed for trustworthiness."""
COMPARED = 20_000
"""Most images among which they have ranks."""
_LEAST = 26
"""Images: of fewer, all others are among the 24 nearest."""
_SEED = 1
"""Of the hashes by which images are chosen: other images than those that UMAP places."""
_ROWS_AT_ONCE = 2048
_DIGITS = 4


@dataclass(frozen=True)
class Quality:
    """Shares from 0 to 1, rounded; None where there is nothing to measure.

    ``nearest``: 10, or as many neighbours as images have. ``kept_on_layout``, ``kept_on_grid``: of these, how many are
    among the 24 around. ``by_chance``: the same of a random grid. ``trustworthy_layout``, ``trustworthy_grid``:
    trustworthiness of the 10 around. ``why_not``: why that is not measured.
    """

    nearest: int
    kept_on_layout: float | None
    kept_on_grid: float | None
    by_chance: float | None
    trustworthy_layout: float | None = None
    trustworthy_grid: float | None = None
    why_not: str | None = None

    @property
    def record(self) -> dict[str, float | None]:
        return {name: value for name, value in asdict(self).items() if name != "why_not"}


def measured(shown: Shown, arrangement: Arrangement, metric: str, vectors: VectorsOf) -> Quality:
    """``vectors``: if they are not there, nothing is known of trustworthiness."""
    kept = _kept(shown, arrangement) if len(shown) >= _LEAST else (math.nan,) * 3
    on_layout, on_grid, by_chance = map(_rounded, kept)
    quality = Quality(preservation.asked_for(shown.of_images[0]), on_layout, on_grid, by_chance)
    try:
        trusted = _trustworthiness(shown, arrangement, METRICS[metric], vectors)
    except spark_errors(JobFailed, WrongInput, OSError, pa.ArrowException) as error:
        return replace(quality, why_not=cause_of(error))
    layout, grid = map(_rounded, trusted)
    why_not = "there are too few images with neighbours" if grid is None else None
    return replace(quality, trustworthy_layout=layout, trustworthy_grid=grid, why_not=why_not)


def _kept(shown: Shown, arrangement: Arrangement) -> tuple[float, float, float]:
    neighbour = shown.of_images[0]
    return (
        preservation.kept_on_layout(arrangement.positions, neighbour),
        preservation.kept_on_grid(arrangement.cell, neighbour),
        preservation.by_chance(len(shown), arrangement.columns, arrangement.rows),
    )


def _trustworthiness(shown: Shown, arrangement: Arrangement, metric: Metric, vectors: VectorsOf) -> tuple[float, float]:
    has_list = np.flatnonzero((shown.neighbour >= 0).any(axis=1))  # others may have vectors that cannot be compared
    if not len(has_list):
        return math.nan, math.nan
    hashed = hashes(shown.ids)[shown.first[has_list]]
    compared = sample.choose(hashed, COMPARED, _SEED)
    queries = sample.choose(hashed[compared], QUERIES, _SEED)
    nodes = has_list[compared]
    ranks = exact_ranks(vectors(shown.in_graph[nodes]), queries, metric)
    images = shown.first[nodes]
    places = (arrangement.positions[images], arrangement.cell[images])
    layout, grid = (preservation.trustworthiness(of, queries, ranks) for of in places)
    return layout, grid


def exact_ranks(values: Values, queries: Indices, metric: Metric) -> NDArray[np.int32]:
    """(q, n): the rank of each of n vectors among the nearest of a query, from 1; 0 for the query itself.

    ``values`` (n, d), comparable by ``metric``; ``queries`` (q,): rows of it. Ties by row.
    """
    vectors = distances.measured(values, metric)
    far = np.concatenate(
        [
            _far(vectors[queries], vectors[start : start + _ROWS_AT_ONCE], metric)
            for start in range(0, len(vectors), _ROWS_AT_ONCE)
        ],
        axis=1,
    )
    far[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(far, axis=1, kind="stable")
    ranks = np.empty(order.shape, dtype=np.int32)
    np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.int32)[None], axis=1)
    return ranks


def _far(queries: Vectors, others: Vectors, metric: Metric) -> Reals:
    """(q, m): numbers in the order of the distances."""
    a, b = queries.rows(), others.rows()
    product = a @ b.T
    far: Reals = -product if metric.angular else (b**2).sum(axis=1)[None] - 2 * product
    return far


def _rounded(share: float) -> float | None:
    return None if math.isnan(share) else round(share, _DIGITS)
