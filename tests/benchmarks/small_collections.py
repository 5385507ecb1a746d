"""Exact neighbours of a collection that fits into memory, in one process: ours, scikit-learn, faiss, the bare product.

    .venv/bin/python tests/benchmarks/small_collections.py [--sizes 5000x512 20000x512 5000x4096 20000x4096 ...]
    [--rounds 3] [--only cold ours later scikit-learn ...] [--hard]

Ours is the whole job, from Parquet to published tables, with similar and dissimilar neighbours and exact distances:
``cold`` as a command, with the start of Python and all imports, and ``ours`` in a process that has done it before.
``later`` is the next run of that, with 1 % of new vectors and 0.5 % of changed ones. None starts Spark. scikit-learn
(`NearestNeighbors`, brute force, cosine) and faiss (`knn`, inner product, of vectors that it is given normalised) find
similar neighbours of vectors that are in memory already. ``product`` is the float32
product of half of the pairs alone, ``copy`` reads the vectors from Parquet and writes them once. All use all cores.
Rounds are interleaved. Figures are medians, and ratios are medians of the ratios of each round: others may use the
machine. faiss is left out where it is not installed (`pip install -c constraints.txt '.[bench]'`).

Vectors are made: clusters of about 20, not negative, half of them zeros. With ``--hard`` they have no clusters.
Prints Markdown.
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info

from image_similarity.jobs import find_neighbours
from image_similarity.jobs.command_line import main as job

ROOT = Path(__file__).resolve().parents[2]
K = 12
_BLOCK = 2048
SIZES = ["5000x512", "20000x512", "40000x512", "5000x4096", "20000x4096", "29232x4096", "40000x4096"]
CONTESTANTS = ("cold", "ours", "later", "scikit-learn", "faiss", "product", "copy")
COLD, OURS, LATER, SKLEARN, FAISS, PRODUCT, COPY = CONTESTANTS
NEW, CHANGED = 0.01, 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact neighbours of small collections.")
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--hard", action="store_true", help="vectors without clusters")
    arguments = parser.parse_args()
    names = [name for name in CONTESTANTS if name in arguments.only]
    if LATER in names and OURS not in names:
        parser.error("later is the next run of ours: name both")
    if FAISS in names and importlib.util.find_spec("faiss") is None:
        print("faiss is not installed, and left out", file=sys.stderr)
        names.remove(FAISS)
    print(f"{kernels()}; {len(os.sched_getaffinity(0))} cores; medians of {arguments.rounds} rounds\n")
    columns = ["n", "d", *(" / ".join(ratio) for ratio in RATIOS), *names]
    print(f"| {' | '.join(columns)} |")
    print(f"| {' | '.join(['--:'] * len(columns))} |")
    for size in arguments.sizes:
        rows, dimensions = map(int, size.split("x"))
        with tempfile.TemporaryDirectory(prefix="small-") as folder:
            vectors = made(rows, dimensions, arguments.hard)
            report(rows, dimensions, measured(Path(folder), vectors, arguments.rounds, names))


def kernels() -> str:
    """The BLAS that numpy multiplies with, and the kernel that it has chosen for this processor."""
    blas = [one for one in threadpool_info() if one["user_api"] == "blas"]
    return ", ".join(f"{one['internal_api']} {one['version']} ({one.get('architecture', '?')})" for one in blas)


def made(rows: int, dimensions: int, hard: bool) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    noise = random.standard_normal((rows, dimensions), dtype=np.float32)
    if hard:
        return noise
    centres = random.standard_normal((max(8, rows // 20), dimensions), dtype=np.float32)
    return np.maximum(centres[random.integers(0, len(centres), rows)] + np.float32(0.5) * noise, 0)


def measured(folder: Path, vectors: NDArray[np.float32], rounds: int, names: Sequence[str]) -> list[dict[str, float]]:
    """The seconds of each contestant in each round."""
    own = folder / "own.parquet"
    pq.write_table(own_table(vectors), own, row_group_size=2**24 // vectors.shape[1])
    grown = folder / "grown.parquet"
    options = ["--warehouse", str(folder / "w"), "--set", "neighbours.runner=process"]
    contestants: dict[str, Callable[[], None]] = {
        COLD: lambda: command([*options, "--embeddings", str(own)]),
        OURS: lambda: here([*options, "--embeddings", str(own)]),
        LATER: lambda: here([*options, "--embeddings", str(grown)]),
        SKLEARN: lambda: by_sklearn(vectors),
        FAISS: lambda: by_faiss(vectors),
        PRODUCT: lambda: half_product(vectors),
        COPY: lambda: copied(own, folder / "copy.npy"),
    }
    if OURS in names:
        warm_up(folder)
    if LATER in names:
        pq.write_table(own_table(changed(vectors)), grown, row_group_size=2**24 // vectors.shape[1])
    seconds: list[dict[str, float]] = []
    for number in range(rounds):
        seconds.append({})
        for name in names:
            if name != LATER:
                shutil.rmtree(folder / "w", ignore_errors=True)
            start = time.perf_counter()
            contestants[name]()
            seconds[-1][name] = time.perf_counter() - start
            print(f"round {number + 1}, {name}: {seconds[-1][name]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def own_table(vectors: NDArray[np.float32]) -> pa.Table:
    ids = [f"img{number:07d}" for number in range(len(vectors))]
    lists = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]).cast(pa.list_(pa.float32()))
    return pa.table({"image_id": ids, "embedding": lists})


def command(options: list[str]) -> None:
    program = [sys.executable, str(ROOT / "jobs" / "find_neighbours.py"), *options]
    subprocess.run(program, check=True, capture_output=True)


def here(options: list[str]) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        if job(find_neighbours, options):
            raise SystemExit("find_neighbours failed")


def changed(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """``vectors``, some of them changed, and some more."""
    random, (rows, dimensions) = np.random.default_rng(1), vectors.shape
    grown = np.concatenate([vectors, made(int(NEW * rows), dimensions, True)])
    grown[random.choice(rows, int(CHANGED * rows), replace=False)] = made(int(CHANGED * rows), dimensions, True)
    return grown


def warm_up(folder: Path) -> None:
    """Compiled functions are loaded, once."""
    few = folder / "few.parquet"
    pq.write_table(own_table(made(2000, 64, True)), few)
    here(["--warehouse", str(folder / "few"), "--embeddings", str(few), "--set", "neighbours.runner=process"])


def by_sklearn(vectors: NDArray[np.float32]) -> None:
    NearestNeighbors(n_neighbors=K + 1, algorithm="brute", metric="cosine", n_jobs=-1).fit(vectors).kneighbors(vectors)


def by_faiss(vectors: NDArray[np.float32]) -> None:
    import faiss

    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    faiss.knn(units, units, K + 1, metric=faiss.METRIC_INNER_PRODUCT)


def copied(parquet: Path, to: Path) -> None:
    column = pq.read_table(parquet, columns=["embedding"]).column("embedding").combine_chunks()
    np.save(to, column.flatten().to_numpy())


def half_product(vectors: NDArray[np.float32]) -> None:
    blocks = [vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK)]
    buffer = np.empty((_BLOCK, _BLOCK), dtype=np.float32)
    for number, block in enumerate(blocks):
        for other in blocks[number:]:
            np.matmul(block, other.T, out=buffer[: len(block), : len(other)])


BOTH = f"({PRODUCT} + {COPY})"
RATIOS = [(SKLEARN, OURS), (FAISS, OURS), (LATER, OURS), (COLD, SKLEARN), (OURS, PRODUCT), (OURS, BOTH)]


def report(rows: int, dimensions: int, seconds: list[dict[str, float]]) -> None:
    for one in seconds:
        if PRODUCT in one and COPY in one:
            one[BOTH] = one[PRODUCT] + one[COPY]

    def ratio(of: str, to: str) -> str:
        ratios = [one[of] / one[to] for one in seconds if of in one and to in one]
        return f"{statistics.median(ratios):.2f}" if ratios else ""

    names = [name for name in CONTESTANTS if name in seconds[0]]
    each = [f"{statistics.median(one[name] for one in seconds):.2f} s" for name in names]
    cells = [f"{rows:,}", f"{dimensions:,}", *(ratio(*pair) for pair in RATIOS), *each]
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
