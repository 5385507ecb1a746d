"""Estimates before the work begins: tiles, memory, disk and time, and the choice of the method and the runner."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from image_similarity.errors import JobFailed, WrongInput, counted
from image_similarity.knn import all_pairs, backends, calibration
from image_similarity.knn.calibration import ProbingRate, Rate
from image_similarity.knn.scoring import FLOAT32, SCREENS, candidate_count
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours.partitions import BLOCKS_WANTED, block_rows_for, nlist_for, nprobe_for
from image_similarity.stages.neighbours.resources import Disk, available_memory, check_disk
from image_similarity.storage import disk_space
from image_similarity.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PROCESS_BYTES = 300 * 2**20
"""Memory of a Python worker with numpy, numba and pyarrow, before it holds a vector."""
_VECTORS_IN_MEMORY = 5
"""Vectors in memory for each row of a block while two strips of one block each are compared. These take at most half of
a task's memory."""
_MAX_STRIPS = 1000
# Seconds for everything but comparing (packing, numbering, exact distances, writing): fixed, per row, and per value.
# Measured with up to 200,000 vectors on two cores.
_FIXED_SECONDS, _ROW_SECONDS, _VALUE_SECONDS = 3.0, 1.2e-4, 8e-8
# Comparing takes this factor longer than in the calibration: lists are filled at first, and all cores are busy.
_WARMING_UP = 1.5
# The same for approximate search, where lists are filled in each block.
_FIXED_APPROXIMATE_SECONDS, _ROW_APPROXIMATE_SECONDS = 6.5, 5.5e-5
_WARMING_UP_IN_BLOCKS = 4.0
# Seconds for each pair of a vector and a partition, and for each partition.
_RANKING_SECONDS, _PARTITION_SECONDS = 2.5e-8, 2.5e-3
_RANKING_SECONDS_HERE, _CANDIDATES = 3e-9, 24
_MAX_STEPS = 16  # with the default settings; the lists of each step stay on disk
_WORTH_CUTTING = 0.5
"""Seconds. Shorter work is one task, if it fits into its memory."""
_WORTH_PLANNING = 10.0
"""Seconds. Of shorter work nobody wants to know how it is cut."""
TASKS_PER_CORE = 4
"""Tasks for each core where work can be cut into many pieces. Starting a task takes a tenth of a second, so few are
better; this many are enough for an even distribution."""

EXACT, APPROXIMATE = "exact", "approximate"
SPARK, PROCESS, AUTO = "spark", "process", "auto"
CPU, CUDA = "cpu", "cuda"

# The same as above where this process compares, without Spark.
_FIXED_SECONDS_HERE = 0.5
_ASSUMED_PRODUCT, _ASSUMED_PAIRS = 4e10, 3e8
"""A second's multiplications and additions, and its pairs of short vectors, on a core of a modest machine: what work is
estimated by before it is known to be worth a measurement."""
_ASSUMED_RATE_OF_A_GPU = Rate("bfloat16", 1e14, 4e10)
"""The same of a modest GPU."""
_BYTES_PER_CANDIDATE = 40
"""Scores, positions and keys, and their copies while they are sorted."""
_BYTES_PER_IMAGE = 400
_BYTES_PER_THREAD = 2**28
_MOST_OF_AVAILABLE = 0.5
"""Share of the available memory that is taken unasked."""


