"""Exact neighbours against faiss and scikit-learn: same vectors, same cores, interleaved in one run, from Parquet to
Parquet.

    .venv/bin/python tests/benchmarks/find_neighbours.py [--rows 5000 10000 20000 40000] [--dimensions 4096 512]
    [--rounds 3]

Ours is the whole job, by Spark (`small_collections.py` has it without Spark): checks, calibration, packing, comparing,
similar and dissimilar, names, publication. faiss (`knn`, inner product of normalised vectors) and scikit-learn
(`NearestNeighbors`, brute force, cosine) find similar neighbours only, and write row numbers and distances. Excluded is
what happens once per application: the session, a first small run, imports. Vectors are made, not negative and half of
them zeros, in clusters of about 40, as networks make them.

Prints Markdown, and draws ``--plot FILE.svg``. ``half product`` is the time that the multiplications of half of the
pairs take alone, at the rate measured here; the exponent is that of a line through the times in logarithms: 2 is
quadratic.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.measuring import Peak, exponent

K = 12

PEER = """
import json, os, resource, sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
name, source, target, k = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
if name == "faiss":
    import faiss
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
else:
    from sklearn.neighbors import NearestNeighbors
start = time.perf_counter()
column = pq.read_table(source, columns=["embedding"]).column("embedding").combine_chunks()
vectors = column.flatten().to_numpy().reshape(len(column), -1)
if name == "faiss":
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity, index = faiss.knn(vectors, vectors, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    distance = 1 - similarity
else:
    found = NearestNeighbors(n_neighbors=k + 1, algorithm="brute", metric="cosine", n_jobs=-1).fit(vectors)
    distance, index = found.kneighbors(vectors)
rows = np.repeat(np.arange(len(index)), k)
columns = {"neighbour": index[:, 1:].ravel(), "distance": distance[:, 1:].astype(np.float32).ravel()}
table = pa.table({"row": rows, **columns})
pq.write_table(table, target)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak}))
"""


def made(rows: int, dimensions: int, file: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((rows // 40 + 1, dimensions)).astype(np.float32)
    schema = pa.schema([("image_id", pa.string()), ("embedding", pa.list_(pa.float32()))])
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=["image_id"]) as writer:
        for start in range(0, rows, 2000):
            count = min(2000, rows - start)
            noise = rng.standard_normal((count, dimensions)).astype(np.float32)
            values = np.maximum(0.8 * centres[rng.integers(0, len(centres), count)] + noise, 0)
            ids = pa.array([f"{start + i:09d}.jpg" for i in range(count)])
            offsets = pa.array(np.arange(0, (count + 1) * dimensions, dimensions, dtype=np.int32))
            writer.write_table(
                pa.table([ids, pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))], schema=schema)
            )


def product_rate(dimensions: int) -> float:
    """Multiplications and additions per second of float32 products of 2,048 rows, on all cores."""
    a, b = (np.random.default_rng(i).standard_normal((2048, dimensions)).astype(np.float32) for i in range(2))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b.T
        seconds.append(time.perf_counter() - start)
    return float(2 * 2048 * 2048 * dimensions / min(seconds))


def ours(session: object, source: Path, folder: Path) -> dict[str, float]:
    from image_similarity.jobs import command_line, find_neighbours

    warehouse = folder / "warehouse"
    with Peak() as peak:
        start = time.perf_counter()
        options = ["--warehouse", str(warehouse), "--embeddings", str(source), "-k", str(K), "--dissimilar", str(K)]
        options += ["--set", "neighbours.runner=spark"]
        if command_line.main(find_neighbours, options, session) != 0:  # type: ignore[arg-type]
            raise SystemExit("find_neighbours failed")
        seconds = time.perf_counter() - start
    shutil.rmtree(warehouse)
    return {"seconds": seconds, "peak": peak.bytes}


def peer(name: str, source: Path, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", PEER, name, str(source), str(folder / "peer.parquet"), str(K)]
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode != 0:
        raise SystemExit(f"{name}: {told.stderr.strip().splitlines()[-1]}: pip install -c constraints.txt '.[bench]'")
    found: dict[str, float] = json.loads(told.stdout)
    return found


def measured(
    session: object, rows: int, dimensions: int, rounds: int, names: list[str], folder: Path
) -> dict[str, dict[str, float]]:
    """The median seconds and the greatest peak of each, over interleaved rounds."""
    source = folder / "vectors.parquet"
    made(rows, dimensions, source)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(ours(session, source, folder) if name == "ours" else peer(name, source, folder))
    seconds = {name: [round(run["seconds"], 1) for run in of] for name, of in runs.items()}
    print(f"{rows:,} x {dimensions:,}: {seconds}", file=sys.stderr)
    return {
        name: {"seconds": statistics.median(run["seconds"] for run in of), "peak": max(run["peak"] for run in of)}
        for name, of in runs.items()
    }


def table(results: dict[tuple[int, int], dict[str, dict[str, float]]], rates: dict[int, float]) -> str:
    lines = [
        "| n | d | ours | faiss | scikit-learn | faiss / ours | scikit-learn / ours | half product | share | "
        "worker's peak |",
        "| --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for (rows, dimensions), of in results.items():
        own = of["ours"]["seconds"]
        half = rows * rows * dimensions / rates[dimensions]
        cells = [f"{rows:,}", f"{dimensions:,}", f"{own:.1f} s"]
        cells += [f"{of[name]['seconds']:.1f} s" if name in of else "" for name in ("faiss", "sklearn")]
        cells += [f"{of[name]['seconds'] / own:.2f}" if name in of else "" for name in ("faiss", "sklearn")]
        cells += [f"{half:.1f} s", f"{half / own:.0%}", f"{of['ours']['peak'] / 2**20:,.0f} MiB"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: dict[tuple[int, int], dict[str, dict[str, float]]], file: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    sizes = sorted({dimensions for _, dimensions in results}, reverse=True)
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(4.5 * len(sizes), 3.5), sharey=True, squeeze=False)
    labels = {
        "ours": "ours (similar and dissimilar)",
        "faiss": "faiss.knn (similar)",
        "sklearn": "scikit-learn (similar)",
    }
    for axis, dimensions in zip(axes[0], sizes):
        for name, label in labels.items():
            points = [
                (rows, of[name]["seconds"]) for (rows, d), of in results.items() if d == dimensions and name in of
            ]
            axis.plot(*zip(*sorted(points)), marker="o", label=label)
        axis.set(xscale="log", yscale="log", xlabel="images", title=f"{dimensions:,} values")
    axes[0][0].set_ylabel("seconds")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5000, 10_000, 20_000, 40_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[4096, 512])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", choices=["faiss", "sklearn"], nargs="+", default=[])
    parser.add_argument("--plot", metavar="FILE.svg")
    arguments = parser.parse_args()
    from image_similarity.runtime.session import open_session

    names = [name for name in ("ours", "faiss", "sklearn") if name not in arguments.without]
    rates = {dimensions: product_rate(dimensions) for dimensions in arguments.dimensions}
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        session = open_session("benchmark")
        measured(session, 500, 16, 1, ["ours"], folder)
        for dimensions in arguments.dimensions:
            for rows in arguments.rows:
                results[rows, dimensions] = measured(session, rows, dimensions, arguments.rounds, names, folder)
        session.stop()
    print(table(results, rates))
    for dimensions in arguments.dimensions:
        growth = {
            name: exponent(arguments.rows, [results[rows, dimensions][name]["seconds"] for rows in arguments.rows])
            for name in names
        }
        told = ", ".join(f"{name} {value:.2f}" for name, value in growth.items())
        print(f"\n{dimensions:,} values: product rate {rates[dimensions] / 1e9:.0f} Gflop/s; growth exponents: {told}")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
