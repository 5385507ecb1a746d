"""Each job by itself on a cluster: the same tables as in local mode."""

from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

import misbehaving
from crawler import crawl
from image_similarity.jobs import (
    build_manifest,
    compare_fingerprints,
    embed_images,
    find_neighbours,
    group_images,
    search_images,
)
from image_similarity.jobs.command_line import main
from processes import ask, draw, name_of, tables


def test_every_job_by_itself(submit: Any, spark: SparkSession, pictures: Path, tiny: list[str], tmp_path: Path) -> None:
    common = [
        "--set",
        "embeddings.max_failed_fraction=0.1",
        "--set",
        'fingerprints.colours={kind="colour-histogram"}',
        *tiny,
    ]
    draw(tmp_path / "incoming", range(100, 106))
    both = ["--fingerprint", "tiny", "--fingerprint", "colours"]
    steps: list[tuple[Any, list[object]]] = [
        (build_manifest, ["--images", pictures]),
        (embed_images, [*both]),
        (find_neighbours, []),
        (find_neighbours, ["--fingerprint", "colours"]),
        (group_images, ["--fingerprint", "colours", "--set", "groups.runner=spark"]),
        (group_images, ["--fingerprint", "colours", "--kind", "similar"]),
        (search_images, ["--images", tmp_path / "incoming", "--set", "search.runner=spark"]),
        (search_images, ["--images", pictures, "--queries", "again", "--fingerprint", "colours", "--dissimilar", "2"]),
        (compare_fingerprints, ["--report", tmp_path / "report"]),
    ]
    for job, arguments in steps:
        submit(name_of(job), "--warehouse", tmp_path / "w", *common, *arguments)
        assert (
            main(job, [str(one) for one in ["--warehouse", tmp_path / "local", *common, *arguments]], session=spark)
            == 0
        )
    here, there = tables(tmp_path / "local"), tables(tmp_path / "w")
    # Spark adds up in the order in which tasks end, which moves the last digit of a deviation.
    compared = (
        "SELECT * REPLACE (round(value, 9) AS value, round(standard_error, 9) AS standard_error) FROM comparisons"
    )
    assert ask(tmp_path / "w", compared) == ask(tmp_path / "local", compared) != []
    del here["comparisons"], there["comparisons"]
    assert there == here

    audited = submit("audit_neighbours", "--warehouse", tmp_path / "w", *common)
    assert "recall@12 of run" in audited.stdout
    submit("render_gallery", "--warehouse", tmp_path / "w", "--gallery", tmp_path / "gallery", *common)
    drawn = submit("render_map", "--warehouse", tmp_path / "w", "--gallery", tmp_path / "gallery", *common)
    assert "render_map tiny/cosine: 41 images on " in drawn.stdout
    found = crawl(tmp_path / "gallery", [tmp_path / "gallery" / "map.html"])
    assert found.dead == [] and sum(path.parent.parent.name == "images" for path in found.pages) == 41

    [first] = (folder.name.removeprefix("run_id=") for folder in (tmp_path / "w" / "manifest").iterdir())
    submit("build_manifest", "--warehouse", tmp_path / "w", "--images", pictures, "--sample", 10, "--run-id", "second")
    assert ask(tmp_path / "w", "SELECT count(*) FROM manifest") == [(10,)]
    submit("restore_runs", "--warehouse", tmp_path / "w", "--to", first)
    assert ask(tmp_path / "w", "SELECT count(*) FROM manifest") == [(42,)]
    for _ in range(2):
        submit("build_manifest", "--warehouse", tmp_path / "w", "--images", pictures)
    cleaned = submit("clean_warehouse", "--warehouse", tmp_path / "w", "--keep-runs", 2)
    assert "manifest/run_id=" in cleaned.stdout
    assert {**tables(tmp_path / "w"), "comparisons": [], "layout": []} == {**here, "comparisons": [], "layout": []}


def test_downloads(submit: Any, tmp_path: Path) -> None:
    with misbehaving.serving() as server:
        server.files = {f"/{number}.png": misbehaving.picture(number) for number in range(5)}
        lines = [f"{server.address}{path},{path[1:].removesuffix('.png')}\n" for path in server.files]
        (tmp_path / "list.csv").write_text("url,image_id\n" + "".join(lines))
        where = ["--catalogue", tmp_path / "list.csv", "--images", tmp_path / "images", "--warehouse", tmp_path / "w"]
        submit("download_images", *where, "--set", "http.private_addresses=true")
        fetched = {f"/{file.name}": file.read_bytes() for file in (tmp_path / "images").glob("*.png")}
        assert fetched == server.files
    assert ask(tmp_path / "w", "SELECT outcome, count(*) FROM downloads GROUP BY 1") == [("fetched", 5)]
