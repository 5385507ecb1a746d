"""The page that shows what looks like a picture, and the same for programs."""

import argparse
import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pyarrow as pa
import pytest

import misbehaving
import serving
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.pages import paths
from image_similarity.pages.originals import Original
from image_similarity.serve import app, asking, main, pages, pictures, questions
from image_similarity.serve.pictures import Pictures
from image_similarity.serve.refusals import Refused
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.storage import http_connections
from serving import ODD_IDS, Served, StandIn, form, picture

ROOT = Path(__file__).resolve().parents[2]
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def served(collection: StandIn) -> Iterator[Served]:
    with serving.serving(collection) as running:
        yield running


def shown(page: str) -> list[str]:
    """The distances on a page, in their order."""
    return re.findall(r"distance </span>([\d.,]+)", page)


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_first_page_asks_and_answers_nothing(served: Served, collection: StandIn) -> None:
    before = collection.searches
    reply = served.get("/", HTML)
    assert reply.status == 200 and "Drop a picture here" in reply.text and not shown(reply.text)
    assert collection.searches == before
    assert "<option selected" not in reply.text
    assert re.findall(r"<option[^>]*>(\w+)", reply.text) == [
        "colours",
        "other",
    ]


def test_a_picture_that_is_sent_by_the_form(served: Served, collection: StandIn) -> None:
    content = collection.files[2].read_bytes()
    reply = served.post("/", *form({"k": "4", "dissimilar": "2", "address": "", "fingerprint": "other"}, content))
    assert reply.status == 200 and len(shown(reply.text)) == 6 and shown(reply.text)[0] == "0.0000"
    assert "The collection has this picture" in reply.text and "the same picture" in reply.text
    assert "Compared with all 9 images by <strong>other</strong>" in reply.text and "The answer is exact." in reply.text
    assert "Untrained weights" in reply.text, "other is untrained"
    assert 'src="data:image/webp;base64,' in reply.text and "<option selected>other" in reply.text
    assert reply.headers["cache-control"] == "no-store"


def test_an_image_of_the_collection_is_asked_for_by_its_id(served: Served) -> None:
    reply = served.get("/", HTML, id=ODD_IDS[3], k=2, dissimilar=1)
    assert len(shown(reply.text)) == 3 and "<title>What looks like Title new line.png – " in reply.text
    assert "Compared with all 9 others by" in reply.text, "it is one of them itself"
    again = re.search(r'name="again" value="([^"]*)"', reply.text)
    assert again is not None
    led = served.post("/", *form({"k": "5", "dissimilar": "0", "address": "", "again": again[1]}, b""))
    assert led.status == 303 and led.headers["location"] == "?id=new%0Aline.png&k=5"
    assert len(shown(served.get(f"/{led.headers['location']}", HTML).text)) == 5


def test_an_id_is_taken_where_an_address_is_typed(served: Served) -> None:
    reply = served.post("/", *form({"address": f" {ODD_IDS[8]} ", "k": "2"}))
    assert (
        reply.status == 200
        and len(shown(reply.text)) == 2
        and f"What looks like Title {ODD_IDS[8]}".replace("&", "&amp;") in reply.text
    )
    reply = served.post("/", *form({"address": "example.org/a.png"}))
    told = "no image of the collection has the id 'example.org/a.png'; an address begins with http:// or https://"
    assert reply.status == 404 and told in html.unescape(reply.text)
    assert served.ask({"address": ODD_IDS[0]}).status == 400, "programs have a field for ids"


def test_how_many_are_wanted(served: Served) -> None:
    reply = served.get("/", HTML, id="plain.png", k=0, dissimilar=2)
    assert len(shown(reply.text)) == 2 and "Least like it" in reply.text and "Most like it" not in reply.text
    for fields, for_people, for_programs in (
        ({"k": "501"}, "Most alike should be a number from 0 to 500", "k should be a number from 0 to 500"),
        ({"dissimilar": "-1"}, "Least alike should be a number", "dissimilar should be a number"),
        ({"k": "0"}, "Most alike and Least alike are both 0", "k and dissimilar are both 0"),
    ):
        asked = {"id": "plain.png", **fields}
        replies = [served.get("/", HTML, **asked), served.post("/", *form(fields, picture()))]
        assert [reply.status for reply in replies] == [400, 400]
        assert all(for_people in reply.text for reply in replies)
        assert for_programs in served.get("/similar", None, **asked).json["error"]


