"""What comparing all pairs is going to take: tiles, memory, time. Known before the work begins."""

import json
import os
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed
from image_similarity.knn import calibration, partitioning
from image_similarity.knn.calibration import Rate
from image_similarity.knn.scoring import SCREENS, candidate_count
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.warehouse.warehouse import Warehouse

_PROCESS_BYTES = 300 * 2**20
"""Of a Python worker with numpy, numba and pyarrow, before it holds a vector."""
_VECTORS_IN_MEMORY = 5
"""For each row of a block, while two strips of one block each are compared; that takes half of a task's memory or
less."""
_MAX_STRIPS = 1000
_BLOCKS_WANTED = 16
_SAMPLE = 100

# Seconds of what is not comparing (packing, numbering, exact distances, writing), measured with up to 200,000 vectors
# on two cores.
_FIXED_SECONDS, _ROW_SECONDS, _VALUE_SECONDS = 3.0, 1.2e-4, 8e-8
# Lists are filled before they are hard to beat, and all cores are busy.
_WARMING_UP = 1.5
# The same of the approximate way, where it is so for each block; and for each pair of a vector and a part, and each
# part.
_FIXED_APPROXIMATE_SECONDS, _ROW_APPROXIMATE_SECONDS = 6.5, 5.5e-5
_WARMING_UP_IN_PARTS = 4.0
_RANKING_SECONDS, _PART_SECONDS = 2.5e-8, 2.5e-3
_STEPS = 16  # at most with the settings as they are; lists are kept of each
_PARTS_OF_ROOT = 4.0
_OF_EACH_NEIGHBOUR = 5
_LEAST_VISITS = 5
_LEAST_OF_EACH = 4
"""Vectors of the sample for a part."""
_PART_BLOCK_ROWS = 4096
TASKS_OF_A_CORE = 4
"""Where work is cut into many pieces: few, since to begin a task takes a tenth of a second, and enough for an even
distribution."""

EXACT, APPROXIMATE = "exact", "approximate"


