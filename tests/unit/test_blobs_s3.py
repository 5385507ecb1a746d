"""Images in an object store: an S3-compatible server on loopback, through pyarrow's file system, as workers read
them.
"""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import s3_server
from image_similarity.errors import Unreadable
from image_similarity.settings import HttpSettings
from image_similarity.storage import blobs, fetch, tables, uris


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server.serving("pictures") as bucket:
        yield bucket


def test_what_is_written_is_listed_and_read(bucket: str) -> None:
    names = ["a b/100% #1?.jpg", "a b/Übung.jpg", "c.jpg"]
    for name in names:
        blobs.write(uris.join(bucket, name), name.encode(), "image/jpeg")
    found = {file.path: file for file in blobs.list_files(bucket)}
    assert sorted(found) == sorted(names)
    for name, file in found.items():
        assert (
            fetch.fetch(file.uri, 1000, HttpSettings(), 60) == name.encode()
            and file.size_bytes == len(name.encode())
            and file.modified_ns
        )
        status = blobs.status(file.uri)
        assert status is not None and (status.size_bytes, status.modified_ns) == (file.size_bytes, file.modified_ns)
    assert fetch.fetch("s3a://pictures/c.jpg", 1000, HttpSettings(), 60) == b"c.jpg"
    blobs.delete(uris.join(bucket, "c.jpg"))
    assert not blobs.exists(uris.join(bucket, "c.jpg")) and blobs.status(uris.join(bucket, "c.jpg")) is None


def test_lists_are_read(bucket: str) -> None:
    blobs.write(f"{bucket}/_a:b.csv", "\ufeffuri,title\r\na,é\r\n".encode(), "text/csv")
    blobs.write(f"{bucket}/b.jsonl/part=007/x.jsonl", b'{"uri": "a"}', "application/json")
    with blobs.create(f"{bucket}/c.parquet") as stream:
        pq.write_table(pa.table({"uri": ["a"]}), stream)
    rows = {"_a:b.csv": {"uri": "a", "title": "é"}, "b.jsonl": {"uri": "a", "part": "007"}, "c.parquet": {"uri": "a"}}
    for name, row in rows.items():
        table = tables.open_table(f"{bucket}/{name}", 60)
        assert [row for batch in table.batches() for row in batch.to_pylist()] == [row], name


def test_what_cannot_be_had_is_told(bucket: str) -> None:
    blobs.write(uris.join(bucket, "large.jpg"), b"0" * 100, "image/jpeg")
    for uri, limit, reason in [
        (f"{bucket}/none.jpg", 1000, "not_found"),
        ("s3://no-such-bucket/a.jpg", 1000, "not_found"),
        (f"{bucket}/large.jpg", 99, "too_many_bytes"),
    ]:
        with pytest.raises(Unreadable) as caught:
            fetch.fetch(uri, limit, HttpSettings(), 60)
        assert caught.value.reason == reason, uri
