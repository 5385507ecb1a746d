"""How well the map keeps what is near: UMAP, grids by other programs, ours, and one at random; and how long it takes.

    .venv/bin/python tests/benchmarks/map_layout.py FOLDER [...] --weights efficientnet-lite0-imagenet.pt2
    .venv/bin/python tests/benchmarks/map_layout.py --nodes 30000 200000

Of each folder of pictures (identical files count once): the share of the 10 nearest that are among the 24 around, the
trustworthiness of the 10 around, and whether what is far is far: Spearman's correlation of the distances of 20,000
pairs in the plane with those of their vectors. Then the same share for images that come later, after a layout without
them: see `later`. The program takes pictures as EfficientNet-Lite0 does, and its first
output is the vector. ``--nodes``: seconds and memory of the layout of so many made-up nodes. Each layout is made twice,
in processes with one and two threads, and must be the same bytes. RasterFairy is in no extra, since it asks for what
it does not need: `pip install --no-deps rasterfairy`. Prints Markdown.
"""

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

from image_similarity.imaging.framing import Framing
from image_similarity.knn import all_pairs
from image_similarity.mapping import bisection, extend, grid, preservation
from image_similarity.mapping.graph_start import graph_start
from image_similarity.mapping.layout import lay_out
from image_similarity.mapping.placement import beside
from image_similarity.mapping.sample import choose, sampled

Nodes = NDArray[np.int32]
Places = NDArray[Any]
Vectors = NDArray[np.float32]

FRAMING = Framing(256, 224, "bicubic", scaled=False)
MEAN, DEVIATION = 0.498, 0.502
BATCH = 25
PICTURES = (".jpg", ".jpeg", ".png")
K = 12
FREE = 0.12
PAIRS = 20_000
QUERIES = 500
SAMPLES = (2, 5)
"""One in so many images is laid out; the others are placed."""
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a program of torch.export")
    parser.add_argument("--nodes", nargs="+", type=int, default=[], metavar="N")
    parser.add_argument("--lay-out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.lay_out:
        return laid_out(given.lay_out)
    if given.folders and not given.weights:
        parser.error("folders need --weights")
    if given.folders:
        print("| pictures | | seconds | kept | trustworthiness | far is far |")
        print("| --- | --- | --: | --: | --: | --: |", flush=True)
    vectors = {folder.name: vectors_of(pictures(folder), given.weights) for folder in given.folders}
    for name in vectors:
        compare(name, vectors[name])
    if given.folders:
        print("\n| pictures | new | in a new layout | in the layout before | all before | all | moved for each |")
        print("| --- | --- | --: | --: | --: | --: | --: |", flush=True)
    for name in vectors:
        later(name, vectors[name])
    if given.nodes:
        print("\n| nodes | threads | seconds | of them the start | MiB | bytes |")
        print("| --: | --: | --: | --: | --: | --- |", flush=True)
    for nodes in given.nodes:
        repeat(nodes)


# -- pictures ----------------------------------------------------------------------------------------------------------


def pictures(folder: Path) -> list[Path]:
    """One file of each content, by name."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
    return list({hashlib.sha256(file.read_bytes()).digest(): file for file in reversed(files)}.values())[::-1]


def vectors_of(files: Sequence[Path], weights: Path) -> Vectors:
    """(n, d), of length 1: in a plain loop, without any of the library's own inference."""
    network = torch.export.load(weights).module()
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            squares = [FRAMING.fit(Image.open(file).convert("RGB")) for file in files[start : start + BATCH]]
            pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2) / 255
            vectors.append(network((pixels - MEAN) / DEVIATION)[0].numpy())
    values = np.concatenate(vectors)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))


def lists(vectors: Vectors) -> tuple[Nodes, Vectors]:
    similar, _ = all_pairs.neighbours(np.ascontiguousarray(vectors), "cosine", K, 0)
    neighbour = np.full((len(vectors), K), -1, dtype=np.int32)
    distance = np.full((len(vectors), K), np.inf, dtype=np.float32)
    rank = similar.rank - 1
    neighbour[similar.row, rank], distance[similar.row, rank] = similar.neighbour, similar.distance
    return neighbour, distance


# -- methods -----------------------------------------------------------------------------------------------------------


