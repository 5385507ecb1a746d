"""The page of each image: the picture, its attributes, and its neighbours, with links to their pages."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.pages.captions import clean
from image_similarity.stages.gallery import groups as grouping
from image_similarity.stages.gallery import tags as tagging
from image_similarity.stages.gallery.cards import CARD
from image_similarity.stages.gallery.listings import FOLDER, value_name
from image_similarity.stages.gallery.pages import Book, Tab
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

RELATIONS = (SIMILAR, DISSIMILAR)
OWN = ["image_id", "uri", "ordinal", "attributes", "tags", "reason", "detail", *CARD]


def rows(cards: DataFrame, neighbours: DataFrame, tasks: int, groups: DataFrame | None = None) -> DataFrame:
    """One row for each image: path, the columns of `OWN`, previous, next (pages), items (its neighbours of all tabs).

    ``neighbours``: tab (its number), image_id, relation, rank, neighbour_id, distance. ``groups``: image_id, and
    ``groups``, which the rows have, too.
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
    own = own if groups is None else own.join(groups.repartition(tasks, "image_id"), "image_id", "left")
    return own.join(lists, "image_id", "left").withColumn("path", path)


def context(book: Book) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from a row of `rows` to the template's variables: facts, tags, and neighbours by relation and tab.

    A row may have ``measured`` (a `measures.Row`) and ``isolation`` (tab, mean_distance, percentile).
    """

    def of_row(row: dict[str, Any]) -> dict[str, Any]:
        facts = _facts(row["image_id"], row["attributes"] or [], book)
        groups = [group for _, value, group in facts if group and clean(value) == row["subtitle"]]
        return {
            **{"measured": None, "isolation": None, **row},
            "facts": [fact for fact in facts if clean(fact[1]) not in (row["title"], row["subtitle"], "")],
            "subtitle_group": groups[0] if groups else None,
            **_neighbours(row, book),
            "same": grouping.of_image(row),
            "trails": tagging.trails(row.get("tags") or []),
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


def _neighbours(row: dict[str, Any], book: Book) -> dict[str, dict[int, dict[str, Any]]]:
    """relation -> tab -> the list that the page shows, as `_lists` gives it. Its cards are marked by `_mark`."""
    items = row["items"] or []
    neighbours: dict[str, dict[int, dict[str, Any]]] = {relation: {} for relation in RELATIONS}
    for number in sorted({item["tab"] for item in items}):
        for relation, shown in _lists([item for item in items if item["tab"] == number], book.tabs[number]).items():
            neighbours[relation][number] = shown
    for lists in neighbours.values():
        _mark(lists)
        for number, shown in lists.items():
            for card in shown["cards"]:
                is_similar = lists is neighbours[SIMILAR]
                card["near"] = book.tabs[number].nearness(card["distance"]) if is_similar else None
                card["same_file"] = card["picture"] == row["picture"]
    return neighbours


def _lists(items: list[dict[str, Any]], tab: Tab) -> dict[str, dict[str, Any]]:
    """relation -> its list by one tab: ``cards``, ``others``, ``holds_all``, ``repeated``, ``is_both``.

    In a small collection, images that are among the most alike are also among the least alike. They are shown once:
    the second list leaves them out and counts them as ``repeated``. Where the first list ``holds_all`` others, it
    ``is_both``, and there is no second one.
    """
    cards = {
        relation: [{**item["card"], "distance": item["distance"]} for item in items if item["relation"] == relation]
        for relation in RELATIONS
    }
    similar, dissimilar = cards[SIMILAR], cards[DISSIMILAR]
    others = _others(similar, dissimilar, tab)
    known = {card["page"] for card in similar}
    kept = [card for card in dissimilar if card["page"] not in known]
    lists: dict[str, dict[str, Any]] = {
        SIMILAR: {"cards": similar, "repeated": 0},
        DISSIMILAR: {"cards": kept, "repeated": len(dissimilar) - len(kept)},
    }
    for shown in lists.values():
        shown.update(others=others, holds_all=len(shown["cards"]) == others, is_both=False)
    if not similar:
        del lists[SIMILAR]
    elif dissimilar and lists[SIMILAR]["holds_all"]:
        lists[SIMILAR]["is_both"] = True
    if not dissimilar or lists.get(SIMILAR, {}).get("is_both"):
        del lists[DISSIMILAR]
    return lists


def _others(similar: list[dict[str, Any]], dissimilar: list[dict[str, Any]], tab: Tab) -> int:
    """The number of images that the lists of one image could hold.

    Where the two lists overlap in distance, no image is outside both: it would have to be at least as far as the last
    of the most alike, and at most as far as the last of the least alike. So copies that share an entry do not count.
    """
    if similar and dissimilar and dissimilar[-1]["distance"] < similar[-1]["distance"]:
        return len({card["page"] for card in [*similar, *dissimilar]})
    return tab.others


def _mark(lists: dict[int, dict[str, Any]]) -> None:
    """Marks the cards that are in the lists of all tabs (``everywhere``), and ``are_compared`` of each list.

    Where a list holds more than half of all others, most images are in all lists by chance, so nothing is marked.
    """
    counts = Counter(card["page"] for shown in lists.values() for card in shown["cards"])
    is_telling = all(2 * len(shown["cards"]) <= shown["others"] for shown in lists.values())
    for shown in lists.values():
        shown["are_compared"] = len(lists) > 1 and is_telling
        for card in shown["cards"]:
            card["everywhere"] = shown["are_compared"] and counts[card["page"]] == len(lists)
