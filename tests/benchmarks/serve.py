"""How long `image-similarity serve` takes for an answer, from one client and from four, and how much memory.

    .venv/bin/python tests/benchmarks/serve.py [--images 30000] [--requests 200] [--pictures demo/samples] [--folder F]

A few pictures are embedded by VGG16's fc2 with untrained weights, and random vectors of the same length are put beside
theirs (``--folder`` keeps that collection for the next time). The server is a process of its own. Every picture that is
sent is new to the collection: a part of one of ``--pictures``, as a JPEG of 640 x 480. After every fourth answer to
the one client, this process computes the network alone for the same picture, on all cores: what is beyond it is the
median of the differences. ``by id`` asks for images of the collection, which takes no network. Peak memory is that of
the server's process: its private memory, and with pages of mapped files. Prints Markdown.
"""

import argparse
import http.client
import io
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import image_similarity as ims
from image_similarity.imaging import framing
from image_similarity.jobs import build_manifest, embed_images
from image_similarity.jobs.command_line import main as job
from image_similarity.settings import HttpSettings
from image_similarity.stages.embeddings import published

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED, CLIENTS, SIDE = 8, 4, (640, 480)
FINGERPRINT = "vgg16-fc2"
EACH = 4
"""Of so many answers to the one client, the network alone is measured beside one."""
DIMENSIONS, ROW_GROUP = 4096, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds and memory of image-similarity serve.")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--pictures", type=Path, default=ROOT / "demo" / "samples")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    files = sorted(file for file in arguments.pictures.rglob("*") if file.suffix in (".jpg", ".png", ".webp"))
    queries = [part_of(files[number % len(files)], number) for number in range(2 * arguments.requests + 1)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        if not (folder / "warehouse").exists():
            make(folder, files[:EMBEDDED], arguments.images)
        measure(str(folder / "warehouse"), queries, arguments.requests)


def measure(warehouse: str, queries: list[bytes], requests: int) -> None:
    network = network_of(warehouse)
    beyond: list[float] = []
    numbers = itertools.count()

    def asked_and_alone(content: bytes) -> float:
        seconds = server.post(content)
        if next(numbers) % EACH == 0:
            beyond.append(seconds - network(content))
        return seconds

    print(f"\n{requests} requests each, {os.cpu_count()} cores\n\n| | p50 | p99 |\n| --- | --: | --: |", flush=True)
    with served(warehouse) as server:
        first = server.post(queries[-1])
        tell("one client, by id", timed(server.get, [quote(f"random/{number}") for number in range(requests)], 1))
        tell("one client", timed(asked_and_alone, queries[:requests], 1))
        print(f"| beyond the network | {1000 * statistics.median(beyond):.0f} ms | |", flush=True)
        tell(f"{CLIENTS} clients", timed(server.post, queries[requests:-1], CLIENTS))
        private, whole = server.peak()
    print(f"\nfirst answer, while the network was loaded: {first:.1f} s")
    print(f"memory: {private / 2**30:.2f} GiB private, {whole / 2**30:.2f} GiB at most with mapped files")


def tell(name: str, seconds: list[float]) -> None:
    p50, p99 = 1000 * np.percentile(seconds, [50, 99])
    print(f"| {name} | {p50:.0f} ms | {p99:.0f} ms |", flush=True)


def part_of(file: Path, number: int) -> bytes:
    """A part of a picture: other bytes and another vector for each ``number``."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB").resize(SIDE)
    rng = np.random.default_rng(number)
    left, top = (int(rng.integers(0, side // 4)) for side in SIDE)
    part = picture.crop((left, top, left + 3 * SIDE[0] // 4, top + 3 * SIDE[1] // 4)).resize(SIDE)
    content = io.BytesIO()
    part.save(content, "JPEG", quality=int(rng.integers(70, 95)))
    return content.getvalue()


# -- the collection ----------------------------------------------------------------------------------------------------


def make(folder: Path, files: Sequence[Path], images: int) -> None:
    """A warehouse with the vectors of ``files``, and random ones beside them."""
    (folder / "pictures").mkdir(parents=True)
    for file in files:
        shutil.copy(file, folder / "pictures" / file.name)
    warehouse = folder / "warehouse"
    for module, *words in ((build_manifest, "--images", str(folder / "pictures")), (embed_images,)):
        assert job(module, ["--warehouse", str(warehouse), *words]) == 0
    names = [f"random/{number}" for number in range(images - len(files))]
    for table in ("manifest", "embeddings", "vectors"):
        (part,) = (warehouse / table).glob("run_id=*/part-*.parquet")
        row = pq.read_table(part).slice(0, 1)
        with pq.ParquetWriter(part.with_name("part-99999.parquet"), row.schema) as writer:
            for start in range(0, len(names), ROW_GROUP):
                writer.write_table(more(row, names[start : start + ROW_GROUP], start))


def more(row: pa.Table, names: list[str], seed: int) -> pa.Table:
    """``row`` for each of ``names``, with its id, content and a vector of its own."""
    rows = pa.concat_tables([row] * len(names)).combine_chunks()
    vectors = np.maximum(np.random.default_rng(seed).standard_normal((len(names), DIMENSIONS), np.float32), 0)
    offsets = np.arange(0, vectors.size + 1, DIMENSIONS, dtype=np.int32)
    for column in ("image_id", "content_sha256", "embedding"):
        if column in rows.column_names:
            place = rows.schema.get_field_index(column)
            values = pa.ListArray.from_arrays(offsets, vectors.ravel()) if column == "embedding" else pa.array(names)
            rows = rows.set_column(place, rows.schema.field(place), values.cast(rows.schema.field(place).type))
    return rows


def network_of(warehouse: str) -> Callable[[bytes], float]:
    """The seconds of the network for one picture."""
    snapshot = ims.open(warehouse).snapshot
    prepared = published.prepare_published(snapshot, FINGERPRINT, None, HttpSettings())
    network, cut = prepared.load("cpu", batch=1), published.from_images(snapshot, FINGERPRINT).framing

    def seconds(content: bytes) -> float:
        square = framing.framed(content, [cut], 1 << 30).squares[0].copy()
        began = time.perf_counter()
        network(square[None])
        return time.perf_counter() - began

    return seconds


# -- the server --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    process: "subprocess.Popen[str]"
    port: int
    token: str

    def post(self, content: bytes) -> float:
        return self._ask("POST", "/similar", content)

    def get(self, image_id: str) -> float:
        return self._ask("GET", f"/similar?id={image_id}", None)

    def _ask(self, method: str, path: str, content: bytes | None) -> float:
        """The seconds until the whole answer is there."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request(method, path, content, {"Authorization": f"Bearer {self.token}"})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {body[:300]!r}")
        return time.perf_counter() - began

    def peak(self) -> tuple[int, int]:
        """Bytes: of private memory now, and the most with pages of mapped files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        private, whole = (int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) for name in ("RssAnon", "VmHWM"))
        return private << 10, whole << 10


@contextmanager
def served(warehouse: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "image_similarity.command", "serve", "--warehouse", warehouse, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline() + process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]+)", said)
        if address is None:
            raise SystemExit(f"the server does not start: {said}")
        yield Server(process, int(address[1]), address[2])
    finally:
        process.terminate()
        process.wait()


def timed(ask: Callable[[Any], float], questions: Sequence[Any], clients: int) -> list[float]:
    """The seconds that ``ask`` tells of ``questions``. Each client asks for its share, one after the other."""
    with ThreadPoolExecutor(clients) as pool:
        shares = [questions[number::clients] for number in range(clients)]
        return [seconds for share in pool.map(lambda share: list(map(ask, share)), shares) for seconds in share]


if __name__ == "__main__":
    main()
