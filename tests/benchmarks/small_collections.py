"""Exact neighbours of a collection that fits into memory, in one process: ours, scikit-learn, and the bare product.

    .venv/bin/python tests/benchmarks/small_collections.py [--sizes 5000x512 20000x512 5000x4096 20000x4096]
    [--rounds 3] [--hard]

Ours is the whole job, from Parquet to published tables, with similar and dissimilar neighbours and exact distances:
``cold`` as a command, with the start of Python and all imports, and ``warm`` in a process that has done it before.
Neither starts Spark. scikit-learn (`NearestNeighbors`, brute force, cosine) finds similar neighbours of vectors that
are in memory already. ``half product`` is the float32 product of half of the pairs alone. All use all cores. Rounds are
interleaved. Figures are medians, and ratios are medians of the ratios of each round: others may use the machine.

Vectors are made: clusters of about 20, not negative, half of them zeros. With ``--hard`` they have no clusters.
Prints Markdown.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
_COLD, _WARM, _PEER, _PRODUCT = "cold", "warm", "scikit-learn", "half product"


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact neighbours of small collections.")
    parser.add_argument("--sizes", nargs="+", default=["5000x512", "20000x512", "5000x4096", "20000x4096"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hard", action="store_true", help="vectors without clusters")
    arguments = parser.parse_args()
    print(f"{kernels()}; {len(os.sched_getaffinity(0))} cores; medians of {arguments.rounds} rounds\n")
    columns = (
        "n | d | scikit-learn / ours | cold / scikit-learn | ours / half product | cold | ours | scikit-learn | half"
    )
    print(f"| {columns} |")
    print("| --: | --: | --: | --: | --: | --: | --: | --: | --: |")
    for size in arguments.sizes:
        rows, dimensions = map(int, size.split("x"))
        with tempfile.TemporaryDirectory(prefix="small-") as folder:
            report(rows, dimensions, measured(Path(folder), made(rows, dimensions, arguments.hard), arguments.rounds))


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


def measured(folder: Path, vectors: NDArray[np.float32], rounds: int) -> list[dict[str, float]]:
    """The seconds of each contestant in each round."""
    own = folder / "own.parquet"
    ids = [f"img{number:07d}" for number in range(len(vectors))]
    lists = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]).cast(pa.list_(pa.float32()))
    pq.write_table(pa.table({"image_id": ids, "embedding": lists}), own, row_group_size=2**24 // vectors.shape[1])
    options = ["--warehouse", str(folder / "w"), "--embeddings", str(own), "--set", "neighbours.runner=process"]
    contestants: dict[str, Callable[[], None]] = {
        _COLD: lambda: command(options),
        _WARM: lambda: here(options),
        _PEER: lambda: peer(vectors),
        _PRODUCT: lambda: half_product(vectors),
    }
    here(options)  # compiled functions are loaded, once
    seconds: list[dict[str, float]] = []
    for number in range(rounds):
        seconds.append({})
        for name, run in contestants.items():
            shutil.rmtree(folder / "w", ignore_errors=True)
            start = time.perf_counter()
            run()
            seconds[-1][name] = time.perf_counter() - start
            print(f"round {number + 1}, {name}: {seconds[-1][name]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def command(options: list[str]) -> None:
    program = [sys.executable, str(ROOT / "jobs" / "find_neighbours.py"), *options]
    subprocess.run(program, check=True, capture_output=True)


def here(options: list[str]) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        if job(find_neighbours, options):
            raise SystemExit("find_neighbours failed")


def peer(vectors: NDArray[np.float32]) -> None:
    NearestNeighbors(n_neighbors=K + 1, algorithm="brute", metric="cosine", n_jobs=-1).fit(vectors).kneighbors(vectors)


def half_product(vectors: NDArray[np.float32]) -> None:
    blocks = [vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK)]
    buffer = np.empty((_BLOCK, _BLOCK), dtype=np.float32)
    for number, block in enumerate(blocks):
        for other in blocks[number:]:
            np.matmul(block, other.T, out=buffer[: len(block), : len(other)])


def report(rows: int, dimensions: int, seconds: list[dict[str, float]]) -> None:
    def ratio(of: str, to: str) -> float:
        return statistics.median(one[of] / one[to] for one in seconds)

    each = " | ".join(f"{statistics.median(one[name] for one in seconds):.2f} s" for name in seconds[0])
    print(
        f"| {rows:,} | {dimensions:,} | {ratio(_PEER, _WARM):.2f} | {ratio(_COLD, _PEER):.2f} | "
        f"{ratio(_WARM, _PRODUCT):.2f} | {each} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
