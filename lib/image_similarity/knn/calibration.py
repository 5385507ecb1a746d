"""Measures in about a second how fast this processor compares vectors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from image_similarity.knn import all_pairs, distances, partitioning, scoring
from image_similarity.knn.backends.cpu import Cpu, CpuStrip
from image_similarity.knn.distances import METRICS, Indices, Values, measured
from image_similarity.knn.probing import Probing
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import BFLOAT16, FLOAT32, SCREENS, Comparison, Copies, Screen, candidate_count

_CPU_FLAGS = ("avx512_bf16", "amx_bf16", " bf16")
_SAMPLE_FLOP = 1e10
_SAMPLE_ROWS = 2048
_MIN_SPEEDUP = 1.2
"""A low precision is chosen if it is this many times as fast as float32. It leaves more candidates uncertain."""


@dataclass(frozen=True)
class Rate:
    """The measured speed of one precision.

    ``screen``: its name; ``product``: multiplications and additions per second of its bare product; ``pairs``: pairs
    per second on one core, selection included.
    """

    screen: str
    product: float
    pairs: float


@dataclass(frozen=True)
class ProbingRate:
    """The measured speed of approximate search on one core.

    ``pairs``: pairs per second of vectors and the partitions that they probe, lists included; ``distances``: exact
    distances per second; ``partition``: seconds to train the centre of a partition.
    """

    pairs: float
    distances: float
    partition: float


@lru_cache(maxsize=None)
def probing_rate(dimensions: int, metric: str, similar: int) -> ProbingRate:
    """Probe partitions of random vectors, as many as take some tenths of a second."""
    rows = _PROBING_ROWS if dimensions <= _LONG else _PROBING_ROWS // 4
    dimensions, chosen = max(dimensions, 2), METRICS[metric]
    vectors = measured(np.random.default_rng(0).standard_normal((rows, dimensions)).astype(np.float32), chosen)
    common_scale = scoring.scale_of(float(np.abs(vectors.values).max()), dimensions, chosen)
    index = np.arange(rows)
    partitions, length = rows // _PROBED_ROWS, candidate_count(similar, FLOAT32)

    def copied(some: Indices) -> Copies:
        return scoring.copies(vectors[some], chosen, FLOAT32, common_scale)

    sample = copied(index[: _TRAINED * partitioning.SAMPLE_OF_EACH]).low

    def probed(nprobe: int) -> float:
        probing = Probing(copied, index, sample[:partitions], length, 1)
        begin = time.perf_counter()
        probing.compare(nprobe)
        return probing.pairs_done / (time.perf_counter() - begin)

    def trained() -> object:
        return partitioning.centres(sample, _TRAINED, chosen.angular, 0)

    with all_pairs.one_core(FLOAT32):
        probed(1)  # numba's functions are compiled, or read from their cache
        trained()  # the same with scikit-learn
        pairs = probed(partitions // 2)
        others = np.random.default_rng(1).integers(0, rows, rows)
        seconds = _fastest(lambda: distances.pairs(chosen, vectors, vectors, index, others))
        return ProbingRate(pairs, rows / seconds, _fastest(trained) / _TRAINED)


_PROBING_ROWS, _PROBED_ROWS, _LONG, _TRAINED = 8192, 256, 1024, 32


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16. Without them torch emulates it, many times slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(flag in flags for flag in _CPU_FLAGS)


def rate(rows: int, dimensions: int, metric: str, similar: int, dissimilar: int, screen: str) -> Rate:
    """Compare ``rows`` random vectors, at most as many as take some tenths of a second, in the precision ``screen``.

    With ``screen`` = "auto" the fastest precision is chosen.
    """
    rows = min(rows, _SAMPLE_ROWS, max(64, int(np.sqrt(_SAMPLE_FLOP / (2 * dimensions)))))
    dimensions = max(dimensions, 2)  # single values have no correlation
    values = np.random.default_rng(0).standard_normal((rows, dimensions)).astype(np.float32)
    if screen != "auto":
        chosen = SCREENS[screen]
    else:
        chosen = FLOAT32
        if multiplies_bfloat16() and _product(values, metric, BFLOAT16) > _MIN_SPEEDUP * _product(
            values, metric, FLOAT32
        ):
            chosen = BFLOAT16
    return Rate(chosen.name, _product(values, metric, chosen), _pairs(values, metric, chosen, similar, dissimilar))


def speedup(values: Values, metric: str, screen: Screen) -> float:
    """How many times as fast as float32 ``screen`` compares vectors like the first of ``values`` (n, d) on one core."""
    rows = min(len(values), _SAMPLE_ROWS)
    with all_pairs.one_core(screen):
        low, high = (_pairs(values[:rows], metric, of, 12, 12) for of in (screen, FLOAT32))
    return low / high


def _product(values: Values, metric: str, screen: Screen) -> float:
    # Two equal strips: numpy recognises the product of an array with itself, which is symmetric and half the work.
    a, b = _strips(values, metric, screen, 0, 0)
    buffer = np.empty((len(values), len(values)), dtype=np.float32)
    seconds = _fastest(lambda: screen.product(a.copies.low, b.copies.low, buffer))
    return float(2 * len(values) ** 2 * values.shape[1] / seconds)


def _pairs(values: Values, metric: str, screen: Screen, similar: int, dissimilar: int) -> float:
    a, b = _strips(values, metric, screen, candidate_count(similar, screen), candidate_count(dissimilar, screen))
    a.offer(b)  # fills the lists, which happens once; the timed calls find them full
    return len(values) ** 2 / _fastest(lambda: a.offer(b))


def _strips(values: Values, metric: str, screen: Screen, similar: int, dissimilar: int) -> list[CpuStrip]:
    """Two equal strips."""
    chosen, backend = METRICS[metric], Cpu()
    common_scale = scoring.scale_of(float(np.abs(values).max()), values.shape[1], chosen)
    part = Part(measured(values, chosen), np.arange(len(values), dtype=np.int32), np.arange(len(values)))
    comparison = Comparison(chosen, screen, values.shape[1], common_scale)
    return [backend.strip(part, comparison, similar, dissimilar) for _ in range(2)]


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of at most five calls of ``work``. No call begins after two tenths of a second."""
    seconds: list[float] = []
    begin = time.perf_counter()
    while not seconds or (time.perf_counter() - begin < 0.2 and len(seconds) < 5):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
