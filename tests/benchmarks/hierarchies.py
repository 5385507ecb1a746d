"""Groups of what belongs together, on labelled pictures: ours at each level, FINCH and HDBSCAN, and the time for many.

    .venv/bin/python tests/benchmarks/hierarchies.py VECTORS.npz NAMES.json [--fingerprints effnet squeeze hist]
    .venv/bin/python tests/benchmarks/hierarchies.py --nodes 1000000

VECTORS has an (n, d) array for each fingerprint, NAMES the path of each row. A picture in a folder `ukbench` shows
object number // 4, where number is the last digits of its name. All others have no partner; their folder is a style.
Identical files are one node. Reports precision, recall and F1 of pairs, among all nodes and among those of ukbench
alone, and the purity of folders against chance (labels drawn at random for the same groups). Prints Markdown.
"""

import argparse
import hashlib
import json
import resource
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import HDBSCAN

from image_similarity.grouping import hierarchy
from image_similarity.knn import all_pairs

Labels = NDArray[np.int32]
SETS = (("ukbench",), ("ukbench", "wikiart"), ("wikiart",))
K = 12


def main() -> None:
    parser = argparse.ArgumentParser(description="Groups of what belongs together.")
    parser.add_argument("vectors", nargs="?", type=Path)
    parser.add_argument("names", nargs="?", type=Path)
    parser.add_argument("--fingerprints", nargs="+", default=["effnet", "squeeze", "hist"])
    parser.add_argument("--nodes", type=int, help="only how long so many made-up nodes take")
    arguments = parser.parse_args()
    if arguments.nodes:
        return timed(arguments.nodes)
    if not arguments.names:
        parser.error("name VECTORS.npz and NAMES.json, or --nodes")
    names = [Path(name) for name in json.loads(arguments.names.read_text())]
    with np.load(arguments.vectors) as vectors:
        print("| fingerprint, pictures | groups by | groups | in groups | largest | P | R | F1 | ukbench P | purity |")
        print("| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |")
        for fingerprint in arguments.fingerprints:
            for folders in SETS:
                measure(fingerprint, folders, names, vectors[fingerprint])


