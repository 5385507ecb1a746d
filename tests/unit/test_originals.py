"""Small pictures of originals: of what was embedded and nothing else, bounded, and by the same words on all pages."""

import hashlib
import html
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import searching
import serving
from crawler import crawl
from image_similarity.collection import display
from image_similarity.command import page
from image_similarity.command.answers import Answer, Asked, Image
from image_similarity.errors import Unreadable
from image_similarity.grouping.verdicts import NEAR, NO, YES
from image_similarity.imaging.thumbnails import size_of
from image_similarity.pages import captions, originals
from image_similarity.pages.originals import Original, Originals
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.stages.search import report

REPLACED = originals.REASONS[originals.CHANGED]


@pytest.fixture(scope="module")
def opened() -> Any:
    with Originals(1, EmbeddingsSettings(), HttpSettings()) as opened:
        yield opened


def drawn(file: Path, size: tuple[int, int] = (160, 120)) -> str:
    """The sha256 of a picture that is drawn to ``file``."""
    file.write_bytes(serving.picture((1, 2, 3), size))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def words(opened: Originals, original: Original) -> str:
    with pytest.raises(Unreadable) as error:
        opened.of(original)
    return originals.words(error.value)


def test_what_was_embedded_is_shown_and_nothing_else(opened: Originals, tmp_path: Path) -> None:
    file = str(tmp_path / "a.png")
    content = drawn(tmp_path / "a.png", (900, 60))
    for contents in (frozenset[str](), frozenset([content]), frozenset(["0" * 64, content])):
        made = opened.of(Original(file, contents))
        assert (made.width, made.height) == (900, 60) and made.small_size == size_of(made.small) == (480, 32)
    assert words(opened, Original.of(file, "0" * 64)) == REPLACED
    assert words(opened, Original(str(tmp_path / "none.png"))) == "there is no such file"
    assert words(opened, Original(None)) == "the manifest has no image of this id"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert words(opened, Original(str(tmp_path / "broken.png"))) == "the content is none of the formats known here"


def test_files_and_pictures_are_bounded(opened: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(tmp_path / "a.png")
    little = EmbeddingsSettings().model_copy(update={"max_bytes": 10, "max_pixels": 100})
    with Originals(1, little, HttpSettings()) as few:
        assert words(few, Original(str(tmp_path / "a.png"))) == "the file is too large"
        with pytest.raises(Unreadable, match="too_many_pixels"):
            few.of_content((tmp_path / "a.png").read_bytes())
    monkeypatch.setattr(originals, "_MOST_SMALL", 10)
    with pytest.raises(Unreadable, match="decoder_crashed"):
        opened.of(Original(str(tmp_path / "a.png")))


def test_processes_end_with_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    drawn(tmp_path / "a.png")
    with pytest.raises(KeyError), Originals(2, EmbeddingsSettings(), HttpSettings()) as opened:
        many = [Original(str(tmp_path / "a.png"))] * 5
        assert len(list(opened.each(opened.of, many))) == 5
        assert started and all(process.poll() is None for process in started)
        raise KeyError
    assert all(process.poll() is not None for process in started)


def test_no_reason_names_a_setting() -> None:
    assert not [reason for reason, what in originals.REASONS.items() if "embeddings." in what or "http." in what]
    assert originals.words(Unreadable("of_another_version")) == "of another version"


# -- the same on all pages ---------------------------------------------------------------------------------------------


def in_a_notebook(file: Path, folder: Path) -> str:
    image = display.Image(Original.of(str(file), "0" * 64))
    return display.pictures("a", lambda ids: {"a": image}, 1)._repr_html_()


def on_the_page_of_the_command(file: Path, folder: Path) -> str:
    image = Image("similar", 1, "a", 0.1, YES, str(file), 1, 1, {})
    facts = {"fingerprint": "f", "metric": "cosine", "vectors": 6, "exact": True}
    answer = Answer(Asked("b", image_id="b"), "b", None, (image,), facts, 1.0)
    known = {"a": display.Image(Original.of(str(file), "0" * 64))}
    path = str(folder / "page.html")
    with page.opened(page.Wanted(path, False, None), "w", lambda ids: known, EmbeddingsSettings()) as sheet:
        assert sheet is not None
        sheet.add(answer)
        sheet.write()
    return Path(path).read_text(encoding="utf-8")


def by_the_server(file: Path, folder: Path) -> str:
    collection = serving.StandIn(folder)
    with serving.serving(collection) as running:
        collection.files[0].write_bytes(file.read_bytes())
        return str(running.get("/picture", id=serving.ODD_IDS[0]).json["error"])


def in_a_report(file: Path, folder: Path) -> str:
    site, tables = folder / "r", searching.tables(folder)
    images = {name: {**image, "uri": str(file), "content": "0" * 64} for name, image in tables.images.items()}
    made = report.write(
        searching.no_spark(),
        replace(tables, images=images),
        searching.ABOUT,
        report.Place(str(site), "r1", None),
        searching.SETTINGS,
        1,
    )
    return made.index


@pytest.mark.parametrize("shown", [in_a_notebook, on_the_page_of_the_command, by_the_server, in_a_report])
def test_a_file_that_was_replaced_is_no_answer(shown: Callable[[Path, Path], str], tmp_path: Path) -> None:
    drawn(tmp_path / "replaced.png")
    (tmp_path / "folder").mkdir()
    assert f"no picture: {REPLACED}" in html.unescape(shown(tmp_path / "replaced.png", tmp_path / "folder"))


def test_every_verdict_has_its_words() -> None:
    assert tuple(captions.VERDICTS) == (YES, NEAR, NO)
    assert captions.best([NO, None, NEAR, NO]) == NEAR and captions.best([None]) is captions.best([]) is None


def test_verdicts_are_told_by_the_same_words(tmp_path: Path) -> None:
    told = [verdict.of_image for verdict in captions.VERDICTS.values() if verdict.of_image]
    (tmp_path / "a").mkdir()
    drawn(tmp_path / "a.png")
    pages = crawl(searching.written(tmp_path / "a")).pages
    assert all(any(what in page.text for page in pages.values()) for what in told)
    assert told[0] in on_the_page_of_the_command(tmp_path / "a.png", tmp_path)
