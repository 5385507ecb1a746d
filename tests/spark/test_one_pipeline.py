"""From pictures to a gallery, once, in the shared session: what `make test` tries of whole jobs."""

from pathlib import Path
from typing import Any

from crawler import crawl
from image_similarity.jobs import run_pipeline
from image_similarity.warehouse.snapshot import open_snapshot
from processes import COMMON, ask, draw

IMAGES = 8


def test_from_pictures_to_a_gallery(run: Any, tmp_path: Path, capsys: Any) -> None:
    images, warehouse, gallery = tmp_path / "images", tmp_path / "w", tmp_path / "gallery"
    draw(images, range(IMAGES))
    (images / "broken.jpg").write_bytes((images / "0.jpg").read_bytes()[:100])
    options = ["-k", 3, "--dissimilar", 2, "--set", "embeddings.max_failed_fraction=0.2"]
    arguments = ["--images", images, "--warehouse", warehouse, "--gallery", gallery, *options, *COMMON]
    assert run(run_pipeline, *arguments) == 0
    out = capsys.readouterr().out
    assert "run_pipeline: done in " in out and f"gallery: {gallery}/index.html" in out
    assert ask(warehouse, "SELECT count(*) FROM manifest") == [(IMAGES + 1,)]
    assert ask(warehouse, "SELECT image_id, reason FROM failures") == [("broken.jpg", "truncated")]
    counted = "SELECT relation, count(*), count(DISTINCT image_id), max(rank) FROM neighbours GROUP BY 1 ORDER BY 1"
    assert ask(warehouse, counted) == [("dissimilar", IMAGES * 2, IMAGES, 2), ("similar", IMAGES * 3, IMAGES, 3)]
    found = crawl(gallery)
    assert found.dead == [] and sum(path.parent.parent.name == "images" for path in found.pages) == IMAGES
    snapshot = open_snapshot(str(warehouse))
    assert [record.job for record in snapshot.runs.values()] == [
        "build_manifest",
        "embed_images",
        "find_neighbours",
        "group_images",
        "group_images",
        "render_gallery",
        "render_map",
    ]
