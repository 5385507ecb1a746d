"""One executor against two, of one core each: the same jobs on the same real cluster on loopback, interleaved, medians.

    .venv/bin/python tests/benchmarks/scaling.py [--images 2400] [--rows 80000] [--dimensions 4096] [--rounds 1]

embed_images puts drawn pictures through VGG16 (untrained); find_neighbours compares all pairs of made vectors. Measured
is what the job itself tells in ``runs.seconds``: everything but the start of Spark. Prints Markdown. On a machine with
two cores the driver, the master and the workers' own processes share them with the executors. ``the machine`` is what
it gives at most: twice the time of a product in one bare process over that of two side by side.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import standalone
from benchmarks.find_neighbours import made
from processes import draw
from tools import packaging

EXECUTORS = (1, 2)
JOBS = ("embed_images", "find_neighbours")
MACHINE = "the machine"
_PRODUCTS = """
import time
import numpy as np
a = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
start = time.perf_counter()
for _ in range(60):
    a @ (a.T + 1)
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="One executor against two.")
    parser.add_argument("--images", type=int, default=2400)
    parser.add_argument("--rows", type=int, default=80_000)
    parser.add_argument("--dimensions", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=JOBS, nargs="+", default=JOBS)
    arguments = parser.parse_args()
    jobs = [job for job in JOBS if job in arguments.only]
    folder = Path(tempfile.mkdtemp(prefix="scaling-"))
    try:
        packaging.package(folder / "dist")
        if "embed_images" in jobs:
            draw(folder / "images", range(arguments.images))
        if "find_neighbours" in jobs:
            made(arguments.rows, arguments.dimensions, folder / "own.parquet")
        with standalone.cluster(folder, workers=max(EXECUTORS)) as cluster:
            seconds = measured(cluster, folder, arguments.rounds, jobs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("| | one executor, s | two, s | speed-up |\n| --- | --: | --: | --: |")
    for what, of in seconds.items():
        one, two = (statistics.median(of[executors]) for executors in EXECUTORS)
        print(f"| {what} | {one:.1f} | {two:.1f} | {one / two:.2f} |")


def of_the_machine(processes: int) -> float:
    """Seconds of ``EXECUTORS[-1]`` equal pieces of work by so many bare processes of one thread."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen([sys.executable, "-c", _PRODUCTS], stdout=subprocess.PIPE, text=True, env=environment)

    running = [start() for _ in range(processes)]
    return max(float(process.communicate()[0]) for process in running) * EXECUTORS[-1] / processes


def measured(
    cluster: standalone.Cluster, folder: Path, rounds: int, names: Sequence[str]
) -> dict[str, dict[int, list[float]]]:
    """job, or its longest step -> executors -> seconds of each round."""
    arguments_of = {
        "embed_images": ["--set", 'fingerprints.vgg16-fc2.weights="untrained"'],
        # In one precision: which is faster, and how much is left for another pass, is the processor's and the data's
        # affair.
        "find_neighbours": ["--embeddings", str(folder / "own.parquet"), "--set", "neighbours.screen=float32"],
    }
    seconds: dict[str, dict[int, list[float]]] = {}
    for number in range(rounds):
        for executors in EXECUTORS:
            warehouse = folder / f"w{number}-{executors}"
            if "embed_images" in names:
                submit(cluster, folder, executors, "build_manifest", warehouse, ["--images", str(folder / "images")])
            told = {MACHINE: of_the_machine(executors)}
            for job in names:
                submit(cluster, folder, executors, job, warehouse, arguments_of[job])
                told |= told_by(warehouse, job)
            for what, spent in told.items():
                seconds.setdefault(what, {one: [] for one in EXECUTORS})[executors].append(spent)
                print(f"{what}, {executors} executors: {spent:.1f} s", file=sys.stderr, flush=True)
            shutil.rmtree(warehouse)
    return seconds


def submit(
    cluster: standalone.Cluster, folder: Path, executors: int, job: str, warehouse: Path, arguments: list[str]
) -> None:
    conf = {"spark.cores.max": str(executors)}
    done = cluster.submit(
        folder / "dist", job, "--warehouse", str(warehouse), *arguments, python=sys.executable, conf=conf
    )
    if done.returncode:
        raise SystemExit(done.stdout)


def told_by(warehouse: Path, job: str) -> dict[str, float]:
    """Seconds of the job, and of its longest step."""
    db = duckdb.connect()
    db.execute((warehouse / "views.sql").read_text())
    seconds, stages = db.execute("SELECT seconds, stages FROM runs WHERE job = ?", [job]).fetchall()[0]
    spent = json.loads(stages)
    longest = max(spent, key=lambda step: float(spent[step]))
    return {job: float(seconds), f"of it: {longest}": float(spent[longest])}


if __name__ == "__main__":
    main()
