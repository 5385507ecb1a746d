"""How near is near in this collection: distances of nearest neighbours and of random pairs, and pairs as examples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from image_similarity.knn import distances as knn
from image_similarity.knn.distances import Metric, Values
from image_similarity.stages.gallery.pages import Tab
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

Pair = tuple[str, str, float]
"""image_id, neighbour_id, distance."""

LEAST_IMAGES = 20
"""With fewer images, tenths of them say little."""
RANDOM_SHARES = (0.05, 0.1, 0.25, 0.5)
"""Shares of pairs drawn at random, whose distances `Tab.random` has."""
VECTORS_DRAWN = 256
"""They make 32,640 pairs."""
TENTHS = [tenth / 10 for tenth in range(1, 10)]
_ACCURACY = 10_000
"""Of the ranks: up to so many images exact, beyond that within a ten-thousandth of them."""

LEAST_SHOWN = 0.00005
"""Smaller distances are shown as 0.0000, like those of copies."""

PLACES = {"near": 0, "usual": 4, "far": 8}
"""Kind of an example -> the decile whose distance it has."""


@dataclass(frozen=True)
class Compared:
    """The vectors that a fingerprint's images were compared by."""

    contents: DataFrame
    """content_sha256, of each image."""
    stored: DataFrame
    """content_sha256, embedding: each content once; also of contents that no image has."""


def with_random_pairs(tabs: tuple[Tab, ...], compared: Mapping[str, Compared]) -> tuple[Tab, ...]:
    """``tabs`` with ``random``, where `Compared` has the vectors of their fingerprint and they are enough."""
    return with_random_pairs_of(tabs, {fingerprint: _drawn(vectors) for fingerprint, vectors in compared.items()})


def with_random_pairs_of(tabs: tuple[Tab, ...], drawn: Mapping[str, Values]) -> tuple[Tab, ...]:
    """The same of vectors that are here: fingerprint -> (n, d) float32."""
    return tuple(
        replace(tab, random=_random(drawn[tab.fingerprint], knn.METRICS[tab.metric]))
        if tab.fingerprint in drawn
        else tab
        for tab in tabs
    )


def _drawn(vectors: Compared) -> Values:
    """(n, d) float32: up to `VECTORS_DRAWN` vectors, the first by the hash of their content."""
    contents = vectors.contents.select("content_sha256").distinct()
    chosen = contents.orderBy("content_sha256").limit(VECTORS_DRAWN).collect()
    stored = vectors.stored.where(F.col("content_sha256").isin([row.content_sha256 for row in chosen]))
    rows = stored.select("content_sha256", "embedding").where("embedding is not null").collect()
    return as_values((row.content_sha256, row.embedding) for row in rows)


def as_values(vectors: Iterable[tuple[str, Sequence[float]]]) -> Values:
    """Contents with their vectors as (n, d) float32, in the order of the contents; only the longest."""
    rows = [vector for _, vector in sorted(vectors, key=lambda pair: pair[0])]
    length = max(map(len, rows), default=0)
    return np.array([row for row in rows if len(row) == length], dtype=np.float32).reshape(-1, length)


def _random(values: Values, metric: Metric) -> tuple[float, ...]:
    """`Tab.random` of the pairs of ``values``; empty if fewer than `LEAST_IMAGES` can be compared."""
    values = values[np.isfinite(values).all(axis=1)]
    values = values[~metric.unusable(values)]
    if len(values) < LEAST_IMAGES:
        return ()
    vectors = knn.measured(values, metric)
    pairs = knn.block(metric, vectors, vectors).view(np.float32)[np.triu_indices(len(vectors), 1)]
    return tuple(float(distance) for distance in np.quantile(pairs, RANDOM_SHARES))


def measured(tabs: tuple[Tab, ...], neighbours: DataFrame) -> tuple[Tab, ...]:
    """``tabs`` with ``others``, and the deciles of the distances of rank 1. ``neighbours``: tab, relation, rank,
    distance.
    """
    first = neighbours.where(F.col("rank") == 1)
    deciles = F.percentile_approx("distance", TENTHS, _ACCURACY).alias("deciles")
    rows = first.groupBy("tab", "relation").agg(F.count("*").alias("images"), deciles).collect()
    return with_ranks(tabs, {(row.tab, row.relation): (row.images, row.deciles) for row in rows})


def with_ranks(tabs: tuple[Tab, ...], first: Mapping[tuple[int, str], tuple[int, Sequence[float]]]) -> tuple[Tab, ...]:
    """``tabs`` with ``others`` and deciles. ``first``: tab and relation -> images, and deciles of rank 1."""
    nearest = {tab: of for (tab, relation), of in first.items() if relation == SIMILAR and of[0] >= LEAST_IMAGES}
    return tuple(
        replace(
            tab,
            deciles=tuple(nearest[number][1]) if number in nearest else (),
            others=max((images - 1 for (of, _), (images, _) in first.items() if of == number), default=0),
        )
        for number, tab in enumerate(tabs)
    )


def examples(tabs: tuple[Tab, ...], neighbours: DataFrame, cards: DataFrame) -> list[dict[str, Pair]]:
    """For each tab: kind of example -> a pair that has pictures. Kinds that no pair is there for are left out.

    The same for the same table, in whatever order its rows come. ``neighbours``: as for `measured`, with image_id and
    neighbour_id. ``cards``: image_id, width (null without a picture).
    """
    pictured = cards.where("width is not null").select("image_id")
    pairs = neighbours.where(F.col("rank") == 1).join(pictured, "image_id", "left_semi")
    pairs = pairs.join(pictured.withColumnRenamed("image_id", "neighbour_id"), "neighbour_id", "left_semi")
    chosen = [
        _first(number, order).alias(f"{kind} {number}")
        for number, tab in enumerate(tabs)
        for kind, order in _orders(tab).items()
    ]
    extremes = pairs.agg(*chosen).collect()[0]
    return [once({kind: extremes[f"{kind} {number}"] for kind in _orders(tab)}) for number, tab in enumerate(tabs)]


def once(extremes: Mapping[str, Any]) -> dict[str, Pair]:
    """The pairs at the extremes, each for the first kind that it is an example of."""
    shown: dict[frozenset[str], tuple[str, Pair]] = {}
    for kind, row in extremes.items():
        if row is not None:
            pair = (row["image_id"], row["neighbour_id"], row["distance"])
            shown.setdefault(frozenset(pair[:2]), (kind, pair))
    return dict(shown.values())


def _orders(tab: Tab) -> dict[str, Column]:
    """Kind of example -> a column of the pairs of rank 1, least for the best example; null where a pair is none."""
    distance, is_similar = F.col("distance"), F.col("relation") == SIMILAR
    places = places_of(tab)
    return {
        "closest": F.when(is_similar & (distance >= LEAST_SHOWN), distance),
        **{kind: F.when(is_similar, F.abs(distance - F.lit(decile))) for kind, decile in places.items()},
        "farthest": F.when(F.col("relation") == DISSIMILAR, -distance),
    }


def places_of(tab: Tab) -> dict[str, float]:
    """Kind of an example -> the decile that it is nearest to; empty without deciles."""
    return {kind: tab.deciles[place] for kind, place in PLACES.items()} if tab.deciles else {}


def _first(tab: int, order: Column) -> Column:
    """The pair of a tab that comes first by ``order``, as a struct of the order and a `Pair`; null if there is none."""
    pair = F.struct(order.alias("order"), "image_id", "neighbour_id", "distance")
    return F.min(F.when((F.col("tab") == tab) & order.isNotNull(), pair))