def test_every_address_of_a_page_is_answered(served: Served) -> None:
    text = served.get("/", HTML, id="plain.png", k=8, dissimilar=8).text
    links = {address.replace("&amp;", "&") for address in re.findall(r'(?:href|src)="([^"#]*)"', text)}
    assert len(links) > 16 and all(link.startswith("/static/") for link in links if link.startswith("/"))
    addresses = {urljoin("/", link) for link in links}
    assert {address: served.get(address, HTML).status for address in addresses} == dict.fromkeys(addresses, 200)


def test_a_picture_at_an_address(served: Served, collection: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    is_public = http_connections.is_public
    monkeypatch.setattr(http_connections, "is_public", lambda ip: ip == "127.0.0.1" or is_public(ip))
    http_connections._manager.cache_clear()
    with misbehaving.serving() as elsewhere:
        elsewhere.files["/a.png"] = collection.files[1].read_bytes()
        address = f"{elsewhere.address}/a.png"
        reply = served.ask({"address": f" {address} ", "k": 1})
        assert [each["image_id"] for each in reply.json["similar"]] == [ODD_IDS[1]]
        text = served.post("/", *form({"address": address, "k": "1"})).text
        assert shown(text) == ["0.0000"] and f'value="{address}"' in text
        assert elsewhere.headers["/a.png"].keys() & {"Referer", "Cookie", "Authorization"} == set()
    http_connections._manager.cache_clear()


@pytest.mark.parametrize(
    "verdicts, told",
    [
        (["yes", "yes", "no"], "The collection has this picture 2 times"),
        (["yes", "near"], "The collection has this picture"),
        (["near", "no"], "The collection may have this picture"),
        (["no"], "The collection does not have this picture"),
        ([None], "What looks like it most"),
        ([], "What looks like it most"),
    ],
)
def test_what_an_answer_says_first(served: Served, verdicts: list[str | None], told: str) -> None:
    answer = served.desk.asking.answer(questions.Question(image_id="plain.png"))
    images = tuple(replace(answer.similar[0], verdict=verdict) for verdict in verdicts)
    assert pages.verdict_sentence(replace(answer, similar=images)) == told


# -- programs ----------------------------------------------------------------------------------------------------------


def test_the_answer_for_programs(served: Served, collection: StandIn) -> None:
    content = collection.files[4].read_bytes()
    by_picture = served.post("/similar?k=3&dissimilar=2", content).json
    assert by_picture["similar"][0] == {
        "rank": 1,
        "image_id": ODD_IDS[4],
        "distance": 0.0,
        "verdict": "yes",
        "title": "Title nul\ufffdbyte.png",
        "subtitle": "",
        "uri": str(collection.files[4]),
        "width": 260,
        "height": 150,
        "picture": "/picture?id=nul%00byte.png&size=small",
        "page": None,
    }
    others = ("similar", "dissimilar", "seconds", "state")
    assert {name: value for name, value in by_picture.items() if name not in others} == {
        **{"verdict": "yes", "fingerprint": "colours", "metric": "euclidean", "vectors": 9, "exact": True},
        **{"trained": None, "vector": "embedded", "version": 1, "newer": None},
    }
    vector = collection.vectors[4].tolist()
    by_vector = served.ask({"vector": vector, "k": 3, "dissimilar": 2}).json
    assert by_vector["similar"] == by_picture["similar"] and by_vector["dissimilar"] == by_picture["dissimilar"]
    by_id = served.get("/similar", id=ODD_IDS[4], k=2, dissimilar=2).json
    assert [each["image_id"] for each in by_id["similar"]] == [each["image_id"] for each in by_picture["similar"][1:]]
    assert [each["rank"] for each in by_id["similar"]] == [1, 2]


def test_tags_are_told_where_an_image_has_one(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tag" not in served.get("/similar", id="plain.png").json["similar"][0]
    of_row = asking._shown
    monkeypatch.setattr(
        asking, "_shown", lambda row: of_row({**row, "tag": "<b>cat" if row.get("rank") == 1 else None})
    )
    told = served.get("/similar", id="plain.png").json["similar"]
    assert [image.get("tag") for image in told[:2]] == ["<b>cat", None]
    assert "<bdi>&lt;b&gt;cat</bdi>" in served.get("/", id="plain.png").text


def test_what_is_given_in_json_wins_over_the_address(served: Served, collection: StandIn) -> None:
    value = json.dumps({"vector": collection.vectors[0].tolist(), "k": 2})
    reply = served.post("/similar?k=5&dissimilar=1", value, {"Content-Type": "application/json; charset=utf-8"})
    assert len(reply.json["similar"]) == 2 and len(reply.json["dissimilar"]) == 1


def test_near_names_are_offered(served: Served) -> None:
    assert "did you mean colours?" in served.get("/similar", id="plain.png", fingerprint="colour").json["error"]
    assert "did you mean dissimilar?" in served.get("/similar?id=plain.png&disimilar=3").json["error"]


def test_heads_are_answered(served: Served) -> None:
    reply = served.send("HEAD", "/static/serve.css")
    assert reply.status == 200 and int(reply.headers["content-length"]) > 1000 and not reply.body


# -- the gallery and pictures ------------------------------------------------------------------------------------------


def test_results_lead_to_the_gallery_where_it_has_a_page(tmp_path: Path) -> None:
    collection, gallery = StandIn(tmp_path / "collection"), tmp_path / "gallery"
    name = paths.page_name(ODD_IDS[1])
    rows = collection.images().to_pylist()
    drawn = paths.picture_path(paths.picture_name(rows[1]["content_sha256"], None, None), "small")
    for path, content in ((paths.image_path(name), b"its page"), (drawn, b"its picture")):
        (gallery / path).parent.mkdir(parents=True)
        (gallery / path).write_bytes(content)
    with pytest.raises(WrongInput, match="there is no gallery"):
        app.gallery_at(str(gallery))
    (gallery / "gallery.json").write_text('{"kind": "image-similarity gallery", "renderings": []}')
    with serving.serving(collection, str(gallery)) as running:
        links = {each["image_id"]: each["page"] for each in running.get("/similar", id=ODD_IDS[0]).json["similar"]}
        assert links.pop(ODD_IDS[1]) == f"/gallery/{paths.image_path(name)}" and set(links.values()) == {None}
        assert running.get(f"/gallery/{paths.image_path(name)}").body == b"its page"
        for size in pictures.SIZES:
            assert running.get("/picture", id=ODD_IDS[1], size=size).body == b"its picture"
        assert running.get("/picture", id=ODD_IDS[2]).body[:4] == b"RIFF"
        text = running.get("/", HTML, id=ODD_IDS[0]).text
        assert f'<a href="gallery/{paths.image_path(name)}">' in text and '<a href="gallery/index.html">' in text


def test_a_gallery_elsewhere_is_linked_to(served: Served) -> None:
    for given in ("https://example.org/g", "https://example.org/g/", "https://example.org/g/index.html"):
        gallery = app.gallery_at(given)
        assert pages.gallery_address("a", gallery) == f"https://example.org/g/{paths.image_path(paths.page_name('a'))}"
    for given in ("s3://bucket/gallery", "/nowhere"):
        with pytest.raises(WrongInput, match=f"--gallery {given}: "):
            app.gallery_at(given)


def test_pictures_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = StandIn(tmp_path)
    made = Pictures(None, EmbeddingsSettings(), HttpSettings())
    originals = [Original.of(row["uri"], row["content_sha256"]) for row in collection.images().to_pylist()]
    try:
        most = 3 * max(len(made.of(original, "small")) for original in originals)
        monkeypatch.setattr(pictures, "MOST_BYTES", most)
        made._kept.clear()
        made._bytes = 0
        for original in originals[1:]:
            made.of(original, "large")
        assert 0 < made._bytes == sum(map(len, made._kept.values())) <= most
        collection.files[-1].unlink()
        assert made.of(originals[-1], "large"), "it is still there"
    finally:
        made.close()


# -- newer states ------------------------------------------------------------------------------------------------------


def until(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never was"
        time.sleep(0.02)


def test_a_newer_state_answers_as_soon_as_it_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.0)
    collection = StandIn(tmp_path / "one")
    newest = StandIn(tmp_path / "two", ("new.png", *ODD_IDS), version=2)
    with serving.serving(collection) as running:
        before = running.get("/state").json
        assert before == {"version": 1, "state": before["state"], "newer": None, "trouble": None}
        newest.pause = 0.5  # while it is warmed up the old one answers, and says so
        collection.newest = newest
        until(lambda: running.get("/state").json["newer"] == 2)
        reply = running.get("/similar", id="plain.png").json
        assert (reply["version"], reply["newer"]) == (1, 2)
        assert "State 2 was published and is being opened" in running.get("/", HTML, id="plain.png").text
        assert running.get("/similar", id="new.png").status == 404
        until(lambda: running.get("/state").json["version"] == 2)
        newest.pause = 0
        reply = running.get("/similar", id="new.png").json
        assert (reply["version"], reply["newer"], reply["vectors"]) == (2, None, 10)


def test_a_warehouse_that_was_made_again_is_another_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its versions begin anew."""
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.0)
    collection = StandIn(tmp_path / "one")
    with serving.serving(collection) as running:
        before = running.get("/similar", id="plain.png").json
        page = running.get("/", HTML, id="plain.png").text
        assert f'data-state="{before["state"]}"' in page and f"state={before['state']}" in page
        collection.newest = StandIn(tmp_path / "two", ("new.png", *ODD_IDS), version=1)
        until(lambda: running.get("/state").json["state"] != before["state"])
        after = running.get("/similar", id="new.png").json
        assert (after["version"], after["newer"], after["vectors"]) == (1, None, 10)
        assert after["state"] == running.get("/state").json["state"]
        assert f"state={before['state']}" not in running.get("/", HTML, id="plain.png").text, "kept by browsers"


def test_a_newer_state_answers_though_its_first_image_cannot_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.0)
    collection = StandIn(tmp_path / "one")
    newest = StandIn(tmp_path / "two", version=2)
    search = newest.search

    def fails(query: Any = None, k: int = 12, **named: Any) -> Any:
        if named["image_id"] == "plain.png":
            raise JobFailed("w: cannot be read")
        return search(query, k, **named)

    monkeypatch.setattr(newest, "search", fails)
    with serving.serving(collection) as running:
        collection.newest = newest
        until(lambda: running.get("/state").json["version"] == 2)
        until(lambda: running.get("/state").json["newer"] is None)
        assert running.get("/similar", id="plain.png").status == 503
        assert running.get("/similar", id=ODD_IDS[1]).status == 200
    assert "the newest state was opened, but does not answer: w: cannot be read" in capsys.readouterr().err


def opened(
    folder: Path, published: Sequence[str], names: Sequence[str] = (), usual: str | None = None
) -> asking.Opened:
    collection = StandIn(folder)
    rows = pa.table({"fingerprint": published, "kind": ["colours"] * len(published)})
    collection.fingerprints = lambda: rows  # type: ignore[method-assign]
    return asking.Opened(collection, names, usual)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "published, names, usual, chosen",
    [
        (["a"], [], None, "a"),
        (["b", "vgg16-fc2"], [], None, "vgg16-fc2"),
        (["a", "b"], [], None, None),
        (["a", "b"], ["b", "a"], None, "b"),
        (["a", "b", "vgg16-fc2"], [], "b", "b"),  # it was the only one when the server was started
        (["a", "vgg16-fc2"], [], "gone", "vgg16-fc2"),
        (["a", "b"], [], "gone", None),
    ],
)
def test_the_usual_fingerprint_is_the_default_and_stays(
    tmp_path: Path, published: list[str], names: list[str], usual: str | None, chosen: str | None
) -> None:
    state = opened(tmp_path, published, names, usual)
    if chosen is None:
        with pytest.raises(Refused, match="which fingerprint.*name one of a, b"):
            state.chosen(None)
    else:
        assert state.chosen(None) == chosen == state.first.name
    assert state.chosen(published[-1]) == published[-1]


def test_a_newer_state_keeps_the_usual_fingerprint(tmp_path: Path) -> None:
    asked = asking.Asking(opened(tmp_path / "one", ["b"]), [], 1)
    newest = opened(tmp_path / "two", ["a", "b", "vgg16-fc2"]).collection
    asked.opened.collection.refresh = lambda: newest  # type: ignore[method-assign]
    asked._renew()
    assert asked.opened.collection is newest and asked.opened.usual == "b" and not asked.trouble


def test_pictures_of_an_answer_are_looked_up_together_and_few_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = StandIn(tmp_path)
    looks: list[set[str]] = []
    rows = {name: {"uri": "u", "content_sha256": name} for name in ODD_IDS}

    def look_up(image_ids: Iterable[str]) -> Any:
        looks.append(set(image_ids))
        return {name: rows[name] for name in looks[-1] if name in rows}

    monkeypatch.setattr(collection, "look_up", look_up)
    monkeypatch.setattr(collection, "images", lambda: pytest.fail("all images are read"))
    monkeypatch.setattr(asking, "MOST_KNOWN", 4)
    state = asking.Opened(collection, ["other"])  # type: ignore[arg-type]
    state.will_show([*ODD_IDS[:3], "none"])
    assert [state.original(name).contents for name in ODD_IDS[:3]] == [{name} for name in ODD_IDS[:3]]
    assert looks == [{*ODD_IDS[:3], "none"}]
    for name in ("none", *ODD_IDS[3:]):
        if name in rows:
            assert state.original(name).uri == "u"
        else:
            with pytest.raises(Refused, match="no image of the collection"):
                state.original(name)
    assert len(state._known) == 4


def test_an_image_that_no_manifest_lists_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of one's own may have none."""
    collection = StandIn(tmp_path)
    monkeypatch.setattr(collection, "look_up", lambda image_ids: {})
    with serving.serving(collection) as running:
        assert len(running.get("/similar", id="plain.png", k=3).json["similar"]) == 3
        assert "plain.png" in running.get("/", HTML, id="plain.png").text
        assert running.get("/similar", id="none").status == running.get("/picture", id="plain.png").status == 404


def test_files_of_the_warehouse_that_are_gone_are_no_fault_of_ours(tmp_path: Path, monkeypatch: Any) -> None:
    collection = StandIn(tmp_path)

    def gone(image_ids: Iterable[str]) -> Any:
        raise JobFailed("w: version 1 was cleaned meanwhile")

    monkeypatch.setattr(collection, "look_up", gone)
    with serving.serving(collection) as running:
        for path in ("/picture", "/similar"):
            reply = running.get(path, id="plain.png")
            assert reply.status == 503 and "cleaned meanwhile" in reply.json["error"]


def test_a_page_is_told_no_function_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = StandIn(tmp_path)

    def cleaned(*arguments: Any, **named: Any) -> Any:
        raise JobFailed("w: version 1 was cleaned meanwhile: refresh() reads the newest", outdated=True)

    monkeypatch.setattr(collection, "search", cleaned)
    with serving.serving(collection) as running:
        reply = running.get("/similar", id="plain.png")
        assert reply.status == 503 and "ask again" in reply.json["error"] and "refresh" not in reply.json["error"]


@pytest.mark.parametrize("given, effective", [(None, 5000), (4000, 4000), (6000, 5000)])
def test_the_limits_are_those_of_the_collection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: int | None, effective: int
) -> None:
    collection = StandIn(tmp_path)
    limits = {
        "colours": EmbeddingsSettings(max_bytes=4500, max_pixels=10**9),
        "other": EmbeddingsSettings(max_bytes=5000, max_pixels=10**6, decode_seconds=7),
    }
    collection.limits = limits.__getitem__  # type: ignore[method-assign,assignment]
    with serving.serving(collection, max_bytes=given) as running:
        assert running.desk.max_bytes == effective
        used = running.desk.pictures._originals._limits
        assert (used.max_bytes, used.max_pixels) == (5000, 10**9)
        assert running.post("/similar", b"x" * (effective + 1)).status == 413
        assert f'data-most="{effective}"' in running.get("/", HTML).text
        main._say(running.desk, "address", given)
    told = "--max-bytes 6000: files of up to 5000 bytes are taken" in capsys.readouterr().err
    assert told == (given == 6000)


def test_what_fails_while_the_process_ends_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = StandIn(tmp_path)
    asked = asking.Asking(asking.Opened(collection, ["other"]), [], 1)  # type: ignore[arg-type]

    def fails(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    collection.search = collection.refresh = fails  # type: ignore[assignment,method-assign]
    main._warm(asked)
    asked._renew()
    assert capsys.readouterr().err.count("cannot schedule") == 2
    asked.close()
    asked.trouble = None
    main._warm(asked)
    asked._renew()
    assert capsys.readouterr().err == ""


def test_a_newer_state_that_cannot_be_opened_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.0)
    collection = StandIn(tmp_path)
    with serving.serving(collection) as running:
        with monkeypatch.context() as patched:
            patched.setattr(StandIn, "refresh", lambda self: 1 // 0)
            until(lambda: running.get("/state").json["trouble"])
            assert running.get("/similar", id="plain.png").status == 200
            assert "ZeroDivisionError" in running.get("/", HTML).text
        until(lambda: not running.get("/state").json["trouble"])
    assert capsys.readouterr().err.count("the newest state could not be opened") == 1, "told once"


def test_the_pointer_is_not_read_by_every_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[StandIn] = []

    def refresh(self: StandIn) -> StandIn:
        looks.append(self)
        return self

    monkeypatch.setattr(StandIn, "refresh", refresh)
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.3)
    with serving.serving(StandIn(tmp_path)) as running:
        time.sleep(0.35)
        for _ in range(20):
            running.get("/state")
        until(lambda: looks)
        assert len(looks) == 1


# -- the command -------------------------------------------------------------------------------------------------------


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    main.add_arguments(parser)
    return parser.parse_args(["--warehouse", "w", *words])


@pytest.mark.parametrize(
    "words, told",
    [
        (["--port", "65536"], "--port 65536: give a number from 0 to 65535"),
        (["--port", "-1"], "--port -1"),
        (["--max-bytes", "0"], "--max-bytes 0"),
        (["--host", "0.0.0.0"], "--allow-network"),
        (["--host", "::"], "--allow-network"),
        (["--host", "192.168.0.1"], "--allow-network"),
        (["--host", "nowhere.invalid", "--allow-network"], "--host nowhere.invalid"),
        (["--weights", "file"], "write NAME=FILE"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_opened(words: list[str], told: str) -> None:
    with pytest.raises(WrongInput, match=re.escape(told)) as error:
        main.run(arguments("--port", "0", *words))
    assert "\n" not in str(error.value)


def test_a_port_in_use_is_named_and_others_are_offered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(WrongInput, match=f"port {port} is in use: give --port {port + 1}, or --port 0 for any"):
            main.run(arguments("--port", str(port)))


def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(WrongInput, match=r"pip install 'image-similarity\[serve\]'"):
        main.run(arguments())


def test_fingerprints_that_are_not_published_are_told(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="--fingerprint colour is not published.*did you mean colours?"):
        asking.Opened(StandIn(tmp_path), ["colour"])  # type: ignore[arg-type]
    assert list(asking.Opened(StandIn(tmp_path), ["other"]).fingerprints) == ["other"]  # type: ignore[arg-type]


PROGRAM = """
import sys
sys.modules["pyspark"] = None  # importing it fails
import image_similarity, serving
from pathlib import Path
from image_similarity.serve import main
image_similarity.open = lambda uri, weights: serving.StandIn(Path(uri))
import argparse
import html
parser = argparse.ArgumentParser()
main.add_arguments(parser)
sys.exit(main.run(parser.parse_args(sys.argv[1:])))
"""


class Started:
    """The command as a process of its own."""

    def __init__(self, folder: Path, *words: str, **variables: str):
        environment = {**os.environ, **variables, "PYTHONPATH": f"{ROOT / 'lib'}{os.pathsep}{ROOT / 'tests'}"}
        command = [sys.executable, "-c", PROGRAM, "--warehouse", str(folder), "--port", "0", *words]
        command += ["--fingerprint", *serving.FINGERPRINTS]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline() + self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{20,})", self.said)
        assert found, self.said + self.process.communicate()[1]
        self.port, self.token = int(found[1]), found[2]

    def client(self) -> "Client":
        return Client(self.port, self.token)

    def end(self, number: int) -> tuple[int, str, str]:
        """Exit code, stdout and stderr after a signal."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, self.said + out, err


class Client:
    def __init__(self, port: int, token: str):
        self._served, self._headers = Served(port, None), {"Authorization": f"Bearer {token}"}  # type: ignore[arg-type]

    def get(self, path: str, **fields: Any) -> serving.Reply:
        return self._served.get(path, self._headers, **fields)

    def post(self, path: str, content: bytes) -> serving.Reply:
        return self._served.post(path, content, self._headers)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    running = Started(tmp_path)
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly_and_nothing_is_told_of_what_was_asked(
    started: Started, tmp_path: Path, number: int
) -> None:
    assert "9 images of" in started.said and "colours, other" in started.said and "Ctrl-C" in started.said
    client = started.client()
    assert client.post("/similar", picture((1, 2, 3))).status == 200
    assert client.get("/similar", id=ODD_IDS[3]).status == 200
    assert client.get("/similar", id="a-secret-question").status == 404
    before = sorted(tmp_path.rglob("*"))
    with (
        socket.create_connection(("127.0.0.1", started.port)) as idle,
        socket.create_connection(idle.getpeername()) as slow,
    ):
        slow.sendall(b"POST /similar HTTP/1.1\r\n")
        began = time.monotonic()
        code, out, err = started.end(number)
    assert (code, err) == (0, "") and time.monotonic() - began < 10
    assert out.count(started.token) == 1 and out.endswith("stopped\n") and "secret" not in out and "similar" not in out
    assert sorted(tmp_path.rglob("*")) == before, "nothing is stored"


def test_the_browser_is_started_without_the_token(tmp_path: Path) -> None:
    """Every account of the machine can read the arguments of a process."""
    seen, browser = tmp_path / "seen", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {seen}.part\nmv {seen}.part {seen}\n')
    browser.chmod(0o700)
    running = Started(tmp_path, "--open", BROWSER=f"{browser} %s")
    try:
        until(seen.exists)
        told = seen.read_text().strip()
        page = Path(told.removeprefix("file://"))
        assert told.startswith("file:///") and running.token not in told
        assert page.stat().st_mode & 0o777 == 0o600 and page.parent.stat().st_mode & 0o777 == 0o700
        assert f'content="0; url=http://127.0.0.1:{running.port}/?token={running.token}"' in page.read_text()
        assert running.end(signal.SIGTERM)[0] == 0
        assert not page.exists() and not page.parent.exists()
    finally:
        running.process.kill()
        running.process.communicate()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_commands_of_the_documentation_work(started: Started, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    commands = [line.strip() for line in page.splitlines() if line.strip().startswith("curl ")]
    text = html.unescape(started.client().get("/api").text).replace("</pre>", "")
    api = {line for line in text.splitlines() if line.startswith("curl ")}
    (tmp_path / "photo.jpg").write_bytes(picture())
    assert len(commands) >= 4 and len(api) == 4
    for command in [*commands, *api]:
        local = command.replace("127.0.0.1:8777", f"127.0.0.1:{started.port}").replace("photos/1.jpg", ODD_IDS[0])
        local = local.replace("[0.1, 0.2, 0.3]", str([0.5] * 12))
        done = subprocess.run(
            ["bash", "-c", local], capture_output=True, cwd=tmp_path, env={**os.environ, "TOKEN": started.token}
        )
        assert done.stdout, (command, done.stderr.decode())
        answer = json.loads(done.stdout)
        if "https://example.org" in command:  # there may be no network
            assert "error" in answer or answer["similar"], command
        else:
            assert answer["similar"], (command, answer)
