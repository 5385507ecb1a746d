"""Checks that a GPU gives what the processor gives, and measures how fast: ``python tools/gpu_check.py``.

Prints Markdown. Needs torch, torchvision, numpy, numba and pillow, and neither Spark nor Java. Ends with 1 if a result
differs. Without a GPU it says so, and runs the same on the processor with few rows. About a minute on an H100.
"""

import argparse
import gc
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from adversaries import ADVERSARIES, drawn
from image_similarity.fingerprints import networks
from image_similarity.imaging.framing import Framing, framed
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.knn import all_pairs, distances, engine, scoring
from image_similarity.knn.all_pairs import AllPairs
from image_similarity.knn.backends import tensor_cores
from image_similarity.knn.backends.cuda import Cuda
from image_similarity.knn.candidates import Lists
from image_similarity.knn.distances import METRICS
from image_similarity.knn.engine import Search
from image_similarity.knn.rerank import Part

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda:0" if HAS_GPU else "cpu"
K = 12
CORES = os.cpu_count() or 1
NETWORKS = {"vgg16": "fc2", "squeezenet1_1": "features"}
PARITY = ("vectors", "metric", "precision", "same", "seconds on the processor", "on the GPU, with compiling")
PRECISIONS = ("float32", "tf32", "bfloat16")
MOST_PIXELS = 10**8
MOST_DISTANCE = {"float32": 1e-5, "tf32": 1e-3, "bfloat16": 2e-2}
"""The largest cosine distance between a vector from the GPU and one from the processor that passes."""

failures: list[str] = []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what is checked; all of it if none is named")
    parts = parser.parse_args().parts or list(PARTS)
    about_the_machine()
    for part in parts:
        start = time.perf_counter()
        PARTS[part]()
        print(f"\n({part}: {time.perf_counter() - start:.0f} s)", flush=True)
    print(f"\n**{len(failures)} failed**: {'; '.join(failures)}" if failures else "\n**All results agree.**")
    return 1 if failures else 0


