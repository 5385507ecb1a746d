"""One executor against two, of one core each: the same jobs on the same real cluster on loopback, interleaved, medians.

    .venv/bin/python tests/benchmarks/scaling.py [--images 600] [--rows 40000] [--dimensions 4096] [--rounds 3]

embed_images puts drawn pictures through VGG16 (untrained); find_neighbours compares all pairs of made vectors. Measured is what
the job itself tells in ``runs.seconds``: everything but the start of Spark. Prints Markdown. On a machine with two cores the
driver, the master and the workers' own processes share them with the executors.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import duckdb

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

import standalone  # noqa: E402
from benchmarks.find_neighbours import made  # noqa: E402
from image_similarity import packaging  # noqa: E402
from processes import draw  # noqa: E402

EXECUTORS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description="One executor against two.")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--dimensions", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scaling-"))
    try:
        packaging.package(folder / "dist")
        draw(folder / "images", range(arguments.images))
        made(arguments.rows, arguments.dimensions, folder / "own.parquet")
        with standalone.cluster(folder, workers=max(EXECUTORS)) as cluster:
            seconds = measured(cluster, folder, arguments.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("| job | one executor, s | two, s | speed-up |\n| --- | --: | --: | --: |")
    for job, of in seconds.items():
        one, two = (statistics.median(of[executors]) for executors in EXECUTORS)
        print(f"| {job} | {one:.1f} | {two:.1f} | {one / two:.2f} |")


def measured(cluster: standalone.Cluster, folder: Path, rounds: int) -> dict[str, dict[int, list[float]]]:
    """job -> executors -> seconds of each round."""
    untrained = ["--set", 'fingerprints.vgg16-fc2.weights="untrained"']
    jobs = {"embed_images": untrained, "find_neighbours": ["--embeddings", "own.parquet"]}
    seconds: dict[str, dict[int, list[float]]] = {job: {executors: [] for executors in EXECUTORS} for job in jobs}
    for number in range(rounds):
        for executors in EXECUTORS:
            warehouse = folder / f"w{number}-{executors}"
            submit(cluster, folder, executors, "build_manifest", warehouse, ["--images", str(folder / "images")])
            for job, more in jobs.items():
                given = [str(folder / part) if part == "own.parquet" else part for part in more]
                submit(cluster, folder, executors, job, warehouse, given)
                seconds[job][executors].append(told(warehouse, job))
                print(f"{job}, {executors} executors: {seconds[job][executors][-1]:.1f} s", file=sys.stderr)
            shutil.rmtree(warehouse)
    return seconds


def submit(cluster: standalone.Cluster, folder: Path, executors: int, job: str, warehouse: Path, arguments: list[str]) -> None:
    conf = {"spark.cores.max": str(executors)}
    done = cluster.submit(folder / "dist", job, "--warehouse", str(warehouse), *arguments, python=sys.executable, conf=conf)
    if done.returncode:
        raise SystemExit(done.stdout)


def told(warehouse: Path, job: str) -> float:
    db = duckdb.connect()
    db.execute((warehouse / "views.sql").read_text())
    (seconds,) = db.execute("SELECT seconds FROM runs WHERE job = ?", [job]).fetchone() or (0.0,)
    return float(seconds)


if __name__ == "__main__":
    main()
