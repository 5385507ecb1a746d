"""Groups of a warehouse: what both runners publish, what a second run works on, and what bad input gets."""

import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyspark.sql import SparkSession

import oracle
from image_similarity.jobs import (
    build_manifest,
    clean_warehouse,
    embed_images,
    find_neighbours,
    group_images,
    restore_runs,
)
from image_similarity.jobs.command_line import main
from image_similarity.warehouse.snapshot import open_snapshot
from processes import ask, draw

Vectors = dict[str, NDArray[np.float32]]


def written(folder: Path, vectors: Vectors, name: str = "vectors.parquet") -> str:
    table = pa.table({"image_id": list(vectors), "embedding": pa.array(list(vectors.values()), pa.list_(pa.float32()))})
    pq.write_table(table, folder / name)
    return str(folder / name)


def planted(seed: int = 0, strangers: int = 500) -> tuple[Vectors, list[set[str]]]:
    """Strangers, and groups of 2 to 12 that are near to one of them. Which are which."""
    rng = np.random.default_rng(seed)
    vectors = {f"s{i:04d}": rng.standard_normal(64).astype(np.float32) for i in range(strangers)}
    groups = []
    for number, size in enumerate((1, 2, 4, 12)):
        centre = vectors[f"s{number * 7:04d}"]
        members = {
            f"c{number}-{i:02d}": centre + 0.01 * rng.standard_normal(64).astype(np.float32) for i in range(size)
        }
        vectors |= members
        groups.append({f"s{number * 7:04d}", *members})
    return vectors, groups


def grouped(warehouse: Path, kind: str = "near-duplicates") -> list[tuple[Any, ...]]:
    """The members of each group, sorted."""
    query = f"SELECT list(image_id ORDER BY image_id) FROM groups WHERE kind = '{kind}' GROUP BY group_id"
    return sorted(tuple(row[0]) for row in ask(warehouse, query))


def rows(warehouse: Path) -> dict[str, list[Any]]:
    now = open_snapshot(str(warehouse))
    return {table: list(map(repr, now.table(table).to_pylist())) for table in ("groups", "group_summary")}


def last(warehouse: Path) -> Any:
    return list(open_snapshot(str(warehouse)).runs.values())[-1]


OWN = ["--fingerprint", "external", "--limit", "0.3"]


@pytest.fixture
def external(spark: SparkSession, tmp_path: Path) -> Path:
    vectors, _ = planted()
    asked = ["--warehouse", str(tmp_path / "w"), "--embeddings", written(tmp_path, vectors), "--dissimilar", "0"]
    assert main(find_neighbours, asked, spark) == 0
    return tmp_path / "w"


def test_planted_groups_are_found_whole(spark: SparkSession, external: Path, capsys: Any) -> None:
    assert main(group_images, ["--warehouse", str(external), *OWN], spark) == 0
    assert grouped(external) == sorted(tuple(sorted(members)) for members in planted()[1])
    assert grouped(external, "identical") == []
    out = capsys.readouterr().out
    assert "4 groups of near-duplicates, 23 images, the largest of 13" in out and "no identical files" in out
    record = last(external)
    assert record.counts["share_proven"] == 1.0 and record.settings["limit"]["source"] == "given"


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_both_runners_write_the_same_tables(spark: SparkSession, tmp_path: Path, metric: str) -> None:
    """In one block or many, whatever the number of partitions."""
    vectors, _ = planted(1)
    vectors |= {f"same{i:02d}": vectors["s0001"] for i in range(15)}  # more copies than the table has ranks
    vectors |= {f"copy{i}": vectors[f"s{i + 10:04d}"] for i in range(3)}
    asked = ["--embeddings", written(tmp_path, vectors), "--dissimilar", "0", "--metric", metric]
    by_way = {}
    for way, options in {
        "process": [],
        "process in blocks": ["--set", "groups.process_bytes=1000000"],
        "process in small blocks": ["--set", "groups.process_bytes=8000"],
        "spark": ["--set", "groups.runner=spark"],
        "spark in blocks": ["--set", "groups.runner=spark", "--set", "groups.task_bytes=2000"],
    }.items():
        warehouse = tmp_path / way.replace(" ", "-")
        assert main(find_neighbours, ["--warehouse", str(warehouse), *asked], spark) == 0
        assert main(group_images, ["--warehouse", str(warehouse), *OWN, "--metric", metric, *options], spark) == 0
        by_way[way] = rows(warehouse)
    first = by_way.pop("process")
    assert len(first["group_summary"]) >= 8
    assert [way for way, of_way in by_way.items() if of_way != first] == []


