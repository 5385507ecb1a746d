"""Vectors that an earlier version wrote have no thumbprints, and serve every job as they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from image_similarity.jobs import build_manifest, compare_fingerprints, embed_images, find_neighbours, render_gallery
from image_similarity.warehouse.snapshot import open_snapshot
from image_similarity.warehouse.warehouse import Warehouse
from processes import ask

DECLARED = [
    part
    for fingerprint in (
        'colours={kind="colour-histogram"}',
        'edges={kind="hog",size=32,cell=8}',
        'few={kind="pca",base="colours",dimensions=2}',
    )
    for part in ("--set", f"fingerprints.{fingerprint}")
]
BOTH = ["--fingerprint", "colours", "--fingerprint", "edges"]


def draw(folder: Path, *seeds: int) -> None:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")


def without_thumbprints(vectors: Path) -> None:
    """Rewrites the files of ``vectors`` as an earlier version did."""
    files = list(vectors.rglob("part-*.parquet"))
    assert files
    for file in files:
        pq.write_table(pq.ParquetFile(file).read().drop_columns("thumbprint"), file)
        (file.parent / f".{file.name}.crc").unlink(missing_ok=True)


def with_thumbprints(warehouse: Path, fingerprint: str) -> list[tuple[int, int]]:
    """The number of images, and of those with a thumbprint."""
    return ask(warehouse, f"SELECT count(*), count(thumbprint) FROM embeddings WHERE fingerprint = '{fingerprint}'")


@pytest.mark.parametrize("runner", ["process", "spark"])
def test_every_job_takes_them_and_embeds_nothing_again(
    run: Any, spark: SparkSession, tmp_path: Path, runner: str
) -> None:
    pytest.importorskip("matplotlib")
    w, pictures = tmp_path / "w", tmp_path / "pictures"
    chosen = [f"{name}.runner={runner}" for name in ("embeddings", "neighbours")]
    chosen += ["neighbours.similar=2", "neighbours.dissimilar=0", "neighbours.fingerprint=colours"]
    again = ["--warehouse", w, *DECLARED, *(part for value in chosen for part in ("--set", value))]
    draw(pictures, *range(5))
    assert run(build_manifest, "--images", pictures, "--warehouse", w) == 0
    assert run(embed_images, *again, *BOTH) == 0
    without_thumbprints(w / "vectors")

    published = open_snapshot(str(w))
    assert published.table("vectors", columns=["thumbprint"])["thumbprint"].null_count == 10
    rows = Warehouse(spark, str(w)).read("vectors", published.run_ids("vectors"))
    assert rows.where("thumbprint IS NULL AND embedding IS NOT NULL").count() == 10

    draw(pictures, 5)
    assert run(build_manifest, "--images", pictures, "--warehouse", w) == 0
    assert run(embed_images, *again, *BOTH) == 0
    assert run(embed_images, *again, "--fingerprint", "few") == 0
    assert [with_thumbprints(w, name) for name in ("colours", "edges", "few")] == [[(6, 1)]] * 3
    for fingerprint in ("colours", "edges", "few"):
        assert run(find_neighbours, *again, "--fingerprint", fingerprint) == 0
    assert ask(w, "SELECT fingerprint, count(*) FROM neighbours GROUP BY 1 ORDER BY 1") == [
        ("colours", 12),
        ("edges", 12),
        ("few", 12),
    ]
    if runner == "spark":
        return  # neither of these asks who embedded
    assert run(render_gallery, *again, "--gallery", tmp_path / "gallery") == 0
    assert run(compare_fingerprints, *again, "--report", tmp_path / "report", "-k", 2) == 0
