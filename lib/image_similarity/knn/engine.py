"""Similar and dissimilar neighbours in one process. The Spark stage does the same in many tasks."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import distances, scoring
from image_similarity.knn.backends import Backend
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.candidates import _LOW, NONE, Keys, least
from image_similarity.knn.distances import BITS_MAX, Indices, Metric, Values
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import Comparison, Screen, candidate_count

MAX_UNCERTAIN_SHARE = 0.1
"""Share of the rows that may be left to brute force. Above it, another pass in a higher precision costs less."""


@dataclass(frozen=True)
class Ranked:
    """Neighbours in long form, arrays of one length: row (int64), rank (int32, from 1), neighbour (int64), distance
    (float32).
    """

    row: Indices
    rank: NDArray[np.int32]
    neighbour: Indices
    distance: Values


def ranked(keys: Keys, index: Indices, farthest: bool) -> Ranked:
    """The lists of the rows ``index``, sorted, in long form. ``farthest``: the neighbours are dissimilar ones."""
    ordered = np.sort(keys, axis=1)
    row, place = np.nonzero(ordered != NONE)
    kept = ordered[row, place]
    bits = kept >> 32
    bits = BITS_MAX - bits if farthest else bits
    return Ranked(
        row=index[row],
        rank=(place + 1).astype(np.int32),
        neighbour=kept & _LOW,
        distance=bits.astype(np.uint32).view(np.float32),
    )


def neighbours(
    vectors: Values,
    metric: str,
    similar: int,
    dissimilar: int,
    block_rows: int | None = None,
    screen: Screen | None = None,
    backend: Backend | None = None,
    report: Callable[[str, int], None] = lambda phase, rows: None,
) -> tuple[Ranked, Ranked]:
    """Similar and dissimilar neighbours among ``vectors`` (n, d) float32.

    ``metric``: a name in `distances.METRICS`; all ``vectors`` must be usable for it. ``similar``, ``dissimilar``: the
    most neighbours of each row. ``block_rows``: vectors in a block. ``screen``: the precision of scores; by default the
    backend's fastest, and the next one where that leaves too many rows unproven. ``backend``: the processor if it is
    None. The result is the same on every backend. ``DeviceFailed`` is raised if a GPU fails. ``report``: called after
    each phase, with the number of rows that it was about.
    """
    chosen, backend = distances.METRICS[metric], backend or Cpu()
    counts = min(similar, len(vectors)), min(dissimilar, len(vectors))  # lists no longer than they can get
    parts = _parts(vectors, chosen, block_rows or backend.block_rows)
    largest = 0.0 if chosen.angular else max((float(np.abs(part.vectors.values).max()) for part in parts), default=0.0)
    common_scale = scoring.scale_of(largest, vectors.shape[1], chosen)
    report("measure", len(vectors))
    screens = [screen] if screen else backend.screens
    for precision in screens:
        comparison = Comparison(chosen, precision, vectors.shape[1], common_scale)
        lengths = [candidate_count(k, precision) for k in counts]
        strips = [backend.strip(part, comparison, *lengths) for part in parts]
        report("copy", len(vectors))
        _compare(strips)
        report(f"compare in {precision.name}", len(vectors))
        lists = [backend.rerank(strip, strips, comparison, *counts) for strip in strips]
        report("rerank", len(vectors))
        uncertain = [
            np.nonzero(~(near.certain(counts[0], len(vectors) - 1) & far.certain(counts[1], len(vectors) - 1)))[0]
            for near, far in lists
        ]
        if sum(map(len, uncertain)) <= MAX_UNCERTAIN_SHARE * len(vectors):
            break
    keys = [[of.keys[:, :k].copy() for of, k in zip(both, counts)] for both in lists]
    _complete(keys, parts, uncertain, strips, counts)
    report("certify", sum(map(len, uncertain)))
    results = [
        [ranked(of[relation], part.index, relation == 1) for of, part in zip(keys, parts)] for relation in (0, 1)
    ]
    report("table", len(vectors))
    return _joined(results[0]), _joined(results[1])


def _parts(vectors: Values, metric: Metric, block_rows: int) -> list[Part]:
    """``vectors`` as blocks. They are measured in as many threads as there are processors."""

    def part(start: int) -> Part:
        end = min(start + block_rows, len(vectors))
        measured = distances.measured(vectors[start:end], metric)
        return Part(measured, np.arange(start, end, dtype=np.int32), np.arange(start, end, dtype=np.int64))

    with ThreadPoolExecutor(os.cpu_count(), "measure") as pool:
        return list(pool.map(part, range(0, len(vectors), block_rows)))


def _compare(strips: list[Any]) -> None:
    """Compare each strip with all others and with itself."""
    for i, strip in enumerate(strips):
        for other in strips[i:]:
            strip.offer(other)


def _complete(
    keys: list[list[Keys]],
    parts: list[Part],
    uncertain: list[NDArray[np.intp]],
    strips: list[Any],
    counts: tuple[int, int],
) -> None:
    """Give the rows ``uncertain`` of each part their ``keys`` by brute force."""
    rest = [(number, rows) for number, rows in enumerate(uncertain) if len(rows)]
    for number, rows in rest:
        best = [strip.brute_force(parts[number][rows], *counts) for strip in strips]
        for relation, k in enumerate(counts):
            of_all = np.concatenate([near_and_far[relation] for near_and_far in best], axis=1)
            keys[number][relation][rows] = np.sort(least(of_all, k), axis=1)


def _joined(results: Sequence[Ranked]) -> Ranked:
    dtypes = {"row": np.int64, "rank": np.int32, "neighbour": np.int64, "distance": np.float32}
    return Ranked(
        **{
            name: np.concatenate([np.empty(0, dtype), *(getattr(result, name) for result in results)])
            for name, dtype in dtypes.items()
        }
    )