def changed(vectors: Vectors) -> Vectors:
    """One member of a group is gone, another group has one more, a stranger is new, and a stranger has a copy."""
    rng = np.random.default_rng(9)
    after = {name: vector for name, vector in vectors.items() if name != "c2-01"}
    near = 0.01 * rng.standard_normal(64).astype(np.float32)
    return after | {
        "a-new": rng.standard_normal(64).astype(np.float32),
        "b-near": vectors["s0000"] + near,
        "z-copy": vectors["s0100"],
    }


@pytest.mark.parametrize("runner", ["process", "spark"])
def test_only_components_that_changed_are_worked_on(spark: SparkSession, tmp_path: Path, runner: str) -> None:
    """And the groups are those of a run from scratch with the same limits."""
    vectors, _ = planted(3)
    asked = [*OWN, "--set", f"groups.runner={runner}"]
    by_way: dict[str, list[dict[str, Any]]] = {}
    for way in ("again", "from scratch"):
        warehouse = tmp_path / way.replace(" ", "-")
        for now in (vectors, vectors, changed(vectors)):
            found = ["--warehouse", str(warehouse), "--embeddings", written(tmp_path, now), "--dissimilar", "0"]
            assert main(find_neighbours, found, spark) == 0
            assert main(group_images, ["--warehouse", str(warehouse), *asked], spark) == 0
            by_way.setdefault(way, []).append({**rows(warehouse), **last(warehouse).counts})
            if way == "from scratch":
                for found_groups in (warehouse / "_state" / "group_images").glob("*/*/found"):
                    shutil.rmtree(found_groups)
    first, same, after = by_way["again"]
    assert first["components_worked_on"] == first["components"] == 4
    assert same["components_worked_on"] == 0 and same["components"] == 4
    assert (after["components_worked_on"], after["components"]) == (3, 5)
    for table in ("groups", "group_summary"):
        assert first[table] == same[table]
        assert [of_run[table] for of_run in by_way["again"]] == [of_run[table] for of_run in by_way["from scratch"]]
    assert by_way["from scratch"][2]["components_worked_on"] == 5


def test_a_limit_that_is_kept_means_what_it_would_mean_from_scratch(spark: SparkSession, tmp_path: Path) -> None:
    """A denser theme is new: raw limits of the run before would be too large."""
    rng = np.random.default_rng(1)
    before = {f"s{i:03d}": rng.standard_normal(16).astype(np.float32) for i in range(590)}
    theme = rng.standard_normal(16)
    after = before | {f"z{i:03d}": (theme + 0.7 * rng.standard_normal(16)).astype(np.float32) for i in range(110)}
    for name, states in (("again", (before, after)), ("from-scratch", (after,))):
        for now in states:
            found = ["--warehouse", str(tmp_path / name), "--embeddings", written(tmp_path, now), "--dissimilar", "0"]
            assert main(find_neighbours, found, spark) == 0
            own = ["--fingerprint", "external", "--limit", "0.65"]
            assert main(group_images, ["--warehouse", str(tmp_path / name), *own], spark) == 0
    assert rows(tmp_path / "again") == rows(tmp_path / "from-scratch")
    assert last(tmp_path / "again").counts["largest"] < 10


def warehouse_of_colours(run: Any, folder: Path, images: Path) -> Path:
    """Pictures by their colours, up to their neighbours."""
    warehouse = folder / "w"
    common = ["--warehouse", warehouse, "--set", "neighbours.fingerprint=colour-histogram"]
    assert run(build_manifest, "--images", images, *common) == 0
    assert run(embed_images, *common, "--fingerprint", "colour-histogram") == 0
    assert run(find_neighbours, *common, "--dissimilar", 0) == 0
    return warehouse


