"""The page of each image: the picture, its attributes, and its neighbours, with links to their pages."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.pages.captions import clean
from image_similarity.stages.gallery.cards import CARD
from image_similarity.stages.gallery.listings import FOLDER, value_name
from image_similarity.stages.gallery.pages import Book
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

RELATIONS = (SIMILAR, DISSIMILAR)
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


def context(book: Book) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from a row of `rows` to the template's variables: facts, and neighbours by relation and tab."""

    def of_row(row: dict[str, Any]) -> dict[str, Any]:
        facts = _facts(row["image_id"], row["attributes"] or [], book)
        groups = [group for _, value, group in facts if group and clean(value) == row["subtitle"]]
        return {
            **row,
            "facts": [fact for fact in facts if clean(fact[1]) not in (row["title"], row["subtitle"], "")],
            "subtitle_group": groups[0] if groups else None,
            **_neighbours(row, book),
        }

    return of_row


def _facts(image_id: str, attributes: list[tuple[str, str]], book: Book) -> list[tuple[str, str, str | None]]:
    """Name, value, and path of the group (None if there is none), of each attribute; of the folder where the groups are
    folders.
    """
    if not book.by_folder:
        return [(name, value, _group(book, name, value)) for name, value in attributes]
    folder, slash, _ = image_id.partition("/")
    folders = [(FOLDER, folder, _group(book, FOLDER, folder))] if slash else []
    return [*((name, value, None) for name, value in attributes), *folders]


def _group(book: Book, attribute: str, value: str) -> str | None:
    """The path of the first page of the group of the images with this value; None if the attribute is no facet."""
    page = dict(book.facets).get(attribute)
    return page and f"{page.removesuffix('.html')}/{value_name(attribute, value)}-1.html"


def _neighbours(row: dict[str, Any], book: Book) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """relation -> tab -> cards. ``everywhere``: whether the image is in the lists of all tabs that have one."""
    items = row["items"] or []
    lists = {relation: {item["tab"] for item in items if item["relation"] == relation} for relation in RELATIONS}
    counts = Counter((item["relation"], item["card"]["page"]) for item in items)
    neighbours: dict[str, dict[int, list[dict[str, Any]]]] = {relation: {} for relation in RELATIONS}
    for item in items:
        relation, card = item["relation"], item["card"]
        tabs = len(lists[relation])
        shown = {
            **card,
            "distance": item["distance"],
            "near": book.tabs[item["tab"]].nearness(item["distance"]) if relation == SIMILAR else None,
            "same_file": card["picture"] == row["picture"],
            "everywhere": tabs > 1 and counts[relation, card["page"]] == tabs,
        }
        neighbours[relation].setdefault(item["tab"], []).append(shown)
    return neighbours