def compare(name: str, vectors: Vectors) -> None:
    neighbour, distance = lists(vectors)
    columns, rows = grid.shape(len(vectors), FREE)
    title = f"{name}, {len(vectors):,}"
    grid.snap(lay_out(*made_up(100), SEED), made_up(100)[0], *grid.shape(100, FREE), SEED)  # compiled, not timed
    places: dict[str, Places] = {}
    for method, place in methods(vectors, neighbour, distance, columns, rows, places):
        start = time.perf_counter()
        places[method] = place()
        seconds = time.perf_counter() - start
        report(f"| {title} | {method} | {seconds:.1f}", places[method], vectors, neighbour)
    print(f"| {title} | chance of a grid | | {preservation.by_chance(len(vectors), columns, rows):.3f} | | |")


def methods(
    vectors: Vectors, neighbour: Nodes, distance: Vectors, columns: int, rows: int, places: dict[str, Places]
) -> Iterator[tuple[str, Callable[[], Places]]]:
    """Each method, and what gives its places. Later ones begin with the ``places`` of those before them."""
    n, every = len(vectors), np.ones((rows, columns), dtype=np.bool_)

    def on_grid(layout: str) -> Callable[[], Places]:
        return lambda: grid.snap(places[layout], neighbour, columns, rows, SEED)

    yield "layout: PCA alone", lambda: principal(vectors)
    yield "layout: our start", lambda: graph_start(neighbour, distance, SEED)
    yield "layout: UMAP's own, from vectors", lambda: umap_alone(vectors)
    yield "layout: ours", lambda: lay_out(neighbour, distance, SEED)
    yield "grid: assignment of ours", lambda: assigned(places["layout: ours"], columns, rows)
    if find_spec("rasterfairy"):
        yield "grid: RasterFairy of ours", lambda: by_rasterfairy(places["layout: ours"])
    yield "grid: bisection of ours", lambda: bisection.bisected(places["layout: ours"], every, True)[0]
    yield "grid: ours", on_grid("layout: ours")
    yield "grid: ours, of our start", on_grid("layout: our start")
    for share in SAMPLES:
        yield f"layout: ours, of 1 in {share}", partial(placed, neighbour, distance, share)
        yield f"grid: ours, of 1 in {share}", on_grid(f"layout: ours, of 1 in {share}")
    yield "grid: at random", lambda: at_random(n, columns, rows)


def principal(vectors: Vectors) -> Places:
    centred = vectors - vectors.mean(axis=0)
    return np.asarray(centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T)


def umap_alone(vectors: Vectors) -> Places:
    """As it comes, with a seed, the same number of neighbours, and neighbours that it finds."""
    from umap import UMAP

    return np.asarray(UMAP(n_neighbors=K + 1, metric="cosine", random_state=SEED, n_jobs=1).fit_transform(vectors))


def assigned(places: Places, columns: int, rows: int) -> Places:
    """The assignment with the least sum of squared distances from the layout, stretched over the grid."""
    low, high = places.min(axis=0), places.max(axis=0)
    stretched = (places - low) / (high - low) * [columns - 1, rows - 1]
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    apart = ((stretched[:, None] - cells) ** 2).sum(axis=2)
    return np.asarray(cells[linear_sum_assignment(apart)[1]], dtype=np.int32)