@dataclass(frozen=True)
class Tiles:
    """All pairs cut into tasks: ``strips`` parts of the collection, each pair of them (i <= j) a task."""

    strips: int
    rows: int
    """Of a strip, at most."""
    task_bytes: int
    """Of a worker's memory."""

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The long tasks first: a strip with itself is half the work."""
        pairs = [(i, j) for i in range(self.strips) for j in range(i, self.strips)]
        return sorted(pairs, key=lambda pair: pair[0] == pair[1])


@dataclass(frozen=True)
class Plan:
    method: str
    """How similar neighbours are found: exact or approximate."""
    rows: int
    dimensions: int
    rate: Rate
    tiles: Tiles
    block_rows: int
    cores: int
    seconds: float
    disk_bytes: int
    all_pairs: bool = True
    """Whether they are compared, if only for dissimilar ones."""
    how: tuple[str, ...] = ()
    """What is said of the approximate way, and of the choice."""

    @property
    def lines(self) -> list[str]:
        pairs = self.rows * (self.rows - 1) // 2
        operations = 2 * pairs * self.dimensions
        if self.method == APPROXIMATE and not self.all_pairs:
            return [
                f"{self.rows:,} vectors of {self.dimensions:,} values; {self.disk_bytes / 2**30:.2f} GiB of disk",
                *self.how,
            ]
        return [
            f"{self.rows:,} vectors of {self.dimensions:,} values, {pairs:,} pairs: "
            f"{operations / 1e12:,.2f} Tflop in {self.rate.screen} at {self.rate.product / 1e9:,.0f} Gflop/s a core",
            f"{len(self.tiles.pairs):,} tasks on {self.cores:,} cores, each {self.tiles.rows:,} x "
            f"{self.tiles.rows:,} vectors in "
            f"{self.tiles.task_bytes / 2**30:.2f} GiB of memory; {self.disk_bytes / 2**30:.2f} GiB of disk; "
            f"about {clock(self.seconds)}",
            *self.how,
        ]


def clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def block_rows(rows: int, dimensions: int, settings: NeighboursSettings) -> int:
    """Vectors in a block: the setting, or fewer where the collection is small or vectors are so long that few fit into
    memory."""
    fit = (settings.task_bytes - _PROCESS_BYTES) // (8 * _VECTORS_IN_MEMORY * max(dimensions, 1))
    return max(1, min(settings.block_rows, max(256, -(-rows // _BLOCKS_WANTED)), fit))


def make(
    spark: SparkSession, vectors: DataFrame, rows: int, settings: NeighboursSettings, how: ApproximateSettings
) -> Plan:
    """``vectors`` (content, embedding), ``rows`` of them. How fast this goes is measured on a worker."""
    sizes = vectors.select(F.size("embedding").alias("length")).where("length > 0").take(_SAMPLE)
    lengths = [row["length"] for row in sizes]
    cores = cores_of(spark)
    if not lengths:  # nothing that could be compared
        return Plan(EXACT, rows, 0, Rate("float32", 0, 0), Tiles(1, 0, _PROCESS_BYTES), 1, cores, 0, 0)
    dimensions = statistics.mode(lengths)
    measured = spark.range(0, 1, 1, 1).mapInArrow(_calibrating(rows, dimensions, settings), "rate string").collect()
    rate = Rate(**json.loads(measured[0]["rate"]))
    block = block_rows(rows, dimensions, settings)
    tiles = tiled(rows, dimensions, cores, rate.screen, block, settings)
    list_bytes = 8 * _kept(settings, rate.screen) + 4  # written twice: by the shuffle, and as Parquet
    seconds = _FIXED_SECONDS + (_pair_seconds(rows, rate) + rows * (_ROW_SECONDS + dimensions * _VALUE_SECONDS)) / cores
    disk_bytes = rows * (4 * dimensions + (2 * tiles.strips + 1) * list_bytes)
    plan = Plan(EXACT, rows, dimensions, rate, tiles, block, cores, seconds, disk_bytes)
    return plan if settings.method == EXACT or not settings.similar else _approximate(plan, settings, how)


def _pair_seconds(rows: int, rate: Rate) -> float:
    return _WARMING_UP * rows * (rows - 1) / 2 / rate.pairs


def _approximate(plan: Plan, settings: NeighboursSettings, how: ApproximateSettings) -> Plan:
    """The plan with what the approximate way takes, and the decision where that is left to us."""
    rows, dimensions = plan.rows, plan.dimensions
    parts = parts_for(rows, dimensions, settings, how)
    visited = min(visits_for(rows, parts, how), parts)
    compared = rows * (rows / parts * (visited - 0.5) + block_rows_for(rows, dimensions, settings) / 2)
    products = 2 * rows * dimensions * (parts + how.audit_queries) / max(plan.rate.product, 1)
    work = compared / max(plan.rate.pairs, 1) * _WARMING_UP_IN_PARTS + products + rows * parts * _RANKING_SECONDS
    work += rows * (_ROW_APPROXIMATE_SECONDS + dimensions * _VALUE_SECONDS)
    alone = _FIXED_APPROXIMATE_SECONDS + work / plan.cores + parts * _PART_SECONDS
    if (
        settings.dissimilar
    ):  # all pairs are compared for these, and finding similar ones on the way costs next to nothing
        seconds, estimate = (
            plan.seconds + alone,
            "dissimilar neighbours need all pairs, so that exact ones cost nothing more",
        )
    else:
        seconds, estimate = alone, f"exact about {clock(plan.seconds)}, approximate about {clock(alone)}"
    chosen = APPROXIMATE if settings.method == APPROXIMATE or seconds < plan.seconds else EXACT
    said = (
        f"{parts:,} parts of about {rows // parts:,} vectors, each vector compared with {visited:,}; about "
        f"{clock(alone)}",
    )
    decision = (f"method auto: {estimate}: {chosen}",) if settings.method == "auto" else ()
    if chosen == EXACT:
        return replace(plan, how=decision)
    disk_bytes = (plan.disk_bytes if settings.dissimilar else 4 * rows * dimensions) + rows * (
        4 * dimensions + _STEPS * 9 * _kept(settings, "float32")
    )
    all_pairs = settings.dissimilar > 0
    return replace(
        plan, method=chosen, seconds=seconds, disk_bytes=disk_bytes, all_pairs=all_pairs, how=said + decision
    )


def parts_for(vectors: int, dimensions: int, settings: NeighboursSettings, how: ApproximateSettings) -> int:
    """How many parts a collection is cut into; they hold some times as many vectors as neighbours are wanted."""
    # Finding the nearest parts takes time for each part, comparing for each vector of a part: both grow like the root.
    wanted = min(
        vectors / max(how.partition_rows, _OF_EACH_NEIGHBOUR * settings.similar), _PARTS_OF_ROOT * vectors**0.5
    )
    wanted = min(wanted, _sampled_at_most(dimensions, settings) / _LEAST_OF_EACH)
    return max(1, min(how.nlist or round(wanted), vectors))


def sample_for(dimensions: int, parts: int, settings: NeighboursSettings) -> int:
    """Vectors that ``parts`` are made from, or as many as fit: k-means holds them some times."""
    return min(parts * partitioning.SAMPLE_OF_EACH, max(parts, _sampled_at_most(dimensions, settings)))


def _sampled_at_most(dimensions: int, settings: NeighboursSettings) -> int:
    return settings.task_bytes // 8 // (4 * dimensions)


def block_rows_for(vectors: int, dimensions: int, settings: NeighboursSettings) -> int:
    """Vectors in a block of parts, about. The number of cores has no say in this, since blocks decide what is
    compared."""
    fit = settings.task_bytes // 16 // (4 * dimensions)
    return max(1, min(_PART_BLOCK_ROWS, fit, -(-vectors // _BLOCKS_WANTED)))


def visits_for(vectors: int, parts: int, how: ApproximateSettings) -> int:
    """How many parts each vector is compared with at first: fewer where parts are larger than they are by default."""
    rows = how.nprobe * how.partition_rows
    return min(how.nprobe, max(_LEAST_VISITS, round(rows * parts / max(vectors, 1))))


def cores_of(spark: SparkSession) -> int:
    """Tasks that run at once."""
    cpus = int(spark.conf.get("spark.task.cpus", "1") or 1)
    return max(1, spark.sparkContext.defaultParallelism // cpus)


def _calibrating(rows: int, dimensions: int, settings: NeighboursSettings) -> Any:
    def calibrating(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            rate = calibration.rate(
                rows, dimensions, settings.metric, settings.similar, settings.dissimilar, settings.screen
            )
            yield pa.RecordBatch.from_pydict({"rate": [json.dumps(rate.__dict__)]})

    return calibrating


def tiled(rows: int, dimensions: int, cores: int, screen: str, block: int, settings: NeighboursSettings) -> Tiles:
    """As few strips as memory and an even distribution among ``cores`` allow: each strip's lists cross the network once
    a tile."""
    room = 2 * block**2 * 4 + 3 * block * dimensions * 4
    row_bytes = dimensions * SCREENS[screen].bytes_per_value + 8 * _kept(settings, screen) + 64
    free = settings.task_bytes - _PROCESS_BYTES - room
    if free < 2 * min(rows, block) * row_bytes:
        needed = _PROCESS_BYTES + room + 2 * min(rows, block) * row_bytes
        raise JobFailed(
            f"neighbours.task_bytes = {settings.task_bytes:,} is too little for blocks of {block:,} vectors of "
            f"{dimensions:,} values: set it to {needed:,} or more, or neighbours.block_rows to less"
        )
    fewest = max(1, -(-2 * rows * row_bytes // free))
    blocks = max(1, -(-rows // block))
    strips = next((s for s in range(fewest, min(fewest + 4 * cores, _MAX_STRIPS)) if _is_even(s, cores)), fewest)
    strips = min(max(strips, 1), max(blocks, fewest))
    strip_rows = -(-rows // strips)
    return Tiles(strips, strip_rows, int(_PROCESS_BYTES + room + 2 * strip_rows * row_bytes))


def merged_at_once(rows: int, dimensions: int, plan: Plan, settings: NeighboursSettings) -> int:
    """Vectors of a block whose lists are merged together: they come from as many tiles as there are strips."""
    strips = tiled(rows, dimensions, plan.cores, plan.rate.screen, plan.block_rows, settings).strips
    # The lists arrive as bytes, stand side by side, and are partitioned: three times their size, and less than half of
    # the memory.
    return max(1, min(plan.block_rows, settings.task_bytes // 8 // (8 * strips * _kept(settings, plan.rate.screen))))


def _is_even(strips: int, cores: int) -> bool:
    """Whether ``cores`` that take the tasks of ``Tiles.pairs`` in turn are busy nearly to the end."""
    loads = np.zeros(cores)
    for work in [1.0] * (strips * (strips - 1) // 2) + [0.5] * strips:
        loads[loads.argmin()] += work
    return bool(loads.sum() >= 0.95 * cores * loads.max())


def _kept(settings: NeighboursSettings, screen: str) -> int:
    """Candidates of a row, similar and dissimilar."""
    return candidate_count(settings.similar, SCREENS[screen]) + candidate_count(settings.dissimilar, SCREENS[screen])


def check(plan: Plan, warehouse: Warehouse, local: bool) -> None:
    """Raise ``JobFailed`` where this machine's memory or disk will not do; other machines' are not known here."""
    if warehouse.local_root is not None:
        place = warehouse.local_root
        while not os.path.exists(place):
            place = os.path.dirname(place)
        free = shutil.disk_usage(place).free
        if free < plan.disk_bytes:
            raise JobFailed(
                f"comparing needs about {_gib(plan.disk_bytes)} of disk, but {place} has {_gib(free)}: "
                "free some, or use another warehouse"
            )
    available = _available_memory()
    needed = plan.tiles.task_bytes * min(plan.cores, len(plan.tiles.pairs))
    if local and available is not None and available < needed:
        raise JobFailed(
            f"comparing needs about {_gib(needed)} of memory ({min(plan.cores, len(plan.tiles.pairs))} tasks at "
            "once), but "
            f"{_gib(available)} are available: lower neighbours.task_bytes (now {plan.tiles.task_bytes:,} used), "
            "or use fewer cores"
        )


def _available_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as told:
            found = [int(line.split()[1]) * 1024 for line in told if line.startswith("MemAvailable:")]
    except OSError:
        return None
    return found[0] if found else None


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
