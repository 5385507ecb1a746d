"""What a gallery and its map leave for one another, without Spark."""

import json
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hanging
from image_similarity.jobs import render_gallery
from image_similarity.pages import maps, site
from image_similarity.stages.gallery import addresses
from image_similarity.stages.gallery import maps as of_rendering
from image_similarity.stages.gallery.pages import Book, Tab
from image_similarity.stages.map import source

RUNS = [f"r20260101T000000-0000000{number}" for number in range(6)]


def book(gallery: Path, rendering: str = RUNS[0]) -> Book:
    return Book(str(gallery), rendering, "Title", 3, (Tab("one", "one", "cosine"),), (), 200)


def opened(gallery: Path) -> site.Site:
    return site.open_site(None, "gallery", str(gallery))


def publish(gallery: Path, rendering: str) -> None:
    of = opened(gallery)
    of.begin()
    (gallery / rendering).mkdir()
    (gallery / rendering / maps.SHELL).write_text(f"{maps.MAIN} of {rendering}")
    with of.locked():
        of.claim(rendering)
        of.write_index(rendering)
        of.remove_others(rendering)


def renderings(gallery: Path) -> list[str]:
    """Those whose folders are there, newest first, which are those that the marker names."""
    named: list[str] = json.loads((gallery / "gallery.json").read_text())["renderings"]
    assert sorted(named) == sorted(path.name for path in gallery.glob("r*") if path.is_dir())
    return named


def test_the_rendering_that_the_map_shows_is_kept_as_long_as_it_does(tmp_path: Path) -> None:
    publish(tmp_path, RUNS[0])
    hanging.hang(tmp_path, "m1", "red")
    for number in (1, 2, 3):
        publish(tmp_path, RUNS[number])
    assert renderings(tmp_path) == [RUNS[3], RUNS[2], RUNS[0]]
    assert opened(tmp_path).kept(RUNS[4]) == [RUNS[4], RUNS[3], RUNS[0]], "and so are the pictures that they show"
    hanging.hang(tmp_path, "m2", "red")
    assert opened(tmp_path).map() == maps.Pointer("m2", RUNS[3])
    publish(tmp_path, RUNS[4])
    assert renderings(tmp_path) == [RUNS[4], RUNS[3]]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"{}", b"1", b"\xff", b'{"run": "m1"}', b'{"rendering": "r1"}'),
        *(b'{"run": "m1", "rendering": 1}', b'{"run": "m1", "rendering": "../x"}'),
        *(b'{"run": null, "rendering": "r1"}', b'{"run": "../x", "rendering": "r1"}'),
    ],
)
def test_a_damaged_pointer_names_no_map(tmp_path: Path, content: bytes) -> None:
    publish(tmp_path, RUNS[0])
    (tmp_path / maps.FOLDER).mkdir()
    (tmp_path / maps.POINTER).write_bytes(content)
    publish(tmp_path, RUNS[1])
    publish(tmp_path, RUNS[2])
    assert opened(tmp_path).map() is None and renderings(tmp_path) == [RUNS[2], RUNS[1]]


def test_a_map_of_a_rendering_that_is_gone_keeps_nothing(tmp_path: Path) -> None:
    publish(tmp_path, RUNS[0])
    hanging.hang(tmp_path, "m1", "red", RUNS[5])
    assert opened(tmp_path).kept(RUNS[1]) == [RUNS[1], RUNS[0]]


def test_the_map_stays_when_pages_and_renderings_leave(tmp_path: Path) -> None:
    publish(tmp_path, RUNS[0])
    hanging.hang(tmp_path, "m1", "red")
    (tmp_path / "browse").mkdir()
    (tmp_path / "browse" / "2.html").write_text("a page")
    (tmp_path / f"{maps.PAGE}.0123abcd.tmp").write_text("half")
    before = {path: path.read_bytes() for path in (tmp_path / maps.FOLDER).rglob("*") if path.is_file()}
    publish(tmp_path, RUNS[1])
    assert addresses.retire_here([], book(tmp_path), []) == 1, "the page of a list"
    assert (tmp_path / maps.PAGE).read_text() == f"<h1>The map</h1> of {RUNS[0]}"
    assert {path: path.read_bytes() for path in (tmp_path / maps.FOLDER).rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob("*.tmp"))


