"""Images in an object store: an S3-compatible server on loopback, through pyarrow's file system, as workers read them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_similarity import images, storage
from image_similarity.kernels.decoding import Unreadable

SERVER = Path(__file__).resolve().parents[1] / "s3_server.py"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of its own; the environment names the server, as that of workers would."""
    import pyarrow.fs as pafs

    process = subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = f"http://127.0.0.1:{int(process.stdout.readline())}"
    named = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**named, "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(name, value)
        storage._remote_filesystem.cache_clear()
        pafs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True).create_dir("pictures")
        yield "s3://pictures"
        storage._remote_filesystem.cache_clear()
    process.kill()
    process.wait()


def test_what_is_written_is_listed_and_read(bucket: str) -> None:
    names = ["a b/100% #1?.jpg", "a b/Übung.jpg", "c.jpg"]
    for name in names:
        storage.write(storage.join(bucket, name), name.encode(), "image/jpeg")
    found = {file.path: file for file in storage.list_files(bucket)}
    assert sorted(found) == sorted(names)
    for name, file in found.items():
        assert images.fetch(file.uri, 1000) == name.encode() and file.size_bytes == len(name.encode()) and file.modified_ns
        status = storage.status(file.uri)
        assert status is not None and (status.size_bytes, status.modified_ns) == (file.size_bytes, file.modified_ns)
    assert images.fetch("s3a://pictures/c.jpg", 1000) == b"c.jpg"
    storage.delete(storage.join(bucket, "c.jpg"))
    assert not storage.exists(storage.join(bucket, "c.jpg")) and storage.status(storage.join(bucket, "c.jpg")) is None


def test_what_cannot_be_had_is_told(bucket: str) -> None:
    storage.write(storage.join(bucket, "large.jpg"), b"0" * 100, "image/jpeg")
    for uri, limit, reason in [
        (f"{bucket}/none.jpg", 1000, "not_found"),
        ("s3://no-such-bucket/a.jpg", 1000, "not_found"),
        (f"{bucket}/large.jpg", 99, "too_many_bytes"),
    ]:
        with pytest.raises(Unreadable) as caught:
            images.fetch(uri, limit)
        assert caught.value.reason == reason, uri
