"""The page of each image: the picture, its attributes, and its neighbours, with links to their pages."""

from collections import Counter
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.stages.gallery.cards import CARD
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

OWN = ["image_id", "uri", "ordinal", "attributes", "reason", "detail", *CARD]


def rows(cards: DataFrame, neighbours: DataFrame, tasks: int) -> DataFrame:
    """One row for each image: path, the columns of `OWN`, previous, next (pages), items (its neighbours of all tabs).

    ``neighbours``: tab (its number), image_id, relation, rank, neighbour_id, distance.
    """
    neighbour_cards = cards.select(F.col("image_id").alias("neighbour_id"), F.struct(*CARD).alias("card"))
    edges = neighbours.join(neighbour_cards, "neighbour_id").repartition(tasks, "image_id")
    edge = F.struct("tab", "relation", "rank", "distance", "card")
    lists = edges.groupBy("image_id").agg(F.sort_array(F.collect_list(edge)).alias("items"))
    previous = cards.select((F.col("ordinal") + 1).alias("ordinal"), F.col("page").alias("previous"))
    following = cards.select((F.col("ordinal") - 1).alias("ordinal"), F.col("page").alias("next"))
    own = (
        cards.select(*OWN)
        .join(previous, "ordinal", "left")
        .join(following, "ordinal", "left")
        .repartition(tasks, "image_id")
    )
    path = F.concat(F.lit("images/"), F.substring("page", 1, 2), F.lit("/"), "page", F.lit(".html"))
    return own.join(lists, "image_id", "left").withColumn("path", path)


def context(row: dict[str, Any]) -> dict[str, Any]:
    """The template's variables for a row of `rows`: its neighbours by relation and tab."""
    tab_counts = Counter((item["relation"], item["card"]["page"]) for item in row["items"] or ())
    neighbours: dict[str, dict[int, list[dict[str, Any]]]] = {SIMILAR: {}, DISSIMILAR: {}}
    for item in row["items"] or ():
        shown = {**item["card"], "distance": item["distance"], "rank": item["rank"]}
        shown["tab_count"] = tab_counts[item["relation"], shown["page"]]
        shown["same_file"] = shown["picture"] == row["picture"]
        neighbours[item["relation"]].setdefault(item["tab"], []).append(shown)
    return {
        **row,
        "attributes": row["attributes"] or [],
        "similar": neighbours[SIMILAR],
        "dissimilar": neighbours[DISSIMILAR],
    }
