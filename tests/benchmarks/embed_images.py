"""Throughput of the embedding stage against a bare PyTorch loop: same files, same cores, interleaved in one run.

    .venv/bin/python tests/benchmarks/embed_images.py [--images 240] [--rounds 3] [--network vgg16 --layer fc2]

Ours is the whole stage: reading the manifest, listing tasks, fetching, hashing, decoding, inference, writing Parquet and counting.
Excluded is what happens once per application: the session, the start of the workers and their import of torch, drawing untrained
weights. They are paid by a first round over 16 images, whose seconds are printed. The bare loops read, decode, resize and infer in
one process with as many threads as there are cores: as one would write it, and with the memory layout that convolutions like best.
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

import torch
from PIL import Image
from pyspark.sql import DataFrame, SparkSession
from torchvision.models import get_model, get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor

from image_similarity import samples, spark
from image_similarity.kernels.fingerprints import networks
from image_similarity.settings import EmbeddingsSettings, ManifestSettings
from image_similarity.spark import ship
from image_similarity.stages import embeddings, manifest
from image_similarity.warehouse import Warehouse, new_run_id

ROOT = Path(__file__).resolve().parents[2]
BATCH = 16
SEED = 0


def bare_loop(network: str, layer: str, files: list[Path], channels_last: bool) -> float:
    """Seconds for all ``files``; the model and its first batch are not counted."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(SEED)
    model = create_feature_extractor(get_model(network, weights=None).eval(), {networks.resolve_layer(network, layer): "out"})
    model = model.to(memory_format=layout)
    transform = get_model_weights(network).DEFAULT.transforms()

    def embed(batch: list[Path]) -> torch.Tensor:
        pixels = torch.stack([transform(Image.open(file).convert("RGB")) for file in batch])
        vectors: torch.Tensor = model(pixels.contiguous(memory_format=layout))["out"]
        return vectors

    with torch.inference_mode():
        embed(files[:BATCH])
        start = time.perf_counter()
        for first in range(0, len(files), BATCH):
            embed(files[first : first + BATCH])
        return time.perf_counter() - start


def stage(session: SparkSession, folder: Path, images: DataFrame, fingerprint: embeddings.Fingerprint) -> float:
    """Seconds of the stage over ``images``."""
    warehouse = Warehouse(session, str(folder))
    inputs = embeddings.Inputs(images, warehouse.read("embeddings", []), warehouse.read("vectors", []))
    with warehouse.scratch(new_run_id()) as scratch:
        start = time.perf_counter()
        outputs = embeddings.run(session, inputs, fingerprint, EmbeddingsSettings(), scratch)
        seconds = time.perf_counter() - start
        assert outputs.embedded == images.count(), "every image went through the network"
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", default="vgg16")
    parser.add_argument("--layer", default="fc2")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = samples.write_collection(folder / "samples")
        files = [listed.parent / row["uri"] for row in csv.DictReader(open(listed))][: arguments.images]
        session = spark.session("bench", ROOT / "conf")
        prepared = networks.prepare(arguments.network, arguments.layer, networks.untrained_state(arguments.network, SEED))
        prepared.save(folder / "state.pt")
        fingerprint = embeddings.Fingerprint("bench", prepared.network, ship(session, folder / "state.pt"))
        whole = manifest.run(session, str(listed), ManifestSettings()).rows
        warehouse = Warehouse(session, str(folder / "w"))
        warehouse.write("manifest", "r0", whole.where(whole.uri.isin([str(file) for file in files])))
        images = warehouse.read("manifest", ["r0"])
        first = stage(session, folder, images.limit(16), fingerprint)
        candidates: dict[str, Callable[[], float]] = {
            "embed_images": lambda: stage(session, folder, images, fingerprint),
            "bare loop": lambda: bare_loop(arguments.network, arguments.layer, files, False),
            "bare loop, channels last": lambda: bare_loop(arguments.network, arguments.layer, files, True),
        }
        seconds: dict[str, list[float]] = {candidate: [] for candidate in candidates}
        for _ in range(arguments.rounds):
            for candidate, run in candidates.items():
                seconds[candidate].append(run())
        session.stop()
    report(arguments, seconds, first)
    return 0


def report(arguments: argparse.Namespace, seconds: dict[str, list[float]], first: float) -> None:
    ours = statistics.median(seconds["embed_images"])
    print(
        f"\n{arguments.images} images, {arguments.network} {arguments.layer}, {os.cpu_count()} cores, medians of {arguments.rounds}"
    )
    print(f"not counted: start of the workers and first 16 images, {first:.1f} s\n")
    print("| | seconds | images/s | ours / this |\n|---|---|---|---|")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.1f} | {arguments.images / median:.2f} | {median / ours:.2f} |")
    print(
        "\nall rounds, seconds: "
        + "; ".join(f"{name}: {', '.join(f'{value:.1f}' for value in values)}" for name, values in seconds.items())
    )


if __name__ == "__main__":
    sys.exit(main())
