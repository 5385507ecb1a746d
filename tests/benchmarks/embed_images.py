"""Throughput of embedding against a bare PyTorch loop: same files, same decoding, same cores, interleaved in one run.

    .venv/bin/python tests/benchmarks/embed_images.py [--images 240] [--rounds 3] [--network vgg16 --layer fc2]
    [--folder F]

Ours is the whole stage by worker processes, from the manifest to Parquet of new vectors: sharing out, fetching,
hashing, decoding, inference, saving, and writing the table. Excluded is what happens once per application: the import
of torch, drawing untrained weights. It is paid by a first round over 16 images, whose seconds are printed. The bare
loop reads, decodes, resizes and infers in one process with as many threads as there are cores, in the memory layout
that convolutions like best. In bfloat16, too: with the speed, and how many of the ten nearest neighbours are the same.
"""

import argparse
import csv
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from image_similarity.fingerprints import networks
from image_similarity.fingerprints.inference import Inference
from image_similarity.fingerprints.networks import Prepared
from image_similarity.imaging import decoding
from image_similarity.runtime import processes
from image_similarity.runtime.session import available_cores, lazy_session, open_session
from image_similarity.settings import EmbeddingsSettings, HttpSettings, ManifestSettings, NetworkSettings
from image_similarity.stages.embeddings import checkpoints, in_process
from image_similarity.stages.embeddings.outcomes import Retry
from image_similarity.stages.manifest import in_process as listing
from image_similarity.warehouse.records import new_run_id
from image_similarity.warehouse.warehouse import Warehouse
from tools import samples

ROOT = Path(__file__).resolve().parents[2]
SEED = 0
K = 10


def bare_loop(prepared: Prepared, file: Path, files: list[Path]) -> float:
    """Seconds for all ``files``, one batch after the other; the model and its first batch are not counted."""
    network = prepared.network.load(str(file), "cpu")
    assert isinstance(network, Inference)
    framing = prepared.network.framing

    def embed(batch: list[Path]) -> NDArray[np.float32]:
        pictures = [decoding.decode(file.read_bytes(), 10**8, framing.decode_side) for file in batch]
        return network(np.stack([framing.fit(picture.image) for picture in pictures]))

    embed(files[: network.batch])
    start = time.perf_counter()
    for first in range(0, len(files), network.batch):
        embed(files[first : first + network.batch])
    return time.perf_counter() - start


class Ours:
    """The stage over a manifest, each time into a warehouse of its own."""

    def __init__(self, session: SparkSession, folder: Path, prepared: Prepared, file: Path):
        self._session, self._folder, self._prepared, self._file = session, folder, prepared, file
        self.vectors: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        """Of the last run, in the order of image_id."""

    def __call__(self, images: pa.Table) -> float:
        """Seconds."""
        warehouse, run = Warehouse(self._session, str(self._folder / new_run_id())), new_run_id()
        nothing = warehouse.snapshot().table
        fingerprint = in_process.Fingerprint(
            name="bench",
            spec=self._prepared.network,
            file=str(self._file),
            published=nothing("embeddings"),
            failures=nothing("failures"),
            failures_hold=False,
            contents=frozenset(),
            checkpoints=(),
            folder=warehouse.state_of("embed_images", run).location(checkpoints.FOLDER),
        )
        server = in_process.prepare_workers([NetworkSettings(network=self._prepared.network.network)])
        settings = EmbeddingsSettings(), HttpSettings()
        start = time.perf_counter()
        (outputs,) = in_process.run(
            self._session, available_cores(), lambda: server, images, [fingerprint], *settings, Retry()
        )
        files, _ = checkpoints.files(fingerprint.folder)
        warehouse.write_here("vectors", run, in_process.new_vectors(files, frozenset()))
        seconds = time.perf_counter() - start
        new = pa.concat_tables(pq.read_table(file, columns=["image_id", "embedding"]) for file in files)
        assert outputs.read == len(images) and len(new) > 0.9 * outputs.read, "all but copies were embedded"
        rows = new.sort_by("image_id")["embedding"].combine_chunks()
        self.vectors = rows.flatten().to_numpy().reshape(len(rows), -1)
        return seconds


