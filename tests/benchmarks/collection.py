"""How long a published collection takes to open and read, and what memory that needs.

``collection.py FOLDER --images 1000000 --dimensions 64`` writes a warehouse of random vectors and lists to FOLDER, if
it is not there yet, and reads it in processes of their own: ``cold`` makes the copy of the vectors, ``warm`` maps it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]

from image_similarity.warehouse import parquet  # noqa: E402
from image_similarity.warehouse.schemas import SCHEMAS  # noqa: E402
from warehouses import Made  # noqa: E402

_FINGERPRINT, _KEY, _SLOT = "vgg16-fc2", "k1", "vgg16-fc2/cosine"
_VECTORS_AT_ONCE, _LISTS_AT_ONCE = 2048, 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("-k", type=int, default=12, help="similar, and dissimilar, neighbours of each image")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        return _read(str(arguments.folder), arguments.read)
    if not (arguments.folder / "_current.json").exists():
        _write(str(arguments.folder), arguments.images, arguments.dimensions, arguments.k)
    with tempfile.TemporaryDirectory(dir=arguments.folder.parent) as cache:
        paths = {**os.environ, "XDG_CACHE_HOME": cache, "IMAGE_SIMILARITY_CACHE_BYTES": str(2**50)}
        for what in ("cold", "warm", "measured", "measured again", "lists", "images", "changes"):
            if what in ("lists", "changes") and not arguments.k:
                continue
            subprocess.run([sys.executable, __file__, str(arguments.folder), "--read", what], env=paths, check=True)


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(folder: str, what: str) -> None:
    began = time.perf_counter()
    import image_similarity as ims

    collection = ims.open(folder)
    opened = time.perf_counter()
    reads: dict[str, Callable[[], Any]] = {
        "cold": lambda: collection.embeddings().vectors.shape,
        "warm": lambda: collection.embeddings().vectors.shape,
        "measured": lambda: collection.store().measured("cosine").scale.shape,
        "measured again": lambda: collection.store().measured("cosine").scale.shape,
        "lists": lambda: collection.neighbours().shape,
        "images": lambda: collection.images().shape,
        "changes": lambda: collection.changes().shape,
    }
    result = reads[what]()
    done = time.perf_counter()
    print(
        f"{what:16} {result!s:18} import and open {opened - began:5.2f} s, read {done - opened:7.2f} s, "
        f"memory {_peak('RssAnon') / 2**20:9,.0f} MiB now, {_peak('VmHWM') / 2**20:9,.0f} MiB at most with mapped files"
    )


def _peak(name: str) -> int:
    """Bytes, as the system counts them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


# -- writing -----------------------------------------------------------------------------------------------------------


def _write(folder: str, images: int, dimensions: int, k: int) -> None:
    random = np.random.default_rng(0)
    made = Made(folder)
    ids = np.array(sorted(f"folder-{image % 100:02}/picture-{image:08}.jpg" for image in range(images)), dtype=object)
    contents = np.array([f"{image * 0x9E3779B97F4A7C15 % 2**64:064x}" for image in range(images)], dtype=object)
    about = {"image_id": pa.array(ids), "source_version": pa.array(["1"]).take(pa.array(np.zeros(images, np.int32)))}
    manifest = {**about, "uri": pa.array([f"/pictures/{name}" for name in ids])}
    made.publish("build_manifest", "", {"manifest": {"": pa.table(manifest)}}, counts={"images": images})
    embeddings = {**about, "fingerprint_key": pa.array([_KEY] * images), "content_sha256": pa.array(contents)}
    tables = {"embeddings": {_FINGERPRINT: pa.table(embeddings)}, "vectors": {_KEY: _none("vectors")}}
    settings = {"fingerprint_key": _KEY}
    run = made.publish("embed_images", _FINGERPRINT, tables, append={"vectors": _KEY}, settings=settings)
    order = random.permutation(images)
    for part, rows in enumerate(np.array_split(order, 4)):
        file = f"{folder}/vectors/run_id={run}/part-{part:05}.parquet"
        parquet.write_file(file, SCHEMAS["vectors"], _vectors(random, contents, rows, dimensions))
    for _ in range(2 if k else 0):
        run = made.publish("find_neighbours", _SLOT, {"neighbours": {_SLOT: _none("neighbours")}})
        file = f"{folder}/neighbours/run_id={run}/part-00000.parquet"
        parquet.write_file(file, SCHEMAS["neighbours"], _lists(random, ids, k))


def _none(table: str) -> pa.Table:
    return SCHEMAS[table].empty_table()


def _vectors(random: np.random.Generator, contents: Any, rows: Any, dimensions: int) -> Iterator[pa.Table]:
    for start in range(0, len(rows), _VECTORS_AT_ONCE):
        chosen = rows[start : start + _VECTORS_AT_ONCE]
        values = random.random((len(chosen), dimensions), np.float32)
        ends = np.arange(0, values.size + 1, dimensions, dtype=np.int32)
        columns = {"content_sha256": contents[chosen], "embedding": pa.ListArray.from_arrays(ends, values.ravel())}
        yield parquet.in_schema(pa.table(columns), SCHEMAS["vectors"])


def _lists(random: np.random.Generator, ids: Any, k: int) -> Iterator[pa.Table]:
    for start in range(0, len(ids), _LISTS_AT_ONCE):
        names = np.repeat(ids[start : start + _LISTS_AT_ONCE], k)
        rank = np.tile(np.arange(1, k + 1, dtype=np.int32), len(names) // k)
        for relation in ("similar", "dissimilar"):
            others = ids[random.integers(0, len(ids), len(names))]
            words = {"fingerprint": _FINGERPRINT, "metric": "cosine", "method": "exact", "relation": relation}
            repeated = {name: pa.repeat(word, len(names)) for name, word in words.items()}
            columns = {"image_id": names, "rank": rank, "neighbour_id": others, "distance": rank / np.float32(k)}
            yield parquet.in_schema(pa.table({**columns, **repeated}), SCHEMAS["neighbours"])


if __name__ == "__main__":
    main()
