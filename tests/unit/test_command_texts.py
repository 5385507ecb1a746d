"""``image-similarity search``: what is asked, and how answers are told, without any collection."""

import argparse
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import image_similarity as ims
import warehouses
from image_similarity.command import output, page, questions, running, search, table, typed
from image_similarity.command.answers import Answer, Asked, Image, Refused
from image_similarity.command.main import main
from image_similarity.command.output import Json, Tabs, Terminal
from image_similarity.command.table import Column, Style
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.serve import main as serve_main
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.warehouse.snapshot import open_snapshot

LIMITS = EmbeddingsSettings()
PLAIN, COLOURED = Style(False), Style(True)


def an_image(rank: int, image_id: str, **other: Any) -> Image:
    given = {"relation": "similar", "distance": 0.1 * rank, "verdict": None, "uri": f"/far/{image_id}"}
    return Image(rank=rank, image_id=image_id, **{**given, "width": 1200, "height": 800, "attributes": {}, **other})


def an_answer(*images: Image, **facts: Any) -> Answer:
    known = {"fingerprint": "f", "metric": "cosine", "vectors": 1234, "exact": True, **facts}
    return Answer(Asked("a.jpg", uri="/a.jpg"), "a.jpg", b"", images, known, 1.25)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


# -- what is asked -----------------------------------------------------------------------------------------------------


def parsed(*words: str) -> argparse.Namespace:
    parser = running._Parser(prog="p")
    search.add_arguments(parser)
    return parser.parse_args(["--warehouse", "w", *words])


@pytest.mark.parametrize(
    "words", [["a", "b", "-k", "3"], ["a", "-k", "3", "b"], ["-k", "3", "a", "b"], ["-k", "3", "--", "a", "b"]]
)
def test_files_stand_anywhere(words: list[str]) -> None:
    assert (parsed(*words).files, parsed(*words).k) == (["a", "b"], 3)


def test_a_file_whose_name_begins_with_a_dash() -> None:
    parser = running._Parser(prog="p")
    search.add_arguments(parser)
    assert parser.parse_args(["--warehouse", "w", "--", "-x.jpg", "-"]).files == ["-x.jpg", "-"]
    with pytest.raises(WrongInput, match="no such flag: -x.jpg"):
        parser.parse_args(["--warehouse", "w", "-x.jpg"])


def test_what_is_not_one_picture_is_refused_with_the_job_for_many(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri\n")
    for word, kind in (("", "a folder"), ("*.jpg", "a glob"), ("list.csv", "a list")):
        path = str(tmp_path / word) if word else str(tmp_path)
        with pytest.raises(WrongInput, match=f"is {kind}.*image-similarity search-images --images .* --warehouse w"):
            questions.of([path], [], "w", LIMITS)
    (tmp_path / "a[1].jpg").write_bytes(b"")
    assert questions.of([str(tmp_path / "a[1].jpg")], [], "w", LIMITS)


@pytest.mark.parametrize(
    ("files", "told"),
    [([], "FILE must be given"), ([""], "FILE is empty"), (["-", "-"], "- is given more than once")],
)
def test_nothing_and_twice_the_same_stdin(files: list[str], told: str) -> None:
    with pytest.raises(WrongInput, match=told):
        questions.of(files, [], "w", LIMITS)


def test_a_picture_on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_stdin(content: bytes) -> list[Asked]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return questions.of(["-"], [], "w", EmbeddingsSettings(max_bytes=4))

    [asked] = of_stdin(b"abcd")
    assert (asked.name, questions.content_of(asked, LIMITS, HttpSettings())) == ("stdin", b"abcd")
    with pytest.raises(WrongInput, match="stdin is empty"):
        of_stdin(b"")
    with pytest.raises(WrongInput, match="more than 4 bytes"):
        of_stdin(b"abcde")
    monkeypatch.setattr(sys, "stdin", Tty())
    with pytest.raises(WrongInput, match="which is a terminal"):
        questions.of(["-"], [], "w", LIMITS)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def fault_of(path: Path, limits: EmbeddingsSettings = LIMITS) -> str:
        [asked] = questions.of([str(path)], [], "w", limits)
        with pytest.raises(WrongInput) as raised:
            questions.content_of(asked, limits, HttpSettings())
        assert "\n" not in str(raised.value)
        return str(raised.value)

    (tmp_path / "cat.jpg").write_bytes(b"123456")
    os.mkfifo(tmp_path / "pipe")
    assert fault_of(tmp_path / "cats.jpg") == f"no such file: {tmp_path}/cats.jpg; did you mean cat.jpg?"
    assert "is a named pipe: give what it sends on stdin" in fault_of(tmp_path / "pipe")
    assert "too_many_bytes: more than 3 bytes" in fault_of(tmp_path / "cat.jpg", EmbeddingsSettings(max_bytes=3))
    assert r"\n" in fault_of(tmp_path / "no\nsuch")
    [asked] = questions.of(["http://user:secret@127.0.0.1:9/a.jpg?signature=x"], [], "w", LIMITS)
    with pytest.raises(WrongInput, match="not on the public internet") as raised:
        questions.content_of(asked, LIMITS, HttpSettings())
    assert "secret" not in str(raised.value) + asked.name and "signature" not in str(raised.value) + asked.name


# -- tables ------------------------------------------------------------------------------------------------------------


def test_columns_share_the_width_of_the_terminal() -> None:
    columns = [
        Column("n", ["1", "10"], is_number=True),
        Column("title", ["short", "a title that is rather long, with its number at the end 12"], keeps="start"),
        Column("where", ["some/folder/that/is/deep/and/long/name-1.jpg", "x.jpg"], keeps="end"),
    ]
    for width in (40, 60, 80, 120, 200):
        lines = table.lines(columns, width, PLAIN)
        assert max(map(len, lines)) <= width and lines[1].startswith(" 1  short") and lines[2].startswith("10  a t")
        assert "name-1.jpg" in lines[1] and "12 " in lines[2]
    assert "…" in table.lines(columns, 60, PLAIN)[1] and "…" not in "".join(table.lines(columns, 200, PLAIN))


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("", 0)])
def test_cells_are_counted_as_terminals_do(text: str, width: int) -> None:
    assert table.width_of(text) == width


