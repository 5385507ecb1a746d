"""An executor killed in the middle: the job finishes, and its tables are those of an undisturbed run."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyspark.sql import SparkSession

from image_similarity.jobs import build_manifest, embed_images, find_neighbours
from image_similarity.jobs.command_line import main
from processes import ask
from standalone import Cluster

WAIT_SECONDS = 180
IMAGES, IMAGES_A_TASK = 150, 10
SMALL = '{network="squeezenet1_1",weights="untrained",layer="features",pooling="average"}'
DECLARED = ["--set", f"fingerprints.small={SMALL}"]
OF_SMALL = [*DECLARED, "--fingerprint", "small"]


def kill_one(cluster: Cluster, process: "subprocess.Popen[str]", at_work: Callable[[], bool]) -> None:
    """SIGKILL one executor, with its Python workers, as soon as ``at_work``."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not at_work():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    os.kill(cluster.executors()[0], signal.SIGKILL)


def finished(process: "subprocess.Popen[str]") -> str:
    told, _ = process.communicate()
    assert process.returncode == 0, told
    return told


def tasks(events: Path) -> "tuple[int, int]":
    """How many tasks ended well and how many did not, by Spark's event log."""
    logs = [file for file in events.rglob("*") if file.is_file() and not file.name.startswith((".", "appstatus"))]
    told = [json.loads(line) for file in logs for line in file.read_text().splitlines()]
    ends = [event["Task End Reason"]["Reason"] for event in told if event["Event"] == "SparkListenerTaskEnd"]
    return sum(reason == "Success" for reason in ends), sum(reason != "Success" for reason in ends)


def logging_to(folder: Path) -> dict[str, str]:
    folder.mkdir()
    return {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file://{folder}",
        "spark.eventLog.compress": "false",
    }


def test_while_it_embeds(cluster: Cluster, dist: Path, bare_python: Path, spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for seed in range(IMAGES):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC).save(tmp_path / "images" / f"{seed}.jpg")
    here = ["--warehouse", str(tmp_path / "local")]
    assert main(build_manifest, [*here, *DECLARED, "--images", str(tmp_path / "images")], session=spark) == 0
    assert main(embed_images, [*here, *OF_SMALL], session=spark) == 0
    (tmp_path / "w").mkdir()
    subprocess.run(["cp", "-r", tmp_path / "local" / "manifest", tmp_path / "w"], check=True)
    pointer = json.loads((tmp_path / "local" / "_current.json").read_text())
    (tmp_path / "w" / "_current.json").write_text(
        json.dumps({"version": 1, "tables": {"manifest": pointer["tables"]["manifest"]}})
    )

    settings = ["--set", f"embeddings.images_per_task={IMAGES_A_TASK}", "--set", "embeddings.save_seconds=0"]
    # Some tasks run twice at once, too.
    conf = {**logging_to(tmp_path / "events"), "spark.speculation": "true", "spark.speculation.quantile": "0.3"}
    job = cluster.start(
        dist, "embed_images", "--warehouse", str(tmp_path / "w"), *settings, *OF_SMALL, python=bare_python, conf=conf
    )
    kill_one(cluster, job, lambda: len(list((tmp_path / "w").glob("_state/*/*/*/saved/part-*.parquet"))) >= 3)
    told = finished(job)
    columns = "image_id, fingerprint_key, content_sha256, source_version, width, height, embedding"
    query = f"SELECT {columns} FROM embeddings ORDER BY image_id"
    assert ask(tmp_path / "w", query) == ask(tmp_path / "local", query)
    assert ask(tmp_path / "w", "SELECT count(*), count(DISTINCT content_sha256) FROM vectors") == [(IMAGES, IMAGES)]
    assert not list((tmp_path / "w").glob("_state/*/*/*/saved/*")), "all of it is in the store"
    well, lost = tasks(tmp_path / "events")
    print(
        f"{told}\n{lost} tasks of {well + lost} were lost with the executor, or one too many; {IMAGES_A_TASK} "
        "images a task"
    )
    assert 0 < lost


def test_while_it_compares(cluster: Cluster, dist: Path, bare_python: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(8000, 256)).astype(np.float32)
    pq.write_table(
        pa.table({"image_id": [f"{i:05d}" for i in range(8000)], "embedding": list(vectors)}), tmp_path / "own.parquet"
    )
    settings = ["--embeddings", str(tmp_path / "own.parquet"), "--set", "neighbours.block_rows=500"]
    assert main(find_neighbours, ["--warehouse", str(tmp_path / "local"), *settings]) == 0  # in this process
    settings += ["--set", "neighbours.runner=spark"]
    conf = logging_to(tmp_path / "events")
    job = cluster.start(
        dist, "find_neighbours", "--warehouse", str(tmp_path / "w"), *settings, python=bare_python, conf=conf
    )
    kill_one(cluster, job, lambda: bool(list((tmp_path / "w").glob("_scratch/*/lists/_temporary/0/_temporary/*"))))
    finished(job)
    query = "SELECT * FROM neighbours ORDER BY ALL"
    assert ask(tmp_path / "w", query) == ask(tmp_path / "local", query)
    well, lost = tasks(tmp_path / "events")
    print(f"{lost} tasks of {well + lost} were lost with the executor")
    assert 0 < lost