def same_neighbours(ours: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """recall@10 of ``others`` by cosine similarity: the share of neighbours that ``ours`` has too."""

    def nearest(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        similarity = unit @ unit.T
        np.fill_diagonal(similarity, -2)
        order: NDArray[np.int64] = np.argsort(-similarity, axis=1, kind="stable")[:, :K]
        return order

    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(nearest(ours), nearest(others))]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", default="vgg16")
    parser.add_argument("--layer", default="fc2")
    parser.add_argument("--folder", help="of images, instead of those drawn here")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed, files = _files(arguments, folder)
        session = lazy_session(lambda: open_session("bench"))  # which names the work, and is never started
        state = networks.untrained_state(arguments.network, SEED)
        built = listing.run(str(listed), ManifestSettings(), EmbeddingsSettings().read_seconds)
        assert built is not None
        images = pa.Table.from_batches(built.rows)
        images = images.filter(pc.is_in(images["uri"], pa.array(map(str, files))))
        candidates: dict[str, Callable[[], float]] = {}
        ours, first = {}, {}
        for precision in ("float32", "bfloat16"):
            prepared = networks.prepare(arguments.network, arguments.layer, state, precision=precision)
            file = folder / f"{precision}.pt"
            prepared.save(file)
            ours[precision] = Ours(session, folder, prepared, file)
            first[precision] = ours[precision](images.slice(0, 16))
            candidates[f"embed_images, {precision}"] = lambda run=ours[precision]: run(images)  # type: ignore[misc]
            candidates[f"bare loop, {precision}"] = lambda p=prepared, f=file: bare_loop(p, f, files)  # type: ignore[misc]
        seconds: dict[str, list[float]] = {candidate: [] for candidate in candidates}
        for _ in range(arguments.rounds):
            for candidate, run in candidates.items():
                seconds[candidate].append(run())
        processes.release()
    report(arguments, seconds, first)
    share = same_neighbours(ours["float32"].vectors, ours["bfloat16"].vectors)
    print(f"recall@{K} of neighbours in bfloat16: {share:.4f}")
    return 0


def _files(arguments: argparse.Namespace, folder: Path) -> tuple[Path, list[Path]]:
    """What to list, and the files of it that are used."""
    if arguments.folder:
        files = sorted(Path(arguments.folder).resolve().rglob("*.jpg"))
        return Path(arguments.folder), files[: arguments.images]
    listed = samples.write_collection(folder / "samples")
    return listed, [listed.parent / row["uri"] for row in csv.DictReader(open(listed))][: arguments.images]


def report(arguments: argparse.Namespace, seconds: dict[str, list[float]], first: dict[str, float]) -> None:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"\n{arguments.images} images, {arguments.network} {arguments.layer}, {os.cpu_count()} cores "
        f"({torch.backends.cpu.get_cpu_capability()}), medians of {arguments.rounds}"
    )
    print(f"not counted: start of the workers and first 16 images, {first['float32']:.1f} s\n")
    print("| | seconds | images/s | bare loop / this | float32 / this |\n|---|--:|--:|--:|--:|")
    for name, median in medians.items():
        kind, _, precision = name.partition(", ")
        peer, full = medians[f"bare loop, {precision}"], medians[f"{kind}, float32"]
        print(
            f"| {name} | {median:.1f} | {arguments.images / median:.2f} | {peer / median:.2f} | {full / median:.2f} |"
        )
    told = (f"{name}: {', '.join(f'{value:.1f}' for value in values)}" for name, values in seconds.items())
    print("\nall rounds, seconds: " + "; ".join(told))


if __name__ == "__main__":
    sys.exit(main())
