"""Pages of lists by a number: words, histograms, addresses, and labels that try to break them."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import quality_tables
from hostile import SCRIPT, TITLES
from image_similarity.imaging.quality import FLAGS
from image_similarity.settings import GallerySettings
from image_similarity.stages.gallery import addresses, images, in_memory, measures, pages, ranked
from image_similarity.stages.gallery.listings import Facet, as_facets
from image_similarity.stages.gallery.measures import Histogram
from image_similarity.stages.gallery.pages import Book, Ranked, Tab
from image_similarity.stages.gallery.ranked import Edges, Lists
from image_similarity.stages.gallery.ranked_in_memory import RankedInMemory
from image_similarity.warehouse.schemas import SCHEMAS

TABS = (Tab("one", "one", "cosine"),)
BOOK = Book("/gallery", "r1", "<b>Title</b>", 3, TABS, (), 200)
ATTRIBUTE = f'"><b onclick=window.hacked=1>{SCRIPT}'


def everything(labels: list[str], attribute: str = ATTRIBUTE) -> tuple[RankedInMemory, list[Facet]]:
    """Images with these labels, four of each: each is a neighbour of all that have the label after its own."""
    own = [label for label in labels for _ in range(4)]
    all_images: list[dict[str, Any]] = [
        {"ordinal": number, "image_id": f"i{number:03}", "content_sha256": "c", "attributes": [(attribute, label)]}
        for number, label in enumerate(own)
    ]
    card = {
        image["image_id"]: {"page": f"{number:032x}", "title": TITLES[number % len(TITLES)], "subtitle": "", "alt": "a"}
        | {"picture": "p" * 32, "width": 4, "height": 3}
        for number, image in enumerate(all_images)
    }
    image = np.repeat(np.arange(len(own)), 4)
    neighbour = (image // 4 * 4 + 4 + np.tile(np.arange(4), len(own))) % len(own)
    ones = np.ones(len(image), np.int64)
    edges = in_memory.Edges(image, 0 * ones, ones > 0, ones, neighbour, np.full(len(image), 0.5, np.float32))
    quality = quality_tables.rows({image["image_id"]: "c" for image in all_images})
    sizes = [(attribute, label, own.count(label)) for label in dict.fromkeys(own)]
    facets = as_facets([attribute], sizes, False, GallerySettings())
    return RankedInMemory(all_images, card, edges, pa.Table.from_pylist(quality, SCHEMAS["quality"])), facets


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    """Path -> page, of images whose labels, titles and attribute try to break pages."""
    in_process, facets = everything([*dict.fromkeys(title for title in TITLES), ""])
    lists = in_process.lists(facets)
    book = replace(BOOK, ranked=lists.shown(TABS))
    return {
        path: pages.render(template, book, path, context)
        for path, template, context in ranked.pages_of(lists, TABS, per_page=10)
    }


def test_nothing_that_is_shown_becomes_a_part_of_the_page(rendered: dict[str, str]) -> None:
    doubted = [page for path, page in rendered.items() if path.startswith("odd/label-")]
    assert len(doubted) == -(-4 * (len(set(TITLES)) + 1) // ranked.SUSPECTS_PER_PAGE)
    assert any("&lt;script&gt;window.hacked=1&lt;/script&gt;" in page for page in doubted)
    for page in rendered.values():
        assert "<script>window" not in page and "<b onclick" not in page and "onerror=window.hacked=1>" not in page
        assert "(empty)" in page or not re.search(r"<bdi>\s*</bdi>", page)


def test_pages_have_addresses_that_leave_and_links_among_them_lead_to_pages(rendered: dict[str, str]) -> None:
    assert all(addresses._ADDRESS.fullmatch(path) for path in rendered)
    folders = {path.partition("/")[0] for path in rendered}
    assert folders == {"quality", "odd"} <= set(addresses.LISTINGS)
    for path, page in rendered.items():
        folder = path.partition("/")[0]
        for link in re.findall(r'href="([^":#]+\.html)"', page):
            target = link.removeprefix("../") if link.startswith("../") else f"{folder}/{link}"
            assert target in rendered or target.partition("/")[0] not in folders, f"{path}: {link}"


def test_a_list_has_its_first_images_only_and_says_of_how_many() -> None:
    images_of = measures.MOST + 100
    in_process, facets = everything([f"label {number}" for number in range(images_of // 4)])
    lists = in_process.lists(facets)
    [suspects] = lists.suspects
    assert (suspects.doubted, len(suspects.rows), len(lists.odd[0].cards)) == (images_of, measures.MOST, measures.MOST)
    shown = {path: context for path, _, context in ranked.pages_of(lists, TABS, per_page=60)}
    assert shown["quality/darkest-1.html"]["last"] == 9 and "quality/darkest-10.html" not in shown
    book = replace(BOOK, ranked=lists.shown(TABS))
    for path, template, context in ranked.pages_of(lists, TABS, per_page=60):
        if path.endswith("-1.html") and "flag" not in path:
            assert "the first 500" in pages.render(template, book, path, context), path


def test_the_likeliest_come_first_and_the_neighbours_are_shown() -> None:
    """Of two labels, b is that of the neighbours of 0 to 2; those of 0 all have it, those of 2 just about."""
    label = np.array([0, 0, 0, *[0] * 4, *[1] * 6, -1])
    near = [[7, 8, 9, 10], [7, 8, 9, 3], [7, 8, 3, 13], [4, 5, 6, 0]]
    image = np.repeat(np.arange(4), 4)
    neighbour = np.concatenate(near)
    edges = Edges(image, neighbour, np.full(16, 0.5, np.float32), label[image], label[neighbour])
    [facet] = as_facets(["l"], [("l", "a", 7), ("l", "b", 6)], False, GallerySettings())
    judged = ranked.judged(edges, facet).to_pylist()
    assert [(row["ordinal"], row["suggested"], round(row["score"], 6)) for row in judged] == [
        (0, 1, 1.0),
        (1, 1, 0.5),
        (2, 1, 0.25),
        (3, -1, -1.0),
    ]
    card = {at: {"page": str(at)} for at in range(14)}
    shares = [(row["suggested_share"], row["own_share"]) for row in ranked.suspects(facet, 4, 3, judged, card).rows]
    assert shares == [(1.0, 0.0), (0.75, 0.25), (0.5, 0.25), (0.0, 1.0)], "the one without a label speaks for nobody"
    assert judged[2]["neighbours"] == [7, 8, 3, 13] and judged[2]["labels"] == [1, 1, 0, -1]
    alone = as_facets(["l"], [("l", "a", 1), ("l", "b", 6)], False, GallerySettings())[0]
    assert ranked.judged(edges, alone).num_rows == 0, "nobody else has their label"


def test_values_that_are_all_different_are_told() -> None:
    in_process, facets = everything(["a", "b"])
    single = as_facets(["key"], [("key", f"i{number}", 1) for number in range(8)], False, GallerySettings())
    lists = in_process.lists([*facets, *single])
    assert lists.unjudged == ["key"] and len(lists.suspects) == 1
    [(path, template, context)] = [page for page in ranked.pages_of(lists, TABS, 60) if page[1] == "odd.html"]
    page = pages.render(template, replace(BOOK, ranked=lists.shown(TABS)), path, context)
    assert "by its <bdi>key</bdi>: no two have the same" in page


def test_labels_are_doubted_by_a_fingerprint_that_is_named_and_with_both_shares() -> None:
    in_process, facets = everything(["a", "b"], "style")
    lists = in_process.lists(facets)
    [(path, template, context)] = [page for page in ranked.pages_of(lists, TABS, 60) if page[1] == "mislabelled.html"]
    for tabs, neighbours in (
        (TABS, "images whose nearest neighbours speak"),
        ((*TABS, Tab("two", "two", "cosine")), "images whose nearest neighbours by one speak"),
    ):
        page = pages.render(template, replace(BOOK, tabs=tabs, ranked=lists.shown(TABS)), path, context)
        assert neighbours in page and "100\u00a0%, its own 0\u00a0%" in page


@pytest.mark.parametrize("images_of", [1, 3])
def test_where_no_image_is_before_another_there_are_a_sentence_and_the_images(images_of: int) -> None:
    of_all = everything(["a"])[0].lists([]).quality
    assert of_all is not None
    cards = of_all.lists["darkest"]
    same = [{**card, "measured": cards[0]["measured"]} for card in cards[:images_of]]
    even = Histogram(1.0, 1.0, (images_of,), (images_of,))
    names = [order.name for order in measures.ORDERS]
    flags = dict.fromkeys(["dark"], images_of)
    lists = dict.fromkeys([*names, "flag-dark"], same)
    quality = ranked.Quality(images_of, lists, dict.fromkeys(names, even), flags)
    book = replace(BOOK, images=images_of, ranked=Ranked(True))
    shown = [
        (path, pages.render(template, book, path, context))
        for path, template, context in ranked.pages_of(Lists(quality), TABS, per_page=2)
    ]
    assert [path for path, _ in shown] == [
        "quality/index.html",
        *(f"quality/flag-dark-{n}.html" for n in (1, 2)[:images_of]),
    ]
    index = shown[0][1]
    assert ("One image was measured" if images_of == 1 else "All measured images have the same numbers") in index
    assert ("The first 2 are here" in index) == (images_of > 2)
    assert index.count('<li class="card') == min(images_of, 2) and 'class="panels"' not in index
    assert "first pictures of each list" not in index
    assert not any(re.search(r"<ul[^>]*>\s*</ul>", page) for _, page in shown)


def test_all_flags_lead_to_a_list_by_their_number() -> None:
    assert set(measures.BY_FLAG) == set(FLAGS)
    assert len({order.name for order in measures.ORDERS}) == len(measures.ORDERS)


def row(**numbers: Any) -> dict[str, Any]:
    known = {"width": 640, "height": 160, "size_bytes": 84_000, "format": "JPEG", "flags": ["dark", "odd-aspect"]}
    known |= {"brightness_p5": 0.0, "brightness_p95": 0.034, "contrast": 0.0123, "sharpness": 8.04, "entropy": 2.5}
    return {**known, "one_colour_share": 0.9981, "short_side": 160.0, "elongation": 4.0, **numbers}


def test_numbers_are_told_in_words() -> None:
    told = {order.name: measures.number(order, row()).replace("\u00a0", " ") for order in measures.ORDERS}
    assert told == {
        "darkest": "brightest parts 3.4 %",
        "brightest": "darkest parts 0 %",
        "contrast": "contrast 0.012",
        "sharpness": "sharpness 8.0",
        "information": "entropy 2.50 bits",
        "one-colour": "99.8 % of one colour",
        "smallest": "640 × 160",
        "elongated": "4 : 1, 640 × 160",
    }
    assert measures.axis(measures.ORDERS[6], Histogram(1, 9, (1,), (0,))) == ("1\u00a0pixel", "9\u00a0pixels")
    assert measures.note(measures.ORDERS[0], row()).count('<span class="flag">') == 2
    hostile = measures.note(measures.ORDERS[0], row(flags=[SCRIPT]))
    assert "<script>" not in hostile and "&lt;script&gt;" in hostile


def test_an_image_says_its_numbers_with_flags_and_how_isolated_it_is() -> None:
    book = replace(BOOK, ranked=Ranked(True, ("dark",), ((0, "odd/one-cosine-1.html"),)))
    card = {"page": "0" * 32, "title": "t", "subtitle": "", "alt": "t", "picture": "p" * 32, "width": 4, "height": 3}
    own = {"image_id": "x", "uri": None, "attributes": [], "ordinal": 0, "reason": None, "detail": None, **card}
    own |= {"previous": None, "next": None, "items": [], "groups": None}
    isolation = [{"tab": 0, "mean_distance": 0.5, "percentile": 0.99999}]

    def page(**numbers: Any) -> str:
        context = images.context(book)({**own, **numbers})
        return pages.render("image.html", book, "images/ab/x.html", context).replace("\u00a0", " ")

    told = page(measured=row(contrast=None), isolation=isolation)
    assert '<a class="flag" href="../../quality/flag-dark-1.html">dark</a>' in told
    assert '<span class="flag">odd aspect</span>' in told, "no list of this rendering has it"
    assert '<a href="../../odd/one-cosine-1.html">99 %</a> of images' in re.sub(r"\s+", " ", told), "never all of them"
    assert "640 × 160, JPEG, 84 kB" in told and ">contrast<" not in told
    assert "<table" not in page(measured=None, isolation=None) and "<table" in page(measured=None, isolation=isolation)


def test_navigation_names_lists_that_are_there() -> None:
    def front(shown: Ranked) -> list[str]:
        page = pages.render("search.html", replace(BOOK, ranked=shown), "search.html", {})
        return re.findall(r"<bdi>([^<]+)</bdi></a></li>", page)

    before = front(Ranked())
    assert before == ["All images", "This run"]
    assert front(Lists().shown(TABS)) == before
    assert front(Ranked(True, (), ((0, "odd/one-cosine-1.html"),))) == ["All images", "Odd ones", "Quality", "This run"]


def test_a_bar_is_seen_however_few_images_it_has() -> None:
    histogram = Histogram(0.0, 1.0, (1000, 0, 1), (0, 0, 1))
    assert measures.heights(histogram, 100) == [(0, 100, 0), (2, 1, 1)]


@pytest.mark.parametrize("order", measures.ORDERS, ids=lambda order: order.name)
def test_histograms_count_every_image_once(order: measures.Order) -> None:
    table = pa.Table.from_pylist(quality_tables.rows({f"i{number}": "c" for number in range(200)}), SCHEMAS["quality"])
    values = measures.values_of(table, order.column)
    counts, flagged = measures.counted(table, order, float(values.max()))
    assert counts.sum() == 200 and (flagged <= counts).all()
    assert flagged.sum() == (measures.flagged(table, order.flag).sum() if order.flag else 0)
    edges = measures.borders(order, float(values.max()))
    assert len(edges) == measures.BINS + 1 and (np.diff(edges) > 0).all()
    assert edges[0] <= values.min() and edges[-1] >= values.max()
