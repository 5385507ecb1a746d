"""What measuring pictures, and keeping classes, costs the pass that embeds them.

    .venv/bin/python tests/benchmarks/embed_cost.py vgg16 squeezenet efficientnet [--images 200] [--rounds 5]
    [--data F]

The pass of one task is timed: fetching, decoding, embedding, and writing checkpoints, by the threads of one process.
What a job does once (importing torch, loading weights, writing tables) is left out, so that the ratio for a whole job
is nearer to 1. Each round runs with and without, one after the other, in turns. Told are medians of seconds, the median
of the rounds' ratios, and the ratio of processor seconds, which others' work on the machine disturbs less.

vgg16: untrained; quality against nothing. squeezenet: ImageNet's weights; quality against nothing. efficientnet: the
exported program; classes and quality against nothing, then quality alone.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from image_similarity.runtime.devices import CPU
from image_similarity.settings import (
    EmbeddingsSettings,
    ExportedSettings,
    FingerprintSettings,
    HttpSettings,
    NetworkSettings,
)
from image_similarity.stages.embeddings import embedder, prepare
from image_similarity.stages.embeddings.embedder import Attempt, Embedder, Measuring, Row, Work
from image_similarity.stages.embeddings.prepare import PreparedFingerprint

SETTINGS, HTTP = EmbeddingsSettings(), HttpSettings()


@dataclass(frozen=True)
class Seconds:
    wall: float
    processor: float


def declared(name: str, data: Path) -> FingerprintSettings:
    weights = data / "weights"
    if name == "vgg16":
        return NetworkSettings(network="vgg16", weights=("untrained",))
    if name == "squeezenet":
        file = str(weights / "squeezenet1_1-features-caffe.pth")
        options = {"layer": "features", "pooling": "average", "preprocessing": "caffe"}
        return NetworkSettings.model_validate({"network": "squeezenet1_1", "weights": [file], **options})
    file = str(weights / "efficientnet-lite0-imagenet.pt2")
    framing = {"mean": (0.498,) * 3, "std": (0.502,) * 3, "resize": 256, "interpolation": "bicubic"}
    outputs = {"outputs": "vector, logits", "classes": "imagenet"}
    return ExportedSettings.model_validate({"kind": "exported", "weights": [file], **framing, **outputs})


def one_pass(prepared: PreparedFingerprint, files: list[Path], classes: bool, measured: bool) -> Seconds:
    """Seconds of a task over ``files``, which writes checkpoints to a folder of its own."""
    attempt = Attempt(0, 0, is_retry=False)
    with tempfile.TemporaryDirectory() as folder:
        shipped = str(prepared.file) if prepared.file else None
        classifier = prepared.classifier.key if classes and prepared.classifier else None
        work = Work(prepared.spec, shipped, f"{folder}/vectors", None, classifier)
        loaded = embedder.load([work], CPU, SETTINGS, time.time(), attempt)
        measuring = Measuring(f"{folder}/quality", None) if measured else None
        measurer = embedder.measurer_of(measuring, loaded, SETTINGS, time.time(), attempt)
        rows = (Row(file.name, str(file), "v1", 1) for file in files)
        wall, processor = time.perf_counter(), time.process_time()
        batches = list(Embedder(loaded, SETTINGS, HTTP, None, measurer).results(rows))
        seconds = Seconds(time.perf_counter() - wall, time.process_time() - processor)
    assert all(reason is None for batch in batches for reason in batch["reason"])
    return seconds


def compare(name: str, prepared: PreparedFingerprint, files: list[Path], rounds: int, classes: bool) -> None:
    for each in {False, classes}:  # a fingerprint with logits is another one in memory
        one_pass(prepared, files[:32], each, True)
    without, with_both = list[Seconds](), list[Seconds]()
    for number in range(rounds):
        for is_on in (False, True) if number % 2 else (True, False):
            seconds = one_pass(prepared, files, classes and is_on, is_on)
            (with_both if is_on else without).append(seconds)
    ratios = [more.wall / less.wall for more, less in zip(with_both, without)]
    processor = statistics.median(more.processor for more in with_both) / statistics.median(
        less.processor for less in without
    )
    what = "classes and quality" if classes else "quality"
    print(
        f"{name}, {what}: {statistics.median(less.wall for less in without):.2f} s without, "
        f"{statistics.median(more.wall for more in with_both):.2f} s with: {statistics.median(ratios):.3f} times "
        f"(rounds {', '.join(f'{ratio:.3f}' for ratio in ratios)}); processor seconds {processor:.3f} times",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fingerprints", nargs="+", choices=["vgg16", "squeezenet", "efficientnet"])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    data = os.environ.get("IMAGE_SIMILARITY_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(data))
    given = parser.parse_args()
    files = sorted((given.data / "images" / "ukbench").glob("*.jpg"))[: given.images]
    print(f"{len(files)} photographs, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.fingerprints:
            prepared = prepare.prepare(name, declared(name, given.data), Path(folder), HTTP)
            if prepared.keeps_classes:
                compare(name, prepared, files, given.rounds, classes=True)
            compare(name, prepared, files, given.rounds, classes=False)


if __name__ == "__main__":
    main()
