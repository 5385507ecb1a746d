"""Publication on an object store, by conditional puts, on an S3-compatible server. (Tables are written by Spark's
connector.)
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import boto3
import pytest

import locking
import s3_server
from image_similarity.storage import blobs, locks
from image_similarity.storage.object_store import ObjectFiles


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server.serving("warehouse") as bucket:
        yield bucket


def test_file_operations(bucket: str) -> None:
    files, folder = ObjectFiles(bucket), f"{bucket}/a b/100% #1"
    assert files.read(f"{folder}/x") is None and files.entries(folder) == [] and files.modified(f"{folder}/x") is None
    for name in ("x", "y/z"):
        files.write(f"{folder}/{name}", name.encode())
    assert files.read(f"{folder}/y/z") == b"y/z" and sorted(files.entries(folder)) == ["x", "y"]
    written = files.modified(f"{folder}/x")
    assert written is not None and written > 1.7e9
    assert blobs.read(f"{folder}/x") == b"x", "Python's and obstore's names of an object are the same"
    with pytest.raises(NotADirectoryError):
        files.entries(f"{folder}/x")
    files.delete(folder)
    files.delete(folder)
    assert files.entries(folder) == [] and "a b" not in files.entries(bucket)


def test_objects_that_mark_folders_are_nothing_in_them(bucket: str) -> None:
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.put_object(Bucket="warehouse", Key="marked/", Body=b"")
    client.put_object(Bucket="warehouse", Key="marked/part", Body=b"1")
    files = ObjectFiles(bucket)
    assert files.entries(f"{bucket}/marked") == ["part"] and "marked" in files.entries(bucket)
    files.delete(f"{bucket}/marked")
    assert files.entries(f"{bucket}/marked") == []


PUBLISHER = """
import sys
from image_similarity.storage.object_store import ObjectFiles
files, path, name = ObjectFiles(sys.argv[1]), sys.argv[1] + "/many.txt", sys.argv[2]
for turn in range(20):
    files.update(path, lambda content: (content or b"") + f"{name}-{turn} ".encode())
"""


def test_many_processes_at_once_lose_nothing(bucket: str) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", PUBLISHER, bucket, str(number)]) for number in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    told = blobs.read(f"{bucket}/many.txt").decode().split()
    assert sorted(told) == sorted(f"{number}-{turn}" for number in range(4) for turn in range(20))


def test_a_lock_has_one_holder_and_that_of_a_dead_one_is_taken_over(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, path, inside, most = ObjectFiles(bucket), f"{bucket}/site/.lock", [], []

    def holder() -> None:
        for _ in range(3):
            with files.locked(path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=holder) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 9 and files.read(path) == b"", "an empty lock is free"
    files.write(path, b"of one that died")
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.5)
    with files.locked(path):
        assert files.read(path) not in (b"of one that died", b"")


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_a_wrong_clock_takes_no_lock_from_a_live_holder(
    bucket: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    locking.hurry(monkeypatch)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    assert locking.order_of_two(ObjectFiles(bucket), f"{bucket}/site{ahead}/.lock") == ["first", "other"]


def test_who_lost_the_lock_says_so(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.1)  # and no sign of life for ten seconds
    files, path = ObjectFiles(bucket), f"{bucket}/lost/.lock"
    with pytest.raises(OSError, match="no sign of life for a minute"), files.locked(path):
        with files.locked(path):
            pass


def test_what_cannot_be_had_is_told_in_one_line(bucket: str) -> None:
    with pytest.raises(OSError) as caught:
        ObjectFiles("s3://no-such-bucket").write("s3://no-such-bucket/a", b"")
    assert "s3://no-such-bucket/a" in str(caught.value) and "\n" not in str(caught.value)
