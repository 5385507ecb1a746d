"""What is told before Spark is started: in a second, not after half a minute of Java."""

import argparse
import json
import os
import shlex
import shutil
import socket
import threading
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_similarity.errors import JobFailed, WrongInput, no_such_file
from image_similarity.jobs import (
    audit_neighbours,
    build_manifest,
    clean_warehouse,
    command_line,
    compare_fingerprints,
    download_images,
    early,
    embed_images,
    find_neighbours,
    group_images,
    render_gallery,
    render_map,
    restore_runs,
    run_pipeline,
    same_way,
    search_images,
    tag_images,
)
from image_similarity.jobs.command_line import main
from image_similarity.runtime.session import scratch_folders
from image_similarity.settings import NeighboursSettings, load, loading
from image_similarity.stages.embeddings import checkpoints
from image_similarity.stages.neighbours import plan as planning
from image_similarity.storage import disk_space
from image_similarity.warehouse import places
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer
from image_similarity.warehouse.warehouse import Warehouse

COLOURS = ["--set", 'fingerprints.colours={kind="colour-histogram"}', "--fingerprint", "colours"]

MISTAKES: dict[str, tuple[Any, list[str], str]] = {
    "a folder that is not there": (
        build_manifest,
        ["--images", "picture"],
        "no such folder or file; did you mean pictures?",
    ),
    "a folder without images": (build_manifest, ["--images", "empty"], "no image found; skipped: 1 .txt"),
    "a glob without images": (build_manifest, ["--images", "empty/*.jpg"], "no image found"),
    "a list without a column": (
        build_manifest,
        ["--images", "list.csv"],
        "no column 'uri' or 'file'; its columns are: a, b",
    ),
    "a list that is no UTF-8": (build_manifest, ["--images", "latin.csv"], "not UTF-8"),
    "a file that is no list": (run_pipeline, ["--images", "empty/notes.txt", *COLOURS], "a file of unknown type"),
    "a gallery among the images": (
        run_pipeline,
        ["--images", "pictures", "--gallery", "pictures/g", *COLOURS],
        "is in the folder of the images",
    ),
    "a gallery in a folder of others": (
        run_pipeline,
        ["--images", "pictures", "--gallery", "empty", *COLOURS],
        "the folder has other content",
    ),
    "a gallery that is a file": (render_gallery, ["--gallery", "list.csv"], "is a file; name a folder"),
    "no manifest": (embed_images, ["--warehouse", "new", *COLOURS], "no manifest is published"),
    "no embeddings": (find_neighbours, ["--warehouse", "new"], "no embeddings 'vgg16-fc2'"),
    "vectors that are not there": (
        find_neighbours,
        ["--embeddings", "vector.parquet"],
        "no such file or folder; did you mean vectors.parquet?",
    ),
    "vectors that are no Parquet": (
        find_neighbours,
        ["--embeddings", "vectors.parquet"],
        "--embeddings vectors.parquet: ",
    ),
    "vectors in another column": (find_neighbours, ["--embeddings", "own.parquet"], "no column image_id"),
    "vectors in a pipe": (find_neighbours, ["--embeddings", "pipe"], "this is a named pipe; name a file or folder"),
    "settings in a pipe": (
        build_manifest,
        ["--images", "pictures", "--config", "pipe"],
        "is a named pipe, and nobody wrote to it within 0.05 s: name a file",
    ),
    "a name of blanks": (build_manifest, ["--images", " "], "--images is empty"),
    "a name that is too long": (
        run_pipeline,
        ["--images", "pictures", "--gallery", "g" * 300, *COLOURS],
        "File name too long",
    ),
    "a gallery on the web": (render_gallery, ["--gallery", "https://h/g"], "nothing can be written to a web address"),
    "a password in the address of a store": (
        download_images,
        ["--catalogue", "urls.csv", "--images", "s3://user:secret@b/k"],
        "takes no user and password",
    ),
    "weights that are a link to themselves": (
        run_pipeline,
        ["--images", "pictures", "--network", "squeezenet1_1", "--weights", "loop"],
        "loop (a link to loop, which leads nowhere",
    ),
    "a store without a bucket": (build_manifest, ["--warehouse", "s3://", "--images", "pictures"], "names no bucket"),
    "a store without a bucket, but with a folder": (
        render_gallery,
        ["--gallery", "gs:///x"],
        "names no bucket; write it as gs://BUCKET/FOLDER",
    ),
    "a file system without host and folder": (
        build_manifest,
        ["--warehouse", "hdfs://", "--images", "pictures"],
        "--warehouse hdfs://: names no folder",
    ),
    "two fingerprints that are alike": (
        run_pipeline,
        ["--images", "pictures", "--fingerprint", "hog", "--set", 'fingerprints.edges={kind="hog"}', *COLOURS]
        + ["--fingerprint", "edges"],
        "fingerprints hog and edges are declared alike",
    ),
    "a projection to more values than there are": (
        run_pipeline,
        ["--images", "pictures", "--fingerprint", "more"]
        + ["--set", 'fingerprints.more={kind="pca",base="colour-histogram",dimensions=300}'],
        "dimensions is 300, but colour-histogram has vectors of 256 values",
    ),
    "nothing to clean": (clean_warehouse, [], "--warehouse w: no such folder: "),
    "nothing to restore": (restore_runs, [], "--warehouse w: no such folder: "),
    "two flags that contradict": (restore_runs, ["--warehouse", "empty", "--rebuild", "--to", "x"], "takes no --to"),
    "nothing to audit": (audit_neighbours, ["--warehouse", "new"], "no neighbours 'vgg16-fc2/cosine'"),
    "nothing to group": (group_images, ["--warehouse", "new"], "no neighbours 'vgg16-fc2/cosine'"),
    "nothing to tag": (tag_images, ["--warehouse", "new"], "no embeddings 'vgg16-fc2'"),
    "classes in a file that is not there": (
        tag_images,
        ["--warehouse", "new", "--classes", "lists.csv"],
        "no such file: ",
    ),
    "a tag that is more than certain": (tag_images, ["--threshold", "1.5"], "--threshold 1.5: "),
    "a limit that cannot be": (
        group_images,
        ["--limit", "1.5"],
        "--limit 1.5: should be a number above 0 and at most 1",
    ),
    "a limit of no number": (group_images, ["--limit", "nan"], "--limit nan: should be a number above 0 and at most 1"),
    "the sharpest image": (
        group_images,
        ["--keep", "best"],
        "the sharpness of images, which groups do not use yet: choose",
    ),
    "groups of another kind": (
        group_images,
        ["--kind", "near-duplicate"],
        "'near-duplicate' is no choice; did you mean near-duplicates?",
    ),
    "a limit of what has none": (
        group_images,
        ["--kind", "similar", "--limit", "0.5", "--export", "lists", "--recalibrate"],
        "--recalibrate and --export and --limit with --kind similar: this is about near-duplicates",
    ),
    "lists in a folder of others": (
        group_images,
        ["--warehouse", "new", "--export", "empty"],
        "--export empty: the folder has other content ('notes.txt')",
    ),
    "lists in the warehouse": (group_images, ["--warehouse", "new", "--export", "new/lists"], "warehouse"),
    "nothing to search in": (
        search_images,
        ["--warehouse", "new", "--images", "pictures"],
        "nothing is published in",
    ),
    "nothing to search for": (search_images, ["--warehouse", "new"], "neither is given"),
    "queries in a folder without images": (
        search_images,
        ["--warehouse", "new", "--images", "empty", "--queries", "a--b"],
        "--queries a--b: a name has lower-case letters",
    ),
    "nothing to lay out": (render_map, ["--warehouse", "new", "--gallery", "g"], "no neighbours 'vgg16-fc2/cosine'"),
    "nothing to show": (render_gallery, ["--warehouse", "new", "--gallery", "g"], "no neighbours are published"),
    "nothing to compare": (
        compare_fingerprints,
        ["--warehouse", "new", "--report", "r"],
        "no neighbours are published",
    ),
    "a report that is a file": (compare_fingerprints, ["--report", "list.csv"], "is a file; name a folder"),
    "a catalogue that is not there": (
        download_images,
        ["--catalogue", "lists.csv", "--images", "d"],
        "no such file; did you mean list.csv?",
    ),
    "a catalogue without addresses": (
        download_images,
        ["--catalogue", "list.csv", "--images", "d"],
        "no column 'image_url'",
    ),
    "downloads into a file": (
        download_images,
        ["--catalogue", "urls.csv", "--images", "list.csv"],
        "is a file; name a folder",
    ),
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("pictures", "empty", "new"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pictures" / "a.jpg").touch()
    (tmp_path / "empty" / "notes.txt").touch()
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    (tmp_path / "urls.csv").write_text("url\nhttp://h/a.jpg\n")
    (tmp_path / "latin.csv").write_bytes("uri\nGemälde.jpg\n".encode("latin-1"))
    (tmp_path / "vectors.parquet").touch()
    pq.write_table(pa.table({"id": ["a"], "embedding": [[1.0]]}), tmp_path / "own.parquet")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(loading, "_PIPE_SECONDS", 0.05)
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_spark_is_started_and_leave_nothing(mistake: str, place: Path, capsys: Any) -> None:
    job, arguments, message = MISTAKES[mistake]
    before = sorted(place.rglob("*"))
    warehouse = [] if "--warehouse" in arguments else ["--warehouse", "w"]
    assert main(job, [*warehouse, *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.strip().splitlines()) == 1
    assert sorted(place.rglob("*")) == before


READERS: dict[Any, list[str]] = {
    embed_images: COLOURS,
    find_neighbours: COLOURS,
    audit_neighbours: [],
    group_images: [],
    tag_images: [],
    render_gallery: ["--gallery", "g"],
    render_map: ["--gallery", "g"],
    compare_fingerprints: ["--report", "r"],
    search_images: ["--images", "pictures"],
}
"""Jobs that read what others published, with arguments."""


@pytest.mark.parametrize("job", READERS)
def test_a_place_to_read_that_is_no_warehouse(job: Any, place: Path, capsys: Any) -> None:
    def told(warehouse: str) -> str:
        capsys.readouterr()
        assert main(job, ["--warehouse", warehouse, *READERS[job]]) == 2
        printed: str = capsys.readouterr().err
        assert len(printed.strip().splitlines()) == 1
        return printed

    publish(place, [record(RUN, "build_manifest", "")], {})
    demo = place / "demo"
    demo.mkdir()
    (place / "w").rename(demo / "samples-warehouse")
    missing = demo / "sample-warehouse"
    assert f"no such folder: {missing}; did you mean samples-warehouse?" in told("demo/sample-warehouse")
    assert f"--warehouse {missing}: no such folder; did you mean samples-warehouse?" in told(str(missing))
    assert "pictures: this is no warehouse (there are a.jpg)" in told("pictures")
    meant = f"; did you mean {demo / 'samples-warehouse'}?"
    assert f"this is no warehouse (there are samples-warehouse){meant}" in told("demo")
    for kind, folder in (("gallery", demo / "samples-gallery"), ("report", demo / "samples-report")):
        folder.mkdir()
        (folder / f"{kind}.json").write_text(f'{{"kind": "image-similarity {kind}", "renderings": []}}')
        assert f"this is a {kind}: name its warehouse{meant}" in told(str(folder))


@pytest.mark.parametrize("job", [build_manifest, clean_warehouse])
def test_a_gallery_is_no_warehouse_to_write_to(job: Any, place: Path, capsys: Any) -> None:
    (place / "empty" / "gallery.json").write_text('{"kind": "image-similarity gallery", "renderings": []}')
    images = ["--images", "pictures"] if job is build_manifest else []
    assert main(job, ["--warehouse", "empty", *images]) == 2
    assert "--warehouse empty: this is a gallery: name its warehouse" in capsys.readouterr().err


def test_settings_in_a_pipe_that_somebody_writes_to(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Once, as programs do that decrypt settings: it cannot be read again."""
    monkeypatch.setattr(loading, "_PIPE_SECONDS", 60)
    text = '[fingerprints.own]\nkind = "hog"\n[neighbours]\nsimilar = -5\n'
    threading.Thread(target=(place / "pipe").write_text, args=(text,), daemon=True).start()
    pipeline = ["--images", "pictures", "--fingerprint", "own", "--config", "pipe"]
    assert "pipe: neighbours.similar: " in told_early(run_pipeline, pipeline, 2, capsys)


def test_a_warehouse_that_is_a_file(place: Path, capsys: Any) -> None:
    assert main(build_manifest, ["--warehouse", "list.csv/w", "--images", "pictures"]) == 2
    assert f"--warehouse list.csv/w: {place / 'list.csv'} is a file; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["nothing", "a file", "other content", "a report"])
def test_a_place_of_a_map_where_no_gallery_is(kind: str, place: Path, capsys: Any) -> None:
    folder = {"nothing": "g", "a file": "list.csv", "other content": "pictures", "a report": "r p"}[kind]
    (place / "r p").mkdir()
    (place / "r p" / "report.json").write_text('{"kind": "image-similarity report", "renderings": [], "forwards": []}')
    publish_default_neighbours(place)
    told = told_early(render_map, ["--gallery", folder], 2, capsys)
    command = shlex.join(["render_gallery", "--warehouse", "w", "--gallery", folder])
    assert f"--gallery {folder}: no gallery is rendered there: run {command} first" in told


@pytest.mark.parametrize("kind", ["gallery", "report"])
def test_a_site_lies_neither_among_the_images_nor_in_the_warehouse(kind: str, place: Path) -> None:
    arguments = argparse.Namespace(warehouse="w", dry_run=False)
    with pytest.raises(WrongInput, match=f"--{kind} .* is in the folder of the images"):
        early.check_site(kind, "pictures/pages", arguments, "pictures")
    with pytest.raises(WrongInput, match="neither may be in the other"):
        early.check_site(kind, "w/pages", arguments)
    early.check_site(kind, "pictures/pages", arguments)
    early.check_site(kind, "s3://bucket/pages", arguments, "s3://bucket")  # known once there is a session


@pytest.mark.parametrize("below", ["map", "map/tiles", "static"])
def test_a_gallery_in_which_no_map_can_be_written(
    below: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    publish_default_neighbours(place)
    (place / "g" / below).mkdir(parents=True)
    (place / "g" / "gallery.json").write_text('{"kind": "image-similarity gallery", "renderings": [], "forwards": []}')
    closed = str(place / "g" / below)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != closed)
    assert f"--gallery g: {closed} cannot be written" in told_early(render_map, ["--gallery", "g"], 2, capsys)


def publish_default_neighbours(place: Path) -> None:
    slot, similar = "vgg16-fc2/cosine", {"neighbours": {"similar": 12}}
    compared = record(RUN, "find_neighbours", slot, settings=similar, inputs={"embeddings": [RUN]})
    publish(place, [compared], {("neighbours", slot, RUN): rows("neighbours", 1)})


def test_a_warehouse_that_cannot_be_written(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert main(build_manifest, ["--warehouse", "w", "--images", "pictures"]) == 2
    assert f"--warehouse w: {place} cannot be written" in capsys.readouterr().err


def record(run: str, job: str, slot: str, **facts: Any) -> Record:
    now = datetime.now(timezone.utc)
    given: dict[str, Any] = dict.fromkeys(("inputs", "outputs", "settings", "counts", "versions", "stages"), {})
    given |= {"status": "published", "seconds": 1.0, "recall": None, "started_at": now, "finished_at": now}
    return Record(**{**given, "run_id": run, "label": None, "job": job, "slot": slot, **facts})


def publish(place: Path, records: list[Record], tables: dict[tuple[str, str, str], pa.Table]) -> None:
    """As jobs have published it: ``tables`` by table, slot and run."""
    warehouse = Warehouse(None, str(place / "w"))  # type: ignore[arg-type]
    current: dict[str, dict[str, list[str]]] = {"runs": {"": [record.run_id for record in records]}}
    for one in records:
        warehouse.write_record(one)
    for (table, slot, run), rows in tables.items():
        folder = place / "w" / table / f"run_id={run}"
        folder.mkdir(parents=True)
        pq.write_table(rows.cast(SCHEMAS[table]), folder / "part-0.parquet")
        current.setdefault(table, {})[slot] = [run]
    warehouse.files.write(f"{warehouse.uri}/{POINTER}", Pointer(1, current).as_json())


def rows(table: str, count: int, **values: Any) -> pa.Table:
    columns = [pa.array([values.get(name)] * count, SCHEMAS[table].field(name).type) for name in SCHEMAS[table].names]
    return pa.table(columns, schema=SCHEMAS[table])


RUN = "r20260101T000000-00000001"


def publish_embeddings(place: Path, slot: str, settings: dict[str, Any], images: int, dimensions: int) -> None:
    """A manifest of twice as many ``images`` as are embedded."""
    embedded = {
        ("manifest", "", RUN): rows("manifest", 2 * images, image_id="a"),
        ("embeddings", slot, RUN): rows("embeddings", images, image_id="a", fingerprint_key="k"),
        ("vectors", "k", RUN): rows("vectors", images, embedding=[0.0] * dimensions),
    }
    publish(place, [record(RUN, "embed_images", slot, settings=settings)], embedded)


def publish_neighbours(place: Path) -> None:
    """Of colours, in addition."""
    pointer = json.loads((place / "w" / POINTER).read_text())
    pointer["tables"]["neighbours"] = {"colours/cosine": [RUN]}
    (place / "w" / POINTER).write_text(json.dumps(pointer))


def fill(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2**40, 2**40 - free, free))


def told_early(job: Any, arguments: list[str], code: int, capsys: Any) -> str:
    """What is told, in one line, before Spark is started."""
    capsys.readouterr()
    assert main(job, ["--warehouse", "w", *arguments]) == code
    told: str = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1, told
    return told


def test_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    fill(monkeypatch, 2**20)
    told = told_early(build_manifest, ["--images", "pictures"], 1, capsys)
    assert f"needs about 4.0 MiB of disk for --warehouse {place / 'w'}, but {place} has 1.0 MiB free: free some" in told
    assert not (place / "w").exists()
    for job, flag, source in ((run_pipeline, "gallery", "--images"), (download_images, "images", "--catalogue")):
        monkeypatch.setattr(disk_space, "_free", lambda folder, full=flag: 0 if folder.endswith(full) else None)
        (place / "at" / flag).mkdir(parents=True)
        more = [source, "pictures" if flag == "gallery" else "urls.csv", f"--{flag}", f"at/{flag}"]
        told = told_early(job, more + (COLOURS if flag == "gallery" else []), 1, capsys)
        assert f"of disk for --{flag} {place / 'at' / flag}" in told


def test_a_full_disk_of_sparks_own(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{place / 'one'},{place / 'two'}")
    (place / "two").mkdir()
    monkeypatch.setattr(disk_space, "_free", lambda folder: 0 if folder.endswith("two") else 2**40)
    told = told_early(build_manifest, ["--images", "pictures"], 1, capsys)
    assert f"for spark.local.dir {place / 'two'}, but" in told and "or use another spark.local.dir" in told


def test_where_spark_writes_its_own_files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unset = ("SPARK_LOCAL_DIRS", "SPARK_CONF_DIR", "PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS", "JAVA_TOOL_OPTIONS")
    for name in unset:
        monkeypatch.delenv(name, raising=False)
    assert scratch_folders() == ["/tmp"]
    (place / "spark-defaults.conf").write_text("spark.local.dir /a, /b\n")
    monkeypatch.setenv("SPARK_CONF_DIR", str(place))
    assert scratch_folders() == ["/a", "/b"]
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    assert scratch_folders() == [], "spark-submit knows, and this process does not yet"
    monkeypatch.setenv("SPARK_LOCAL_DIRS", "/c")
    assert scratch_folders() == ["/c"]


@pytest.mark.parametrize("where", ["arguments", "a script", "variable", "extraJavaOptions", "defaultJavaOptions"])
def test_where_only_the_jvm_will_know(where: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A full /tmp must not refuse a run whose own files go elsewhere."""
    for name in ("SPARK_LOCAL_DIRS", "PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS", "JAVA_TOOL_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(place))
    assert scratch_folders() == ["/tmp"]
    if where == "arguments":
        monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--conf spark.local.dir=/a pyspark-shell")
    elif where == "a script":
        (place / "spark-env.sh").write_text("export SPARK_LOCAL_DIRS=/a\n")
    elif where == "variable":
        monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Djava.io.tmpdir=/a")
    else:
        (place / "spark-defaults.conf").write_text(f"spark.driver.{where} -Xss1m -Djava.io.tmpdir=/a\n")
    assert scratch_folders() == []
    monkeypatch.setattr(disk_space, "_free", lambda folder: 0 if folder == "/tmp" else 2**40)
    monkeypatch.setattr(command_line, "open_session", lambda name: (_ for _ in ()).throw(JobFailed("started")))
    by_spark = ["--images", "pictures", "--set", "manifest.runner=spark"]
    assert "started" in told_early(build_manifest, by_spark, 1, capsys)


@pytest.mark.parametrize(("master", "folders"), [("local[2]", ["a", "b"]), ("spark://h:7077", [])])
def test_where_a_session_that_is_there_writes(
    master: str, folders: list[str], place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Its own JVM says it, not what this process would set for another."""
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(place / "full"))
    for name in ("a", "b", "full"):
        (place / name).mkdir()
    system = SimpleNamespace(getenv=lambda name: None, getProperty=lambda name: f"{place}/a, {place}/b")
    jvm = SimpleNamespace(java=SimpleNamespace(lang=SimpleNamespace(System=system)))
    session: Any = SimpleNamespace(sparkContext=SimpleNamespace(master=master, _jvm=jvm, getConf=lambda: {}))
    assert scratch_folders(session) == [str(place / name) for name in folders]
    full = "b" if folders else "full"
    monkeypatch.setattr(disk_space, "_free", lambda folder: 0 if folder == str(place / full) else 2**40)
    monkeypatch.setattr(command_line, "_session", lambda *_: (_ for _ in ()).throw(JobFailed("started")))
    assert main(build_manifest, ["--warehouse", "w", "--images", "pictures"], session) == 1
    assert (f"for spark.local.dir {place / 'b'}, but" if folders else "started") in capsys.readouterr().err


def test_a_disk_that_says_nothing_of_its_size_is_not_full(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 0))
    assert main(build_manifest, ["--warehouse", "w", "--images", "pictures"]) == 0


def test_a_disk_too_small_for_what_will_be_written(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The size of the vectors that are published is in the ends of their files."""
    publish_embeddings(place, "colours", {}, images=5_000, dimensions=256)
    by_spark = [*COLOURS, "--set", "neighbours.runner=spark"]
    needed = planning.least_disk(5_000, 256, NeighboursSettings(runner="spark")).total
    fill(monkeypatch, needed - 1)
    told = told_early(find_neighbours, by_spark, 1, capsys)
    assert f"comparing needs about {disk_space.shown(needed)} of disk for --warehouse {place / 'w'}" in told
    publish_neighbours(place)
    again = planning.least_disk(5_000, 256, NeighboursSettings(runner="spark"), continues=True)
    assert again.shuffles == 0 and 4 * 5_000 * 256 < again.warehouse < needed
    fill(monkeypatch, again.warehouse - 1)
    told = told_early(find_neighbours, by_spark, 1, capsys)
    assert f"comparing needs about {disk_space.shown(again.total)} of disk for --warehouse {place / 'w'}, but" in told
    fill(monkeypatch, needed - 1)
    anew = [*by_spark, "--set", "neighbours.incremental=false"]
    assert disk_space.shown(needed) in told_early(find_neighbours, anew, 1, capsys)
    needed = checkpoints.least_bytes("network", 10_000, 512, resumes=False)
    fill(monkeypatch, needed - 1)
    other = ["--network", "squeezenet1_1", "--weights", "untrained"]
    told = told_early(embed_images, other, 1, capsys)
    assert f"embedding 10,000 images needs about {disk_space.shown(needed)} of disk for --warehouse" in told
    state = place / "w" / "_state" / "embed_images" / "k" / RUN / checkpoints.FOLDER
    state.mkdir(parents=True)
    (state / "part-0.parquet").touch()
    least = checkpoints.least_bytes("network", 10_000, 512, resumes=True)
    fill(monkeypatch, least - 1)
    told = told_early(embed_images, other, 1, capsys)
    assert f"needs about {disk_space.shown(least)} of disk" in told, "a killed run has left checkpoints"
    monkeypatch.setattr(command_line, "open_session", lambda name: (_ for _ in ()).throw(JobFailed("started")))
    fill(monkeypatch, 2**40)
    assert "started" in told_early(find_neighbours, by_spark, 1, capsys)
    by_spark = [*COLOURS, "--set", "embeddings.runner=spark"]
    assert "started" in told_early(embed_images, by_spark, 1, capsys)


def test_only_first_vectors_must_fit_on_a_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New files may be copies of known ones; copies and failures are not new again."""
    settings, published = (
        load(overrides=['fingerprints.net={network="squeezenet1_1",weights="untrained"}']),
        {
            ("manifest", "", RUN): rows("manifest", 12_000, image_id="a"),
            ("embeddings", "net", RUN): rows("embeddings", 9_000, image_id="a", fingerprint_key="k"),
            ("failures", "net", RUN): rows("failures", 1_000, image_id="a"),
            ("vectors", "k", RUN): rows("vectors", 5, embedding=[0.0] * 256),
        },
    )
    publish(place, [record(RUN, "embed_images", "net")], published)
    snapshot = early.snapshot(str(place / "w"))
    assert snapshot is not None and early.new_images(snapshot, "net") == 2_000
    assert early.new_images(snapshot, "others") == 12_000
    needed = checkpoints.least_bytes("network", 2_000, 256, resumes=False)
    fill(monkeypatch, needed)
    assert embed_images._check_disk(snapshot, settings, ["net"]) is None
    fill(monkeypatch, needed - 1)
    message = embed_images._check_disk(snapshot, settings, ["net"])
    assert message is not None and message.startswith("unless they are copies of known ones, embedding 2,000 images")
    published["embeddings", "net", RUN] = rows("embeddings", 11_000, image_id="a", fingerprint_key="k")
    shutil.rmtree(place / "w")
    publish(place, [record(RUN, "embed_images", "net")], published)
    fill(monkeypatch, 0)
    snapshot = early.snapshot(str(place / "w"))
    assert snapshot is not None and embed_images._check_disk(snapshot, settings, ["net"]) is None, "nothing is new"


def test_what_the_vectors_show_to_be_wrong(place: Path, capsys: Any) -> None:
    publish_embeddings(place, "colours", {}, images=20_000, dimensions=16)
    little = ["-k", "10000", "--dissimilar", "10000", "--set", f"neighbours.task_bytes={2**29}"]
    little += ["--set", "neighbours.runner=spark"]
    assert f"task_bytes = {2**29:,} is too little" in told_early(find_neighbours, [*COLOURS, *little], 2, capsys)
    few = ["--method", "approximate", "--dissimilar", "0", "--set", "approximate.audit_queries=10"]
    assert "audit_queries = 10 are too few" in told_early(find_neighbours, [*COLOURS, *few], 2, capsys)


def test_what_the_records_show_to_be_wrong(place: Path, capsys: Any) -> None:
    compared = {"neighbours": {"similar": 12}}
    known = record(RUN, "find_neighbours", "hog/cosine", settings=compared, counts={"images": 9_000}, label="night")
    published = {
        ("neighbours", "hog/cosine", RUN): rows("neighbours", 1),
        ("neighbours", "hog/euclidean", RUN + "1"): rows("neighbours", 1),
    }
    publish(place, [known], published)
    for flags, fault in (
        (["-k", "13"], "-k 13: hog has 12 neighbours of each image"),
        (["--fingerprint", "hogg"], "no similar neighbours by 'hogg' with cosine distance"),
        (["--metric", "correlation"], "no similar neighbours with correlation distance"),
    ):
        assert fault in told_early(compare_fingerprints, ["--report", "r", *flags], 2, capsys)
    few = ["--fingerprint", "hog", "--sample", "10"]
    assert "audit_queries = 10 are too few" in told_early(audit_neighbours, few, 2, capsys)
    assert "no run in" in told_early(restore_runs, ["--to", "nihgt"], 2, capsys)


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        ([], ": name one by --fingerprint, or run find_neighbours first"),
        (
            ["--fingerprint", "colour"],
            "; did you mean colours? Name one by --fingerprint, or run find_neighbours first",
        ),
        (["--fingerprint", "hog"], ": name one by --fingerprint or --metric, or run find_neighbours first"),
        (["--metric", "correlation"], ": name one by --fingerprint and --metric, or run find_neighbours first"),
        (["--fingerprint", "colours", "--metric", "euclidean"], ": name one by --fingerprint or --metric, or run"),
    ],
)
@pytest.mark.parametrize("job", [group_images, render_map, audit_neighbours])
def test_near_fingerprints_and_what_else_helps(
    job: Any, flags: list[str], advice: str, place: Path, capsys: Any
) -> None:
    """Two slots are not alike because both end in ``/cosine``."""
    slots = ("colours/cosine", "edges/cosine", "hog/euclidean")
    known = [record(f"{RUN}{slot[:2]}", "find_neighbours", slot) for slot in slots]
    publish(place, known, {("neighbours", one.slot, one.run_id): rows("neighbours", 1) for one in known})
    told = told_early(job, [*READERS[job], *flags], 2, capsys)
    assert f"(published: {', '.join(slots)}){advice}" in told


@pytest.mark.parametrize("uri", ["hdfs:///w", "hdfs://h/w", "hdfs://h", "s3://b", "s3a://b/w", "file:///w", "w"])
def test_addresses_that_may_be_written(uri: str) -> None:
    assert places.fault_of_address(uri) is None


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a link to gone, which is not there"])
def test_a_warehouse_that_is_no_folder(place: Path, kind: str, capsys: Any) -> None:
    if kind == "a named pipe":
        os.mkfifo("odd")
    elif kind == "a socket":
        socket.socket(socket.AF_UNIX).bind("odd")
    else:
        os.symlink("gone", "odd")
    assert main(build_manifest, ["--warehouse", "odd/w", "--images", "pictures"]) == 2
    assert f"--warehouse odd/w: {place / 'odd'} is {kind}; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize("job", [build_manifest, clean_warehouse])
def test_a_link_into_a_folder_that_may_not_be_entered(
    job: Any, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    os.symlink("closed/w", "odd")
    asked = os.stat

    def refused(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("odd") and options.get("follow_symlinks", True):
            raise PermissionError(13, "Permission denied", path)  # root may enter every folder
        return asked(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refused)
    images = ["--images", "pictures"] if job is build_manifest else []
    assert main(job, ["--warehouse", "odd", *images]) == 2
    assert f"--warehouse odd: {place / 'odd'}: Permission denied" in capsys.readouterr().err
    assert no_such_file(str(place / "odd")) == f"no such file: {place / 'odd'}"


def test_vectors_of_ones_own_under_a_name_of_ours(place: Path, capsys: Any) -> None:
    told = told_early(find_neighbours, ["--embeddings", "own.parquet", *COLOURS], 2, capsys)
    assert "--embeddings with --fingerprint colours, which is made here: choose another name" in told


def test_other_settings_than_those_of_the_published_vectors(place: Path, capsys: Any) -> None:
    declared = load(overrides=COLOURS[1:2]).fingerprint("colours").model_dump(mode="json")
    publish_embeddings(place, "colours", {"fingerprint": {"colours": declared}}, images=2, dimensions=256)
    other = [*COLOURS, "--set", 'fingerprints.colours.space="lab"', "--set", "fingerprints.colours.bins=[4,4,4]"]
    for job, more in ((embed_images, []), (run_pipeline, ["--images", "pictures"])):
        told = told_early(job, [*other, *more], 2, capsys)
        assert "space was hsv, is lab now; bins was [16, 4, 4], is [4, 4, 4] now." in told
        assert "give --set fingerprints.colours.space=hsv --set 'fingerprints.colours.bins=[16, 4, 4]'" in told
        assert "another name (--fingerprint NAME" in told and "--replace-fingerprint" in told


def test_a_program_is_given_its_pictures_in_another_way(place: Path, capsys: Any) -> None:
    """All of it at once, with what to type; a dry run, too."""
    (place / "own.pt2").touch()
    own = [
        "--weights",
        "own.pt2",
        "--set",
        "fingerprints.own.mean=[0.5,0.5,0.5]",
        "--set",
        "fingerprints.own.std=[1,1,1]",
    ]
    plain = load(overrides=['fingerprints.own={kind="exported",weights="own.pt2"}']).fingerprint("own")
    declared = {**plain.model_dump(mode="json"), "input_size": 224, "interpolation": "bicubic"}
    publish_embeddings(place, "own", {"fingerprint": {"own": declared}, "trained": True}, images=2, dimensions=8)
    for more in ([], ["--dry-run"]):
        told = told_early(embed_images, [*own, *more], 2, capsys)
        assert "interpolation was bicubic, is bilinear now; mean was [0.485" in told and "; std was [0.229" in told
        assert "give --set fingerprints.own.interpolation=bicubic --set 'fingerprints.own.mean=[0.485, 0.45" in told


def test_what_is_published_and_not_declared_is_told_with_what_made_it(place: Path, capsys: Any) -> None:
    network = {"kind": "network", "network": "squeezenet1_1", "weights": ["/data/my own.pth"], "seed": 0}
    network |= {"layer": "features.12.cat", "pooling": "average", "preprocessing": "caffe", "precision": "bfloat16"}
    publish_embeddings(
        place,
        "mine",
        {"fingerprint": {"mine": network}, "trained": True, "weights": "/data/my own.pth"},
        images=2,
        dimensions=4,
    )
    told = told_early(embed_images, ["--fingerprint", "mine"], 2, capsys)
    assert "'mine' is published here, but not declared in this run" in told
    assert "by --fingerprint mine --network squeezenet1_1 --weights '/data/my own.pth' --preprocessing caffe" in told
    assert told.rstrip().endswith(" --set fingerprints.mine.precision=bfloat16")
    assert "fingerprint 'others' is not declared" in told_early(embed_images, ["--fingerprint", "others"], 2, capsys)


@pytest.mark.parametrize(
    ("declared", "flags"),
    [
        ({"kind": "hog", "size": 64}, "--set fingerprints.f.kind=hog --set fingerprints.f.size=64"),
        (
            {"kind": "exported", "weights": ["e.pt2"], "input_size": 9, "mean": [0.5, 0.5, 0.5]},
            "--weights e.pt2 --set fingerprints.f.input_size=9 --set 'fingerprints.f.mean=[0.5, 0.5, 0.5]'",
        ),
    ],
)
def test_what_made_a_fingerprint(declared: dict[str, Any], flags: str) -> None:
    assert same_way.made_with("f", {"fingerprint": {"f": declared}}) == f"--fingerprint f {flags}"


def test_weights_that_were_forgotten(place: Path) -> None:
    """The second run of a network whose first one had a file."""
    network = {"kind": "network", "network": "squeezenet1_1", "weights": ["own.pth"]}
    publish_embeddings(place, "own", {"fingerprint": {"own": network}, "weights": "own.pth"}, images=2, dimensions=4)
    published = Warehouse(None, str(place / "w")).snapshot()  # type: ignore[arg-type]
    forgotten = load(overrides=["fingerprints.f.network=squeezenet1_1"]).fingerprint("f")
    with pytest.raises(JobFailed) as caught, same_way.naming_published(published, forgotten):
        raise JobFailed("not reached")
    assert "not reached. Published here: own, by --fingerprint own --network squeezenet1_1 --weights own.pth" in str(
        caught.value
    )
    assert str(caught.value).endswith("(did you forget --weights FILE?)")
    other = load(overrides=["fingerprints.f.network=alexnet"]).fingerprint("f")
    with pytest.raises(JobFailed, match="^not reached$"), same_way.naming_published(published, other):
        raise JobFailed("not reached")


def test_a_network_is_prepared_in_another_way(place: Path, capsys: Any) -> None:
    (place / "own.pth").touch()
    own = ["--network", "squeezenet1_1", "--weights", "own.pth"]
    declared = {"kind": "network", "network": "squeezenet1_1", "layer": "features.12.cat", "pooling": "average"}
    settings: dict[str, Any] = {"fingerprint": {"squeezenet1-1-own": {**declared, "preprocessing": "caffe", "seed": 3}}}
    settings |= {"trained": True, "description": {"layer": "features.12.cat"}}
    publish_embeddings(place, "squeezenet1-1-own", settings, images=2, dimensions=512)
    told = told_early(embed_images, own, 2, capsys)
    assert "were made in another way: preprocessing was caffe, is torchvision now. To go on with them, give " in told
    assert "give --preprocessing caffe. " in told


def test_what_a_label_has_published_is_not_checked_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler's second try, when the images of that night are gone already."""
    publish(place, [record(RUN, "build_manifest", "", label="night 1")], {})
    wanted = ["--warehouse", "w", "--images", "gone", "--run-id"]
    assert main(build_manifest, [*wanted, "night 1"]) == 0 and main(build_manifest, [*wanted, "night 2"]) == 2


def test_a_dry_run_may_look_at_what_it_cannot_write(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(build_manifest, ["--warehouse", "w", "--images", "pictures", "--dry-run"]) == 0


LONE = {
    "abfss://c@a.dfs.core.windows.net/w": True,
    "abfs://c@a/w": True,
    "webhdfs://h/w": True,
    "oss://b/w": True,
    "hdfs://h/w": False,
    "viewfs://h/w": False,
    "s3a://b/w": False,
    "s3://b/w": False,
    "gs://b/w": False,
    "w": False,
    "file:///w": False,
}
"""URI -> whether only one job at a time may publish there."""


@pytest.mark.parametrize("uri", LONE)
def test_stores_for_one_publisher_at_a_time_are_told(uri: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Once, before Spark is started; not by a dry run, which publishes nothing."""

    def told(*arguments: str) -> int:
        assert main(render_gallery, arguments) == 1
        printed: str = capsys.readouterr().out
        return printed.count("run one job at a time there")

    monkeypatch.setattr(render_gallery, "check_early", lambda *_: None)
    monkeypatch.setattr(command_line, "_session", lambda *_: (_ for _ in ()).throw(JobFailed("started")))
    assert told("--warehouse", uri, "--gallery", "g") == LONE[uri]
    assert told("--warehouse", "w", "--gallery", uri) == LONE[uri]
    assert told("--warehouse", uri, "--gallery", uri) == LONE[uri], "one line for both"
    assert told("--warehouse", uri, "--gallery", uri, "--dry-run") == 0
