"""Approximate neighbours against the exact ones, pynndescent, faiss and Spark's LSH: recall, seconds, memory.

    .venv/bin/python tests/benchmarks/approximate_neighbours.py [--rows 20000 50000 100000 200000] [--dimensions 256]
    [--rounds 3]

Ours is the whole job, from Parquet to published tables: checks, packing, parts, comparing, audit, names. The peers get
the vectors from the same file and write row numbers and distances; they run in one process with as many threads as
there are cores, as a user would set them: pynndescent with 15 (its default) and 30 neighbours, faiss' IVF (4 sqrt(n)
lists, 16 probed) and HNSW (32 links, 64 looked at), Spark MLlib's BucketedRandomProjectionLSH joined with itself (only
for --lsh-rows, and stopped after --lsh-seconds). Not counted: the session, a first small run, imports, and what numba
compiles. Only similar neighbours are asked for.

Vectors are made (`made`): subjects, each a subspace of its own, with groups whose members mingle, and noise. With
``--data shared`` all groups share 12 dimensions (`shared`), with ``--data none`` there is no structure at all.
recall@10 is measured for 1,000 rows against all others, ties counted as found. Prints Markdown; ``--plot FILE.svg``
draws it.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.measuring import Peak, exponent

K = 10
QUERIES = 1000
SUBJECT, GROUP, SUBSPACE = 20_000, 100, 16
"""Vectors of a subject and of a group, dimensions of a subject's subspace."""

PEER = """
import json, os, resource, sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
name, source, target, k = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
cores = len(os.sched_getaffinity(0))
if name.startswith("pynndescent"):
    from pynndescent import NNDescent
    neighbours = int(name.split()[1])
    def found(vectors):
        graph = NNDescent(vectors, metric="cosine", n_neighbors=neighbours + 1, random_state=0, n_jobs=cores)
        index, distance = graph.neighbor_graph
        return index[:, 1 : k + 1], distance[:, 1 : k + 1]
    found(np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32))
else:
    import faiss
    faiss.omp_set_num_threads(cores)
    def found(vectors):
        n, d = vectors.shape
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        if name == "faiss IVF":
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, int(4 * n**0.5), faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)
            index.nprobe = 16
        else:
            index = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efSearch = 64
        index.add(vectors)
        similarity, index = index.search(vectors, k + 1)
        keep = np.argsort(index == np.arange(n)[:, None], axis=1, kind="stable")[:, :k]  # all but the row itself
        return np.take_along_axis(index, keep, axis=1), 1 - np.take_along_axis(similarity, keep, axis=1)
start = time.perf_counter()
column = pq.read_table(source, columns=["embedding"]).column("embedding").combine_chunks()
vectors = column.flatten().to_numpy().reshape(len(column), -1)
index, distance = found(vectors)
rows = np.repeat(np.arange(len(index)), k)
columns = {"neighbour": index.ravel().astype(np.int64), "distance": distance.ravel().astype(np.float32)}
table = pa.table({"row": rows, **columns})
pq.write_table(table, target)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak}))
"""

Run = dict[str, float]