COLOURS = ["--fingerprint", "colour-histogram", "--limit", "0.3"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures of many colours, a smaller copy of one, which comes first by its name, and two of the same bytes."""
    folder = tmp_path / "pictures"
    draw(folder, range(30))
    Image.open(folder / "7.jpg").resize((200, 150)).save(folder / "0-small.png")
    shutil.copy(folder / "7.jpg", folder / "a copy.jpg")
    shutil.copy(folder / "9.jpg", folder / "b copy.jpg")
    return folder


def test_the_largest_is_kept_and_identical_files_are_in_its_group(run: Any, tmp_path: Path, pictures: Path) -> None:
    warehouse = warehouse_of_colours(run, tmp_path, pictures)
    assert run(group_images, "--warehouse", warehouse, *COLOURS, "--export", tmp_path / "lists") == 0
    shown = "SELECT image_id, position, representative, distance_to_representative = 0 FROM groups WHERE kind = "
    assert ask(warehouse, f"{shown}'near-duplicates' ORDER BY position") == [
        ("7.jpg", 0, True, True),
        ("a copy.jpg", 1, False, True),
        ("0-small.png", 2, False, False),
    ]
    assert ask(warehouse, f"{shown}'identical' ORDER BY image_id") == [
        ("7.jpg", 0, True, True),
        ("9.jpg", 0, True, True),
        ("a copy.jpg", 1, False, True),
        ("b copy.jpg", 1, False, True),
    ]
    summary = ask(warehouse, "SELECT size, representative_id, weakest_link = widest_pair FROM group_summary ORDER BY 1")
    assert summary == [(2, "7.jpg", True), (2, "9.jpg", True), (3, "7.jpg", True)]
    nearest = "SELECT s.nearest_outside_id = n.neighbour_id AND s.nearest_outside = n.distance FROM group_summary s "
    nearest += "JOIN neighbours n ON n.image_id = '9.jpg' WHERE representative_id = '9.jpg' AND n.rank = 2"
    assert ask(warehouse, nearest) == [(True,)]
    removed = duckdb.connect().execute(f"SELECT image_id, kept_id FROM '{tmp_path}/lists/remove.csv' ORDER BY 1")
    assert removed.fetchall() == [("0-small.png", "7.jpg"), ("a copy.jpg", "7.jpg"), ("b copy.jpg", "9.jpg")]
    assert run(group_images, "--warehouse", warehouse, *COLOURS, "--keep", "first") == 0
    assert ask(warehouse, "SELECT count(*) FROM groups WHERE representative AND image_id = '0-small.png'") == [(1,)]


def test_lists_are_written_once_more_where_the_groups_are_published(run: Any, tmp_path: Path, pictures: Path) -> None:
    """A job whose export failed is tried again under its label."""
    warehouse = warehouse_of_colours(run, tmp_path, pictures)
    for _ in range(2):
        label = ["--run-id", "tonight", "--export", tmp_path / "lists"]
        assert run(group_images, "--warehouse", warehouse, *COLOURS, *label) == 0
        assert (tmp_path / "lists" / "remove.csv").is_file()
        shutil.rmtree(tmp_path / "lists")
    assert [record.job for record in open_snapshot(str(warehouse)).runs.values()].count("group_images") == 1


def test_other_images_than_the_neighbours_were_found_among(
    run: Any, tmp_path: Path, pictures: Path, capsys: Any
) -> None:
    """The same images, embedded again, are fine. Others would be listed for removal by what they were."""
    warehouse = warehouse_of_colours(run, tmp_path, pictures)
    common = ["--warehouse", warehouse, "--fingerprint", "colour-histogram"]
    assert run(embed_images, *common) == 0
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 0
    shutil.copy(pictures / "3.jpg", pictures / "7.jpg")
    (pictures / "4.jpg").unlink()
    draw(pictures, range(40, 42))
    assert run(build_manifest, "--images", pictures, "--warehouse", warehouse) == 0
    capsys.readouterr()
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 0
    said = capsys.readouterr().out
    assert "1 image that may be in groups is gone or changed since it was embedded: run embed_images" in said
    assert run(embed_images, *common) == 0
    before = (warehouse / "_current.json").read_text()
    capsys.readouterr()
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 2
    told = capsys.readouterr().err
    assert "4 images have other vectors, or are new or gone, since the neighbours colour-histogram/cosine were" in told
    assert "run find_neighbours --fingerprint colour-histogram --metric cosine first" in told
    assert (warehouse / "_current.json").read_text() == before


def test_vectors_that_were_replaced_are_noticed(spark: SparkSession, external: Path, tmp_path: Path) -> None:
    """Vectors of one's own may change in their place."""
    vectors, _ = planted()
    written(tmp_path, {name: vector + np.float32(0.001) for name, vector in vectors.items()})
    for runner in ("process", "spark"):
        options = ["--warehouse", str(external), *OWN, "--set", f"groups.runner={runner}"]
        assert main(group_images, options, spark) == 1
    assert open_snapshot(str(external)).run_ids("groups") == []


def test_what_runs_leave_is_kept_and_removed_with_them(spark: SparkSession, external: Path) -> None:
    """Earlier groups can be made current again, and go with what they left."""
    options = ["--warehouse", str(external)]
    for _ in range(3):
        assert main(group_images, [*options, *OWN], spark) == 0
    runs = [record.run_id for record in open_snapshot(str(external)).runs.values() if record.job == "group_images"]
    state = external / "_state" / "group_images" / "external-cosine"
    assert sorted(folder.name for folder in state.iterdir()) == runs[1:]
    assert main(restore_runs, [*options, "--to", runs[1]], spark) == 0
    now = open_snapshot(str(external))
    assert now.run_ids("groups") == now.run_ids("group_summary") == [runs[1]]
    assert len(grouped(external)) == 4
    assert main(group_images, [*options, *OWN, "--keep-runs", "2"], spark) == 0
    last_run = last(external).run_id
    assert main(clean_warehouse, [*options, "--keep-runs", "2"], spark) == 0
    for table in ("groups", "group_summary"):
        assert {folder.name for folder in (external / table).iterdir()} == {
            f"run_id={run}" for run in (*runs[1:], last_run)
        }
    assert {folder.name for folder in state.iterdir()} == {*runs[1:], last_run}


def test_what_belongs_together(spark: SparkSession, tmp_path: Path, capsys: Any) -> None:
    """Levels are nested; distances to representatives are exact, listed or not; and both runners agree."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((40, 64))
    vectors = {f"v{i:03d}": (centres[i % 40] + 0.3 * rng.standard_normal(64)).astype(np.float32) for i in range(40 * 5)}
    vectors |= {f"w{i}": rng.standard_normal(64).astype(np.float32) for i in range(30)}
    asked = ["--embeddings", written(tmp_path, vectors), "--dissimilar", "0"]
    by_way = {}
    for way in ("process", "spark"):
        warehouse = tmp_path / way
        assert main(find_neighbours, ["--warehouse", str(warehouse), *asked], spark) == 0
        options = ["--warehouse", str(warehouse), "--fingerprint", "external", "--kind", "similar"]
        assert main(group_images, [*options, "--set", f"groups.runner={way}"], spark) == 0
        by_way[way] = rows(warehouse)
    assert by_way["process"] == by_way["spark"]
    assert "of images that belong together" in capsys.readouterr().out
    warehouse = tmp_path / "process"
    counts = last(warehouse).counts
    assert len(counts["levels"]) >= 2 and counts["share_proven"] == 1 and counts["levels"][-1]["largest"] > 12
    found = open_snapshot(str(warehouse)).table("groups").to_pylist()
    assert {row["kind"] for row in found} == {"similar"} and {row["level"] for row in found} >= {0, 1}
    kept = {row["group_id"]: row["image_id"] for row in found if row["representative"]}
    distance = oracle.distances(np.stack(list(vectors.values())), "cosine")
    place = {name: number for number, name in enumerate(vectors)}
    for row in found:
        exact = distance[place[row["image_id"]], place[kept[row["group_id"]]]]
        assert row["distance_to_representative"] == (0 if row["representative"] else exact)
    finer = {row["image_id"]: row["group_id"] for row in found if row["level"] == 0}
    coarser = {row["image_id"]: row["group_id"] for row in found if row["level"] == 1}
    assert set(finer) <= set(coarser)
    assert len({(finer[name], coarser[name]) for name in finer}) == len(set(finer.values())), (
        "each in one of the coarser"
    )


@pytest.mark.parametrize("runner", ["process", "spark"])
def test_groups_are_labelled_by_what_sets_them_apart(run: Any, tmp_path: Path, runner: str) -> None:
    (tmp_path / "pictures" / "pair").mkdir(parents=True)
    draw(tmp_path / "pictures" / "many", range(30))
    with Image.open(tmp_path / "pictures" / "many" / "7.jpg") as picture:
        picture.resize((200, 150)).save(tmp_path / "pictures" / "pair" / "small.png")
        picture.resize((220, 165)).save(tmp_path / "pictures" / "pair" / "smaller.png")
    (tmp_path / "pictures" / "many" / "7.jpg").unlink()
    warehouse = warehouse_of_colours(run, tmp_path, tmp_path / "pictures")
    runner_is = ["--set", f"groups.runner={runner}"]
    assert run(group_images, "--warehouse", warehouse, *COLOURS, *runner_is) == 0
    assert ask(warehouse, "SELECT size, label FROM group_summary") == [(2, "pair")]
    assert last(warehouse).counts["labelled"] == 1
    assert last(warehouse).inputs["manifest"] == open_snapshot(str(warehouse)).run_ids("manifest", "")
