"""A collection on an object store."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import image_similarity as ims
import s3_server
from image_similarity.collection import vectors
from warehouses import Made, random_vectors


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server.serving("bucket") as uri:
        yield uri


def test_a_collection_on_a_store(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = Made(f"{bucket}/warehouse")
    contents = random_vectors("AB")
    made.manifest({"a": "1", "b": "1"})
    made.embeddings({"b": "B", "a": "A"}, contents)
    made.neighbours({"a": ["b"], "b": ["a"]})
    collection = ims.open("s3a://bucket/warehouse/")
    ids, values = collection.embeddings()
    assert list(ids) == ["a", "b"] and np.array_equal(values, np.array([contents["A"], contents["B"]], np.float32))
    assert collection.neighbours()["neighbour_id"].to_pylist() == ["b", "a"]
    assert collection.images()["width"].to_pylist() == [40, 40]
    assert collection.fingerprints()["dimensions"].to_pylist() == [4]
    made.neighbours({"a": ["b"]})
    later = collection.refresh()
    assert len(later.changes()) == 1 and later.store() is collection.store()
    monkeypatch.setattr(vectors, "source_of", None)
    assert np.array_equal(ims.open(collection.uri).embeddings().vectors, values), "the vectors are not fetched again"


def test_what_was_cleaned_meanwhile(bucket: str) -> None:
    made = Made(f"{bucket}/cleaned")
    made.neighbours({"a": ["b"]})
    collection = ims.open(made.uri)
    made.neighbours({"a": ["c"]})
    collection.snapshot.files.delete(f"{made.uri}/neighbours/run_id=r00000001")
    with pytest.raises(ims.JobFailed, match="version 1 was cleaned meanwhile: refresh"):
        collection.neighbours()


def test_places_that_are_no_warehouse(bucket: str) -> None:
    Made(f"{bucket}/night/warehouse").manifest({"a": "1"})
    for uri, message in {
        f"{bucket}/night/warehose": r"there is no warehouse \(no _current.json\); did you mean warehouse\?",
        f"{bucket}/nothing/of/this": r"there is no warehouse \(no _current.json\): run a job first",
        "s3://another-bucket/warehouse": "there is no bucket another-bucket",
        "s3://me:secret@bucket/warehouse": "takes no user and password",
    }.items():
        with pytest.raises(ims.WrongInput, match=message) as raised:
            ims.open(uri)
        assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
