"""How long the answer to one picture takes: the first of a process, from its start, and the next ones.

    .venv/bin/python tests/benchmarks/search_one.py WAREHOUSE [FINGERPRINT ...] [--rounds 3]
    .venv/bin/python tests/benchmarks/search_one.py --images 30000 --values 4096

Searches for pictures that are drawn, so the collection has none of them; for the bytes of one that it has; and for an
image by its id. With ``--images`` a collection of random vectors is made in their place, with thumbprints and with
hashes in no order, as those of files are; images of it are searched by id alone. Cold means a new process; files are in
the page cache. Needs no Spark.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from image_similarity.stages.embeddings.checkpoints import as_lists
from image_similarity.storage.filesystems import files_of
from image_similarity.warehouse.parquet import write_file
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer

WARM = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("warehouse", nargs="?", type=Path)
    parser.add_argument("fingerprints", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--values", type=int, default=4096)
    parser.add_argument("--asked", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.asked:
        ask(*arguments.asked)
        return
    print("| fingerprint | images x values | query | cold, s | warm, ms |\n|---|--:|---|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        warehouse = arguments.warehouse
        if arguments.images:
            warehouse = Path(folder, "warehouse")
            make(warehouse, arguments.images, arguments.values)
        elif warehouse is None:
            parser.error("give a warehouse, or --images")
        import image_similarity as ims

        collection = ims.open(warehouse)
        for fingerprint in arguments.fingerprints or list(collection.snapshot.slots("embeddings")):
            shape = "{:,} x {:,}".format(*collection.embeddings(fingerprint).vectors.shape)  # and the copy is made
            for query in ("id", *(() if arguments.images else ("its bytes", "a new picture"))):
                cold, warm = measured(warehouse, fingerprint, query, arguments.rounds)
                print(f"| {fingerprint} | {shape} | {query} | {cold:.2f} | {1000 * warm:.0f} |", flush=True)


def measured(warehouse: Path, fingerprint: str, query: str, rounds: int) -> tuple[float, float]:
    """Seconds of a process with one search, and of another search in it; medians."""
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(rounds):
        for kind, seconds in (("cold", cold), ("warm", warm)):
            command = [sys.executable, __file__, "--asked", str(warehouse), fingerprint, f"{kind} {query}"]
            start = time.perf_counter()
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds.append(time.perf_counter() - start if kind == "cold" else float(told))
    return statistics.median(cold), statistics.median(warm)


def ask(warehouse: str, fingerprint: str, what: str) -> None:
    """One search; if it is ``warm``, more of them, and the median of their seconds is printed."""
    import image_similarity as ims

    kind, _, query = what.partition(" ")
    collection = ims.open(warehouse)
    asked = queries(collection, fingerprint, query)
    collection.search(**next(asked), fingerprint=fingerprint)
    seconds = []
    for _ in range(WARM if kind == "warm" else 0):
        given = next(asked)
        start = time.perf_counter()
        collection.search(**given, fingerprint=fingerprint)
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds) if seconds else "")


def queries(collection: Any, fingerprint: str, query: str) -> Iterator[dict[str, Any]]:
    ids = collection.store(fingerprint).ids
    uris = {}
    if query == "its bytes":
        uris = {row["image_id"]: row["uri"] for row in collection.snapshot.table("manifest").to_pylist()}
    for number in range(WARM + 1):
        image_id = ids[number * 7 % len(ids)].as_py()
        if query == "id":
            yield {"image_id": image_id}
        elif query == "its bytes":
            yield {"query": Path(uris[image_id]).read_bytes()}
        else:
            yield {"query": drawn(number)}


def drawn(seed: int) -> bytes:
    """A JPEG of 640 x 480 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
    return content.getvalue()


def make(warehouse: Path, images: int, values: int) -> None:
    """A warehouse with random vectors, published as ``random``."""
    ids = [f"{number:08}" for number in range(images)]
    contents = [sha256(name.encode()).hexdigest() for name in ids]

    def rows() -> Iterator[pa.Table]:
        random = np.random.default_rng(0)
        for start in range(0, images, 1024):
            part = contents[start : start + 1024]
            vectors = np.maximum(random.standard_normal((len(part), values), dtype=np.float32), 0)
            columns = {"content_sha256": part, "fingerprint_key": ["k"] * len(part), "embedding": as_lists(vectors)}
            columns |= {"width": [640] * len(part), "height": [480] * len(part)}
            columns["thumbprint"] = [random.bytes(1024) for _ in part]
            yield table("vectors", len(part), columns)

    write_file(f"{warehouse}/vectors/run_id=r/part.parquet", SCHEMAS["vectors"], rows())
    embeddings = {"image_id": ids, "fingerprint_key": ["k"] * images, "content_sha256": contents}
    for name, columns in (("embeddings", embeddings), ("manifest", {"image_id": ids, "uri": ids})):
        write_file(f"{warehouse}/{name}/run_id=r/part.parquet", SCHEMAS[name], [table(name, images, columns)])
    now = datetime.now(timezone.utc)
    settings = {"fingerprint_key": "k", "fingerprint": {"random": {"kind": "hog"}}, "description": {"framing": FRAMING}}
    of_run: dict[str, Any] = {"run_id": "r", "label": None, "job": "embed_images", "slot": "random", "recall": None}
    of_run |= {name: {} for name in ("inputs", "outputs", "counts", "versions", "stages")}
    record = Record(**of_run, settings=settings, status="published", seconds=0.0, started_at=now, finished_at=now)
    files = files_of(str(warehouse))
    files.write(f"{warehouse}/runs/run_id=r/part.parquet", record.as_parquet())
    slots = {"embeddings": {"random": ["r"]}, "vectors": {"k": ["r"]}, "manifest": {"": ["r"]}, "runs": {"": ["r"]}}
    files.write(f"{warehouse}/{POINTER}", json.dumps({"version": 1, "tables": slots}).encode())
    assert Pointer.from_json(files.read(f"{warehouse}/{POINTER}"), POINTER).version == 1


FRAMING = {"resize": 128, "crop": 128, "interpolation": "bilinear", "squash": True, "scaled": True}


def table(name: str, count: int, columns: dict[str, Any]) -> pa.Table:
    nulls = {field.name: pa.nulls(count, field.type) for field in SCHEMAS[name]}
    return pa.table({**nulls, **columns}, schema=SCHEMAS[name])


if __name__ == "__main__":
    main()
