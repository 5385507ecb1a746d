"""The bytes of files that threads hold at once, in every stage that reads images."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import misbehaving
from image_similarity import settings
from image_similarity.errors import Unreadable
from image_similarity.imaging.thumbnails import Thumbnails
from image_similarity.settings import HttpSettings, Settings
from image_similarity.stages.comparison import cards
from image_similarity.stages.downloads import stage as downloads
from image_similarity.stages.gallery import pictures
from image_similarity.storage import blobs, fetch, http_client
from image_similarity.storage.budget import ByteBudget
from image_similarity.storage.http_client import Answer

THREADS, FILES, SIZE = 8, 16, 1000
FITTING = 2  # files at a time
LIMITS = {"fetch_bytes": FITTING * SIZE + SIZE // 2, "max_bytes": SIZE + 200}


class Held:
    """Counts the bytes that calls hold."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        with self._lock:
            self.now += size
            self.most = max(self.most, self.now)

    def give(self, size: int) -> None:
        time.sleep(0.01)  # long enough for the others to come, if they may
        with self._lock:
            self.now -= size


def run(call: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(FILES)))


def picture(file: Path) -> Path:
    Image.new("RGB", (3, 2)).save(file)
    file.write_bytes(file.read_bytes().ljust(SIZE, b"\0"))  # what follows a picture does not matter
    return file


def test_downloads_hold_no_more_than_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the answer of the server until the file is written."""
    held, get, write = Held(), http_client.get, blobs.write

    def counted_get(*given: Any) -> Answer:
        answer = get(*given)
        held.take(len(answer.content or b""))
        return answer

    def counted_write(uri: str, content: bytes, content_type: str) -> None:
        held.give(len(content))
        write(uri, content, content_type)

    monkeypatch.setattr(http_client, "get", counted_get)
    monkeypatch.setattr(blobs, "write", counted_write)
    http = HttpSettings(private_addresses=True, connections_per_host=THREADS)
    options = downloads.Options(str(tmp_path), False, (), http, **LIMITS, read_seconds=60)
    with misbehaving.serving() as server:
        server.files = {f"/{number}.png": picture(tmp_path / "one.png").read_bytes() for number in range(FILES)}
        fetcher = downloads._Fetcher(options, {})

        def fetched(number: int) -> Any:
            row = fetcher.result(f"{server.address}/{number}.png", str(number), downloads.FETCH, None, None, None)
            return row["outcome"], row["size_bytes"]

        assert run(fetched) == [("fetched", SIZE)] * FILES
    assert SIZE <= held.most <= FITTING * SIZE


def test_a_file_that_was_there_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its server sends it again, and when a task is tried again."""
    monkeypatch.setattr(blobs, "read", lambda *_: pytest.fail("read as a whole"))
    monkeypatch.setattr(downloads, "_PIECE", 7)
    options = downloads.Options(
        str(tmp_path), True, (), HttpSettings(private_addresses=True), **LIMITS, read_seconds=60
    )
    file = picture(tmp_path / "a.png")
    with misbehaving.serving() as server:
        server.files = {"/a": file.read_bytes(), "/b": file.read_bytes()[:-1] + b"1"}
        for path, outcome in (("/a", "unchanged"), ("/b", "fetched")):
            row = downloads._Fetcher(options, {}).result(
                f"{server.address}{path}", "a", downloads.RECHECK, str(file), None, None
            )
            assert (row["outcome"], row["size_bytes"]) == (outcome, SIZE)
    row = downloads._Fetcher(options, downloads._pictures(str(tmp_path))).result(
        "http://nobody/a", "a", downloads.FETCH, None, None, None
    )
    assert (row["outcome"], row["size_bytes"]) == ("fetched", SIZE) and file.read_bytes().endswith(b"1")


def _of_gallery(file: Path, place: Path, given: Settings, budget: ByteBudget, shrink: Any) -> dict[str, Any]:
    row = {"picture": file.stem, "uris": [str(file)], "content_sha256": None, "width": None, "height": None}
    return pictures._make_one(row, str(place), given, budget, shrink)


def _of_report(file: Path, place: Path, given: Settings, budget: ByteBudget, shrink: Any) -> dict[str, Any]:
    return cards._picture(file.stem, str(file), given, str(place), budget, shrink)


@pytest.mark.parametrize("make", [_of_gallery, _of_report])
def test_so_do_makers_of_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    held, fetch_once = Held(), fetch.fetch

    def counted(*given: Any) -> bytes:
        content = fetch_once(*given)
        held.take(len(content))
        return content

    def shrink(content: bytes) -> Thumbnails:
        held.give(len(content))
        raise Unreadable("corrupt", "as far as this goes")

    monkeypatch.setattr(fetch, "fetch", counted)
    given = settings.load(None)
    given = given.model_copy(update={"embeddings": given.embeddings.model_copy(update=LIMITS)})
    budget = ByteBudget(LIMITS["fetch_bytes"], THREADS)
    files = [picture(tmp_path / f"{number}.png") for number in range(FILES)]
    of_file = partial(make, place=tmp_path / "pages", given=given, budget=budget, shrink=shrink)
    assert [row["reason"] for row in run(lambda number: of_file(files[number]))] == ["corrupt"] * FILES
    assert SIZE <= held.most <= FITTING * SIZE
