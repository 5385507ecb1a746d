"""Locations: what they mean, and what is found there."""

import os
from pathlib import Path
from typing import Any

import pytest

from image_similarity.errors import WrongInput
from image_similarity.stages.manifest import images
from image_similarity.storage import blobs, uris
from image_similarity.storage.filesystems import files_of
from image_similarity.storage.local import LocalFiles


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/100%25 #1.jpg", "/a/100%25 #1.jpg"),
        ("file:///a/100%25%20%231.jpg", "/a/100% #1.jpg"),
        ("file:///a/what?.jpg", "/a/what?.jpg"),
        ("file:/a/100%25%20%231.jpg", "/a/100% #1.jpg"),
        ("FILE:/a/b.jpg", "/a/b.jpg"),
        ("file:a.jpg", "file:a.jpg"),
    ],
)
def test_bare_paths_are_literal_and_file_uris_encoded(uri: str, path: str) -> None:
    assert uris.local_path(uri) == path


def test_relative_paths_belong_to_the_list() -> None:
    assert uris.absolute("b/c.jpg", "/lists") == "/lists/b/c.jpg"
    assert uris.absolute("../c.jpg", "/lists/a") == "/lists/c.jpg"
    assert uris.absolute("file:/c%20d.jpg", "/lists/a") == "/c d.jpg"
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


def test_passwords_in_addresses_of_stores_are_refused_and_not_told() -> None:
    with pytest.raises(ValueError, match="takes no user and password") as of_bytes:
        blobs.read("s3a://key:made-up@bucket/file")
    with pytest.raises(WrongInput, match="takes no user and password") as of_files:
        files_of("gs://key:made-up@bucket/w")
    assert "made-up" not in f"{of_bytes.value}{of_files.value}"


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


def names(root: Path) -> list[str]:
    return sorted(file.path for file in blobs.list_files(str(root)))


def test_a_linked_folder_is_listed_once_under_its_own_name(tmp_path: Path) -> None:
    for folder in ("a", "m/inner", "z"):
        (tmp_path / "root" / folder).mkdir(parents=True)
        (tmp_path / "root" / folder / "p.jpg").touch()
    (tmp_path / "root" / "a" / "to-z").symlink_to(tmp_path / "root" / "z")
    (tmp_path / "root" / "a" / "back").symlink_to(tmp_path / "root")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "q.jpg").touch()
    for link in ("second", "first"):
        (tmp_path / "root" / link).symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "root") == ["a/p.jpg", "first/q.jpg", "m/inner/p.jpg", "z/p.jpg"]


def test_a_glob_takes_what_the_folder_has(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("p.jpg", "q.jpg", ".hidden.jpg"):
        (tmp_path / "a" / name).touch()
    (tmp_path / "a" / "back").symlink_to(tmp_path / "a")
    found = sorted(file.path for file in images._glob(f"{tmp_path}/**/*.jpg"))
    assert found == names(tmp_path) == ["a/.hidden.jpg", "a/p.jpg", "a/q.jpg"]
    assert sorted(file.path for file in images._glob(f"{tmp_path}/a/[pq].jpg")) == ["p.jpg", "q.jpg"]


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            blobs.read(str(path), 10)
    with pytest.raises(IsADirectoryError):
        blobs.read(str(tmp_path))


@pytest.mark.parametrize("seconds", [2**34, -(2**34)])
def test_a_time_that_64_bits_do_not_hold_is_unknown(tmp_path: Path, seconds: int) -> None:
    file = tmp_path / "future.jpg"
    file.touch()
    try:
        os.utime(file, (seconds, seconds))
    except OSError:
        pytest.skip("this file system has no such times")
    known = blobs.status(str(file))
    assert known is not None and known.size_bytes == 0
    nanoseconds = file.stat().st_mtime_ns
    assert known.modified_ns == (nanoseconds if -(2**63) <= nanoseconds < 2**63 else None)
    assert [listed.modified_ns for listed in blobs.list_files(str(tmp_path))] == [known.modified_ns]


def test_a_link_is_deleted_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    (tmp_path / "run_id=r").symlink_to(tmp_path / "mine")
    LocalFiles().delete(str(tmp_path / "run_id=r"))
    assert not (tmp_path / "run_id=r").exists() and (tmp_path / "mine" / "letter").exists()


def test_files_and_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def noted(file: Any) -> None:
        path = file if isinstance(file, int) else file.fileno()
        synced.append(os.readlink(f"/proc/self/fd/{path}"))

    monkeypatch.setattr(os, "fsync", noted)
    files, folder = LocalFiles(), tmp_path / "manifest" / "run_id=r"
    (folder / "deeper").mkdir(parents=True)
    for name in ("part.parquet", "deeper/x"):
        (folder / name).write_bytes(b"1")
    files.sync(str(folder))
    names = ("part.parquet", "deeper/x", "deeper", ".", "..")
    assert {os.path.normpath(folder / name) for name in names} == set(synced)
    files.write(str(tmp_path / "_current.json"), b"{}")
    assert synced[-1] == str(tmp_path), "the new name of the pointer"
    files.write(str(tmp_path / "runs" / "run_id=r" / "part.parquet"), b"1")
    assert synced[-3:] == [str(tmp_path / name) for name in ("runs/run_id=r", "runs", ".")], "names of new folders"
