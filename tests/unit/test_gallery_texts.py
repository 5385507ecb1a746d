"""What pages say: titles and alternative texts, links, words to search for, and templates that escape all of it."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import image_similarity
from hostile import LINKS, NAMES, TITLES
from image_similarity.pages.captions import LONGEST_TEXT
from image_similarity.pages.captions import link as web_link
from image_similarity.settings import GallerySettings
from image_similarity.stages.gallery import cards, pages
from image_similarity.stages.gallery.pages import Book, Tab

SETTINGS = GallerySettings()
BOOK = Book("/gallery", "r1", "<b>Title</b>", 3, (Tab("one", "one", "cosine"),), (), 200)


def texts(image_id: str, **attributes: str) -> dict[str, Any]:
    return cards._texts(image_id, attributes, SETTINGS)


def test_titles_come_from_the_attributes_or_the_file() -> None:
    told = texts("folder/leaf-1.jpg", Title="A Leaf", creator="Wu Guxiang", department="Chinese Art", year="1915")
    assert (told["title"], told["subtitle"]) == ("A Leaf", "Wu Guxiang")
    assert told["alt"] == "A Leaf, Wu Guxiang, Chinese Art"
    assert texts("folder/leaf-1.jpg")["title"] == "leaf-1"
    assert texts("folder/leaf-1.jpg", title=" \n ")["title"] == "leaf-1"
    assert texts("a/.hidden")["title"] == ".hidden"
    assert texts("x", title="two\nlines")["title"] == "two lines"
    assert len(texts("x", title="long " * 100)["title"]) == LONGEST_TEXT


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
    assert re.findall(r"<(\w+)", body) == ["h1", "p", "ul", "li", "a", "img", "span", "span", "footer", "p", "a"]


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
        assert re.fullmatch(r"static/(gallery|icon)-[0-9a-f]{16}\.(css|js|svg)", path) and text
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
    )
    told = subprocess.run([sys.executable, "-c", program, archive], capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "<h1>Search</h1>" in told.stdout
