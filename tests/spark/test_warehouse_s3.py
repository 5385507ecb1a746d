"""A warehouse on an object store, written by Spark's driver and published by conditional puts."""

import json
from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

import s3_server
from image_similarity.errors import JobFailed
from image_similarity.storage import blobs
from image_similarity.storage.object_store import ObjectFiles
from image_similarity.warehouse.snapshot import Pointer
from image_similarity.warehouse.warehouse import Warehouse


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server.serving("warehouse") as bucket:
        yield bucket


def test_of_two_jobs_on_one_slot_one_wins_and_on_two_slots_both(spark: SparkSession, bucket: str) -> None:
    warehouse = Warehouse(spark, f"{bucket}/two")
    seen = warehouse.current()
    warehouse.publish(seen, {"neighbours": {"a/cosine": "r1"}}, {"runs": {"": "r1"}})
    warehouse.publish(seen, {"neighbours": {"b/cosine": "r2"}}, {"runs": {"": "r2"}})
    with pytest.raises(JobFailed, match="another job published neighbours a/cosine"):
        warehouse.publish(seen, {"neighbours": {"a/cosine": "r3"}}, {"runs": {"": "r3"}})
    tables = {"neighbours": {"a/cosine": ["r1"], "b/cosine": ["r2"]}, "runs": {"": ["r1", "r2"]}}
    assert warehouse.current() == Pointer(2, tables)
    views = blobs.read(f"{bucket}/two/views.sql").decode()
    assert "'s3://warehouse/two'" in views and "warehouse_files('neighbours', ['r1', 'r2'])" in views
    assert sorted(ObjectFiles(bucket).entries(f"{bucket}/two")) == ["_current.json", "views.sql"], (
        "no lock is left, or used"
    )


def test_an_update_whose_answer_was_lost_counts_once(
    spark: SparkSession, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_if = ObjectFiles._put_if
    answers = iter([None])

    def forgetful(self: ObjectFiles, path: str, content: bytes, version: object) -> object:
        put = put_if(self, path, content, version)
        return next(answers, put)

    monkeypatch.setattr(ObjectFiles, "_put_if", forgetful)
    warehouse = Warehouse(spark, f"{bucket}/lost")
    warehouse.publish(Pointer(), {"neighbours": {"a/cosine": "r1"}}, {"runs": {"": "r1"}})
    assert json.loads(blobs.read(f"{bucket}/lost/_current.json")) == {
        "version": 1,
        "tables": {"neighbours": {"a/cosine": ["r1"]}, "runs": {"": ["r1"]}},
    }