def test_a_link_says_what_it_was_made_of() -> None:
    link = maps.Link("map/r1-0/wall.webp", 2048, 1536, 10)
    assert (
        link.script().startswith(b'gallery.map({"picture": "map/r1-0/wall.webp", ') and maps.link(link.script()) == link
    )
    assert maps.link(link.script().strip() + b";\n") == link


@pytest.mark.parametrize(
    "damage",
    [
        (b"map/m1/wall.webp", b"../mine/wall.webp"),
        (b"map/m1/wall.webp", b'x\\" onerror='),
        (b"640", b'"a"'),
        (b"640", b"0"),
        (b"640", b"null"),
        (b"gallery.map", b"alert"),
        (b"}", b""),
        (b'"picture"', b'"page"'),
        (b"{", b"\xff"),
    ],
)
def test_a_damaged_link_says_nothing(damage: tuple[bytes, bytes]) -> None:
    script = maps.Link("map/m1/wall.webp", 640, 480, 3).script()
    assert damage[0] in script and maps.link(script.replace(*damage)) is None
    assert maps.link(b"") is None


def test_pages_have_a_link_to_load_before_there_is_a_map(tmp_path: Path) -> None:
    of_rendering.leave_link(str(tmp_path))
    assert (tmp_path / maps.LINK).read_bytes() == b""
    assert of_rendering.front(book(tmp_path)) is None
    hanging.hang(tmp_path, "m1", "red", RUNS[0])
    before = (tmp_path / maps.LINK).read_bytes()
    of_rendering.leave_link(str(tmp_path))
    assert (tmp_path / maps.LINK).read_bytes() == before != b""


def test_the_front_page_has_a_copy_of_the_wall(tmp_path: Path) -> None:
    assert of_rendering.front(book(tmp_path)) is None
    link = hanging.hang(tmp_path, "m1", "red", RUNS[0])
    shown = of_rendering.front(book(tmp_path, RUNS[1]))
    assert shown is not None and shown["link"] == link
    assert (tmp_path / shown["source"]).read_bytes() == (tmp_path / link.picture).read_bytes()
    assert shown["source"].startswith(f"{RUNS[1]}/"), "it leaves with the front page"
    (tmp_path / link.picture).unlink()
    assert of_rendering.front(book(tmp_path, RUNS[2])) is None


def test_the_map_is_read_when_nobody_replaces_it(tmp_path: Path) -> None:
    """Whoever replaced it still removes folders of others, and would remove that of a job which knows the new map."""
    publish(tmp_path, RUNS[0])
    (tmp_path / RUNS[0] / maps.SHELL).write_text(f"{maps.HEAD}{maps.MAIN}")
    (tmp_path / RUNS[0] / maps.CARDS).mkdir()
    gallery = opened(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        with gallery.locked():
            hanging.hang(tmp_path, "m1", "red")
            read = pool.submit(source.source, gallery, "render_gallery")
            with pytest.raises(NotYet):
                read.result(timeout=0.3)
        assert read.result(timeout=60).earlier == "m1"


def test_a_map_of_an_earlier_rendering_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    application: Any = SimpleNamespace(session=None, arguments=SimpleNamespace(gallery=str(tmp_path)))

    def noted() -> str:
        render_gallery.note_on_map(application)
        return capsys.readouterr().out

    publish(tmp_path, RUNS[0])
    assert noted() == "", "there is no map"
    hanging.hang(tmp_path, "m1", "red")
    assert noted() == ""
    publish(tmp_path, RUNS[1])
    assert f"the map of {tmp_path} is of an earlier rendering: run render_map" in noted()
