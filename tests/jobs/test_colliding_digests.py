"""Files whose digests agree in their first 60 bits, from the listing to the gallery, and in the run that follows."""

import hashlib
import runpy
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from image_similarity.jobs import run_pipeline
from processes import COMMON, ROOT, ask, draw

COLLIDING = ROOT / "tests" / "colliding"


@pytest.fixture
def colliding(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests of ``tests/colliding``, in this process and in workers: those of another environment are others."""
    monkeypatch.setattr(hashlib, "sha256", hashlib.sha256)  # which is put back at the end
    runpy.run_path(str(COLLIDING / "sitecustomize.py"))
    monkeypatch.setitem(spark.sparkContext.environment, "PYTHONPATH", str(COLLIDING))


@pytest.mark.usefixtures("colliding")
def test_files_whose_digests_nearly_agree_are_two(run: Any, tmp_path: Path) -> None:
    images, warehouse, gallery = tmp_path / "images", tmp_path / "w", tmp_path / "gallery"

    def pipeline(first: int, beyond: int) -> None:
        draw(images, range(first, beyond))
        by_spark = ["--set", "embeddings.runner=spark", "--gallery", gallery, *COMMON]
        assert run(run_pipeline, "--warehouse", warehouse, "--images", images, *by_spark) == 0
        digests = [row[0] for row in ask(warehouse, "SELECT content_sha256 FROM embeddings")]
        assert len(set(digests)) == beyond and {digest[:15] for digest in digests} == {"a" * 15}
        assert ask(warehouse, "SELECT count(DISTINCT embedding) FROM embeddings") == [(beyond,)]
        assert ask(warehouse, "SELECT count(*) FROM neighbours") == [(2 * beyond * (beyond - 1),)]
        assert ask(warehouse, "SELECT count(*) FROM exact_duplicates") == [(0,)]
        assert len(list((gallery / "pictures").rglob("*.webp"))) == beyond

    pipeline(0, 2)
    (images / "0.jpg").touch()  # read again, and known
    pipeline(2, 3)  # a new one is told from those that are known
    counted = "SELECT counts ->> 'embedded', counts ->> 'read' FROM runs WHERE job = 'embed_images' ORDER BY started_at"
    assert ask(warehouse, counted) == [("2", "2"), ("1", "2")]