@pytest.mark.parametrize("text", ["日本語の長い題名です", "e\u0301" * 20, "plain ascii that is long", "🎉" * 12])
@pytest.mark.parametrize("keeps", ["start", "end"])
def test_what_is_shortened_is_no_wider(text: str, keeps: str) -> None:
    for width in range(8, 30):
        short = table.fitted(text, width, keeps)
        assert table.width_of(short) <= width and (short == text or "…" in short)
        assert not short.lstrip("…").startswith("\u0301")


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Style.of(Tty()) == COLOURED and Style.of(io.StringIO()) == PLAIN
    monkeypatch.setenv("TERM", "dumb")
    assert Style.of(Tty()) == PLAIN
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert Style.of(Tty()) == PLAIN
    assert COLOURED("x", "bold") == "\x1b[1mx\x1b[0m" and PLAIN("x", "bold") == "x"


# -- answers -----------------------------------------------------------------------------------------------------------


def on_terminal(answers: list[Answer], width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    told = Tty()
    monkeypatch.setattr(sys, "stdout", told)
    terminal = output.chosen(is_json=False)
    assert isinstance(terminal, Terminal)
    for answer in answers:
        terminal.tell(answer)
    return told.getvalue().splitlines()


def test_an_answer_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    titled = an_image(1, "x/1.jpg", verdict="yes", attributes={"title": "A  title\x1b[31m"})
    other = an_image(2, "x/2.jpg", verdict="no", uri="https://u:p@host/2.jpg?key=1", width=None)
    least = an_image(1, "x/3.jpg", relation="dissimilar", verdict="no")
    lines = on_terminal([an_answer(titled, other, least), an_answer()], 100, monkeypatch)
    assert [line.split() for line in lines[:3]] == [
        ["a.jpg"],
        ["distance", "same?", "image", "size", "where"],
        ["1", "0.1000", "yes", "A", "title\ufffd[31m", "1,200", "×", "800", "/far/x/1.jpg"],
    ]
    assert lines[3].split() == ["2", "0.2000", "no", "x/2.jpg", "https://...@host/2.jpg?..."]
    assert lines[4] == "least alike:" and lines[6].split()[3] == "x/3.jpg"
    about = "the 2 most alike and the least alike of 1,234 images, by f, cosine distance, exact, 1.2 s"
    assert lines[7:] == [about, "", "a.jpg", "none of 1,234 images, by f, cosine distance, exact, 1.2 s"]


def test_tags_are_told_where_they_are_published(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = (an_image(1, "x/1.jpg", tag="a\tcat"), an_image(2, "x/2.jpg"))
    answer = an_answer(*images)
    tagged = replace(answer, facts={**answer.facts, "tags_run_id": "r1"})
    Tabs().tell(tagged)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == [*output.COLUMNS, "tag"] and [line[-1] for line in lines[1:]] == [r"a\tcat", ""]
    Json().tell(tagged)
    assert [image["tag"] for image in json.loads(capsys.readouterr().out)["images"]] == ["a\tcat", None]
    Json().tell(answer)
    assert "tag" not in json.loads(capsys.readouterr().out)["images"][0]
    shown = on_terminal([tagged], 100, monkeypatch)
    assert "tag" in shown[1].split() and shown[2].split()[3] == r"a\tcat"
    assert "tag" not in on_terminal([an_answer(images[1])], 100, monkeypatch)[1].split()


def test_a_narrow_terminal_and_a_collection_without_near_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = on_terminal([an_answer(an_image(1, "x" * 80))], 50, monkeypatch)
    assert lines[1].split() == ["distance", "image", "where"] and len(lines[2]) <= 50


def test_lines_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = output.chosen(is_json=False)
    assert isinstance(told, Tabs)
    told.tell(an_answer(an_image(1, "a\tb\nc"), an_image(2, "d", uri=None, width=None, verdict="near")))
    told.tell(Refused(Asked("b.jpg"), WrongInput("no")))
    printed = capsys.readouterr()
    assert [line.split("\t") for line in printed.out.splitlines()] == [
        list(output.COLUMNS),
        ["a.jpg", "similar", "1", "0.1", "", r"a\tb\nc", "1200", "800", r"/far/a\tb\nc"],
        ["a.jpg", "similar", "2", "0.2", "near", "d", "", "800", ""],
    ]
    assert printed.err.startswith("a.jpg: the 2 most alike of 1,234 images, by f")


@pytest.mark.parametrize("module", [search, serve_main])
def test_whoever_gives_nothing_is_told_what_to_give(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert running.run("image-similarity x", module, []) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"usage: image-similarity x {module.USAGE}" and "--warehouse URI" in first
    assert second == "image-similarity x: error: --warehouse must be given; --help says what for"


def test_nothing_is_printed_for_programs_where_nothing_was_answered(capsys: pytest.CaptureFixture[str]) -> None:
    output.chosen(is_json=False).tell(Refused(Asked("b.jpg"), WrongInput("no")))
    assert capsys.readouterr().out == ""


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    told = output.chosen(is_json=True)
    assert isinstance(told, Json)
    told.tell(an_answer(an_image(1, "日\n本", attributes={"name": "n"}, uri="http://h/?secret")))
    told.tell(Refused(Asked("b.jpg"), WrongInput("cannot be read")))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["query"] == "a.jpg" and first["vectors"] == 1234 and first["seconds"] == 1.25
    [image] = first["images"]
    assert (image["image_id"], image["title"], image["verdict"], image["uri"]) == ("日\n本", "n", None, "http://h/?...")
    assert second == {"query": "b.jpg", "error": "cannot be read"}


def test_distances_are_read_back_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    distances = [float(np.float32(value)) for value in (0.1, 1 / 3, 2**-24, 123.456, 1.9999999)]
    told = output.chosen(is_json=True)
    told.tell(an_answer(*(an_image(1, "a", distance=distance) for distance in distances)))
    images = json.loads(capsys.readouterr().out)["images"]
    assert [np.float32(image["distance"]) for image in images] == [np.float32(distance) for distance in distances]


# -- the page that is asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "count", "told"),
    [
        (["--gallery", "g"], 1, "give --open or --page, too"),
        (["--open"], 51, "51 pictures are too many.*search-images"),
        (["--page", "s3://b/p.html"], 1, "name a file on this machine"),
        (["--page", "p.txt"], 1, "ends in .html"),
        (["--page", "/no/such/p.html"], 1, "/no/such is no folder"),
        (["--open", "--gallery", "s3://b/g"], 1, "a browser follows paths and http"),
        (["--open", "--gallery", "."], 1, "no gallery is there"),
    ],
)
def test_pages_that_cannot_be_made(words: list[str], count: int, told: str) -> None:
    with pytest.raises(WrongInput, match=told):
        page.wanted(parsed(*words), count)


def test_no_page_is_made_unless_it_is_asked_for() -> None:
    assert page.wanted(parsed("a"), 1000) is None


def test_a_page_replaces_no_file_but_a_page(tmp_path: Path) -> None:
    path = tmp_path / "p.html"
    path.write_text("<title>mine</title>")
    with pytest.raises(WrongInput, match="is no page of image-similarity search"):
        page.wanted(parsed("--page", str(path)), 1)
    path.write_text(f'<meta name="generator" content="{page.GENERATOR}">')
    assert page.wanted(parsed("--page", str(path)), 1) == page.Wanted(str(path), False, None)


def test_a_browser_within_the_terminal_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Browser:
        def open(self, address: str) -> bool:
            opened.append(address)
            return True

    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("webbrowser.get", Browser)
    assert not page.show("/a b.html") and opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert page.show("/a b.html") and opened == ["file:///a%20b.html"]


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (WrongInput("two\nlines"), 2, "p: error: two lines\n"),
        (JobFailed("gone"), 1, "p: error: gone\n"),
        (ValueError("odd\nmore"), 1, "p: error: ValueError: odd (--verbose shows the traceback)\n"),
    ],
)
def test_a_fault_is_one_line_and_an_exit_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        """What it is for.

        And more.
        """

        @staticmethod
        def add_arguments(parser: argparse.ArgumentParser) -> None:
            pass

        @staticmethod
        def run(arguments: argparse.Namespace) -> int:
            raise error

    assert running.run("p", Failing, []) == code and capsys.readouterr().err == line
    assert running.run("p", Failing, ["--verbose"]) == code
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)") and told.rstrip().endswith(
        line.replace(" (--verbose shows the traceback)", "").rstrip()
    )
    assert running.run("p", Failing, ["--verbos"]) == 2
    assert capsys.readouterr().err == "p: error: no such flag: --verbos; did you mean --verbose?\n"


