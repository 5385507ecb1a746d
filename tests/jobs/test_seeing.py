"""What an operator sees of a job: events for machines, steps and outputs in ``runs``, names in Spark's history, ends by
signals.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from image_similarity.jobs import build_manifest, embed_images, find_neighbours, run_pipeline
from image_similarity.warehouse.records import new_run_id
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.warehouse import Warehouse
from processes import ask

ROOT = Path(__file__).resolve().parents[2]
JOBS = [
    *("build_manifest", "embed_images", "find_neighbours", "group_images", "group_images"),
    *("render_gallery", "render_map"),
]
COLOURS = ["--set", 'fingerprints.colours={kind="colour-histogram"}']
Run = Any
Event = dict[str, Any]


def draw(folder: Path, count: int, broken: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    for number in range(broken):
        (folder / f"broken\n{number}.png").write_bytes((folder / "0.png").read_bytes()[:100])
    return folder


def events(told: str) -> list[Event]:
    """The events of ``told``, all of whose lines must be JSON."""
    return [json.loads(line) for line in told.splitlines()]


def of_kind(kind: str, told: list[Event]) -> list[Event]:
    return [event for event in told if event["event"] == kind]


def descriptions(spark: SparkSession, after: int = -1) -> dict[int, str | None]:
    """What Spark calls the jobs later than ``after``: what its history server shows."""
    found = {}
    store = spark.sparkContext._jsc.sc().statusStore()
    for job in iterated(store.jobsList(None)):
        if job.jobId() > after:
            found[job.jobId()] = job.description().get() if job.description().isDefined() else None
    return found


def iterated(sequence: Any) -> list[Any]:
    return [sequence.apply(place) for place in range(sequence.size())]


def test_a_pipeline_as_machines_see_it(
    run: Run, spark: SparkSession, tmp_path: Path, tiny: list[str], capsys: Any
) -> None:
    images, warehouse = draw(tmp_path / "images", 8, broken=2), tmp_path / "w"
    last = max(descriptions(spark), default=-1)
    arguments = [
        "--images",
        images,
        "--warehouse",
        warehouse,
        "--gallery",
        tmp_path / "g",
        "--run-id",
        "night 1",
        *tiny,
    ]
    arguments += ["--set", "embeddings.max_failed_fraction=0.5", "--log-format", "json"]
    for section in ("manifest", "embeddings", "neighbours", "groups"):
        arguments += ["--set", f"{section}.runner=spark"]
    assert run(run_pipeline, *arguments) == 0
    out, err = capsys.readouterr()
    told = events(out)
    assert err == "", "nothing of ours goes elsewhere"
    assert {event["label"] for event in told} == {"night 1"} and {event["level"] for event in told} == {
        "info",
        "warning",
    }
    assert [event["job"] for event in of_kind("plan", told)] == JOBS
    published = of_kind("published", told)
    assert [event["job"] for event in published] == JOBS
    check_records(warehouse, published)
    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "tables.md").read_text(encoding="utf-8"), re.DOTALL)
    sql = next(block for block in blocks if "stages" in block).rstrip(";\n")
    longest = ask(warehouse, sql)
    assert len(longest) == 10 and longest[0][3] == max(max(event["stages"].values()) for event in published)
    check_failures(images, [event for event in told if event.get("failures")])
    assert told[-1]["job"] == "run_pipeline" and told[-1]["run_id"] is None
    assert all(event["run_id"] for event in told if event["job"] == "embed_images")

    assert run(run_pipeline, *arguments) == 0
    again = events(capsys.readouterr().out)
    known = [event["run_id"] for event in of_kind("already_published", again)]
    assert known == [event["run_id"] for event in published]

    named = descriptions(spark, last)
    jobs = Counter((name or "").partition(":")[0] for name in named.values())
    # Where there are no groups, Spark has nothing to do for them.
    assert {*jobs, "group_images"} == {*JOBS}, "each has the name of the job that started it"
    of_steps = {"embed_images: embed tiny", "find_neighbours: pack vectors", "render_gallery: pictures"}
    assert {*of_steps, "render_map: check and draw tiles"} <= set(named.values())


def check_records(warehouse: Path, published: list[Event]) -> None:
    """That ``runs`` tells the same as the events, and that steps account for the time."""
    columns = "job, run_id, seconds, stages, outputs, counts, versions"
    rows = ask(warehouse, f"SELECT {columns} FROM runs WHERE label = 'night 1' ORDER BY started_at")
    for event, (job, run_id, seconds, stages, outputs, counts, versions) in zip(published, rows, strict=True):
        assert (event["job"], event["run_id"], event["counts"]) == (job, run_id, json.loads(counts))
        assert list(event["stages"].items()) == list(json.loads(stages).items())
        assert 0.75 * seconds - 0.1 < sum(event["stages"].values()) <= seconds + 0.1, (job, stages)
        assert event["outputs"] == json.loads(outputs)
        assert {"java", "hadoop", "spark", "python"} <= set(json.loads(versions))
    steps = {event["job"]: list(event["stages"]) for event in published}
    assert steps["build_manifest"] == ["look for the label", "list images", "write tables"]
    assert steps["embed_images"][1:] == ["prepare fingerprints", "sort out what is new", "embed tiny", "write tables"]
    made, embedded, found, grouped, alike, rendered, mapped = (event["outputs"] for event in published)
    assert made == {"replaced": {"manifest": [""]}, "appended": {}}
    key = ask(warehouse, "SELECT DISTINCT fingerprint_key FROM embeddings")[0][0]
    replaced = {"embeddings": ["tiny"], "failures": ["tiny"], "quality": [""]}
    assert embedded == {"replaced": replaced, "appended": {"vectors": [key]}}
    assert found["replaced"] == {"neighbours": ["tiny/cosine"], "failures": ["neighbours/tiny/cosine"]}
    for kinds, outputs in ((["identical", "near-duplicates"], grouped), (["similar"], alike)):
        slots = [f"tiny/cosine/{kind}" for kind in kinds]
        assert outputs == {"replaced": {"groups": slots, "group_summary": slots}, "appended": {}}
    assert rendered == {"replaced": {}, "appended": {}}
    assert mapped == {"replaced": {"layout": ["tiny/cosine"]}, "appended": {}}


def check_failures(images: Path, told: list[Event]) -> None:
    (summary,) = told
    example = str(images / "broken\\n0.png")
    assert summary["event"] == "summary" and summary["failures"] == {"truncated": {"count": 2, "example": example}}
    assert summary["message"].endswith(f"\n  failed: 2 truncated, for example {example}")


def test_too_many_failures_are_told_with_an_example(
    run: Run, tmp_path: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    images, warehouse = draw(tmp_path / "images", 2, broken=1), tmp_path / "w"
    assert run(run_pipeline, "--images", images, "--warehouse", warehouse, "--log-format", "json", *tiny) == 3
    error = events(capsys.readouterr().out)[-1]
    assert (error["event"], error["level"], error["job"], error["exit_code"]) == ("error", "error", "embed_images", 3)
    assert error["failures"] == {"truncated": {"count": 1, "example": str(images / "broken\\n0.png")}}
    assert "Each failure is a row in" in error["message"]


def test_several_fingerprints_share_their_steps(run: Run, tmp_path: Path, tiny: list[str], capsys: Any) -> None:
    common = ["--warehouse", tmp_path / "w", *tiny, *COLOURS]
    assert run(run_pipeline, "--images", draw(tmp_path / "images", 4), *common, "-k", 1) == 0
    capsys.readouterr()
    both = ["--fingerprint", "tiny", "--fingerprint", "colours", "--set", "embeddings.recheck=always"]
    assert run(embed_images, *common, *both, "--log-format", "json", "--log-every", "0.05") == 0
    told = events(capsys.readouterr().out)
    first, second = of_kind("published", told)
    assert (first["slot"], second["slot"]) == ("tiny", "colours") and first["run_id"] != second["run_id"]
    assert list(first["stages"]) == list(second["stages"])
    assert first["stages"]["embed tiny, colours"] == second["stages"]["embed tiny, colours"] > 0
    progress = of_kind("progress", told)
    assert progress and all(event["run_id"] is None and event["total"] == 4 for event in progress), "it is about both"


def test_verbose_tells_of_steps_and_others_do_not(run: Run, tmp_path: Path, capsys: Any) -> None:
    vectors = tmp_path / "own.parquet"
    pq.write_table(pa.table({"image_id": ["a", "b"], "embedding": [[1.0, 0.0], [0.0, 1.0]]}), vectors)
    arguments = ["--embeddings", vectors, "--warehouse", tmp_path / "w"]
    assert run(find_neighbours, *arguments) == 0
    out, err = capsys.readouterr()
    assert "published as" not in out and "pack vectors" not in err
    assert run(find_neighbours, *arguments, "--verbose") == 0
    out, err = capsys.readouterr()
    assert "find_neighbours external/cosine: published as r" in out and "pack vectors: " in err


def test_runs_of_before_lack_columns(run: Run, spark: SparkSession, tmp_path: Path) -> None:
    """Their records stay readable, alone and beside new ones."""
    warehouse = Warehouse(spark, str(tmp_path / "w"))
    old, nothing = new_run_id(), warehouse.current()
    columns = [name for name in SCHEMAS["runs"].names if name not in ("stages", "outputs")]
    record = {name: ["{}" if name in ("inputs", "settings") else None] for name in columns}
    schema = pa.schema([SCHEMAS["runs"].field(name) for name in record])
    content = pa.BufferOutputStream()
    pq.write_table(pa.table({**record, "run_id": [old]}, schema=schema), content)
    warehouse.files.write(f"{warehouse.uri}/runs/run_id={old}/part-00000.parquet", content.getvalue().to_pybytes())
    warehouse.publish(nothing, {}, {"runs": {"": old}})
    asked = "SELECT run_id, stages, outputs IS NULL FROM runs ORDER BY started_at NULLS FIRST"
    assert ask(tmp_path / "w", asked) == [(old, None, True)]
    image = draw(tmp_path / "images", 1)
    assert run(build_manifest, "--images", image, "--warehouse", tmp_path / "w") == 0
    (_, _, is_null), (run_id, stages, _) = ask(tmp_path / "w", asked)
    assert is_null and "list images" in json.loads(stages)
    read = warehouse.read("runs", [old, run_id]).orderBy("started_at").select("stages").collect()
    assert [row.stages for row in read] == [None, stages]


def test_sigterm_ends_a_job_cleanly(tmp_path: Path) -> None:
    """A real process, whose event log is looked at, too: it is what the history server shows."""
    images, warehouse, log = draw(tmp_path / "images", 600), tmp_path / "w", tmp_path / "events"
    log.mkdir()
    logged = {"enabled": "true", "dir": log.as_uri(), "compress": "false"}
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    defaults = "".join(f"spark.eventLog.{key} {value}\n" for key, value in logged.items())
    (tmp_path / "conf" / "spark-defaults.conf").write_text(defaults)
    slow = 'fingerprints.slow={network="resnet18",weights="untrained",layer="avgpool"}'
    command = [
        sys.executable,
        str(ROOT / "jobs" / "run_pipeline.py"),
        "--images",
        str(images),
        "--warehouse",
        str(warehouse),
    ]
    command += ["--set", slow, "--fingerprint", "slow", "--log-format", "json", "--log-every", "0.2"]
    command += ["--set", "embeddings.runner=spark"]
    environment = {**os.environ, "SPARK_CONF_DIR": str(tmp_path / "conf")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        told = []
        assert process.stdout is not None
        for line in process.stdout:
            told.append(json.loads(line))
            if told[-1]["event"] == "progress":
                break
        time.sleep(1)  # tasks are at work
        process.send_signal(signal.SIGTERM)
        told += [json.loads(line) for line in process.stdout]
        assert process.wait(timeout=60) == 143
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (
        told[-1]["message"] == "run_pipeline: ended by SIGTERM before it was done; published until then: build_manifest"
    )
    assert (told[-1]["event"], told[-1]["exit_code"]) == ("error", 143)
    assert not list(warehouse.glob("_scratch/*"))
    tables = json.loads((warehouse / "_current.json").read_text())["tables"]
    assert set(tables) == {"manifest", "runs"}
    check_event_log(log)


def check_event_log(log: Path) -> None:
    (file,) = (file for file in log.rglob("*") if file.is_file() and not file.name.startswith((".", "appstatus")))
    logged = [json.loads(line) for line in file.read_text().splitlines()]
    named = [
        event["Properties"].get("spark.job.description")
        for event in logged
        if event["Event"] == "SparkListenerJobStart"
    ]
    assert "embed_images: embed slow" in named and all(
        name.startswith(("build_manifest", "embed_images")) for name in named
    )
    assert logged[-1]["Event"] == "SparkListenerApplicationEnd", "the application was ended, not left to die"
