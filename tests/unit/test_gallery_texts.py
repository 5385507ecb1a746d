"""What pages say: titles and alternative texts, links, words to search for, and templates that escape all of it."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

import image_similarity
from hostile import LINKS, NAMES, TITLES
from image_similarity.imaging.decoding import UNREADABLE_REASONS
from image_similarity.knn.distances import METRICS
from image_similarity.pages.captions import LONGEST_ON_CARD, LONGEST_TEXT, clean, location, parts, short
from image_similarity.pages.captions import link as web_link
from image_similarity.settings import (
    GallerySettings,
    GroupsSettings,
    NeighboursSettings,
    Settings,
    TagsSettings,
    fingerprints,
    meanings,
)
from image_similarity.stages.embeddings import outcomes as embeddings
from image_similarity.stages.gallery import cards, images, listings, pages, run_page, search, sources, words
from image_similarity.stages.gallery.pages import Book, Tab
from image_similarity.stages.neighbours import usable
from image_similarity.warehouse.records import Record

SETTINGS = GallerySettings()
BOOK = Book("/gallery", "r1", "<b>Title</b>", 3, (Tab("one", "one", "cosine"),), (), 200)


def texts(image_id: str, **attributes: str) -> dict[str, Any]:
    return cards.texts(image_id, attributes, SETTINGS)


def test_titles_come_from_the_attributes_or_the_file() -> None:
    told = texts("folder/leaf-1.jpg", Title="A Leaf", creator="Wu Guxiang", department="Chinese Art", year="1915")
    assert (told["title"], told["subtitle"]) == ("A Leaf", "Wu Guxiang")
    assert told["alt"] == "A Leaf, Wu Guxiang, Chinese Art"
    assert texts("folder/leaf-1.jpg")["title"] == "leaf-1"
    assert texts("folder/leaf-1.jpg", title=" \n ")["title"] == "leaf-1"
    assert texts("a/.hidden")["title"] == ".hidden"
    assert texts("x", title="two\nlines")["title"] == "two lines"
    assert len(texts("x", title="long " * 100)["title"]) == LONGEST_TEXT


@pytest.mark.parametrize(
    "name", ["IMG_0001", "DSCN0417", "4119", "img-20190101-wa0001", "p12 (2)", "Scan 3", "1915.79"]
)
def test_a_title_that_is_only_a_number_shows_its_folder(name: str) -> None:
    assert texts(f"2019/Lake Como/{name}.jpg")["title"] == f"{name}, Lake Como"
    assert texts(f"{name}.jpg")["title"] == texts(f"../{name}.jpg")["title"] == name, "no folder that could be shown"
    assert texts(f"2019/{name}.jpg", title="A lake")["title"] == "A lake"
    assert "como" in texts(f"Como/{name}.jpg")["terms"]


def test_other_titles_show_no_folder() -> None:
    assert texts("prints/leaf-1.jpg")["title"] == "leaf-1" and texts("prints/ab.jpg")["title"] == "ab"
    assert texts("prints/x.jpg", title="12")["title"] == "12, prints"
    assert texts("prints/x.jpg", title="DSC 12")["title"] == "DSC 12", "somebody gave it"


def test_alternative_texts_are_words_for_people() -> None:
    told = texts(
        "a.jpg", title="Vase", file="1915.79.jpg", link="https://example.org/1", number="1915.79", material="clay"
    )
    assert told["alt"] == "Vase, clay"


@pytest.mark.parametrize("title", TITLES + NAMES)
def test_no_text_has_what_pages_may_not_have(title: str) -> None:
    told = texts(title, title=title)
    assert not re.search("[\x00-\x1f\x7f-\x9f\ufffe\uffff]", f"{told['title']}{told['alt']}")
    assert re.fullmatch("[0-9a-f]{32}", told["page"])


def test_only_addresses_of_the_web_are_linked() -> None:
    assert [link for link in LINKS if web_link(link)] == [
        "https://example.org/works/1&c=d",
        "HTTP://EXAMPLE.ORG/UPPER",
    ]
    assert web_link("https://example.org/\u202e") and not web_link("https://example.org/\n")


def test_a_location_can_be_copied_but_no_secret() -> None:
    assert location("/a b/two  spaces \n\t.png") == "/a b/two  spaces \n\t.png"
    assert location("https://u:secret@h/a.png?key=secret") == "https://...@h/a.png?..."
    assert location("/a\x01\r") == "/a\ufffd\ufffd"


def test_everything_that_tables_name_by_a_code_has_words() -> None:
    reasons = {**embeddings.FAILURE_REASONS, **usable.FAILURE_REASONS, **UNREADABLE_REASONS}
    assert {*reasons, "changed"} <= set(words.REASONS)
    assert all(reason.remedy.endswith((".", "?")) and "_" not in reason.happened for reason in words.REASONS.values())
    assert words.reason("of_another_version").happened == "Of another version"
    assert set(words.SCALES) == set(METRICS)


def test_a_distance_lies_between_those_of_nearest_neighbours_and_of_random_pairs() -> None:
    tab = Tab("one", "one", "cosine", tuple(tenth / 10 for tenth in range(1, 10)), random=(1.0, 1.1, 1.2, 1.3))
    assert [tab.nearness(distance) for distance in (0, 0.1, 0.11, 0.5, 0.89, 0.91)] == [9, 9, 8, 7, 5, 4]
    assert [tab.nearness(distance) for distance in (1.0, 1.25, 1.3, 1.31)] == [4, 1, 1, 0], "empty as for a random pair"
    assert replace(tab, random=()).nearness(0.1) is replace(tab, deciles=()).nearness(0.1) is None
    among = replace(tab, random=(0.05, 0.15, 0.8, 0.85))
    assert [among.nearness(distance) for distance in (0.05, 0.3, 0.85, 0.95)] == [9, 6, 2, 0], "they may overlap"
    copies = Tab("one", "one", "cosine", (0.0,) * 9, random=(0.1, 0.2, 0.3, 0.4))
    assert copies.nearness(0) == 9 and copies.nearness(0.05) == 4, "all have copies"


def test_words_are_found_however_they_are_written() -> None:
    assert cards.terms("Ångström's  ﬁne_Leaf-12 (1915.79)") == ["angstrom", "s", "fine", "leaf", "12", "1915", "79"]
    assert cards.terms("山水 Größe") == ["山水", "große"]
    assert cards.terms("") == [] and cards.terms("!?") == []
    assert set(texts("cats/IMG_0007.jpg", title="Tom", link="https://example.org/secret")["terms"]) == {
        "tom",
        "cats",
        "img",
        "0007",
    }


def test_what_begins_between_letters_and_digits_is_found() -> None:
    assert cards.terms("ukbench00041") == ["ukbench00041", "00041"]
    assert cards.terms("IMG2019wa07 12a") == ["img2019wa07", "2019wa07", "wa07", "07", "12a", "a"]
    assert cards.terms("９月 ²x") == ["9月", "月", "2x", "x"]
    assert cards.terms("9f86d081884c7d65") == ["9f86d081884c7d65"], "nobody looks for the middle of a checksum"


@pytest.mark.parametrize("text", [*TITLES, *NAMES])
def test_templates_escape(text: str) -> None:
    card = {
        "page": "ab" * 12,
        "title": text,
        "subtitle": text,
        "alt": text,
        "picture": "cd" * 16,
        "width": 4,
        "height": 3,
    }
    page = pages.render("browse.html", BOOK, "browse/1.html", {"items": [card], "number": 1, "last": 1})
    assert "<script>window" not in page and "<img src=x" not in page and "<b>Title" not in page
    body = page.partition("<main")[2]
    elements = [name for name in re.findall(r"<(\w+)", body) if name != "wbr"]
    assert elements == ["h1", "p", "ul", "li", "a", "img", "span", "span", "footer", "p", "a"]


def test_links_between_pages_are_relative() -> None:
    card = {"page": "ab" * 12, "title": "t", "subtitle": "", "alt": "t", "picture": "cd" * 16, "width": 4, "height": 3}
    front = pages.render("browse.html", BOOK, "index.html", {"items": [card], "number": 1, "last": 1})
    assert 'href="images/ab/' in front and 'src="pictures/cd/' in front and 'href="static/gallery-' in front
    below = pages.render("browse.html", BOOK, "groups/1/x.html", {"items": [card], "number": 1, "last": 1})
    assert 'href="../../images/ab/' in below and 'src="../../pictures/cd/' in below
    assert 'href="../../index.html"' in below and 'href="../../static/gallery-' in below


def test_only_pages_that_need_its_data_name_their_rendering() -> None:
    """All others may be the same in the next rendering, and are not written again then."""
    search = pages.render("search.html", BOOK, "search.html", {})
    assert 'data-rendering="r1"' in search and 'src="r1/search/prefixes.js"' in search
    later = replace(BOOK, rendering="r2")
    for template, path, context in (
        ("browse.html", "browse/1.html", {"items": [], "number": 1, "last": 1}),
        ("failures_by_reason.html", "failures/index.html", {"reasons": []}),
        ("left.html", "images/ab/x.html", {"is_image": True}),
    ):
        assert pages.render(template, BOOK, path, context) == pages.render(template, later, path, context)


def test_pages_that_lead_on_have_the_policy_of_all_others() -> None:
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]+>')
    [of_all] = policy.findall(pages.render("search.html", BOOK, "search.html", {}))
    left = pages.render("left.html", BOOK, "images/ab/x.html", {"is_image": True})
    moved = pages.render("moved.html", BOOK, "r1/images/ab/x.html", {"target": "images/ab/x.html"})
    assert policy.findall(left) == policy.findall(moved) == [of_all]
    assert 'content="0; url=../../../images/ab/x.html"' in moved and 'http-equiv="refresh' not in left
    assert "<script" not in left + moved


def test_files_that_pages_share_are_named_by_their_content() -> None:
    tabs = (Tab("one", "one", "cosine"), Tab("two", "two", "cosine"))
    for name in pages.STATIC_FILES:
        path, text = pages.static_file(name, BOOK)
        assert re.fullmatch(r"static/(gallery|icon|compare|selection)-[0-9a-f]{16}\.(css|js|svg)", path) and text
        assert (path == pages.static_file(name, replace(BOOK, tabs=tabs))[0]) == (name != "gallery.css")


def test_a_long_listing_tells_its_pages_by_a_few() -> None:
    def numbers(number: int, last: int) -> list[str]:
        page = pages.render("browse.html", BOOK, "browse/1.html", {"items": [], "number": number, "last": last})
        return re.findall(r"<li(?: class=\"gap\")?>(?:<a[^>]*>)?([\d,…]+)<", page.partition('class="turning"')[2])

    assert numbers(1, 1) == []
    assert numbers(1, 4) == ["1", "2", "3", "4"]
    assert numbers(50, 1200) == ["1", "…", "48", "49", "50", "51", "52", "…", "1,200"]


def test_templates_are_found_in_a_zip(tmp_path: Path) -> None:
    library = Path(image_similarity.__file__).parent
    archive = shutil.make_archive(str(tmp_path / "library"), "zip", library.parent, library.name)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from image_similarity.stages.gallery import pages\n"
        "assert '.zip' in pages.__file__, pages.__file__\n"
        "book = pages.Book('/g', 'r1', 'Title', 1, (), (), 200)\n"
        "print(pages.render('search.html', book, 'search.html', {}))\n"
        "from image_similarity.settings import NeighboursSettings, meanings\n"
        "print(meanings.meanings(NeighboursSettings)['metric'])\n"
    )
    told = subprocess.run([sys.executable, "-c", program, archive], capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "<h1>Search</h1>" in told.stdout and "The distance between two vectors." in told.stdout


CARD: dict[str, Any] = {"page": "ab" * 16, "title": "A card", "subtitle": "", "alt": "A card", "picture": "cd" * 16}
CARD |= {"width": 600, "height": 300}
TABS = (
    Tab("one", "one", "cosine", (0.1,) * 9, 9, random=(0.15,) * 4),
    Tab("two", "two", "euclidean", (), 9),
    Tab("three", "three", "cosine", (), 9),
)


def image_page(
    tabs: tuple[Tab, ...] = TABS[:2], lists: str = "", uri: str = "/p/a.png", least: str = "", **of_book: Any
) -> str:
    """The page of an image with an attribute. ``lists``: for each tab one letter for each neighbour, in order;
    ``least``: so for the least alike. The distance of a is 0.05, of b 0.06, and so on.
    """
    items = [
        {
            "tab": tab,
            "relation": relation,
            "rank": rank,
            "distance": 0.05 + (ord(letter) - ord("a")) / 100,
            "card": {**CARD, "page": letter * 32},
        }
        for relation, of_tabs in (("similar", lists), ("dissimilar", least))
        for tab, letters in enumerate(of_tabs.split())
        for rank, letter in enumerate(letters, 1)
    ]
    row: dict[str, Any] = {**CARD, "image_id": "prints/a.png", "uri": uri, "ordinal": 0, "reason": None, "detail": None}
    attributes = [("department", "Prints & more"), ("artist", "Somebody"), ("seen at", "https://example.org/")]
    row |= {"attributes": attributes, "subtitle": "Somebody"}
    row |= {"previous": None, "next": None, "items": items}
    values: dict[str, Any] = {"facets": (("department", "groups/1.html"),), "show_locations": True, **of_book}
    book = Book("/gallery", "r1", "Title", 3, tabs, (), 200, **values)
    return pages.render("image.html", book, "images/ab/x.html", images.context(book)(row))


def test_attributes_lead_to_their_groups() -> None:
    prints, somebody = (listings.value_name(*of) for of in (("department", "Prints & more"), ("artist", "Somebody")))
    assert f'<a href="../../groups/1/{prints}-1.html">Prints &amp; more</a>' in image_page()
    facets = (("artist", "groups/2.html"),)
    page = image_page(facets=facets)
    assert f'<p class="lead" dir="auto"><a href="../../groups/2/{somebody}-1.html">Somebody</a></p>' in page
    assert page.count("groups/2/") == 1 and "groups/1/" not in page
    page = image_page(facets=(("seen at", "groups/3.html"),))
    assert '<a href="https://example.org/" rel="noopener noreferrer">' in page and page.count("groups/3/") == 1, "both"
    page = image_page(facets=(("folder", "groups/1.html"),), by_folder=True)
    assert f'<a href="../../groups/1/{listings.value_name("folder", "prints")}-1.html">prints</a>' in page


def test_the_page_of_an_image_says_where_its_original_is() -> None:
    def original(uri: str, **of_book: Any) -> str:
        page = image_page(uri=uri, **of_book).replace("<wbr>", "")
        return page.partition("<dt>original</dt>")[2].partition("</dd>")[0]

    assert '<bdi class="location">/p/a &lt;b&gt;  c.png</bdi>' in original("/p/a <b>  c.png")
    assert original("/p/a.png", show_locations=False) == ""
    address = "https://example.org/a.png"
    assert f'<a href="{address}"' in original(address, show_locations=False)
    assert 'class="location"' in original(address)
    told = original(f"{address}?key=secret")
    assert f"{address}?..." in told and "secret" not in told and 'class="location"' not in told and "<a" not in told


def test_marks_are_about_the_lists_that_are_shown() -> None:
    def marks(page: str) -> list[str]:
        return re.findall(
            r'href="../../images/../(.)\1+.html"[^>]*>(?:(?!</li>).)*<span class="both"> · (in \w+)<', page
        )

    assert marks(image_page(lists="ab bc")) == [("b", "in both")] * 2
    assert marks(image_page(lists="ab")) == [], "there is one list only"
    assert marks(image_page(TABS, lists="ab bc bd")) == [("b", "in all")] * 3
    assert marks(image_page(TABS, lists="ab bc")) == [("b", "in both")] * 2, "of three, two have lists"
    style = pages.render("gallery.css", Book("/g", "r1", "T", 1, TABS, (), 200), "gallery.css", {})
    assert style.count(", .both) { display: none; }") == 4, "one is shown; on phones before a choice"


def test_distances_have_a_legend_and_a_bar() -> None:
    page = image_page(lists="ab bc")
    assert "cosine distance: 0 is the same, 1 unrelated. Nearest neighbours here are mostly about 0.1 to 0.1" in page
    assert "euclidean distance: 0 is the same; there is no largest value" in page
    distance = '<span class="unseen">distance </span>'
    notes = re.findall(rf'<span class="note( n\d)?">{distance}([\d.]+)', page)
    assert notes == [(" n9", "0.0500"), (" n9", "0.0600"), ("", "0.0600"), ("", "0.0700")]


def shown_lists(page: str) -> list[tuple[str, list[str], list[str]]]:
    """Heading, pages (one letter each) and remarks of the lists on the page of an image, in order."""
    found = []
    for relation in page.split('<section class="relation')[1:]:
        heading = re.findall(r"<h2[^>]*>([^<]+)", relation)[0]
        for slot in relation.split('<section class="slot')[1:]:
            remarks = [text for text in re.findall(r'<p class="note scale">([^<]+)</p>', slot)]
            found.append((heading, re.findall(r'href="../../images/../(.)\1+.html"', slot), remarks))
    return found


def small(others: int) -> tuple[Tab, ...]:
    return (Tab("one", "one", "cosine", (), others),)


def test_a_small_collection_shows_each_image_once() -> None:
    """Where the lists are as long as the collection, the most alike and the least alike are the same images."""
    [(heading, pages_shown, [remark])] = shown_lists(image_page(small(4), "abcd", least="dcba"))
    assert (heading, pages_shown) == ("All others, most alike first", list("abcd"))
    assert remark == "All 4 others are here, the most alike first: too few for a second list, of the least alike."
    most, least = shown_lists(image_page(small(5), "abc", least="edc"))
    assert most == ("Most like it", list("abc"), [])
    assert least == (
        "Least like it",
        list("ed"),
        ["1 more of the least alike is in the list above: the collection is small."],
    )
    assert shown_lists(image_page(small(9), "abc", least="ihg")) == [
        ("Most like it", list("abc"), []),
        ("Least like it", list("ihg"), []),
    ]
    [alone] = shown_lists(image_page(small(1), "a", least="a"))
    assert alone == ("All others, most alike first", ["a"], ["It is the only other image."])


def test_lists_that_hold_all_others_say_so_whichever_was_asked_for() -> None:
    assert shown_lists(image_page(small(3), "abc"))[0][2] == ["All 3 others are here, the most alike first."]
    [(heading, _, remarks)] = shown_lists(image_page(small(3), least="cba"))
    assert (heading, remarks) == ("Least like it", ["All 3 others are here, the least alike first."])
    [(_, _, remarks)] = shown_lists(image_page(small(7), "abcd", least="dcba"))
    assert remarks[0].startswith("All 4 others"), "the other images are copies that share an entry with these"


def test_equal_distances_do_not_prove_that_a_list_holds_all() -> None:
    page = image_page(small(9), "a", least="a")
    assert shown_lists(page) == [
        ("Most like it", ["a"], []),
        ("Least like it", [], ["1 more of the least alike is in the list above: the collection is small."]),
    ]


def test_being_in_both_is_marked_where_it_says_something() -> None:
    def marks(others: int, lists: str, least: str = "") -> int:
        tabs = tuple(Tab(name, name, "cosine", (), others) for name in ("one", "two"))
        page = image_page(tabs, lists, least=least)
        assert ('note both">' in page) == ('class="both"' in page)
        return page.count("in both</span>") - page.count(" in both</span></h3>")

    assert marks(8, "abcd bcde") == 6
    assert marks(7, "abcd bcde") == 0, "more than half of all others: most are in both by chance"
    assert marks(4, "abcd dcba") == 0, "all others"
    assert marks(4, "abcd dcba", least="dcba abcd") == 0


def test_long_texts_keep_their_beginning_and_their_end() -> None:
    assert (
        short("Album of Seasonal Landscapes, Leaf A (previous leaf 1)")
        == "Album of Seasonal Landscapes…A (previous leaf 1)"
    )
    name = f"{'holiday-pictures-' * 4}00017.jpg"
    assert short(name).startswith("holiday-pictures-") and short(name).endswith("-00017.jpg")
    assert len(short("x" * 100)) == LONGEST_ON_CARD and short("x" * LONGEST_ON_CARD) == "x" * LONGEST_ON_CARD
    accented = "e\u0301" * 40
    assert "\u2026\u0301" not in short(accented), "no accent without its letter"
    card = {
        "page": "ab" * 16,
        "title": name,
        "subtitle": name,
        "alt": name,
        "picture": "c" * 32,
        "width": 4,
        "height": 3,
    }
    page = pages.render("browse.html", BOOK, "browse/1.html", {"items": [card], "number": 1, "last": 1})
    assert re.sub("<wbr>", "", page).count(f">{short(name)}<") == 1 and f'alt="{name}"' in page
    assert search._entry(card)[4] == short(name), "search shows the same"


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("ukbench00000.jpg", "ukbench|00000|.jpg"),
        ("/data/mini/ukbench00005.jpeg", "/data/|mini/|ukbench|00005|.jpeg"),
        ("IMG_20200101_123456.png", "IMG_|20200101_|123456|.png"),
        ("https://example.org/a.png", "https://example.org/|a|.png"),
        ("leaf12.png in a box", "leaf|12.png in a box"),
        ("a\nb/c\\ddddddddd", "a\nb/|c\\|ddddddddd"),
        ("1998.78.1", "1998.78|.1"),
        ("A short title 12", "A short title 12"),
    ],
)
def test_long_words_end_a_line_where_names_of_files_do(text: str, broken: str) -> None:
    assert parts(text) == broken.split("|")


def test_what_is_usual_is_said_roughly_so_that_a_few_images_change_no_page() -> None:
    values = (0.0, 0.00003326, 0.0133, 0.0951, 0.45, 1.0, 1.4142, 40.4, 1234.5)
    rough = ["0", "0.00003", "0.01", "0.1", "0.5", "1", "1", "40", "1,000"]
    assert [pages.roughly(value) for value in values] == rough
    moved, far = (replace(TABS[0], deciles=(decile,) * 9) for decile in (0.1004, 0.2))
    assert image_page((TABS[0],), "ab") == image_page((moved,), "ab") != image_page((far,), "ab")


def test_a_front_page_has_a_legend_and_no_word_below_each_picture() -> None:
    other = {**CARD, "distance": 0.25}
    context = {"selection": [], "examples": [(CARD, [other])], "facets": [], "map": None}
    page = pages.render("index.html", replace(BOOK, tabs=TABS[:1]), "index.html", context)
    assert "Cosine distance: 0 is the same" in page.partition('class="legend"')[2] and 'href="distances.html"' in page
    assert '<span class="note n0"><span class="unseen">distance </span>0.2500</span>' in page


def test_what_the_distances_mean_has_the_numbers_of_the_collection_and_pairs() -> None:
    tabs = (replace(TABS[0], deciles=tuple(tenth / 10 for tenth in range(1, 10))), TABS[1])
    pairs = [[("Words about it.", 0.1234, [CARD, {**CARD, "page": "ef" * 16}])], []]
    page = pages.render("distances.html", replace(BOOK, tabs=tabs), "distances.html", {"pairs": pairs})
    numbers = dict(re.findall(r"<dt>([\d.]+)</dt><dd>([^<]+)", page))
    assert {"0", "1", "2", "0.1000", "0.5000", "0.9000", "0.1500"} == set(numbers)
    assert "half of the images" in numbers["0.5000"].lower() and "no probability" in page
    assert page.count("images/ab/abab") == 1 and page.count("images/ef/efef") == 1 and "Words about it." in page
    assert page.count('<ul class="pairs">') == 1, "the other table has no pairs"
    assert set(words.NUMBERS) == set(METRICS)


def section_of(job: str, settings: dict[str, Any], counts: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    values: dict[str, Any] = dict.fromkeys(("inputs", "outputs", "versions", "stages"), {})
    values |= dict.fromkeys(("label", "recall")) | {"settings": settings, "counts": counts, "seconds": 1.0}
    record = Record(run_id="r", job=job, slot="", status="", started_at=now, finished_at=now, **values)
    return run_page.section("A step", record, ())


@pytest.mark.parametrize(
    "asked, settings, shown",
    [
        ((), {}, ["vgg16-fc2/cosine", "vgg16-fc2/euclidean", "colours/cosine", "hog/cosine"]),
        ((), {"fingerprint": "hog"}, ["hog/cosine", "vgg16-fc2/cosine", "vgg16-fc2/euclidean", "colours/cosine"]),
        ((), {"fingerprint": "gone"}, ["vgg16-fc2/cosine", "vgg16-fc2/euclidean", "colours/cosine", "hog/cosine"]),
        (("hog", "vgg16-fc2"), {"metric": "euclidean"}, ["hog/cosine", "vgg16-fc2/euclidean", "vgg16-fc2/cosine"]),
    ],
)
def test_the_first_tab_is_the_one_asked_for_or_the_default(
    asked: tuple[str, ...], settings: dict[str, str], shown: list[str]
) -> None:
    """It judges labels."""
    published = ["colours/cosine", "hog/cosine", "vgg16-fc2/cosine", "vgg16-fc2/euclidean"]
    snapshot: Any = SimpleNamespace(slots=lambda table: published, uri="w")
    slots = sources.labelled_slots(snapshot, asked, NeighboursSettings.model_validate(settings))
    assert list(slots) == shown


def test_the_counts_of_groups_are_told_in_words() -> None:
    one, none = {"groups": 1, "images": 1234, "largest": 1234}, {"groups": 0, "images": 0, "largest": 0}
    settings = {"groups": GroupsSettings().model_dump(), "runner": {"chosen": "process"}}
    near = section_of("group_images", settings, {**one, "identical": none, "saturated_skipped": 3})
    facts = dict(near["facts"])
    assert facts["images in groups"] == facts["largest group"] == "1,234" and "images" not in facts
    assert dict(near["nothing"]) == {"identical": "none"}
    two = {"groups": 2, "images": 9, "largest": 5}
    alike = section_of("group_images", settings, {**two, "levels": [two, one]})
    assert dict(alike["facts"])["levels"] == (
        "level 0: 2 groups, 9 images in groups, 5 in the largest group; "
        "level 1: 1 group, 1,234 images in groups, 1,234 in the largest group"
    )
    names = [name for section in (near, alike) for name, _ in (*section["facts"], *section["nothing"])]
    assert [name for name in names if name not in words.FACTS] == []
    of_near, of_alike = ({name for name, _, _ in section["settings"]} for section in (near, alike))
    assert of_near - of_alike == {f"groups.{name}" for name in ("limit", "wide", "keep", "recalibrate_share")}
    assert "neighbours" not in words.RECORDED["runner"], "groups have it, too"


def test_the_facts_of_a_run_do_not_mislead() -> None:
    def facts(settings: dict[str, Any], counts: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        section = section_of("embed_images", settings, counts)
        return dict(section["facts"]), dict(section["nothing"])

    counts = {"kept": 0, "images": 240, "failures": {}, "devices": {"cpu": 240}, "skipped": {}}
    told, nothing = facts({"weights": "untrained (seed 0)", "trained": False}, counts)
    assert told["weights"] == "untrained (seed 0)" and told["devices"] == "cpu (240 images)"
    assert told["images"] == "240" and told["failures"] == "none" and nothing == {"kept": "0", "skipped": "none"}
    told, nothing = facts({"weights": "/w/own.pth", "trained": False}, {"devices": {}})
    assert told["weights"] == "own.pth (untrained)" and nothing == {"devices": "none"}


def test_what_labels_tell_of_tags_is_told_in_words() -> None:
    settings = {"tags": TagsSettings().model_dump(), "label": "species"}
    points = [[0.9, 0.1, 1.0], [0.5, 0.6, 0.8]]
    calibration = {
        **{"attribute": "species", "labelled": 1234, "unmatched": {"a vase": 3}, "unmatched_labels": 1},
        **{"unmatched_images": 3, "accuracy": 0.8065, "accuracy_by_coverage": points, "coverage": 0.775},
        **{"precision": 0.9, "expected_calibration_error": 0.222, "best_temperature": None},
    }
    section = section_of("tag_images", settings, {"images": 2000, "calibration": calibration})
    told = dict(section["facts"])
    assert told["labelled"] == "1,234 images, by species" and told["not compared"] == "3 images, with 1 label"
    assert (told["coverage"], told["precision"], told["accuracy"]) == ("0.775", "0.900", "0.806")
    assert told["calibration error"] == "0.222" and "calibration" not in told
    assert [name for name in told if name not in words.FACTS] == []
    without = dict(section_of("tag_images", settings, {"calibration": {**calibration, "precision": None}})["facts"])
    assert "precision" not in without and without["coverage"] == "0.775"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        ({"not_found": 1234, "empty": 2}, "1,234 not found, 2 empty"),
        ({"share": 0.25, "of_all": 3, "name": "a b", "absent": None}, "share 0.2500; of all 3; name a b; absent none"),
        ({"inner": {"a": {"b": [1, 2.5]}}, "done": True}, "inner (a (b (1, 2.5000))); done yes"),
        ([[0.9, 1], {"a": 1}, [], None, "x"], "(0.9000, 1), (1 a), (none), none, x"),
        (list(range(1000)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 988 more"),
        ({}, "none"),
    ],
)
def test_a_count_of_another_version_is_shown_however_it_is_nested(count: Any, text: str) -> None:
    section = section_of("embed_images", {}, {"of_a_later_version": count})
    assert dict([*section["facts"], *section["nothing"]])["of a later version"] == text


@pytest.mark.parametrize(
    "value", ["text", 3, None, [1], {}, {"labelled": [1], "coverage": "?", "unmatched_images": {}}]
)
def test_a_calibration_of_another_version_is_shown(value: Any) -> None:
    section = section_of("tag_images", {}, {"calibration": value})
    assert section["facts"] or section["nothing"]


def test_every_setting_has_its_words() -> None:
    """They are read from the documentation of the settings, so that they cannot drift."""
    kinds: list[type[BaseModel]] = [fingerprints.class_of({"kind": kind}) for kind in fingerprints.kinds()]
    sections: list[type[BaseModel]] = [
        field.annotation for field in Settings.model_fields.values() if isinstance(field.annotation, type)
    ]
    for section in [*sections, *kinds]:
        said = meanings.meanings(section)
        assert [key for key in section.model_fields if not said.get(key)] == [], section.__name__
    assert "`" not in "".join(meanings.meanings(NeighboursSettings).values())
    assert meanings.meanings(NeighboursSettings)["metric"] == "The distance between two vectors."


def test_the_record_of_a_run_is_told_in_words() -> None:
    declared = {"vgg": {"kind": "network", "network": "vgg16", "weights": ("a", "b")}}
    record = {"fingerprint": declared, "neighbours": {"copies": "one", "screen": "auto"}, "trained": True}
    record |= {"compared_sha256": "ab", "lists": {"similar": 12, "version": 4}, "sample": None, "description": {"a": 1}}
    rows = {name: (value, meaning) for name, value, meaning in words.recorded(record)}
    assert list(rows) == ["compared_sha256", "lists", "sample", "trained"] + [
        *(f"fingerprints.vgg.{key}" for key in ("kind", "network", "weights")),
        *("neighbours.drop_duplicates", "neighbours.screen"),
    ]
    assert [name for name, (_, meaning) in rows.items() if not meaning] == []
    assert rows["lists"][0] == "similar 12, version 4" and rows["trained"][0] == "true"
    assert rows["sample"][0] == "not set" and rows["fingerprints.vgg.weights"][0] == "a, b"
    assert rows["neighbours.drop_duplicates"][0] == "true", "under its name of today"
    assert list(words.recorded({"of_a_later_version": 1})) == [("of_a_later_version", "1", "")]


@pytest.mark.parametrize("section", [meanings.FINGERPRINT, "neighbours"])
@pytest.mark.parametrize("value", ["vgg16-fc2", None, 3, ["a"]])
def test_a_record_of_another_version_has_a_value_for_a_section(section: str, value: Any) -> None:
    assert meanings.explained(section, value) == []
    assert [name for name, _, _ in words.recorded({section: value})] == [section]


def test_lists_of_addresses_keep_their_commas() -> None:
    """A query ends at the next space: what was written to the record without it must keep what stands behind it."""
    for first in ("https://host/a.pth?key=made-up-secret", "https://host/a.pth?..."):
        [(_, value, _)] = words.recorded({"weights": [first, "https://host/b?x", "c"]})
        assert value == clean(value) == "https://host/a.pth?..., https://host/b?..., c"


def test_no_words_of_a_run_alarm() -> None:
    assert "doubt" not in " ".join(words.FACTS.values())


def test_few_failures_are_named_where_their_reasons_are() -> None:
    names = {"not_an_image": [{"image_id": "a b.png", "page": None}, {"image_id": "c.png", "page": "ab" * 16}]}
    reasons = [("empty", 40), ("not_an_image", 2)]

    def overview(**of_book: Any) -> str:
        variables = {"reasons": reasons, "names": names}
        return pages.render("failures_by_reason.html", replace(BOOK, **of_book), "failures/index.html", variables)

    assert "a b.png" in overview() and "images/ab/abab" in overview()
    assert "take it out of the list" in overview(from_list=True)
    assert "remove the file" in overview() and "the list." not in overview(), "a folder is no list"
    in_folders = [reason.advice(from_list=False) for reason in words.REASONS.values() if reason.in_folder]
    assert in_folders and not any("list" in advice for advice in in_folders)


def test_the_front_page_says_how_many_images_failed() -> None:
    def front(**of_book: Any) -> str:
        variables: dict[str, Any] = {"selection": [], "examples": [], "facets": [], "map": None}
        return pages.render("index.html", replace(BOOK, **of_book), "index.html", variables)

    assert '<a href="failures/index.html">3 of 6 could not be used</a>' in front(failures=3, lost=3)
    assert "3 of 4 could not be used by every fingerprint</a>" in front(failures=3, lost=1)
    assert "could not be used" not in front()


def test_a_failure_is_told_once_in_words() -> None:
    item = {
        "image_id": "a.png",
        "page": None,
        "fingerprints": ["one", "two"],
        "details": ["OSError: cut"],
        "uri": "/p/a",
    }
    variables = {"items": [item], "reason": "truncated", "meaning": "m", "images": 1, "number": 1, "last": 1}
    page = pages.render("failures.html", BOOK, "failures/truncated-1.html", variables)
    before, _, details = page.partition("<main")[2].partition("<details>")
    assert "<h1>The file ends too early</h1>" in before and "put in a whole copy" in before
    assert "OSError" not in before and "truncated" not in before
    assert "one, two" in details and "OSError: cut" in details and "<code>truncated</code>" in details
    assert "/p/a" not in page, "locations are not shown in this book"