def measure(fingerprint: str, folders: tuple[str, ...], names: list[Path], vectors: NDArray[np.float32]) -> None:
    rows = nodes(names, folders)
    style = np.array([names[row].parent.name for row in rows])
    truth = np.array([int(names[row].stem[-5:]) // 4 if at == "ukbench" else -1 for row, at in zip(rows, style)])
    values = vectors[rows]
    (neighbour, distance) = lists(values)
    units = values / np.linalg.norm(values, axis=1, keepdims=True)
    found = {f"level {i}": labels for i, labels in enumerate(hierarchy.levels(neighbour, distance))}
    found |= {f"FINCH, round {i}": labels for i, labels in enumerate(finch(neighbour, distance))}
    found["HDBSCAN"] = HDBSCAN(min_cluster_size=2, metric="euclidean", copy=True).fit_predict(units)
    for name, labels in found.items():
        size = np.bincount(labels[labels >= 0], minlength=1)
        quality = " | ".join(f"{number:.3f}" for number in scores(labels, truth))
        own = scores(np.where(truth >= 0, labels, -1), truth)[0]
        counts = f"{(size > 0).sum()} | {size.sum() / len(rows):.0%} | {size.max()}"
        where = f"{fingerprint}, {' + '.join(folders)}"
        print(f"| {where} | {name} | {counts} | {quality} | {own:.3f} | {purity(labels, style)} |", flush=True)


def nodes(names: list[Path], folders: tuple[str, ...]) -> list[int]:
    """Rows of pictures in ``folders``, by name, the first of each content."""
    contents: dict[str, int] = {}
    for row in sorted(range(len(names)), key=lambda row: names[row]):
        if set(folders) & set(names[row].parts):
            contents.setdefault(hashlib.sha256(names[row].read_bytes()).hexdigest(), row)
    return list(contents.values())


def lists(values: NDArray[np.float32]) -> tuple[Labels, NDArray[np.float32]]:
    similar, _ = all_pairs.neighbours(np.ascontiguousarray(values), "cosine", K, 0)
    neighbour = np.full((len(values), K), -1, dtype=np.int32)
    distance = np.full((len(values), K), np.inf, dtype=np.float32)
    rank = similar.rank - 1
    neighbour[similar.row, rank], distance[similar.row, rank] = similar.neighbour, similar.distance
    return neighbour, distance


def finch(neighbour: Labels, distance: NDArray[np.float32], rounds: int = 2) -> list[Labels]:
    """First-neighbour relations (Sarfraz et al. 2019), by the mean distance of listed pairs after the first round."""
    n = len(neighbour)
    a, b, apart = np.repeat(np.arange(n), neighbour.shape[1]), neighbour.ravel(), distance.ravel()
    labels, found = np.arange(n), []
    for _ in range(rounds):
        between = labels[a] != labels[b]
        key, which = np.unique(labels[a][between] * n + labels[b][between], return_inverse=True)
        mean = np.bincount(which, apart[between]) / np.bincount(which)
        order = np.lexsort((mean, key // n))
        _, first = np.unique(key[order] // n, return_index=True)
        near = key[order][first]
        graph = coo_matrix((np.ones(len(near)), (near // n, near % n)), shape=(n, n))
        labels = connected_components(graph, directed=False)[1][labels]
        found.append(np.unique(labels, return_inverse=True)[1].astype(np.int32))
    return found


def pairs(labels: NDArray[np.int64] | Labels) -> int:
    size = np.bincount(labels[labels >= 0], minlength=1)
    return int((size * (size - 1) // 2).sum())


def scores(labels: Labels, truth: NDArray[np.int64]) -> tuple[float, float, float]:
    both = (labels >= 0) & (truth >= 0)
    right = pairs(np.unique(labels[both].astype(np.int64) * len(labels) + truth[both], return_inverse=True)[1])
    precision, recall = right / max(1, pairs(labels)), right / max(1, pairs(truth))
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


def purity(labels: Labels, style: NDArray[np.str_]) -> str:
    """The share of images in groups that are of their group's commonest folder, and what chance gives."""
    _, label = np.unique(style, return_inverse=True)
    random, member = np.random.default_rng(0), labels >= 0
    if not member.any():
        return ""

    def share(of: NDArray[np.int64]) -> float:
        table = np.zeros((labels.max() + 1, of.max() + 1))
        np.add.at(table, (labels[member], of[member]), 1)
        return float(table.max(axis=1).sum() / member.sum())

    return f"{share(label):.3f} ({np.mean([share(random.permutation(label)) for _ in range(20)]):.3f})"


def timed(n: int) -> None:
    """Half of the nodes uniform in a cube, half in groups of about 4."""
    from scipy.spatial import cKDTree

    random = np.random.default_rng(0)
    points, centres = random.random((n, 3)), random.random((n // 8, 3))
    grouped = random.random(n) < 0.5
    points[grouped] = centres[random.integers(0, len(centres), grouped.sum())]
    points[grouped] += 0.08 / n ** (1 / 3) * random.standard_normal((grouped.sum(), 3))
    distance, neighbour = cKDTree(points).query(points, K + 1, workers=-1)
    neighbour, distance = neighbour[:, 1:].astype(np.int32), distance[:, 1:].astype(np.float32)
    del points, centres
    before, start, wall = peak(), time.process_time(), time.perf_counter()
    found = hierarchy.levels(neighbour, distance)
    middle = time.process_time()
    for labels in found:
        hierarchy.described(neighbour, distance, labels)
    print(f"{n:,} nodes: levels {middle - start:.1f} s, described {time.process_time() - middle:.1f} s of one core")
    print(f"{time.perf_counter() - wall:.1f} s by the clock; peak {peak():.0f} MiB, {before:.0f} MiB before")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