def about_the_machine() -> None:
    print("# GPU check\n")
    if HAS_GPU:
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
        ).stdout.strip()
        print(f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB, driver {driver or 'unknown'}", end="")
    else:
        print("**No GPU here**: torch finds none. The same code runs on the processor, with few rows", end="")
    print(f"; torch {torch.__version__}, {os.cpu_count()} processor cores.")
    if HAS_GPU and (why := Cuda(DEVICE).why_no_kernels):
        print(f"\n**Triton's kernels do not work here**, torch's operations take their place: {why}")


def table(title: str, *columns: str) -> None:
    print(f"\n## {title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)


def row(*values: object) -> None:
    print(f"| {' | '.join(map(str, values))} |", flush=True)


def passed(name: str, is_right: bool) -> str:
    if not is_right:
        failures.append(name)
    return "yes" if is_right else "**NO**"


# -- neighbours: the same table ----------------------------------------------------------------------------------------


def check_neighbours() -> None:
    """The table of every case is the processor's, bit for bit."""
    table("Exact neighbours: bit for bit those of the processor", *PARITY)
    rng = np.random.default_rng(0)
    cases: dict[str, Vectors] = {
        "random": rng.standard_normal((20_000 if HAS_GPU else 500, 128)).astype(np.float32),
        "clustered, in order": clustered(20_000 if HAS_GPU else 600, 256, in_order=True),
        "4,096 values": rng.standard_normal((3000 if HAS_GPU else 300, 4096)).astype(np.float32),
        "3 values, many copies": rng.integers(1, 6, (5000 if HAS_GPU else 300, 3)).astype(np.float32),
        "5 rows": rng.standard_normal((5, 7)).astype(np.float32),
    }
    for name, vectors in cases.items():
        for metric, of_metric in METRICS.items():
            usable = vectors[~of_metric.unusable(vectors)]
            start = synchronised()
            expected = all_pairs.neighbours(usable, metric, K, K, threads=CORES)
            by_processor = synchronised() - start
            for screen in tensor_cores.SCREENS.values():
                start = synchronised()
                got = all_pairs.neighbours(usable, metric, K, K, screen=screen, backend=Cuda(DEVICE))
                seconds = f"{by_processor:.1f}", f"{synchronised() - start:.1f}"
                shape = f"{name}: {len(usable):,} x {usable.shape[1]:,}"
                same = passed(f"{name}, {metric}, {screen.name}", equal(expected, got))
                row(shape, metric, screen.name, same, *seconds)
    for metric in METRICS:
        start = synchronised()
        of_kinds = {adversary.__name__: drawn(adversary, metric, 2) for adversary in ADVERSARIES}
        expected_of = {
            kind: all_pairs.neighbours(vectors, metric, K, 7, threads=CORES) for kind, vectors in of_kinds.items()
        }
        by_processor = synchronised() - start
        for screen in tensor_cores.SCREENS.values():
            start, wrong = synchronised(), []
            for kind, vectors in of_kinds.items():
                backend = Cuda(DEVICE, tile=256)
                got = all_pairs.neighbours(vectors, metric, K, 7, 128, screen=screen, backend=backend)
                wrong += [] if equal(expected_of[kind], got) else [kind]
            name = f"{len(ADVERSARIES)} kinds that mislead scores"
            seconds = f"{by_processor:.1f}", f"{synchronised() - start:.1f}"
            row(name, metric, screen.name, passed(f"{wrong}, {metric}, {screen.name}", not wrong), *seconds)
    check_new_vectors()


def check_new_vectors() -> None:
    """New vectors among some whose lists are known, as in a later run of find_neighbours: the table of all pairs."""
    table("New vectors among known ones", "vectors", "metric", "precision", "same")
    vectors = clustered(20_000 if HAS_GPU else 600, 64)
    n, d = vectors.shape
    is_new = np.less(np.random.default_rng(1).random(n), 0.02)
    old = np.nonzero(~is_new)[0]
    for metric, of_metric in METRICS.items():
        expected = all_pairs.neighbours(vectors, metric, K, K, threads=CORES)
        scale = scoring.scale_of(float(np.abs(vectors).max()), d, of_metric)
        whole = Part(distances.measured(vectors, of_metric), np.arange(n, dtype=np.int32), np.arange(n))
        some = Part(whole.vectors[old], np.arange(len(old), dtype=np.int32), old)
        for screen in tensor_cores.SCREENS.values():
            backend = Cuda(DEVICE)
            search = Search(metric, screen.name, d, scale, K, K, n - 1, backend.kind)
            before = compared(AllPairs(replace(search, others=len(old) - 1), some, backend=backend))
            known = Lists.empty(n, before[0].keys.shape[1]), Lists.empty(n, before[1].keys.shape[1])
            for of_all, of_some in zip(known, before):
                of_all.keys[old], of_all.lower_bound[old] = of_some.keys, of_some.lower_bound
            lists = compared(AllPairs(search, whole, is_new=is_new, known=known, backend=backend))
            got = [engine.ranked(of.keys[:, :K], whole.index, far) for of, far in zip(lists, (False, True))]
            is_same = equal(expected, (got[0], got[1]))
            shape = f"{is_new.sum():,} of {n:,} x {d}"
            row(shape, metric, screen.name, passed(f"new vectors, {metric}, {screen.name}", is_same))


def compared(pairs: AllPairs) -> tuple[Lists, Lists]:
    pairs.compare()
    pairs.rerank()
    pairs.complete()
    return pairs.lists


def equal(a: tuple[engine.Ranked, engine.Ranked], b: tuple[engine.Ranked, engine.Ranked]) -> bool:
    names = ("row", "rank", "neighbour", "distance")
    return all(np.array_equal(getattr(x, name), getattr(y, name)) for x, y in zip(a, b) for name in names)


def clustered(n: int, d: int, in_order: bool = False) -> Vectors:
    """Vectors around random centres, which differ most in 32 directions, as embeddings do."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE)

    centres, directions = normal(max(1, n // 500), d), normal(32, d)
    of = torch.randint(0, len(centres), (n,), generator=generator, device=DEVICE)
    of = of.sort().values if in_order else of
    vectors = torch.empty((n, d))
    for start in range(0, n, 65536):
        part = of[start : start + 65536]
        vectors[start : start + 65536] = (
            centres[part] + 0.2 * normal(len(part), 32) @ directions + 0.05 * normal(len(part), d)
        ).cpu()
    result: Vectors = vectors.numpy()
    return result


# -- neighbours: how fast ----------------------------------------------------------------------------------------------


def measure_neighbours() -> None:
    """Seconds of each phase, and the share of the rate at which this GPU multiplies matrices."""
    rates = {"bfloat16": matrix_rate(torch.bfloat16), "tf32": matrix_rate(torch.float32)}
    table("Exact neighbours: how fast", "product", "TFLOP/s")
    for name, rate in rates.items():
        row(f"large matrices in {name}", f"{rate / 1e12:.1f}")
    shapes = ((1_000_000, 512), (200_000, 4096)) if HAS_GPU else ((3000, 64),)
    for _, d in shapes:  # compiles what is compiled at the first call
        all_pairs.neighbours(clustered(70_000 if HAS_GPU else 300, d), "cosine", K, K, backend=Cuda(DEVICE))
    for n, d in shapes:
        vectors = clustered(n, d)
        table(f"{n:,} x {d:,}, cosine, {K} similar and {K} dissimilar neighbours", "phase", "seconds", "")
        phases = Phases()
        backend = Cuda(DEVICE)
        phases("start", n)
        all_pairs.neighbours(vectors, "cosine", K, K, backend=backend, report=phases)
        for phase, seconds, rows in phases.ended:
            note = ""
            if phase.startswith("compare"):
                rate = n * (n - 1) * d / seconds
                share = rate / rates[phase.removeprefix("compare in ")]
                note = f"{rate / 1e12:.1f} TFLOP/s, {share:.0%} of the product's"
            if phase == "certify":
                note = f"{rows:,} rows by brute force"
            row(phase, f"{seconds:.2f}", note)
        total = sum(seconds for _, seconds, _ in phases.ended)
        row("**all**", f"**{total:.2f}**", f"{n * (n - 1) / 2 / total / 1e9:.2f} billion pairs a second")


class Phases:
    """The seconds of each phase since the phase before."""

    def __init__(self) -> None:
        self._last = synchronised()
        self.ended: list[tuple[str, float, int]] = []

    def __call__(self, phase: str, rows: int) -> None:
        now = synchronised()
        self.ended.append((phase, now - self._last, rows))
        self._last = now


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large product of this GPU's tensor cores."""
    side = 8192 if HAS_GPU else 512
    a, b = (torch.randn((side, side), device=DEVICE).to(dtype) for _ in range(2))
    seconds = []
    with tensor_cores.tf32():
        for _ in range(6):
            start = synchronised()
            a @ b.T
            seconds.append(synchronised() - start)
    return float(2 * side**3 / np.median(seconds[1:]))


def synchronised() -> float:
    if HAS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def check_little_memory() -> None:
    """With little memory tiles get smaller and vectors stay on the host; the table is the same."""
    table("Little memory", "memory", "tile", "vectors on the GPU", "same")
    n, d = (100_000, 512) if HAS_GPU else (700, 16)
    vectors = clustered(n, d)
    expected = all_pairs.neighbours(vectors, "cosine", K, K, backend=Cuda(DEVICE))
    total = torch.cuda.get_device_properties(0).total_memory if HAS_GPU else 1
    backend = None
    for gigabytes in (4.0, 0.75) if HAS_GPU else (0.0,):
        if HAS_GPU:
            del backend
            gc.collect()  # networks hold themselves, and so their memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(gigabytes * 2**30 / total)
        backend = Cuda(DEVICE, vector_bytes=None if HAS_GPU else 0)
        kept = backend._vector_bytes
        same = equal(expected, all_pairs.neighbours(vectors, "cosine", K, K, backend=backend))
        on_gpu = f"at most {kept / 2**20:,.0f} of {vectors.nbytes / 2**20:,.0f} MiB" if HAS_GPU else "none"
        row(f"{gigabytes:g} GiB", f"{backend.tile:,}", on_gpu, passed(f"little memory, {gigabytes} GiB", same))
    if HAS_GPU:
        torch.cuda.set_per_process_memory_fraction(1.0)


# -- embeddings --------------------------------------------------------------------------------------------------------


def jpegs(count: int) -> list[bytes]:
    """Smooth random pictures of 640 x 480 pixels, with some noise."""

    def picture(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        smooth = coarse.resize((640, 480), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth).astype(np.int16) + rng.integers(-8, 9, (480, 640, 3))
        content = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
        return content.getvalue()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(picture, range(count)))


def loaded(network: str, precision: str, device: str, file: str) -> Any:
    """``network`` with seeded, untrained weights, which are kept in ``file``."""
    prepared = PREPARED.get(network)
    if prepared is None:
        prepared = networks.prepare(
            network,
            NETWORKS[network],
            networks.untrained_state(network, 0),
            pooling="none" if network == "vgg16" else "average",
            source="untrained",
        )
        prepared.save(Path(file))
        PREPARED[network] = prepared
    return replace(prepared.network, precision=precision).load(file, device)


PREPARED: dict[str, Any] = {}


def check_embeddings() -> None:
    contents = jpegs(256 if HAS_GPU else 4)
    table(
        "Embeddings of 64 pictures against float32 on the processor" if HAS_GPU else "Embeddings",
        *("network", "precision", "median cosine distance", "largest", "near enough"),
    )
    with tempfile.TemporaryDirectory() as folder:
        for network in NETWORKS if HAS_GPU else ["squeezenet1_1"]:
            file = f"{folder}/{network}.pt"
            reference = loaded(network, "float32", "cpu", file)
            squares = np.stack([square(content, reference.framing) for content in contents[:64]])
            expected = reference(squares).astype(np.float64)
            for precision in PRECISIONS:
                vectors = loaded(network, precision, DEVICE, file)(squares).astype(np.float64)
                lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
                away = 1 - (vectors * expected).sum(axis=1) / lengths
                is_near = bool(away.max() <= MOST_DISTANCE[precision])
                figures = f"{np.median(away):.1e}", f"{away.max():.1e}"
                row(network, precision, *figures, passed(f"{network} in {precision}", is_near))
        if HAS_GPU:
            measure_embeddings(contents, f"{folder}/vgg16.pt")


def measure_embeddings(contents: list[bytes], file: str) -> None:
    table("VGG16, pictures a second", "precision", "batch", "from pixels", "from JPEGs of 640 x 480", "decoding alone")
    many = contents * 4
    squares = np.random.default_rng(0).integers(0, 256, (1024, 224, 224, 3), dtype=np.uint8)
    for precision in PRECISIONS:
        inference = loaded("vgg16", precision, DEVICE, file)
        inference(squares[:256])
        seconds = (
            seconds_of(inference, squares) * len(many) / len(squares),
            seconds_of(lambda network: [network(batch) for batch in decoded(many, network)], inference),
            seconds_of(lambda network: list(decoded(many, network)), inference),
        )
        row(precision, inference.batch, *(f"{len(many) / of:,.0f}" for of in seconds))


DECODERS = IsolatedDecoders(CORES, MOST_PIXELS, 2**32, 60.0)


def decoded(contents: list[bytes], inference: Any) -> Iterator[Pixels]:
    """Batches of squares, decoded by a child process on each core ahead of who takes them, as a task does."""
    with ThreadPoolExecutor(DECODERS.processes, "decode") as pool:
        squares = pool.map(lambda content: DECODERS.framed(content, [inference.framing]).squares[0], contents)
        batch = []
        for one in squares:
            batch.append(one)
            if len(batch) == inference.batch:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)


def square(content: bytes, framing: Framing) -> Pixels:
    return framed(content, [framing], MOST_PIXELS).squares[0]


def seconds_of(work: Callable[[Any], object], argument: Any) -> float:
    start = synchronised()
    work(argument)
    return synchronised() - start


PARTS: dict[str, Callable[[], None]] = {
    "neighbours": check_neighbours,
    "memory": check_little_memory,
    "speed": measure_neighbours,
    "embeddings": check_embeddings,
}

if __name__ == "__main__":
    sys.exit(main())
