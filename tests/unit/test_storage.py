"""Locations: what they mean, and what is found there."""

from pathlib import Path

import pytest

from image_similarity.storage import blobs, uris


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/100%25 #1.jpg", "/a/100%25 #1.jpg"),
        ("file:///a/100%25%20%231.jpg", "/a/100% #1.jpg"),
        ("file:///a/what?.jpg", "/a/what?.jpg"),
    ],
)
def test_bare_paths_are_literal_and_file_uris_encoded(uri: str, path: str) -> None:
    assert uris.local_path(uri) == path


def test_relative_paths_belong_to_the_list() -> None:
    assert uris.absolute("b/c.jpg", "/lists") == "/lists/b/c.jpg"
    assert uris.absolute("../c.jpg", "/lists/a") == "/lists/c.jpg"
    assert uris.absolute("c.jpg", "s3://bucket/lists") == "s3://bucket/lists/c.jpg"
    assert uris.absolute("/c.jpg", "s3://bucket/lists") == "/c.jpg"
    assert uris.absolute("http://host/c%20d.jpg", "/lists") == "http://host/c%20d.jpg"


def test_schemes() -> None:
    assert [uris.scheme_of(uri) for uri in ("a", "S3A://b/c", "gs://b", "c:d/e", "file:///x")] == [
        "file",
        "s3",
        "gs",
        "file",
        "file",
    ]


def test_locations_for_the_jvm() -> None:
    assert uris.for_spark("/a b%20") == "file:///a b%20"
    assert uris.for_spark("s3://bucket/key") == uris.for_spark("s3a://bucket/key") == "s3a://bucket/key"
    assert uris.for_spark("hdfs://host/key") == "hdfs://host/key"


def test_read_stops_one_byte_after_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"12345")
    assert blobs.read(str(file), max_bytes=3) == b"1234"
    assert blobs.read(file.as_uri()) == b"12345"


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(ValueError, match="ftp://"):
        blobs.read("ftp://host/file")


def test_listing_follows_links_once_and_skips_hidden_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / ".git").mkdir(parents=True)
    for name in ("a/x 1%.jpg", "a/.git/y.jpg", "a/.z.jpg", "a/new\nline.jpg"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    found = {file.path: file.size_bytes for file in blobs.list_files(str(tmp_path))}
    assert found == {"a/x 1%.jpg": 1, "a/.z.jpg": 1, "a/new\nline.jpg": 1, "a/gone.jpg": None, "itself": None}


def test_status(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"123")
    known = blobs.status(str(file))
    assert known is not None and known.size_bytes == 3 and known.modified_ns == file.stat().st_mtime_ns
    assert blobs.status(str(tmp_path / "none")) is None
    assert blobs.status("http://localhost/x") is None


def test_a_download_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    blobs.download(str(tmp_path / "file"), tmp_path / "target")
    assert (tmp_path / "target").stat().st_size == 3_000_000
    with pytest.raises(FileNotFoundError):
        blobs.download(str(tmp_path / "missing"), tmp_path / "other")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "target"]