# -- a collection that no job made -------------------------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path: Path) -> warehouses.Made:
    made = warehouses.Made(str(tmp_path / "w"))
    contents = {name: f"content of {name}" for name in ("a.jpg", "b.jpg", "c d.jpg")}
    made.manifest(dict.fromkeys(contents, "1"))
    made.embeddings(contents, warehouses.random_vectors(contents.values()))
    made.neighbours({"a.jpg": ["b.jpg"]})
    return made


def ask(made: warehouses.Made, *words: str) -> int:
    return main(["search", *words, "--warehouse", made.uri])


def test_images_of_the_collection_need_no_network(
    collection: warehouses.Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(collection, "--id", "c d.jpg", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert {image["image_id"] for image in answer["images"]} == {"a.jpg", "b.jpg"} and answer["vectors"] == 2
    assert (answer["query_vector"], answer["trained"], answer["images"][0]["width"]) == ("published", False, 40)


def test_a_fault_of_the_collection_is_told_once(
    collection: warehouses.Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be embedded is not answered; an image of the collection is."""
    told = f"{collection.uri}: the weights are gone: name others by --weights"

    def encoder(self: Any, fingerprint: str) -> Any:
        raise WrongInput(told)

    monkeypatch.setattr("image_similarity.collection.collection.Collection.encoder", encoder)
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    files = [str(tmp_path / name) for name in ("x.jpg", "y.jpg")]
    assert ask(collection, *files, "--id", "a.jpg", "--json") == 2
    printed = capsys.readouterr()
    assert printed.err == f"image-similarity search: error: {told}\n"
    outcomes = [json.loads(line) for line in printed.out.splitlines()]
    assert [outcome.get("error") for outcome in outcomes] == [told, told, None]


@pytest.mark.parametrize(
    ("file", "weights"), [("f.pth", "f.pth"), ("vgg16-fc2=f.pth", "f.pth"), ("other=f.pth", "other=f.pth")]
)
def test_weights_are_those_of_the_fingerprint(
    collection: warehouses.Made, file: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    opening = ims.open

    def record(uri: Any, *, weights: Any = None) -> Any:
        given.append(weights)
        return opening(uri, weights=weights)

    monkeypatch.setattr(ims, "open", record)
    assert ask(collection, "--id", "a.jpg", "--weights", file) == 0
    assert given[-1] == {"vgg16-fc2": weights}


def test_jobs_say_what_to_type(collection: warehouses.Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed, "_program", lambda: ["ask"])

    def line(fingerprint: str, metric: str) -> str | None:
        return typed.search(open_snapshot(collection.uri), fingerprint, metric)

    shown = f"ask search FILE --warehouse {collection.uri}"
    assert line("vgg16-fc2", "cosine") == shown
    collection.neighbours({"a.jpg": ["b.jpg"]}, slot="vgg16-fc2/euclidean")
    assert line("vgg16-fc2", "cosine") == shown and line("vgg16-fc2", "euclidean") == f"{shown} --metric euclidean"
    collection.embeddings({"a.jpg": "x"}, {"x": [1, 2, 3, 4]}, fingerprint="hog", key="k2")
    collection.neighbours({"a.jpg": ["b.jpg"]}, slot="hog/cosine")
    assert line("vgg16-fc2", "cosine") == shown and line("hog", "cosine") == f"{shown} --fingerprint hog"


def test_what_programs_cannot_open_is_not_suggested(collection: warehouses.Made) -> None:
    published = open_snapshot(collection.uri)
    assert typed.search(replace(published, uri="hdfs://n/w"), "vgg16-fc2", "cosine") is None
    line = typed.search(replace(published, uri="s3a://b/w x"), "vgg16-fc2", "cosine")
    assert line is not None and line.endswith(" search FILE --warehouse 's3://b/w x'")