def made(rows: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    """(n, d) float32: the same for the same seed."""
    rng = np.random.default_rng(seed)
    subjects, groups = max(1, rows // SUBJECT), max(1, rows // GROUP)
    bases = rng.standard_normal((subjects, SUBSPACE, dimensions), dtype=np.float32) / np.float32(SUBSPACE**0.5)
    subject = rng.integers(0, subjects, groups)
    places = rng.standard_normal((groups, SUBSPACE), dtype=np.float32)
    centres = rng.standard_normal((subjects, dimensions), dtype=np.float32)[subject]
    group = rng.integers(0, groups, rows)
    inside = places[group] + rng.standard_normal((rows, SUBSPACE), dtype=np.float32)
    vectors = centres[group]
    for each in range(subjects):
        members = np.nonzero(subject[group] == each)[0]
        vectors[members] += np.float32(0.5) * inside[members] @ bases[each]
    for some in np.array_split(np.arange(rows), -(-rows // 10_000)):
        vectors[some] += np.float32(0.2) * rng.standard_normal((len(some), dimensions), dtype=np.float32)
    return vectors


def shared(rows: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    """(n, d) float32: groups that all share 12 dimensions, and noise."""
    rng = np.random.default_rng(seed)
    groups = max(1, rows // GROUP)
    basis = rng.standard_normal((12, dimensions), dtype=np.float32) / np.float32(12**0.5)
    inside = rng.standard_normal((groups, 12), dtype=np.float32)[rng.integers(0, groups, rows)]
    inside += rng.standard_normal((rows, 12), dtype=np.float32)
    vectors: NDArray[np.float32] = np.float32(0.5) * inside @ basis
    vectors += np.float32(0.2) * rng.standard_normal((rows, dimensions), dtype=np.float32)
    return vectors


def without_structure(rows: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, dimensions), dtype=np.float32)


DATA = {"subjects": made, "shared": shared, "none": without_structure}


def write(vectors: NDArray[np.float32], file: Path) -> None:
    rows, dimensions = vectors.shape
    offsets = pa.array(np.arange(0, rows * dimensions + 1, dimensions, dtype=np.int32))
    table = pa.table(
        {
            "image_id": [f"{row:09d}.jpg" for row in range(rows)],
            "embedding": pa.ListArray.from_arrays(offsets, vectors.ravel()),
        }
    )
    pq.write_table(table, file, row_group_size=10_000, use_dictionary=False, compression="zstd")


class Truth:
    """The farthest true neighbour of some rows, to measure recall by."""

    def __init__(self, vectors: NDArray[np.float32]):
        self._unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.rows = np.sort(np.random.default_rng(1).choice(len(vectors), min(QUERIES, len(vectors)), replace=False))
        nearest = []
        for some in np.array_split(self.rows, -(-len(self.rows) // 100)):
            score = self._unit[some] @ self._unit.T
            score[np.arange(len(some)), some] = -np.inf
            nearest.append(np.partition(score, -K, axis=1)[:, -K])
        self._least = np.concatenate(nearest)
        self.threshold = float(np.quantile(np.sqrt(np.maximum(2 - 2 * self._least, 0)), 0.9))
        """A distance between unit vectors within which nine of ten rows have all their neighbours."""

    def recall(self, row: NDArray[np.int64], neighbour: NDArray[np.int64]) -> float:
        """Of lists in long form."""
        asked = np.isin(row, self.rows) & (neighbour >= 0) & (neighbour != row)
        row, neighbour = row[asked], neighbour[asked]
        score = np.einsum("ij,ij->i", self._unit[row], self._unit[neighbour])
        place = np.searchsorted(self.rows, row)
        hits = np.bincount(place[score >= self._least[place] - 1e-6], minlength=len(self.rows))
        return float(np.minimum(hits, K).sum() / (K * len(self.rows)))


def ours(session: Any, method: str, target: float, source: Path, folder: Path, truth: Truth) -> Run:
    from image_similarity.jobs import command_line, find_neighbours

    warehouse = folder / "warehouse"
    with Peak() as peak:
        start = time.perf_counter()
        asked = ["--method", method, "-k", str(K), "--dissimilar", "0", "--set", "approximate.fallback=exact"]
        asked += ["--set", f"approximate.recall_target={target}"]
        if (
            command_line.main(
                find_neighbours, ["--warehouse", str(warehouse), "--embeddings", str(source), *asked], session
            )
            != 0
        ):
            raise SystemExit("find_neighbours failed")
        seconds = time.perf_counter() - start
    found = ds.dataset(next((warehouse / "neighbours").iterdir()), format="parquet").to_table(
        columns=["image_id", "neighbour_id"]
    )
    row, neighbour = (
        np.char.partition(found.column(name).to_numpy().astype(str), ".")[:, 0].astype(np.int64)
        for name in found.column_names
    )
    shutil.rmtree(warehouse)
    return {"seconds": seconds, "peak": peak.bytes, "recall": truth.recall(row, neighbour)}


def peer(name: str, source: Path, folder: Path, truth: Truth) -> Run:
    target = folder / "peer.parquet"
    told = subprocess.run(
        [sys.executable, "-c", PEER, name, str(source), str(target), str(K)], capture_output=True, text=True
    )
    if told.returncode != 0:
        raise SystemExit(f"{name}: {told.stderr.strip().splitlines()[-1]}: pip install -c constraints.txt '.[bench]'")
    found = pq.read_table(target)
    run: Run = json.loads(told.stdout)
    return {**run, "recall": truth.recall(found.column("row").to_numpy(), found.column("neighbour").to_numpy())}


def lsh(session: Any, source: Path, limit: float, truth: Truth) -> Run:
    """Buckets so narrow that a vector shares one with some hundreds; pairs at a distance that most true neighbours
    have.
    """
    from pyspark.ml.feature import BucketedRandomProjectionLSH, Normalizer
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    read = session.read.parquet(str(source)).select(
        F.split("image_id", "[.]")[0].cast("long").alias("id"), array_to_vector(F.col("embedding")).alias("raw")
    )
    unit = Normalizer(inputCol="raw", outputCol="unit").transform(read).select("id", "unit").repartition(16).cache()
    unit.count()
    model = BucketedRandomProjectionLSH(
        inputCol="unit", outputCol="buckets", bucketLength=0.02, numHashTables=5, seed=0
    ).fit(unit)
    pairs = model.approxSimilarityJoin(unit, unit, truth.threshold, "distance").select(
        F.col("datasetA.id").alias("row"), F.col("datasetB.id").alias("neighbour"), "distance"
    )
    order = Window.partitionBy("row").orderBy("distance", "neighbour")
    best = pairs.where("row != neighbour").withColumn("rank", F.row_number().over(order)).where(F.col("rank") <= K)
    stop = threading.Timer(limit, session.sparkContext.cancelAllJobs)
    stop.start()
    start = time.perf_counter()
    try:
        found = best.select("row", "neighbour").toArrow()
    except Exception:  # whatever Spark makes of a job that was cancelled
        if time.perf_counter() - start < limit:
            raise
        return {"seconds": float("inf"), "peak": float("nan"), "recall": float("nan")}
    finally:
        stop.cancel()
        unit.unpersist()
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak": float("nan"),
        "recall": truth.recall(*(found.column(name).to_numpy() for name in ("row", "neighbour"))),
    }


def measured(session: Any, vectors: NDArray[np.float32], arguments: argparse.Namespace, folder: Path) -> dict[str, Run]:
    """The median seconds, the greatest peak and the least recall of each, over interleaved rounds."""
    source = folder / "vectors.parquet"
    write(vectors, source)
    truth = Truth(vectors)
    candidates: dict[str, Callable[[], Run]] = {
        f"ours, {method}": partial(ours, session, method, arguments.recall_target, source, folder, truth)
        for method in arguments.methods
    }
    candidates |= {name: partial(peer, name, source, folder, truth) for name in arguments.peers}
    runs: dict[str, list[Run]] = {name: [] for name in candidates}
    for _ in range(arguments.rounds):
        for name, run in candidates.items():
            runs[name].append(run())
    print(
        f"{vectors.shape}: { {name: [round(run['seconds'], 1) for run in of] for name, of in runs.items()} }",
        file=sys.stderr,
    )
    middle: dict[str, Callable[[list[float]], float]] = {"seconds": statistics.median, "peak": max, "recall": min}
    return {
        name: {what: float(of([run[what] for run in each])) for what, of in middle.items()}
        for name, each in runs.items()
    }


def table(results: dict[tuple[int, int], dict[str, Run]]) -> str:
    lines = [
        "| n | d | | seconds | recall@10 | peak memory | this / ours, approximate |",
        "| --: | --: | :-- | --: | --: | --: | --: |",
    ]
    for (rows, dimensions), of in results.items():
        own = next(iter(of.values()))["seconds"]
        for name, run in of.items():
            peak = f"{run['peak'] / 2**20:,.0f} MiB" if run["peak"] == run["peak"] else ""
            found = f"{run['seconds']:.1f} | {run['recall']:.4f}" if np.isfinite(run["seconds"]) else "not finished | "
            lines.append(f"| {rows:,} | {dimensions:,} | {name} | {found} | {peak} | {run['seconds'] / own:.2f} |")
    return "\n".join(lines)


def crossover(rows: list[int], approximate: list[float], exact: list[float]) -> float:
    """Where the lines through the logarithms of both times meet."""
    slope, offset = np.polyfit(np.log(rows), np.log(exact) - np.log(approximate), 1)
    return float(np.exp(-offset / slope))


def told(results: dict[tuple[int, int], dict[str, Run]], dimensions: int) -> str:
    rows = sorted(n for n, d in results if d == dimensions)
    seconds = {
        name: [results[n, dimensions][name]["seconds"] for n in rows] for name in ("ours, approximate", "ours, exact")
    }
    ratio = seconds["ours, exact"][-1] / seconds["ours, approximate"][-1]
    line = f"{dimensions:,} values: at {rows[-1]:,} approximate takes 1/{ratio:.2f} of the time of exact"
    if len(rows) == 1:
        return line
    growth = {name: exponent(rows, of) for name, of in seconds.items()}
    return f"{line}; as fast at about {crossover(rows, *seconds.values()):,.0f}; growth exponents: " + ", ".join(
        f"{name} {value:.2f}" for name, value in growth.items()
    )


def plot(results: dict[tuple[int, int], dict[str, Run]], dimensions: int, file: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (growth, quality) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    rows = sorted(n for n, d in results if d == dimensions)
    for name in results[rows[-1], dimensions]:
        growth.plot(rows, [results[n, dimensions][name]["seconds"] for n in rows], marker="o", label=name)
        last = results[rows[-1], dimensions][name]
        quality.plot([last["seconds"]], [last["recall"]], marker="o", label=name)
    growth.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds", title=f"{dimensions:,} values")
    growth.set_xticks(rows, [f"{n:,}" for n in rows])
    growth.minorticks_off()
    quality.set(xscale="log", xlabel="seconds", ylabel="recall@10", title=f"{rows[-1]:,} images")
    growth.legend(frameon=False, fontsize="small")
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 50_000, 100_000, 200_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", choices=DATA, default="subjects")
    parser.add_argument(
        "--methods", nargs="+", choices=["approximate", "exact", "auto"], default=["approximate", "exact"]
    )
    parser.add_argument("--recall-target", type=float, default=0.99, help="that ours, approximate, must reach")
    parser.add_argument("--peers", nargs="*", default=["pynndescent 15", "pynndescent 30", "faiss IVF", "faiss HNSW"])
    parser.add_argument("--lsh-rows", type=int, default=20_000, help="most vectors that Spark's LSH is tried with")
    parser.add_argument("--lsh-seconds", type=float, default=300)
    parser.add_argument("--plot", metavar="FILE.svg")
    arguments = parser.parse_args()
    from image_similarity.runtime.session import open_session

    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        session = open_session("benchmark")
        write(made(2000, 16), folder / "first.parquet")
        for method in ("approximate", "exact"):
            ours(session, method, 0.9, folder / "first.parquet", folder, Truth(made(2000, 16)))
        for dimensions in arguments.dimensions:
            for rows in arguments.rows:
                results[rows, dimensions] = measured(session, DATA[arguments.data](rows, dimensions), arguments, folder)
        for rows, dimensions in results:  # last, since it leaves much behind in Spark
            if rows <= arguments.lsh_rows:
                vectors = DATA[arguments.data](rows, dimensions)
                write(vectors, folder / "vectors.parquet")
                found = lsh(session, folder / "vectors.parquet", arguments.lsh_seconds, Truth(vectors))
                results[rows, dimensions]["Spark LSH"] = found
        session.stop()
    print(table(results))
    for dimensions in arguments.dimensions if {"approximate", "exact"} <= set(arguments.methods) else ():
        print(f"\n{told(results, dimensions)}")
    if arguments.plot:
        plot(results, arguments.dimensions[0], arguments.plot)


if __name__ == "__main__":
    main()
