"""A drive that is gone answers nothing, for ever: every job that reads from one goes on, or says so."""

import glob
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.imaging import thumbnails
from image_similarity.settings import HttpSettings, ManifestSettings, Settings
from image_similarity.settings.loading import load
from image_similarity.stages.comparison import cards
from image_similarity.stages.downloads import catalogue
from image_similarity.stages.embeddings import local_weights, weights, weights_cache
from image_similarity.stages.gallery import pictures
from image_similarity.stages.manifest import images, lists
from image_similarity.storage import blobs
from image_similarity.storage.tables import Table, folders

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def hang() -> Iterator[Any]:
    """A function that returns nothing before the end of the test."""
    ended = threading.Event()
    yield lambda *_, **__: ended.wait(60)
    ended.set()


@pytest.fixture
def settings() -> Settings:
    given = load(None)
    hurried = given.embeddings.model_copy(update={"read_seconds": 0.1, "decode_seconds": 0.1})
    return given.model_copy(update={"embeddings": hurried})


def test_a_folder_is_not_listed(monkeypatch: pytest.MonkeyPatch, hang: Any) -> None:
    monkeypatch.setattr(blobs, "list_files", lambda _: (hang() for _ in range(9)))
    with pytest.raises(WrongInput, match="--images /dead: cannot be listed: no answer within 0.1 s"):
        images.find("/dead", ManifestSettings(), 0.1, is_glob=False)
    monkeypatch.setattr(blobs, "status", hang)
    monkeypatch.setattr(glob, "iglob", lambda pattern: iter([pattern]))
    with pytest.raises(WrongInput, match="cannot be listed: no answer within 0.1 s"):
        images.find("/dead/*.jpg", ManifestSettings(), 0.1, is_glob=True)
    assert lists.status_of("/dead/a.jpg", HttpSettings(), 0.1) == (None, None, None)


@pytest.mark.parametrize("call", ["exists", "is_folder"])
def test_nor_is_it_looked_for(monkeypatch: pytest.MonkeyPatch, hang: Any, call: str, tmp_path: Path) -> None:
    monkeypatch.setattr(blobs, call, hang)
    with pytest.raises(WrongInput, match="no answer within 0.1 s"):
        images.kind_of(str(tmp_path), 0.1)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_catalogue(monkeypatch: pytest.MonkeyPatch, hang: Any, tmp_path: Path, kind: str) -> None:
    """It answers when it is looked for, and not when it is opened, or read on."""
    (tmp_path / f"list.{kind}").touch()
    monkeypatch.setattr(folders, "_SECONDS_TO_THE_END", 0.1)
    for opened in (hang, lambda _: Table(["url"], _batches=lambda names: (hang() for _ in range(9)))):
        monkeypatch.setitem(folders._OPEN, kind, opened)
        with pytest.raises(WrongInput, match="cannot be read: no answer within 0.1 s"):
            catalogue.read(str(tmp_path / f"list.{kind}"), ("url",), read_seconds=0.1)


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "/dead/weights.pth", "hdfs://dead/weights.pth"])
def test_weights(monkeypatch: pytest.MonkeyPatch, hang: Any, tmp_path: Path, name: str) -> None:
    monkeypatch.setattr(weights_cache, "SECONDS_FOR_A_FILE", 0.1)
    monkeypatch.setattr(torch.hub, "download_url_to_file", hang)
    monkeypatch.setattr(blobs, "download", hang)
    if name.startswith("/dead"):
        monkeypatch.setattr(local_weights, "SECONDS_TO_ANSWER", 0.1)
        monkeypatch.setattr(local_weights, "_is_there", hang)
        monkeypatch.setattr(local_weights, "_silent", set())
    hurried = HttpSettings(total_seconds=0.1)
    with pytest.raises(JobFailed, match="cannot be reached: no answer within 0.1 s"):
        weights.resolve("squeezenet1_1", [name], None, 0, tmp_path, hurried)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_waited_for_once(monkeypatch: pytest.MonkeyPatch, hang: Any, tmp_path: Path) -> None:
    """The check before Spark starts, and whoever wants the file afterwards, wait for the same drive."""
    asked = list[str]()

    def hanging(path: str) -> None:
        asked.append(path)
        hang()

    monkeypatch.setattr(local_weights, "SECONDS_TO_ANSWER", 0.1)
    monkeypatch.setattr(local_weights, "_silent", set())
    monkeypatch.setattr(local_weights, "_is_there", hanging)
    names = ["/dead/weights.pth", "untrained"]
    local_weights.check(names)
    found = weights.resolve("squeezenet1_1", names, None, 0, tmp_path)
    assert not found.trained and "cannot be reached: no answer within 0.1 s" in found.passed_over[0]
    with pytest.raises(JobFailed, match="weights /dead/weights.pth cannot be reached: no answer within 0.1 s"):
        local_weights.check(names[:1])
    assert asked == ["/dead/weights.pth"]


GALLERY = pa.RecordBatch.from_pylist(
    [{"picture": "p", "uris": ["/dead/a.jpg"], "content_sha256": None, "width": None, "height": None}]
)
REPORT = pa.RecordBatch.from_pylist([{"image_id": "a", "uri": "/dead/a.jpg", "attributes": []}])


def test_pictures_of_pages(monkeypatch: pytest.MonkeyPatch, hang: Any, settings: Settings, tmp_path: Path) -> None:
    monkeypatch.setattr(blobs, "read", hang)
    of_gallery = pictures._maker(str(tmp_path), settings)(iter([GALLERY]))
    of_report = cards._maker(None, settings, str(tmp_path))(iter([REPORT]))
    assert [next(rows).to_pylist()[0]["reason"] for rows in (of_gallery, of_report)] == ["timeout"] * 2


def test_a_decoder_that_hangs_ends_the_worker_that_makes_pictures(
    monkeypatch: pytest.MonkeyPatch, hang: Any, settings: Settings, tmp_path: Path
) -> None:
    """As in embed_images: the task is tried again, with decoders in processes of their own."""
    killed = list[int]()
    monkeypatch.setattr(os, "kill", lambda process, _: killed.append(process))
    monkeypatch.setattr(thumbnails, "thumbnails", hang)
    monkeypatch.setattr(blobs, "read", lambda *_: b"content")
    for rows in (
        pictures._maker(str(tmp_path), settings)(iter([GALLERY])),
        cards._maker(None, settings, str(tmp_path))(iter([REPORT])),
    ):
        with pytest.raises(TimeoutError):
            next(rows)
    assert killed == [os.getpid()] * 2
