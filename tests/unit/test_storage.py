"""Locations: what they mean, and what is found there."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from image_similarity import storage


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/100%25 #1.jpg", "/a/100%25 #1.jpg"),
        ("file:///a/100%25%20%231.jpg", "/a/100% #1.jpg"),
        ("file:///a/what?.jpg", "/a/what?.jpg"),
    ],
)
def test_bare_paths_are_literal_and_file_uris_encoded(uri: str, path: str) -> None:
    assert storage.local_path(uri) == path


def test_relative_paths_belong_to_the_list() -> None:
    assert storage.absolute("b/c.jpg", "/lists") == "/lists/b/c.jpg"
    assert storage.absolute("../c.jpg", "/lists/a") == "/lists/c.jpg"
    assert storage.absolute("c.jpg", "s3://bucket/lists") == "s3://bucket/lists/c.jpg"
    assert storage.absolute("/c.jpg", "s3://bucket/lists") == "/c.jpg"
    assert storage.absolute("http://host/c%20d.jpg", "/lists") == "http://host/c%20d.jpg"


def test_schemes() -> None:
    assert [storage.scheme_of(uri) for uri in ("a", "S3A://b/c", "gs://b", "c:d/e", "file:///x")] == [
        "file",
        "s3",
        "gs",
        "file",
        "file",
    ]


def test_locations_for_the_jvm() -> None:
    assert storage.for_spark("/a b%20") == "file:///a b%20"
    assert storage.for_spark("s3://bucket/key") == storage.for_spark("s3a://bucket/key") == "s3a://bucket/key"
    assert storage.for_spark("hdfs://host/key") == "hdfs://host/key"


def test_read_stops_one_byte_after_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"12345")
    assert storage.read(str(file), max_bytes=3) == b"1234"
    assert storage.read(file.as_uri()) == b"12345"


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(ValueError, match="ftp://"):
        storage.read("ftp://host/file")


def test_listing_follows_links_once_and_skips_hidden_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / ".git").mkdir(parents=True)
    for name in ("a/x 1%.jpg", "a/.git/y.jpg", "a/.z.jpg", "a/new\nline.jpg"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    found = {file.path: file.size_bytes for file in storage.list_files(str(tmp_path))}
    assert found == {"a/x 1%.jpg": 1, "a/.z.jpg": 1, "a/new\nline.jpg": 1, "a/gone.jpg": None, "itself": None}


def test_status(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"123")
    known = storage.status(str(file))
    assert known is not None and known.size_bytes == 3 and known.modified_ns == file.stat().st_mtime_ns
    assert storage.status(str(tmp_path / "none")) is None
    assert storage.status("http://localhost/x") is None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/short":
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"only this")
                return
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_download_is_whole_or_not_there(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    target = tmp_path / "target"
    storage.download(f"{server}/file", target)
    assert target.stat().st_size == 3_000_000
    for name in ("missing", "short"):
        with pytest.raises(OSError):
            storage.download(f"{server}/{name}", tmp_path / name)
        assert not (tmp_path / name).exists()
    assert not list(tmp_path.glob("*.partial-*"))
