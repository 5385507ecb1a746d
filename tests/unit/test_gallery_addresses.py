"""What becomes of addresses, on a disk and in an object store: of pages that have left, of earlier renderings, of files
that are not ours.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import s3_server
from image_similarity.stages.gallery import addresses
from image_similarity.stages.gallery.pages import Book, Tab
from image_similarity.storage import blobs

CURRENT, LEFT, HALF = (f"images/ab/ab{digit * 30}.html" for digit in "012")
EARLIER = "r20260101T000000-00000000"
NOT_OURS = ("images/ab/notes.html", "images/ab/ab.txt", "browse/about.html", "groups/1/1.html")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server.serving("pages") as bucket:
        yield bucket


@pytest.fixture(params=["disk", "store"])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Book:
    on_disk = request.param == "disk"
    root = str(tmp_path) if on_disk else f"{request.getfixturevalue('bucket')}/{request.node.originalname}"
    return Book(root, "r1", "<b>Title</b>", 3, (Tab("one", "one", "cosine"),), (), 200)


def write(book: Book, *paths: str) -> None:
    for path in paths:
        blobs.write(f"{book.gallery}/{path}", b"a page", "text/html")


def read(book: Book, path: str) -> str:
    return blobs.read(f"{book.gallery}/{path}").decode()


def retire(book: Book, folder: str, current: set[str], earlier: tuple[str, ...] = ()) -> int:
    with ThreadPoolExecutor(2) as pool:
        return addresses._retire(book, folder, current, earlier, pool)


def test_a_page_that_is_not_current_says_that_it_has_left(book: Book) -> None:
    half = f"{HALF}.0123abcd.tmp"
    write(book, CURRENT, LEFT, half, *NOT_OURS, "browse/1.html", "browse/2.html")
    assert retire(book, "images/ab", {CURRENT}) == 1
    assert retire(book, "images/ab", {CURRENT}) == 0, "it says so already"
    assert retire(book, "browse", {"browse/1.html"}) == 1
    assert retire(book, "images/cd", set()) == retire(book, "groups", set()) == 0
    assert {read(book, path) for path in (CURRENT, *NOT_OURS, "browse/1.html")} == {"a page"}
    assert "This image has left the collection" in read(book, LEFT) and "&lt;b&gt;Title" in read(book, LEFT)
    assert "This page has left the gallery" in read(book, "browse/2.html")
    assert not blobs.exists(f"{book.gallery}/{half}")


def test_a_page_of_an_earlier_rendering_leads_on(book: Book) -> None:
    earlier = (CURRENT, LEFT, "images/ab/abcdef.html", "browse/1.html", "groups/1.html")
    write(book, CURRENT, *(f"{EARLIER}/{path}" for path in earlier))
    assert retire(book, "images/ab", {CURRENT}, (EARLIER,)) == 1, "an address that said nothing yet"
    for folder in addresses.LISTINGS:
        assert retire(book, folder, set(), (EARLIER,)) == 0
    assert "has left the collection" in read(book, LEFT)
    for path, target in (
        (CURRENT, f"../../../{CURRENT}"),
        (LEFT, f"../../../{LEFT}"),
        ("images/ab/abcdef.html", "../../../index.html"),  # names had 24 digits once
        ("browse/1.html", "../../index.html"),
        ("groups/1.html", "../../index.html"),
    ):
        assert f'content="0; url={target}"' in read(book, f"{EARLIER}/{path}")


def test_a_page_is_placed_if_it_is_another_one(book: Book) -> None:
    uri = f"{book.gallery}/{CURRENT}"
    assert addresses._write_if_changed(uri, b"one") and not addresses._write_if_changed(uri, b"one")
    for content in (b"on", b"ones", b"two!"):
        assert addresses._write_if_changed(uri, content) and blobs.read(uri) == content