def by_rasterfairy(places: Places) -> Places:
    """RasterFairy 1.0.6, in as few cells as it can. It rounds coordinates, and calls a name that numpy has given up."""
    import rasterfairy

    if not hasattr(np, "float"):
        np.float = float  # type: ignore[attr-defined]
    columns = round(np.sqrt(len(places) * 4 / 3))
    cells, _ = rasterfairy.transformPointCloud2D(places * 1e6, target=(columns, -(-len(places) // columns)))
    return np.asarray(np.rint(cells), dtype=np.int32)


def placed(neighbour: Nodes, distance: Vectors, share: int) -> Places:
    """One in ``share`` laid out, and the others placed."""
    n = len(neighbour)
    chosen = choose(np.arange(n, dtype=np.uint64), n // share)
    positions, known = np.zeros((n, 2)), np.zeros(n, dtype=np.bool_)
    positions[chosen], known[chosen] = lay_out(*sampled(neighbour, distance, chosen), SEED), True
    return beside(positions, known, neighbour, distance)


def at_random(n: int, columns: int, rows: int) -> Places:
    cell = np.random.default_rng(SEED).permutation(columns * rows)[:n]
    return np.stack([cell % columns, cell // columns], axis=1).astype(np.int32)


def later(name: str, vectors: Vectors) -> None:
    """Prints the share that is kept of images that come later, and how many known ones move for each of them."""
    n = len(vectors)
    every, order = np.arange(n), np.random.default_rng(SEED).permutation(n)
    neighbour, distance = lists(vectors)
    anew = grid.snap(lay_out(neighbour, distance, SEED), neighbour, *grid.shape(n, FREE), SEED)
    alike = np.argsort(-vectors @ vectors[order[0]], kind="stable")
    for title, new in {
        "1 in 100": order[: max(n // 100, 1)],
        "1 in 20": order[: max(n // 20, 1)],
        "1 in 20, alike": alike[: max(n // 20, 1)],
    }.items():
        known = np.isin(every, new, invert=True)
        positions, cell = np.zeros((n, 2)), np.full((n, 2), -1, dtype=np.int32)
        lists_before, columns_and_rows = lists(vectors[known]), grid.shape(int(known.sum()), FREE)
        positions[known] = lay_out(*lists_before, SEED)
        cell[known] = grid.snap(positions[known], lists_before[0], *columns_and_rows, SEED)
        positions = beside(positions, known, neighbour, distance)
        after = extend.extend(cell, known, positions, neighbour, *columns_and_rows, SEED)
        assert after is not None
        before = near(cell[known], lists_before[0], np.arange(len(lists_before[0])))
        shares = [near(anew, neighbour, new), near(after, neighbour, new), before, near(after, neighbour, every)]
        moved = (after != cell)[known].any(axis=1).sum() / len(new)
        print(f"| {name} | {title} | {' | '.join(f'{share:.3f}' for share in shares)} | {moved:.1f} |", flush=True)


# -- measures ----------------------------------------------------------------------------------------------------------


def report(line: str, places: Places, vectors: Vectors, neighbour: Nodes) -> None:
    random = np.random.default_rng(SEED)
    kept = preservation.kept_on_grid if places.dtype == np.int32 else preservation.kept_on_layout
    queries = np.sort(random.permutation(len(vectors))[:QUERIES])
    similarity = vectors[queries] @ vectors.T
    similarity[np.arange(len(queries)), queries] = np.inf
    ranks = np.argsort(np.argsort(-similarity, axis=1, kind="stable"), axis=1).astype(np.int32)
    trust = preservation.trustworthiness(places, queries, ranks)
    one, other = random.integers(0, len(vectors), (2, PAIRS))
    apart = np.linalg.norm((places[one] - places[other]).astype(np.float64), axis=1)
    far = spearmanr(apart, 1 - (vectors[one] * vectors[other]).sum(axis=1))[0]
    print(f"{line} | {kept(places, neighbour):.3f} | {trust:.3f} | {far:.2f} |", flush=True)


def near(cell: Places, neighbour: Nodes, images: NDArray[np.int64]) -> float:
    """The share of the nearest of ``images`` that are within the cells around."""
    nearest = neighbour[images, : preservation.NEAREST]
    return float((np.abs(cell[nearest] - cell[images][:, None]).max(axis=2) <= preservation.REACH).mean())


# -- made-up nodes -----------------------------------------------------------------------------------------------------


def repeat(nodes: int) -> None:
    """The layout by two processes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lists.npz"
        neighbour, distance = made_up(nodes)
        np.savez(file, neighbour=neighbour, distance=distance)
        for threads in ("1", "2"):
            environment = os.environ | {"NUMBA_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
            command = [sys.executable, __file__, "--lay-out", str(file)]
            row = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
            print(f"| {nodes:,} | {threads} | {row}", flush=True)


def laid_out(file: Path) -> None:
    """Print what one layout takes, with what is compiled in a process, and the beginning of its hash."""
    with np.load(file) as arrays:
        neighbour, distance = arrays["neighbour"], arrays["distance"]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    graph_start(neighbour, distance, SEED)
    middle = time.perf_counter()
    places = lay_out(neighbour, distance, SEED)
    end, most = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hashed = hashlib.sha256(places.tobytes()).hexdigest()[:12]
    print(f"{end - middle:.0f} | {middle - start:.0f} | {(most - before) / 1024:.0f} | {hashed} |")


def made_up(nodes: int) -> tuple[Nodes, Vectors]:
    """The neighbours of points in six dimensions, in clusters that touch."""
    random = np.random.default_rng(SEED)
    middles = random.standard_normal((nodes // 100 + 1, 6))
    points = middles[random.integers(0, len(middles), nodes)] + 0.3 * random.standard_normal((nodes, 6))
    distance, neighbour = cKDTree(points).query(points, K + 1)
    return neighbour[:, 1:].astype(np.int32), distance[:, 1:].astype(np.float32)


if __name__ == "__main__":
    main()
