"""Real photographs, artworks and awkward files, through the jobs, with ImageNet-trained SqueezeNet."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import oracle
from image_similarity.jobs import run_pipeline
from image_similarity.jobs.command_line import main
from image_similarity.knn import all_pairs
from image_similarity.knn.distances import METRICS
from image_similarity.knn.scoring import SCREENS
from processes import ask

Run = Any


def test_ukbench_finds_the_other_pictures_of_an_object(
    run: Run, data: Path, squeezenet: list[str], tmp_path: Path
) -> None:
    """N-S score: of the four pictures of a group, how many are among the four nearest, itself included."""
    warehouse = tmp_path / "w"
    assert (
        run(run_pipeline, "--images", data / "images" / "ukbench", "--warehouse", warehouse, "-k", 3, *squeezenet) == 0
    )
    pairs = ask(warehouse, "SELECT image_id, neighbour_id FROM neighbours WHERE relation = 'similar'")
    group = [[int(re.sub(r"\D", "", name)) // 4 for name in pair] for pair in pairs]
    score = 1 + sum(a == b for a, b in group) / 200
    print(f"N-S score: {score}")
    assert len(pairs) == 600 and score >= 3.85


def test_leaves_of_one_work_find_each_other(run: Run, data: Path, squeezenet: list[str], tmp_path: Path) -> None:
    warehouse = tmp_path / "w"
    assert run(run_pipeline, "--images", data / "images" / "cma", "--warehouse", warehouse, *squeezenet) == 0
    leaf = r"^1915\.79\.[1-8]\.jpg$"
    found = ask(
        warehouse,
        f"SELECT image_id, count(*) FILTER (regexp_matches(neighbour_id, '{leaf}')) FROM neighbours "
        f"WHERE relation = 'similar' AND rank <= 7 AND regexp_matches(image_id, '{leaf}') GROUP BY 1 ORDER BY 1",
    )
    print(f"sisters among the 7 nearest: {found}")
    assert len(found) == 8 and sum(count for _, count in found) >= 0.7 * 56


@pytest.fixture(scope="module")
def awkward(spark: Any, data: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The warehouse of all awkward files."""
    warehouse = tmp_path_factory.mktemp("awkward") / "w"
    squeezenet = request.getfixturevalue("squeezenet")
    every = ["--set", 'manifest.extensions=["*"]', "--set", "embeddings.max_failed_fraction=1"]
    arguments = ["--images", str(data / "awkward"), "--warehouse", str(warehouse), "-k", "300", *squeezenet, *every]
    assert main(run_pipeline, arguments, session=spark) == 0
    return warehouse


def test_every_awkward_file_is_accounted_for(awkward: Path, data: Path) -> None:
    files = {str(file.relative_to(data / "awkward")) for file in (data / "awkward").rglob("*") if file.is_file()}
    embedded = {row[0] for row in ask(awkward, "SELECT image_id FROM embeddings")}
    failed = {row[0] for row in ask(awkward, "SELECT image_id FROM failures WHERE reason <> 'zero_vector'")}
    assert embedded | failed == files and not embedded & failed
    corrupt = {name for name in files if name.startswith("pngsuite_corrupt/")}
    assert len(corrupt) == 14 and corrupt <= failed
    whole = {name for name in files if name.split("/")[0] in ("exif_orientation", "modes", "pngsuite_16bit")}
    assert whole <= embedded


def test_exif_sets_are_upright(awkward: Path) -> None:
    """Each of the nine pictures of a set is nearer to its sisters than to any of the other set."""
    rows = ask(
        awkward,
        "SELECT image_id, neighbour_id, distance FROM neighbours WHERE relation = 'similar' "
        "AND image_id LIKE 'exif_orientation/%' AND neighbour_id LIKE 'exif_orientation/%'",
    )
    distance = {(a, b): value for a, b, value in rows}
    names = sorted({a for a, _ in distance})
    sets = {name: name.split("_")[1].split("/")[1] for name in names}
    assert len(names) == 18 and len(distance) == 18 * 17
    for name in names:
        sisters = [distance[name, other] for other in names if other != name and sets[other] == sets[name]]
        strangers = [distance[name, other] for other in names if sets[other] != sets[name]]
        assert len(sisters) == 8 and max(sisters) < min(strangers), name
    sizes = ask(
        awkward, "SELECT DISTINCT width > height FROM embeddings WHERE image_id LIKE 'exif_orientation/Landscape%'"
    )
    assert sizes == [(True,)]


def test_paintings_with_byte_identical_groups(run: Run, data: Path, squeezenet: list[str], tmp_path: Path) -> None:
    """Groups are those of the ground truth, each is embedded once, and every neighbour is that of the definition."""
    warehouse = tmp_path / "w"
    assert run(run_pipeline, "--images", data / "images" / "wikiart", "--warehouse", warehouse, *squeezenet) == 0
    truth = json.loads((data / "images" / "wikiart" / "ground_truth.json").read_text())
    expected = {frozenset(group) for group in truth["byte_identical_groups"]}
    found: dict[str, set[str]] = {}
    for digest, image_id in ask(warehouse, "SELECT content_sha256, image_id FROM exact_duplicates"):
        found.setdefault(digest, set()).add(image_id)
    assert {frozenset(group) for group in found.values()} == expected
    pointer = json.loads((warehouse / "_current.json").read_text())["tables"]["vectors"]
    (run_ids,) = pointer.values()
    vectors = pq.read_table(str(warehouse / "vectors" / f"run_id={run_ids[0]}"), columns=["content_sha256"])
    assert vectors.num_rows == 1460 - sum(len(group) - 1 for group in expected)

    images = sorted(ask(warehouse, "SELECT image_id, embedding FROM embeddings"), key=lambda row: str(row[0]).encode())
    features = np.array([embedding for _, embedding in images], dtype=np.float32)
    for relation in ("similar", "dissimilar"):
        told = f"SELECT image_id, rank, neighbour_id, distance FROM neighbours WHERE relation = '{relation}'"
        right = oracle.neighbours(features, "cosine", 12, relation == "dissimilar")
        assert sorted(ask(warehouse, told)) == sorted((images[i][0], rank, images[j][0], d) for i, rank, j, d in right)
    for metric in METRICS:
        expected_rows = [oracle.neighbours(features, metric, 12, farthest) for farthest in (False, True)]
        for screen in SCREENS.values():
            both = all_pairs.neighbours(features, metric, 12, 12, 500, screen)
            assert [oracle.rows_of(found_rows) for found_rows in both] == expected_rows
