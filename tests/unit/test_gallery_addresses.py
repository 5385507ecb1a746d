"""What becomes of addresses: of pages that have left, of earlier renderings, of files that are not ours."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_similarity.stages.gallery import addresses
from image_similarity.stages.gallery.pages import Book, Tab

CURRENT, LEFT, HALF = (f"images/ab/ab{digit * 30}.html" for digit in "012")
EARLIER = "r20260101T000000-00000000"
NOT_OURS = ("images/ab/notes.html", "images/ab/ab.txt", "browse/about.html", "groups/1/1.html")


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(str(tmp_path), "r1", "<b>Title</b>", 3, (Tab("one", "one", "cosine"),), (), 200)


def write(folder: str, *paths: str) -> None:
    for path in paths:
        os.makedirs(os.path.dirname(f"{folder}/{path}"), exist_ok=True)
        Path(folder, path).write_text("a page")


def retire(book: Book, folder: str, current: set[str], earlier: tuple[str, ...] = ()) -> int:
    with ThreadPoolExecutor(2) as pool:
        return addresses._retire(book, folder, current, earlier, pool)


def test_a_page_that_is_not_current_says_that_it_has_left(book: Book, tmp_path: Path) -> None:
    write(book.gallery, CURRENT, LEFT, f"{HALF}.0123abcd.tmp", *NOT_OURS, "browse/1.html", "browse/2.html")
    assert retire(book, "images/ab", {CURRENT}) == 1
    assert retire(book, "images/ab", {CURRENT}) == 0, "it says so already"
    assert retire(book, "browse", {"browse/1.html"}) == 1
    assert retire(book, "images/cd", set()) == retire(book, "groups", set()) == 0
    assert {
        path for path in (CURRENT, *NOT_OURS, "browse/1.html") if (tmp_path / path).read_text() != "a page"
    } == set()
    assert "This image has left the collection" in (tmp_path / LEFT).read_text()
    assert "This page has left the gallery" in (tmp_path / "browse/2.html").read_text()
    assert "&lt;b&gt;Title" in (tmp_path / LEFT).read_text() and not list(tmp_path.rglob("*.tmp"))


def test_a_page_of_an_earlier_rendering_leads_on(book: Book, tmp_path: Path) -> None:
    write(book.gallery, CURRENT)
    write(f"{book.gallery}/{EARLIER}", CURRENT, LEFT, "images/ab/abcdef.html", "browse/1.html", "groups/1.html")
    assert retire(book, "images/ab", {CURRENT}, (EARLIER,)) == 1, "an address that said nothing yet"
    for folder in addresses.LISTINGS:
        assert retire(book, folder, set(), (EARLIER,)) == 0
    assert "has left the collection" in (tmp_path / LEFT).read_text()
    for path, target in (
        (CURRENT, f"../../../{CURRENT}"),
        (LEFT, f"../../../{LEFT}"),
        ("images/ab/abcdef.html", "../../../index.html"),  # names had 24 digits once
        ("browse/1.html", "../../index.html"),
        ("groups/1.html", "../../index.html"),
    ):
        assert f'content="0; url={target}"' in (tmp_path / EARLIER / path).read_text()


def test_a_page_is_placed_whole_and_once(book: Book, tmp_path: Path) -> None:
    uri = f"{tmp_path}/{CURRENT}"
    assert addresses._write_if_changed(uri, b"one") and not addresses._write_if_changed(uri, b"one")
    with open(uri, "rb") as reader:
        assert addresses._write_if_changed(uri, b"on") and addresses._write_if_changed(uri, b"ones")
        assert reader.read() == b"one", "replaced, not written over"
    assert Path(uri).read_bytes() == b"ones"
