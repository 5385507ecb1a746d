"""Many queries against a collection, exactly: ours and `faiss.knn` side by side, in one process, without Spark.

    .venv/bin/python tests/benchmarks/search.py [--queries 20000] [--vectors 200000] [--dimensions 256 ...] [--rounds 3]
    [--check 1000] [--screen auto|float32|bfloat16]

``kNN``: of vectors in memory; ours compares, gives exact distances, proves them and puts names to them; faiss (inner
product of vectors that it is given normalised) compares in float32. ``whole``: from two Parquet files to a table in
Parquet; ours checks and numbers all vectors, and writes ids; faiss normalises, and writes row numbers. Both use all
cores. Rounds are interleaved. Figures are medians, and ratios are medians of the ratios of each round: others may use
the machine. The first search, which compiles and imports, is not counted; the answers of it to the first ``--check``
queries are compared with all distances in float64.

Vectors are made: clusters of about 40, not negative, half of them zeros. Prints Markdown.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_similarity.runtime.session import lazy_session, open_session
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours import in_memory, local_source
from image_similarity.stages.neighbours.in_memory import Loaded
from image_similarity.stages.search import in_process
from image_similarity.stages.search.answers import Answers

K = 12
CORES = len(os.sched_getaffinity(0))
SESSION = lazy_session(lambda: open_session("bench"))  # which names the work, and is never started
_ROWS_AT_ONCE = 10_000
_CHECKED_AT_ONCE = 100

Vectors = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description="Many queries against a collection.")
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", type=int, default=1000, help="queries whose answers are checked")
    parser.add_argument("--screen", choices=["auto", "float32", "bfloat16"], default="auto")
    arguments = parser.parse_args()
    settings = NeighboursSettings(similar=K, dissimilar=0, screen=arguments.screen)
    print(f"| queries | vectors | d | | ours | faiss.knn | ours / faiss |\n|{' --: |' * 3} :-- |{' --: |' * 3}")
    for dimensions in arguments.dimensions:
        with tempfile.TemporaryDirectory(prefix="search-") as folder:
            compared = Compared(Path(folder), arguments.queries, arguments.vectors, dimensions, settings)
            compared.first(arguments.check)
            for what, of_ours, of_faiss in (
                ("kNN", compared.ours, compared.faiss),
                ("whole", compared.whole, compared.whole_by_faiss),
            ):
                rounds = [(timed(f"ours, {what}", of_ours), timed("faiss", of_faiss)) for _ in range(arguments.rounds)]
                ours, faiss = (statistics.median(of) for of in zip(*rounds))
                ratio = statistics.median(a / b for a, b in rounds)
                size = f"| {arguments.queries:,} | {arguments.vectors:,} | {dimensions:,} |"
                print(f"{size} {what} | {ours:.1f} s | {faiss:.1f} s | {ratio:.2f} |", flush=True)


def timed(what: str, work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    print(f"{what}: {seconds:.2f} s", file=sys.stderr, flush=True)
    return seconds


class Compared:
    """Queries and a collection, in memory and in Parquet, and what compares them."""

    def __init__(self, folder: Path, queries: int, vectors: int, dimensions: int, settings: NeighboursSettings):
        random = np.random.default_rng(0)
        centres = random.standard_normal((vectors // 40 + 1, dimensions), dtype=np.float32)
        self._folder, self._settings = folder, settings
        self._queries, self._vectors = made(random, queries, centres), made(random, vectors, centres)
        store(self._queries, folder / "queries.parquet")
        store(self._vectors, folder / "vectors.parquet")
        self._loaded = self._load()
        self._normalised = normalised(self._queries), normalised(self._vectors)

    def first(self, check: int) -> None:
        """The first search. Exits where an answer to the first ``check`` queries is not that of the definition."""
        answers = in_process.run(SESSION, *self._loaded, self._settings, CORES)
        print(f"scores: {answers.screen}; brute force: {answers.brute_force:,} queries", file=sys.stderr)
        wrong = wrong_answers(answers, self._queries[:check], self._vectors)
        if wrong:
            raise SystemExit(f"{wrong} of {check} queries have other answers than in float64")

    def ours(self) -> Answers:
        return in_process.run(SESSION, *self._loaded, self._settings, CORES)

    def faiss(self) -> None:
        import faiss

        faiss.omp_set_num_threads(CORES)
        faiss.knn(*self._normalised, K, metric=faiss.METRIC_INNER_PRODUCT)

    def whole(self) -> None:
        """From Parquet to Parquet."""
        answers = in_process.run(SESSION, *self._load(), self._settings, CORES)
        of = answers.similar
        ids = {"query": answers.queries.take(pa.array(of.row)), "image": answers.images.take(pa.array(of.neighbour))}
        pq.write_table(pa.table({**ids, "rank": of.rank, "distance": of.distance}), self._folder / "ours.parquet")

    def _load(self) -> tuple[Loaded, Loaded]:
        sources = (
            local_source.from_parquet(str(self._folder / f"{name}.parquet"), 60).open(CORES)
            for name in ("queries", "vectors")
        )
        queries, vectors = (in_memory.load(source, self._settings, CORES) for source in sources)
        return queries, vectors

    def whole_by_faiss(self) -> None:
        """The same by faiss, with pyarrow."""
        import faiss

        faiss.omp_set_num_threads(CORES)
        sides = []
        for name in ("queries", "vectors"):
            column = pq.read_table(self._folder / f"{name}.parquet", columns=["embedding"])["embedding"]
            column = column.combine_chunks()
            sides.append(normalised(column.flatten().to_numpy().reshape(len(column), -1)))
        similarity, index = faiss.knn(*sides, K, metric=faiss.METRIC_INNER_PRODUCT)
        rows = {"query": np.repeat(np.arange(len(index)), K), "image": index.ravel()}
        pq.write_table(pa.table({**rows, "distance": 1 - similarity.ravel()}), self._folder / "faiss.parquet")


def made(random: np.random.Generator, rows: int, centres: Vectors) -> Vectors:
    values = np.empty((rows, centres.shape[1]), dtype=np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        chunk = values[start : start + _ROWS_AT_ONCE]
        random.standard_normal(out=chunk, dtype=np.float32)
        chunk += np.float32(0.8) * centres[random.integers(0, len(centres), len(chunk))]
        np.maximum(chunk, 0, out=chunk)
    return values


def store(vectors: Vectors, file: Path) -> None:
    ids = [f"img{number:08d}" for number in range(len(vectors))]
    lists = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]).cast(pa.list_(pa.float32()))
    pq.write_table(pa.table({"image_id": ids, "embedding": lists}), file, row_group_size=2**24 // vectors.shape[1])


def normalised(vectors: Vectors) -> Vectors:
    normal: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normal


def wrong_answers(answers: Answers, queries: Vectors, vectors: Vectors) -> int:
    """How many of ``queries`` have other answers, ids or distances, than all distances in float64 give."""
    names = np.array(answers.images.to_pylist())
    of = answers.similar
    images, distances = names[of.neighbour].reshape(-1, K), of.distance.reshape(-1, K)
    collection = np.array([f"img{number:08d}" for number in range(len(vectors))])
    unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    wrong = 0
    for start in range(0, len(queries), _CHECKED_AT_ONCE):
        chunk = queries[start : start + _CHECKED_AT_ONCE]
        cosine = (chunk / np.linalg.norm(chunk.astype(np.float64), axis=1, keepdims=True)) @ unit.T
        exact = (np.clip(np.rint((1 - cosine) * 2**23), 0, 2**24) / 2**23).astype(np.float32)
        for row, of_row in enumerate(exact, start):
            near = np.nonzero(of_row <= np.partition(of_row, K - 1)[K - 1])[0]
            near = near[np.lexsort((near, of_row[near]))][:K]
            same = np.array_equal(images[row], collection[near]) and np.array_equal(distances[row], of_row[near])
            wrong += not same
    return wrong


if __name__ == "__main__":
    main()
