"""The lists of `ranked` of a collection of any size, by Spark.

Spark joins and sorts; tasks ask of their rows, as arrays, what `ranked_in_memory` asks of all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from image_similarity.runtime.tasks import numbered
from image_similarity.stages.gallery import cards, measures, ranked
from image_similarity.stages.gallery.listings import Facet
from image_similarity.stages.gallery.measures import BY_FLAG, DERIVED, MOST, ORDERS, STORED, Histogram
from image_similarity.stages.gallery.ranked import Edges, Lists, Odd, Quality, Suspects
from image_similarity.warehouse.schemas import SIMILAR
from image_similarity.warehouse.workspace import Workspace

_CHOSEN = "list string, value double, ordinal long"
_EDGES = ["ordinal", "neighbour", "distance", "label", "other"]
_JUDGED = (
    "ordinal long, label long, suggested long, score float, own_share float, neighbours array<long>, labels array<long>"
)
_COUNTED = "name string, images array<long>, flagged array<long>"


class RankedBySpark:
    """``images``: the cards of all images, with ``ordinal``, ``image_id`` and ``content_sha256``. ``neighbours``: tab,
    image_id, relation, rank, neighbour_id, distance. ``quality``: rows of that table; None: there are none.
    """

    def __init__(self, images: DataFrame, neighbours: DataFrame, quality: DataFrame | None, scratch: Workspace) -> None:
        self._images, self._scratch = images, scratch
        ordinals = images.select("image_id", "ordinal")
        others = ordinals.select(F.col("image_id").alias("neighbour_id"), F.col("ordinal").alias("neighbour"))
        similar = neighbours.where(F.col("relation") == SIMILAR)
        joined = similar.join(ordinals, "image_id").join(others, "neighbour_id")
        edges = joined.select("tab", "ordinal", "rank", "neighbour", "distance")
        self._edges = scratch.write("ranked-edges", edges)
        self._isolation = scratch.write("ranked-isolation", _isolation(self._edges, scratch))
        self._quality = None if quality is None else scratch.write("ranked-quality", _measured(images, quality))

    def of_images(self) -> DataFrame:
        """image_id, ``measured`` (null: not known) and ``isolation`` (by tabs) of each image, for its page."""
        isolated = F.sort_array(F.collect_list(F.struct("tab", "mean_distance", "percentile"))).alias("isolation")
        own = self._images.select("ordinal", "image_id")
        rows = own.join(self._isolation.groupBy("ordinal").agg(isolated), "ordinal", "left")
        if self._quality is None:
            rows = rows.withColumn("measured", F.lit(None).cast("string"))
        else:
            measured = self._quality.select("ordinal", _as_one())
            rows = rows.join(measured, "ordinal", "left")
        return rows.select("image_id", "measured", "isolation")

    def lists(self, facets: Sequence[Facet], members: DataFrame) -> Lists:
        """``members``: attribute, value and ordinal of the images of the facets."""
        judged = [self._suspects(facet, members) for facet in facets if ranked.can_be_judged(facet)]
        unjudged = [facet.attribute for facet in facets if not ranked.can_be_judged(facet)]
        return Lists(self._of_quality(), self._odd(), judged, unjudged)

    # -- quality -------------------------------------------------------------------------------------------------------

    def _of_quality(self) -> Quality | None:
        rows = self._quality
        images = 0 if rows is None else rows.count()
        if rows is None or not images:
            return None
        chosen = self._firsts(rows)
        card = self._cards({at for of in chosen.values() for at in of}, rows.select("ordinal", _as_one()))
        lists = {name: [card[at] for at in of] for name, of in chosen.items()}
        flags = [F.count_if(F.array_contains("flags", flag)).alias(flag) for flag in BY_FLAG]
        counts = rows.agg(*flags).collect()[0].asDict()
        return Quality(images, lists, self._histograms(rows), {flag: of for flag, of in counts.items() if of})

    def _firsts(self, rows: DataFrame) -> dict[str, list[int]]:
        """Name of a list -> ordinals of its images, in order. Each task chooses from its own rows."""

        def chosen(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            if parts := list(batches):
                for name, values, ordinals in measures.firsts(pa.Table.from_batches(parts)):
                    columns = [pa.array([name] * len(values), pa.string()), pa.array(values), pa.array(ordinals)]
                    yield pa.RecordBatch.from_arrays(columns, ["list", "value", "ordinal"])

        table = rows.select("ordinal", *STORED).mapInArrow(chosen, _CHOSEN).toArrow()
        names = np.array(table["list"].to_pylist(), object)
        values, ordinals = table["value"].to_numpy(), table["ordinal"].to_numpy()
        all_names = [*(order.name for order in ORDERS), *(f"flag-{flag}" for flag in BY_FLAG)]
        return {
            name: measures.first_of(values[names == name], ordinals[names == name])[1].tolist() for name in all_names
        }

    def _histograms(self, rows: DataFrame) -> dict[str, Histogram]:
        known = {order.name: _finite(order.column) for order in ORDERS}
        ends = [F.struct(F.min(of), F.max(of)).alias(name) for name, of in known.items()]
        extremes = {name: tuple(of) for name, of in rows.agg(*ends).collect()[0].asDict().items() if of[0] is not None}
        shown = [order for order in ORDERS if order.name in extremes]

        def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            if parts := list(batches):
                table = pa.Table.from_batches(parts)
                counts = [(order.name, *measures.counted(table, order, extremes[order.name][1])) for order in shown]
                columns = [pa.array([list(of) for of in column]) for column in list(zip(*counts))[1:]]
                names = pa.array([name for name, *_ in counts])
                yield pa.RecordBatch.from_arrays([names, *columns], ["name", "images", "flagged"])

        parts = rows.select("ordinal", *STORED).mapInArrow(counted, _COUNTED).collect()
        return {
            order.name: Histogram(
                *extremes[order.name],
                *(
                    tuple(np.sum([part[column] for part in parts if part["name"] == order.name], axis=0).tolist())
                    for column in ("images", "flagged")
                ),
            )
            for order in shown
        }

    # -- neighbours ----------------------------------------------------------------------------------------------------

    def _odd(self) -> dict[int, Odd]:
        counts = self._isolation.groupBy("tab").count().orderBy("tab").collect()
        return {
            row["tab"]: self._odd_by(row["tab"], row["count"]) for row in counts if row["count"] >= ranked.LEAST_IMAGES
        }

    def _odd_by(self, tab: int, images: int) -> Odd:
        own = self._isolation.where(F.col("tab") == tab).drop("tab")
        first = own.orderBy(F.desc("mean_distance"), "ordinal").limit(MOST)
        ordinals = [row["ordinal"] for row in first.select("ordinal").collect()]
        card = self._cards(ordinals, own)
        return Odd(images, [card[at] for at in ordinals])

    def _suspects(self, facet: Facet, members: DataFrame) -> Suspects:
        """Each task judges its own images."""

        def judged(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            if parts := list(batches):
                columns = [column.to_numpy() for column in pa.Table.from_batches(parts).select(_EDGES).columns]
                yield from ranked.judged(Edges(*columns), facet).to_batches()

        label = self._labels(facet, members)
        other = label.select(F.col("ordinal").alias("neighbour"), F.col("label").alias("other"))
        joined = self._edges.where("tab = 0").join(label, "ordinal", "left").join(other, "neighbour", "left")
        ordered = joined.fillna(-1, ["label", "other"]).repartition("ordinal").sortWithinPartitions("ordinal", "rank")
        rows = self._scratch.write(f"ranked-{facet.name}", ordered.mapInArrow(judged, _JUDGED))
        images, doubted = rows.agg(F.count("*"), F.count_if(F.col("score") > 0)).collect()[0]
        first = rows.where("score > 0").orderBy(F.desc("score"), "ordinal").limit(MOST).toArrow().to_pylist()
        return ranked.suspects(facet, images, doubted, first, self._cards(ranked.ordinals_of(first)))

    def _labels(self, facet: Facet, members: DataFrame) -> DataFrame:
        """ordinal and ``label`` (the place of its value among those of the facet) of each image that has one."""
        codes = [(value.value, code) for code, value in enumerate(facet.values)]
        table = members.sparkSession.createDataFrame(codes, "value string, label long")
        own = members.where(F.col("attribute") == facet.attribute).select("value", "ordinal")
        return own.join(F.broadcast(table), "value").select("ordinal", "label")

    def _cards(self, ordinals: Iterable[int], also: DataFrame | None = None) -> Mapping[int, dict[str, Any]]:
        """ordinal -> its card, with the columns of ``also``."""
        wanted = pa.table({"ordinal": pa.array(sorted(set(ordinals)), pa.int64())})
        chosen = F.broadcast(self._images.sparkSession.createDataFrame(wanted))
        rows = self._images.select("ordinal", *cards.CARD).join(chosen, "ordinal")
        rows = rows if also is None else rows.join(also, "ordinal")
        shown = (row.asDict(recursive=True) for row in rows.collect())
        return {row.pop("ordinal"): row for row in shown}


def _isolation(edges: DataFrame, scratch: Workspace) -> DataFrame:
    """tab, ordinal, mean_distance, percentile: as `grouping.isolation.isolation` gives them for each tab.

    Sums of distances are exact in double precision, so their order makes no difference.
    """
    mean = F.avg(F.col("distance").cast("double")).cast("float").alias("mean_distance")
    placed = numbered(edges.groupBy("tab", "ordinal").agg(mean), ["tab", "mean_distance"], "place", scratch)
    tabs = placed.groupBy("tab").agg(F.min("place").alias("start"), F.count("*").alias("images"))
    nearer = placed.groupBy("tab", "mean_distance").agg(F.min("place").alias("nearer"))
    share = (F.col("nearer") - F.col("start")) / F.greatest(F.lit(1), F.col("images") - 1)
    joined = placed.join(nearer, ["tab", "mean_distance"]).join(F.broadcast(tabs), "tab")
    return joined.select("tab", "ordinal", "mean_distance", share.cast("float").alias("percentile"))


def _measured(images: DataFrame, quality: DataFrame) -> DataFrame:
    """ordinal, `STORED` and `DERIVED` of the images whose content was measured."""
    own = images.select("image_id", "ordinal", F.col("content_sha256").alias("now"))
    is_other = F.coalesce(F.col("content_sha256") != F.col("now"), F.lit(False))
    short, long = F.least("width", "height").cast("double"), F.greatest("width", "height").cast("double")
    rows = quality.join(own, "image_id").where(~is_other)
    return rows.select("ordinal", *STORED, short.alias("short_side"), (long / short).alias("elongation"))


def _finite(column: str) -> Column:
    """A column of numbers as doubles; null where it is none. Spark takes NaN for the largest number."""
    value = F.col(column).cast("double")
    return F.when(F.abs(value) < float("inf"), value)


def _as_one() -> Column:
    return F.struct(*STORED, *DERIVED).alias("measured")