@dataclass(frozen=True)
class Tiles:
    """All pairs cut into tasks: the collection is cut into ``strips``, and each pair of strips (i <= j) is a task."""

    strips: int
    rows: int
    """The maximum number of vectors in a strip."""
    task_bytes: int
    """Memory of a worker that runs one task."""

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs, longest tasks first: comparing a strip with itself is half the work."""
        pairs = [(i, j) for i in range(self.strips) for j in range(i, self.strips)]
        return sorted(pairs, key=lambda pair: pair[0] == pair[1])


@dataclass(frozen=True)
class Plan:
    """The chosen method, and what it takes."""

    method: str
    """The method for similar neighbours: `EXACT` or `APPROXIMATE`."""
    rows: int
    dimensions: int
    rate: Rate
    tiles: Tiles
    block_rows: int
    cores: int
    seconds: float
    disk: Disk
    all_pairs: bool = True
    """Whether all pairs are compared, be it only for dissimilar neighbours."""
    notes: tuple[str, ...] = ()
    """Lines about approximate search, and about the choice of the method."""
    runner: str = SPARK
    """`SPARK` or `PROCESS`: where vectors are compared."""
    because: str = ""
    """Why there."""
    device: str = CPU
    """What compares in this process, as torch names it."""
    exact_seconds: float = 0.0
    """What exact search would take, where ``method`` is approximate."""
    probing: ProbingRate | None = None
    """The speed of approximate search in this process, where that is the plan."""

    @property
    def lines(self) -> list[str]:
        pairs = self.rows * (self.rows - 1) // 2
        operations, tasks = 2 * pairs * self.dimensions, len(self.tiles.pairs)
        vectors = f"{counted(self.rows, 'vector')} of {counted(self.dimensions, 'value')}"
        gpu = "" if self.device == CPU else f", on {self._on}"
        where = (f"{_WHERE[self.runner]}{gpu}: {self.because}",) if self.because or gpu else ()
        if self.method == APPROXIMATE and not self.all_pairs:
            return [
                f"{vectors}; {self.disk.total / 2**30:.2f} GiB of disk",
                *self.notes,
                *where,
            ]
        if self.seconds < _WORTH_PLANNING:
            return [
                f"{vectors}, {counted(pairs, 'pair')}: seconds",
                *self.notes,
                *where,
            ]
        if self.runner == PROCESS:
            return [
                f"{vectors}, {counted(pairs, 'pair')}: {operations / 1e12:,.2f} Tflop on {self._on}; "
                f"{self.tiles.task_bytes / 2**30:.2f} GiB of memory, "
                f"{disk_space.shown(self.disk.total)} of disk; about {clock(self.seconds)}",
                *self.notes,
                *where,
            ]
        return [
            f"{vectors}, {counted(pairs, 'pair')}: "
            f"{operations / 1e12:,.2f} Tflop in {self.rate.screen} at {self.rate.product / 1e9:,.0f} Gflop/s a core",
            f"{counted(tasks, 'task')} on {counted(self.cores, 'core')}, each {self.tiles.rows:,} x "
            f"{self.tiles.rows:,} vectors in "
            f"{self.tiles.task_bytes / 2**30:.2f} GiB of memory; {self.disk.total / 2**30:.2f} GiB of disk; "
            f"about {clock(self.seconds)}",
            *self.notes,
            *where,
        ]

    @property
    def _on(self) -> str:
        return counted(self.cores, "core") if self.device == CPU else f"the GPU {self.device}"


_WHERE = {SPARK: "by Spark", PROCESS: "in this process, without Spark"}


def clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def block_rows(rows: int, dimensions: int, settings: NeighboursSettings) -> int:
    """The number of vectors in a block: the setting, or fewer if the collection is small or if few vectors fit into
    memory.
    """
    rows_in_memory = (settings.task_bytes - _PROCESS_BYTES) // (8 * _VECTORS_IN_MEMORY * max(dimensions, 1))
    return max(1, min(settings.block_rows, max(256, -(-rows // BLOCKS_WANTED)), rows_in_memory))


def make(
    spark: "SparkSession",
    rows: int,
    dimensions: int,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
) -> Plan:
    """The plan for ``rows`` vectors of ``dimensions`` values.

    Work of seconds is estimated. For longer work it is measured on a worker how fast that compares. Raises
    ``WrongInput`` where ``neighbours.task_bytes`` cannot hold two blocks.
    """
    cores = cores_of(spark)
    if not dimensions:  # there is nothing to compare
        return Plan(EXACT, rows, 0, Rate("float32", 0, 0), Tiles(1, 0, _PROCESS_BYTES), 1, cores, 0, Disk(0))
    rate = _assumed(dimensions)
    if _pair_seconds(rows, rate) / cores > _WORTH_PLANNING or settings.method != EXACT:
        task = spark.range(0, 1, 1, 1).mapInArrow(_calibrating(rows, dimensions, settings), "rate string")
        rate = Rate(**json.loads(task.collect()[0]["rate"]))
    elif settings.screen != AUTO:
        rate = replace(rate, screen=settings.screen)
    return estimated(rows, dimensions, rate, cores, settings, approximate)


def _assumed(dimensions: int) -> Rate:
    return Rate("float32", _ASSUMED_PRODUCT, 1 / (2 * dimensions / _ASSUMED_PRODUCT + 1 / _ASSUMED_PAIRS))


def estimated(
    rows: int,
    dimensions: int,
    rate: Rate,
    cores: int,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
) -> Plan:
    """The plan for ``rows`` vectors of ``dimensions`` values on ``cores`` that compare at ``rate``.

    Raises ``WrongInput`` as `make` does.
    """
    block = block_rows(rows, dimensions, settings)
    tiles = tiled(rows, dimensions, cores, rate.screen, block, settings)
    seconds = _FIXED_SECONDS + (_pair_seconds(rows, rate) + rows * (_ROW_SECONDS + dimensions * _VALUE_SECONDS)) / cores
    disk = _disk_of_all_pairs(rows, dimensions, tiles.strips, rate.screen, settings)
    plan = Plan(EXACT, rows, dimensions, rate, tiles, block, cores, seconds, disk)
    return plan if settings.method == EXACT or not settings.similar else _with_approximate(plan, settings, approximate)


def make_here(
    rows: int, dimensions: int, cores: int, settings: NeighboursSettings, approximate: ApproximateSettings
) -> Plan:
    """The plan for ``rows`` vectors of ``dimensions`` values that this process compares, with ``cores`` threads.

    Work of seconds is estimated. For longer work a GPU is looked for, or the speed of the processor is measured.
    Raises ``JobFailed`` for a GPU that cannot be used.
    """
    if not dimensions:  # there is nothing to compare
        return Plan(EXACT, rows, 0, Rate("float32", 0, 0), Tiles(1, 0, 0), 1, cores, 0, Disk(0), runner=PROCESS)
    rate = _assumed(dimensions)
    is_long = _seconds_here(rows, dimensions, cores, rate) > _WORTH_PLANNING
    device = _device(settings, is_long)
    if device != CPU:
        rate = _ASSUMED_RATE_OF_A_GPU
    elif is_long:
        similar, dissimilar = settings.similar, settings.dissimilar
        with all_pairs.one_core(FLOAT32):
            rate = calibration.rate(rows, dimensions, settings.metric, similar, dissimilar, "float32")
    memory = bytes_here(rows, dimensions, cores, settings)
    block = block_rows(rows, dimensions, settings)
    seconds = _seconds_here(rows, dimensions, cores, rate)
    tiles = Tiles(1, rows, memory)
    disk = _disk_here(rows, settings)
    plan = Plan(EXACT, rows, dimensions, rate, tiles, block, cores, seconds, disk, runner=PROCESS, device=device)
    if settings.method == EXACT or not settings.similar or device != CPU:
        return plan  # approximate search, which no GPU does, takes longer than all pairs on one
    return _with_approximate_here(plan, settings, approximate)


def _device(settings: NeighboursSettings, is_long: bool) -> str:
    """What compares in this process. torch, whose import takes seconds, is asked for a GPU only where one may be of
    use.
    """
    if settings.method == APPROXIMATE and settings.similar:
        return CPU
    if settings.device == CUDA or (settings.device == AUTO and is_long and backends.may_have_a_gpu()):
        from image_similarity.runtime import devices

        return devices.of_process(settings.device)
    return CPU


def _seconds_here(rows: int, dimensions: int, cores: int, rate: Rate) -> float:
    others = rows * (_ROW_SECONDS + dimensions * _VALUE_SECONDS)
    return _FIXED_SECONDS_HERE + (_pair_seconds(rows, rate) + others) / cores


def _disk_here(rows: int, settings: NeighboursSettings) -> Disk:
    """Lists for the next run, and the table."""
    neighbours = settings.similar + settings.dissimilar
    return Disk(rows * (8 * _candidates_per_row(settings, "float32") + 16 * neighbours))


def bytes_here(rows: int, dimensions: int, cores: int, settings: NeighboursSettings) -> int:
    """Memory of this process while it compares: the vectors, their copies for scores, and lists."""
    candidates = max(_candidates_per_row(settings, screen) for screen in SCREENS)
    each = 8 * dimensions + _BYTES_PER_CANDIDATE * candidates + _BYTES_PER_IMAGE
    return _PROCESS_BYTES + cores * _BYTES_PER_THREAD + rows * each


def too_large(rows: int, dimensions: int, cores: int, settings: NeighboursSettings) -> str | None:
    """Why this process should not compare so many vectors; None if they fit into its memory.

    Raises ``JobFailed`` where ``settings.runner`` asks for this process and memory does not suffice.
    """
    needed = bytes_here(rows, dimensions, cores, settings)
    return beyond_memory(needed, _takes(needed), settings, "neighbours.runner")


def beyond_memory(needed: int, takes: str, settings: NeighboursSettings, runner: str) -> str | None:
    """Why this process should not hold ``needed`` bytes, of which ``takes`` says what for; None if they fit.

    ``runner``: the setting that chooses. Raises ``JobFailed`` where it asks for this process and memory does not
    suffice.
    """
    available = available_memory()
    if settings.runner == PROCESS:
        if available is not None and needed > available:
            raise JobFailed(f"{takes}, but {disk_space.shown(available)} are available: set {runner} = spark")
        return None
    if needed > settings.process_bytes:
        return f"{takes}, more than neighbours.process_bytes = {disk_space.shown(settings.process_bytes)}"
    if available is not None and needed > _MOST_OF_AVAILABLE * available:
        return f"{takes}, more than half of the {disk_space.shown(available)} that are available"
    return None


def _takes(needed: int) -> str:
    return f"vectors and lists take {disk_space.shown(needed)} of memory"


def with_runner(plan: Plan, settings: NeighboursSettings, is_local: bool) -> Plan:
    """``plan``, which `make_here` made, with the runner that ``settings.runner`` asks for, and why.

    ``is_local``: whether the session, if there is one, is on this machine alone.
    """
    if settings.runner == PROCESS:
        return replace(plan, because="neighbours.runner asks for it")
    if not is_local and plan.seconds > _WORTH_PLANNING:
        return replace(plan, runner=SPARK, because=f"a cluster is there, and one machine takes {clock(plan.seconds)}")
    return replace(plan, because=_takes(plan.tiles.task_bytes))


def _pair_seconds(rows: int, rate: Rate) -> float:
    return _WARMING_UP * rows * (rows - 1) / 2 / rate.pairs


def _with_approximate(plan: Plan, settings: NeighboursSettings, approximate: ApproximateSettings) -> Plan:
    """The plan with the estimates for approximate search, and with the decision where ``settings.method`` is auto."""
    rows, dimensions = plan.rows, plan.dimensions
    nlist = nlist_for(rows, dimensions, settings, approximate)
    nprobe = min(nprobe_for(rows, nlist, approximate), nlist)
    compared = rows * (rows / nlist * (nprobe - 0.5) + block_rows_for(rows, dimensions, settings) / 2)
    products = 2 * rows * dimensions * (nlist + approximate.audit_queries) / max(plan.rate.product, 1)
    core_seconds = (
        compared / max(plan.rate.pairs, 1) * _WARMING_UP_IN_BLOCKS + products + rows * nlist * _RANKING_SECONDS
    )
    core_seconds += rows * (_ROW_APPROXIMATE_SECONDS + dimensions * _VALUE_SECONDS)
    approximate_seconds = _FIXED_APPROXIMATE_SECONDS + core_seconds / plan.cores + nlist * _PARTITION_SECONDS
    disk = _disk_of_approximate(rows, dimensions, plan.disk, settings)
    return _decided(plan, settings, approximate_seconds, disk, nlist, nprobe)


_TRIED_SIMILAR = 100
"""Longer lists are not tried: they take most of the time themselves, seconds."""


def _with_approximate_here(plan: Plan, settings: NeighboursSettings, approximate: ApproximateSettings) -> Plan:
    """The same where this process compares. Its speed is measured, except for work of seconds."""
    if plan.seconds <= _WORTH_PLANNING:
        if settings.method == AUTO:
            return replace(plan, notes=("method auto: exact takes seconds: exact",))
        plan = replace(plan, probing=ProbingRate(plan.rate.pairs / 4, plan.rate.pairs / 10, _PARTITION_SECONDS))
    else:
        similar = min(settings.similar, _TRIED_SIMILAR)
        plan = replace(plan, probing=calibration.probing_rate(plan.dimensions, settings.metric, similar))
    rows, dimensions = plan.rows, plan.dimensions
    nlist = nlist_for(rows, dimensions, settings, approximate)
    nprobe = min(nprobe_for(rows, nlist, approximate), nlist)
    seconds = _FIXED_SECONDS_HERE + rows * (_ROW_SECONDS + dimensions * _VALUE_SECONDS) / plan.cores
    seconds += cutting_seconds(nlist, approximate, plan) + probing_seconds(rows, nprobe * rows**2 // nlist, plan)
    decided = _decided(plan, settings, seconds, plan.disk, nlist, nprobe)
    return decided if decided.method == APPROXIMATE else replace(decided, probing=None)


def cutting_seconds(nlist: int, approximate: ApproximateSettings, plan: Plan) -> float:
    """What partitions, and the two samples that are compared with all vectors, take in this process."""
    assert plan.probing is not None
    products = 2 * 2 * plan.rows * nlist * plan.dimensions / plan.rate.product
    samples = 2 * min(approximate.audit_queries, plan.rows) * plan.rows / plan.rate.pairs
    return (
        nlist * plan.probing.partition + (products + samples + plan.rows * nlist * _RANKING_SECONDS_HERE) / plan.cores
    )


def probing_seconds(rows: int, pairs: int, plan: Plan) -> float:
    """What ``pairs`` of ``rows`` vectors and their probed partitions take in this process, with exact distances."""
    assert plan.probing is not None
    return (pairs / plan.probing.pairs + rows * _CANDIDATES / plan.probing.distances) / plan.cores


def _decided(
    plan: Plan, settings: NeighboursSettings, approximate_seconds: float, disk: Disk, nlist: int, nprobe: int
) -> Plan:
    """``plan``, of exact search, or the same of approximate search, which takes ``approximate_seconds``."""
    if settings.dissimilar:
        # Dissimilar neighbours need all pairs; finding similar ones on the way costs next to nothing.
        seconds, reason = (
            plan.seconds + approximate_seconds,
            "dissimilar neighbours need all pairs, so that exact ones cost nothing more",
        )
    else:
        seconds, reason = (
            approximate_seconds,
            f"exact about {clock(plan.seconds)}, approximate about {clock(approximate_seconds)}",
        )
    chosen = APPROXIMATE if settings.method == APPROXIMATE or seconds < plan.seconds else EXACT
    description = (
        f"{counted(nlist, 'partition')} of about {counted(plan.rows // nlist, 'vector')}, {nprobe:,} probed for each "
        f"vector; about {clock(approximate_seconds)}",
    )
    decision = (f"method auto: {reason}: {chosen}",) if settings.method == "auto" else ()
    if chosen == EXACT:
        return replace(plan, notes=decision)
    return replace(
        plan,
        method=chosen,
        seconds=seconds,
        disk=disk,
        all_pairs=settings.dissimilar > 0,
        notes=description + decision,
        exact_seconds=plan.seconds,
    )


def _disk_of_all_pairs(rows: int, dimensions: int, strips: int, screen: str, settings: NeighboursSettings) -> Disk:
    # A list comes from each strip. It is written twice: by the shuffle, and as Parquet.
    list_bytes = 8 * _candidates_per_row(settings, screen) + 8
    return Disk(rows * (4 * dimensions + (strips + 1) * list_bytes), rows * strips * list_bytes)


def _disk_of_approximate(rows: int, dimensions: int, all_pairs: Disk, settings: NeighboursSettings) -> Disk:
    lists = _MAX_STEPS * 9 * _candidates_per_row(settings, "float32")
    before = all_pairs if settings.dissimilar else Disk(4 * rows * dimensions)
    return before + Disk(rows * (4 * dimensions + lists))


def least_disk(rows: int, dimensions: int, settings: NeighboursSettings, continues: bool = False) -> Disk:
    """The least disk of a plan for ``rows`` vectors of ``dimensions`` values, whatever the machine is like.

    Each field is the least of any plan, since the two may be different disks. It needs no Spark: a plan on more cores
    has as many strips or more. ``continues``: the lists of a run before are there. Only new vectors are compared then,
    maybe none: the vectors and one list of each are written all the same. Raises ``WrongInput`` as `make` does.
    """
    block = block_rows(rows, dimensions, settings)
    plans: list[Disk] = []
    if settings.runner != SPARK:
        plans.append(_disk_here(rows, settings))
    for screen in SCREENS if settings.screen == "auto" else [settings.screen]:
        try:
            strips = tiled(rows, dimensions, 1, screen, block, settings).strips
        except WrongInput as error:
            too_little = error
            continue
        exact = _disk_of_all_pairs(rows, dimensions, 0 if continues else strips, screen, settings)
        if settings.method != APPROXIMATE or not settings.similar:
            plans.append(exact)
        if settings.method != EXACT and settings.similar:
            plans.append(_disk_of_approximate(rows, dimensions, exact, settings))
    if not plans:
        raise too_little
    return Disk(min(disk.warehouse for disk in plans), min(disk.shuffles for disk in plans))


def cores_of(spark: "SparkSession") -> int:
    """The number of tasks that run at once."""
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
    """Cut ``rows`` vectors into as few strips as memory and an even distribution among ``cores`` allow, since each
    strip's lists cross the network once for each tile.

    ``block``: the number of vectors in a block. Raises ``WrongInput`` where ``settings.task_bytes`` is too little for
    two blocks.
    """
    buffer_bytes = 2 * block**2 * 4 + 3 * block * dimensions * 4
    row_bytes = dimensions * SCREENS[screen].bytes_per_value + 8 * _candidates_per_row(settings, screen) + 64
    free = settings.task_bytes - _PROCESS_BYTES - buffer_bytes
    if free < 2 * min(rows, block) * row_bytes:
        needed = _PROCESS_BYTES + buffer_bytes + 2 * min(rows, block) * row_bytes
        raise WrongInput(
            f"neighbours.task_bytes = {settings.task_bytes:,} is too little for blocks of {counted(block, 'vector')} "
            f"of {counted(dimensions, 'value')}: set it to {needed:,} or more, or neighbours.block_rows to less"
        )
    min_strips = max(1, -(-2 * rows * row_bytes // free))
    blocks = max(1, -(-rows // block))
    counts = range(min_strips, min(min_strips + 4 * cores, _MAX_STRIPS))
    if _pair_seconds(rows, _assumed(dimensions)) < _WORTH_CUTTING:
        counts = counts[:0]
    strips = next((count for count in counts if _is_even(count, cores)), min_strips)
    strips = min(max(strips, 1), max(blocks, min_strips))
    strip_rows = -(-rows // strips)
    return Tiles(strips, strip_rows, int(_PROCESS_BYTES + buffer_bytes + 2 * strip_rows * row_bytes))


def merged_at_once(rows: int, dimensions: int, plan: Plan, settings: NeighboursSettings) -> int:
    """The number of a block's vectors whose lists are merged together. Each has a list from as many tiles as there are
    strips.
    """
    strips = tiled(rows, dimensions, plan.cores, plan.rate.screen, plan.block_rows, settings).strips
    # The lists arrive as bytes, are concatenated, and are partitioned: this takes three times their size, which is less
    # than half of the memory.
    return max(
        1,
        min(
            plan.block_rows, settings.task_bytes // 8 // (8 * strips * _candidates_per_row(settings, plan.rate.screen))
        ),
    )


def _is_even(strips: int, cores: int) -> bool:
    """Whether ``cores`` that take the tasks of ``Tiles.pairs`` in turn are busy for 95 % of the time or more."""
    loads = np.zeros(cores)
    for cost in [1.0] * (strips * (strips - 1) // 2) + [0.5] * strips:
        loads[loads.argmin()] += cost
    return bool(loads.sum() >= 0.95 * cores * loads.max())


def _candidates_per_row(settings: NeighboursSettings, screen: str) -> int:
    """The number of candidates kept for a row, similar and dissimilar together."""
    return candidate_count(settings.similar, SCREENS[screen]) + candidate_count(settings.dissimilar, SCREENS[screen])


def check(plan: Plan, warehouse: Warehouse, local: bool, shuffled_in: Sequence[str] = ()) -> None:
    """Raise ``JobFailed`` where this machine lacks the memory or disk. Other machines cannot be checked from here.

    The memory is checked only if ``local``, the disk only if the warehouse is on this machine. ``shuffled_in``: as
    `check_disk` takes it.
    """
    if warehouse.local_root is not None:
        check_disk(plan.disk, warehouse.local_root, shuffled_in)
    available = available_memory()
    at_once = min(plan.cores, len(plan.tiles.pairs))
    needed = plan.tiles.task_bytes * at_once
    if local and available is not None and available < needed:
        raise JobFailed(
            f"comparing needs about {disk_space.shown(needed)} of memory ({counted(at_once, 'task')} at "
            f"once), but {disk_space.shown(available)} are available: lower neighbours.task_bytes (now "
            f"{plan.tiles.task_bytes:,} used), or use fewer cores"
        )
