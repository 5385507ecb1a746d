"""Approximate neighbours: nearby partitions are compared, then neighbours of neighbours, until an audit is satisfied.

1. `layout` gives each vector a home partition and further partitions to probe. Neighbouring partitions share a block,
   and the vectors of a block's partitions are its residents.
2. The residents of a block are compared with one another: all pairs, or by pynndescent where a single partition is so
   large that this is cheaper.
3. Vectors probe partitions of other blocks. Each pair is offered to the lists of both vectors, and enters a list if it
   is nearer than the list's last entry. The offers to a list are merged, and get exact distances.
4. An exact audit of a sample measures the recall of the lists. While the recall is too low, neighbours of neighbours
   that were not compared yet are compared. When this changes few entries, nprobe is doubled.

The lists depend on the vectors, the settings and the seed, not on the order of the data, tasks or executors. There is
one exception: ties up to the rounding of float32 products (two centres, two scores) may be broken differently on
another processor, or if the order of the data is another.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.knn.recall import Recall
from image_similarity.knn.warmup import warm_up
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours import audit
from image_similarity.stages.neighbours.exchange import exchange, filled_by_brute_force
from image_similarity.stages.neighbours.graph import Graph
from image_similarity.stages.neighbours.layout import Layout, lay_out
from image_similarity.stages.neighbours.partitions import block_rows_for, max_nprobe, nlist_for, nprobe_for
from image_similarity.stages.neighbours.plan import cores_of
from image_similarity.stages.neighbours.previous import LISTS
from image_similarity.stages.neighbours.probing import probe, within_blocks
from image_similarity.stages.neighbours.quality import Approximation, Audit
from image_similarity.stages.neighbours.vectors import Packed
from image_similarity.warehouse.workspace import Workspace

_EXTRA_ENTRIES = 14
"""Entries of a list beyond the required k; their neighbours are considered, too."""


@dataclass(frozen=True)
class ApproximateResult(Approximation):
    """Lists of similar neighbours, their recall, and how they were found."""

    lists: DataFrame
    """index, similar, dissimilar: one row for each block, in the form that `exact` leaves; dissimilar is empty."""


def run(
    spark: SparkSession,
    packed: Packed,
    common_scale: float,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
    scratch: Workspace,
) -> ApproximateResult:
    """Similar neighbours of all packed vectors; ``common_scale``: see `scoring.scale_of`.

    The caller decides what to do with a result that is not good enough.
    """
    nlist = nlist_for(packed.vectors, packed.dimensions, settings, approximate)
    nprobe = nprobe_for(packed.vectors, nlist, approximate)
    most = max_nprobe(packed.vectors, nlist, approximate)
    block_rows = block_rows_for(packed.vectors, packed.dimensions, settings)
    with step(spark, "cut into parts"):
        folder = scratch.location("parts")
        layout = lay_out(
            spark, packed, settings.metric, common_scale, nlist, most, block_rows, settings, approximate, folder
        )
    graph, probed, rounds = Graph(layout, min(settings.similar, packed.vectors - 1) + _EXTRA_ENTRIES), 0, 0
    _compile(spark, layout, approximate)
    graph = within_blocks(spark, graph, settings, approximate)
    sample = audit.begin(spark, packed, common_scale, settings, approximate)
    positions = layout.array("positions")[sample.vectors]

    def measure(graph: Graph) -> tuple[Recall, bool]:
        recall = sample.recall_of_lists(graph.lists(positions)[0])
        return recall, recall.reaches(approximate.recall_target, approximate.recall_slack)

    while True:
        nprobe = min(nprobe, layout.max_nprobe)
        graph = probe(spark, graph, probed, nprobe, settings, approximate)
        probed = nprobe
        graph = filled_by_brute_force(spark, graph, settings) if graph.incomplete else graph
        (recall, is_good), changed, rounds_since = measure(graph), 1.0, 0
        while not is_good and changed > approximate.delta and rounds_since < approximate.rounds:
            graph, changed = exchange(spark, graph, nprobe, rounds + 1, settings)
            (recall, is_good), rounds_since, rounds = measure(graph), rounds_since + 1, rounds + 1
        if is_good or nprobe >= layout.max_nprobe:
            return ApproximateResult(
                recall,
                len(layout.partition_starts) - 1,
                nprobe,
                rounds,
                is_good,
                _across_borders(graph, sample),
                _lists(spark, graph),
            )
        nprobe *= 2


def _compile(spark: SparkSession, layout: Layout, approximate: ApproximateSettings) -> None:
    """Compile numba's functions in every worker before the work, so that the first blocks take no longer than
    others.
    """
    descent = any(map(layout.uses_nndescent, range(len(layout))))
    workers = cores_of(spark)

    def compile_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            warm_up(layout.metric, descent, approximate.threads)
            yield batch

    with progress(spark, "compile, with pynndescent" if descent else "compile", workers, "workers", workers):
        spark.range(0, workers, 1, workers).mapInArrow(compile_all, "id long").count()


def _across_borders(graph: Graph, sample: Audit) -> float | None:
    """`Approximation.across_borders`, measured on the audited vectors."""
    position_of, home = graph.layout.array("positions"), graph.layout.array("probes")[:, 0]
    home_of_number = np.where(position_of < 0, -1, home[np.maximum(position_of, 0)])
    return sample.across_borders(graph.lists(position_of[sample.vectors])[0], home_of_number)


def _lists(spark: SparkSession, graph: Graph) -> DataFrame:
    """The lists as `ApproximateResult.lists`."""
    layout = graph.layout
    schema = pa.schema([field for field in LISTS if not field[0].endswith("_floor")])

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column("id").to_pylist():
                keys, _ = graph.load(block)
                contents = [layout.blocks.part(block).index.tobytes(), keys.tobytes(), b""]
                yield pa.RecordBatch.from_arrays(
                    [pa.array([content], pa.binary()) for content in contents], schema=schema
                )

    return spark.range(0, len(layout), 1, min(len(layout), 2 * cores_of(spark))).mapInArrow(
        rows, from_arrow_schema(schema)
    )
