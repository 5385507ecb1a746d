"""Near-duplicate groups of a million vectors, some of which were planted as groups of 2 to 500: seconds, memory, what
was found whole.

    .venv/bin/python tests/benchmarks/groups_million.py [--rows 1000000] [--planted 0.3] [--folder FOLDER]
    [--method auto] [--rounds 1]

Makes the vectors, finds their neighbours, groups them with the limit that the package ships (there are no pictures to
calibrate on), and compares the groups with those that were planted. Vectors and neighbours stay in ``--folder``, and
are not made again there. Prints Markdown.

A stranger is a vector that was not copied. Strangers belong to subjects of 5,000, each in 12 dimensions of its own,
with noise in all: their nearest neighbours, on the local scale, are as far as those of paintings are through
EfficientNet-Lite0 (the twentieth part is nearer than 0.68, half is nearer than 0.83). The share ``--planted`` of the
images belongs to planted groups. A group is one vector with noise, as much as gives its pairs a cosine distance of
0.001 to 0.06; the strangers' eighth neighbours are at 0.15 to 0.28. Sizes fall as their square, from 2 to 500.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.measuring import Measured, command
from benchmarks.published import Published

SUBJECT, INTRINSIC, SPREAD, NOISE = 5_000, 12, 0.8, 0.5
LARGEST = 500
PAIR_DISTANCE = (0.001, 0.06)
_ROWS_AT_ONCE = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Groups of a million vectors.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--planted", type=float, default=0.3, help="share of images in planted groups")
    parser.add_argument("--folder", type=Path, help="where vectors and neighbours stay (default: a temporary folder)")
    parser.add_argument("--method", default="auto", help="of find_neighbours")
    parser.add_argument("--neighbours-only", action="store_true", help="stop before groups")
    parser.add_argument("--rounds", type=int, default=1, help="how often groups are made of the same neighbours")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of group_images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="million-") as temporary:
        folder = arguments.folder or Path(temporary)
        planted = collection(folder, arguments.rows, arguments.dimensions, arguments.planted)
        neighbours(folder, arguments.method)
        report_neighbours(folder, planted)
        if not arguments.neighbours_only:
            grouped = [group(folder, arguments.set) for _ in range(arguments.rounds)]
            report_groups(folder, planted, grouped)


def collection(folder: Path, rows: int, dimensions: int, share: float) -> NDArray[np.int32]:
    """The planted group of each image, -1 for strangers. Vectors and groups are written once."""
    vectors, groups = folder / "vectors.parquet", folder / "planted.npy"
    if not groups.exists():
        folder.mkdir(parents=True, exist_ok=True)
        embedding, planted = made(rows, dimensions, share)
        write(embedding, vectors)
        np.save(groups, planted)
    planted = np.load(groups)
    if len(planted) != rows:
        raise SystemExit(f"{folder} has {len(planted):,} images, not {rows:,}: name another --folder")
    return np.asarray(planted, dtype=np.int32)


def made(rows: int, dimensions: int, share: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(n, d) float32 vectors, and the planted group of each (n,), -1 for strangers; the same for the same seed."""
    rng = np.random.default_rng(seed)
    sizes = planted_sizes(int(share * rows), rng)
    alone = strangers(rows - int(sizes.sum()) + len(sizes), dimensions, rng)
    first, rest = alone[: len(sizes)], alone[len(sizes) :]
    group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    distance = np.exp(rng.uniform(np.log(PAIR_DISTANCE[0]), np.log(PAIR_DISTANCE[1]), len(sizes)))
    noise = (np.sqrt(distance / dimensions) * np.linalg.norm(first, axis=1)).astype(np.float32)
    copies = first[group]
    for some in np.array_split(np.arange(len(copies)), -(-len(copies) // _ROWS_AT_ONCE)):
        copies[some] += noise[group[some], None] * rng.standard_normal((len(some), dimensions), dtype=np.float32)
    order = rng.permutation(rows)
    planted = np.concatenate([group, np.full(len(rest), -1, dtype=np.int32)])
    return np.concatenate([copies, rest])[order], planted[order]


def planted_sizes(images: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sizes of groups that together have about ``images`` images; the largest is there once at least."""
    possible = np.arange(2, LARGEST + 1)
    chance = 1.0 / possible**2
    sizes = rng.choice(possible, images // 2, p=chance / chance.sum())
    sizes[0] = min(LARGEST, images)
    return np.asarray(sizes[: max(1, int(np.searchsorted(np.cumsum(sizes), images, side="right")))], dtype=np.int64)


def strangers(rows: int, dimensions: int, rng: np.random.Generator) -> NDArray[np.float32]:
    subjects = max(1, rows // SUBJECT)
    subject = np.sort(rng.integers(0, subjects, rows))
    ends = np.searchsorted(subject, np.arange(subjects + 1))
    vectors = np.empty((rows, dimensions), dtype=np.float32)
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        centre = rng.standard_normal(dimensions, dtype=np.float32)
        basis = np.float32(SPREAD / INTRINSIC**0.5) * rng.standard_normal((INTRINSIC, dimensions), dtype=np.float32)
        inside = rng.standard_normal((end - start, INTRINSIC), dtype=np.float32) @ basis
        noise = np.float32(NOISE) * rng.standard_normal((end - start, dimensions), dtype=np.float32)
        vectors[start:end] = centre + inside + noise
    return np.asarray(rng.permutation(vectors), dtype=np.float32)


def write(vectors: NDArray[np.float32], file: Path) -> None:
    rows, dimensions = vectors.shape
    schema = pa.schema({"image_id": pa.string(), "embedding": pa.list_(pa.float32())})
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, rows, _ROWS_AT_ONCE):
            some = vectors[start : start + _ROWS_AT_ONCE]
            lists = pa.FixedSizeListArray.from_arrays(some.ravel(), dimensions).cast(pa.list_(pa.float32()))
            ids = pa.array([name(row) for row in range(start, start + len(some))])
            writer.write_table(pa.Table.from_arrays([ids, lists], schema=schema))


def name(row: int) -> str:
    return f"{row:08d}.jpg"


def neighbours(folder: Path, method: str) -> None:
    if Published(folder / "warehouse").has("neighbours"):
        return
    options = ["--method", method, "--dissimilar", "0", "--embeddings", str(folder / "vectors.parquet")]
    command("find_neighbours", "--warehouse", str(folder / "warehouse"), *options, echo=True)


def group(folder: Path, settings: list[str]) -> Measured:
    """As the first time: nothing of a run before is kept."""
    shutil.rmtree(folder / "warehouse" / "_state" / "group_images", ignore_errors=True)
    options = [text for setting in settings for text in ("--set", setting)]
    options = ["--warehouse", str(folder / "warehouse"), "--fingerprint", "external", *options]
    return command("group_images", *options, echo=True)


ROW = "CAST(split_part({}, '.', 1) AS INTEGER)"
"""The row of an image, in SQL."""


def report_neighbours(folder: Path, planted: NDArray[np.int32]) -> None:
    """How much of the planted groups the lists hold: the rest can be found by range search alone."""
    published = Published(folder / "warehouse")
    entries = published.columns(
        f"SELECT {ROW.format('image_id')} AS image, {ROW.format('neighbour_id')} AS neighbour, rank"
        " FROM neighbours WHERE relation = 'similar'"
    )
    ranks = int(entries["rank"].max())
    size = np.bincount(planted[planted >= 0])
    group = planted[entries["image"]]
    copies = (group >= 0) & (group == planted[entries["neighbour"]])
    record = published.record("find_neighbours", "external")
    print(f"{len(planted):,} vectors; {len(size):,} planted groups of 2 to {size.max()}, with {size.sum():,} images")
    recall = "exact" if record["recall"] is None else f"recall {record['recall']:.4f}"
    print(f"neighbours: {record['seconds']:.0f} s, {recall}")
    for what, some in ((f"{ranks + 1} or fewer", size <= ranks + 1), ("more", size > ranks + 1)):
        wanted = int((size[some] * np.minimum(size[some] - 1, ranks)).sum())
        listed = int(some[group[copies]].sum())
        print(f"of the copies that lists have room for, in groups of {what}: {listed:,} of {wanted:,}")
    print()


def report_groups(folder: Path, planted: NDArray[np.int32], rounds: list[Measured]) -> None:
    published = Published(folder / "warehouse")
    rows = published.columns(
        f"SELECT {ROW.format('image_id')} AS image, group_id FROM groups WHERE kind = 'near-duplicates' AND level = 0"
    )
    _, group = np.unique(rows["group_id"].astype(str), return_inverse=True)
    found = np.full(len(planted), -1, dtype=np.int64)
    found[rows["image"]] = group
    record = published.record("group_images", "external")
    print("| | |\n| :-- | --: |")
    for what, value in {
        "limit": json.dumps(record["settings"].get("limit")),
        "seconds, start of Python included": f"{statistics.median(each.seconds for each in rounds):.1f}",
        "peak memory, the job's process": f"{max(each.own for each in rounds) / 2**20:,.0f} MiB",
        "peak memory, its largest other process": f"{max(each.largest_other for each in rounds) / 2**20:,.0f} MiB",
        "groups": f"{group.max() + 1:,}",
        **planted_found(planted, found),
    }.items():
        print(f"| {what} | {value} |")


def planted_found(planted: NDArray[np.int32], found: NDArray[np.int64]) -> dict[str, str]:
    """What became of the planted groups, by size, and of strangers."""
    sizes = np.bincount(planted[planted >= 0])
    members = np.nonzero((planted >= 0) & (found >= 0))[0]
    both, counts = np.unique(np.stack([planted[members], found[members]]), axis=1, return_counts=True)
    most = np.zeros(len(sizes), dtype=np.int64)
    np.maximum.at(most, both[0], counts)
    rows = {}
    for low, high in ((2, 2), (3, 8), (9, 13), (14, 50), (51, LARGEST)):
        some = (sizes >= low) & (sizes <= high)
        together = (most[some] * (most[some] - 1)).sum() / max(1, (sizes[some] * (sizes[some] - 1)).sum())
        whole = int((most[some] == sizes[some]).sum())
        rows[f"planted groups of {low} to {high} found whole"] = f"{whole:,} of {int(some.sum()):,}"
        rows[f"planted groups of {low} to {high}, pairs in their largest parts"] = f"{together:.4f}"
    rows["strangers in a group"] = f"{int((found[planted < 0] >= 0).sum()):,} of {int((planted < 0).sum()):,}"
    rows["groups with images of two planted groups"] = f"{int((np.unique(both[1], return_counts=True)[1] > 1).sum()):,}"
    rows["cores"] = str(len(os.sched_getaffinity(0)))
    return rows


if __name__ == "__main__":
    main()
