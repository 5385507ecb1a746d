"""The stage: vectors in, rows of the table out. Which lists are found in which way, and what becomes of them."""

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import JobFailed
from image_similarity.knn import scoring
from image_similarity.knn.distances import METRICS
from image_similarity.runtime.progress import step
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours import approximate, exact
from image_similarity.stages.neighbours.approximate import Found
from image_similarity.stages.neighbours.numbers import NOTHING_KNOWN
from image_similarity.stages.neighbours.plan import APPROXIMATE, EXACT, Plan
from image_similarity.stages.neighbours.previous import Before
from image_similarity.stages.neighbours.sources import Source
from image_similarity.stages.neighbours.table import ROWS, Naming
from image_similarity.stages.neighbours.vectors import Packed, pack
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.workspace import Workspace


@dataclass(frozen=True)
class Outputs:
    """Frames in the schemas of the tables, and what was counted."""

    neighbours: DataFrame
    failures: DataFrame
    packed: Packed
    rows: int
    """Rows that ``neighbours`` must have."""
    brute_force: int
    """Vectors whose scores did not prove their neighbours, and that were compared in full."""
    found: Found | None
    """How approximate lists came about, also where they were not good enough and exact ones took their place."""


def run(
    spark: SparkSession,
    source: Source,
    settings: NeighboursSettings,
    how: ApproximateSettings,
    plan: Plan,
    scratch: Workspace,
    state: Workspace,
    before: Before | None = None,
) -> Outputs:
    """Neighbours among the images of ``source``.

    ``how``: where ``plan.method`` is approximate. ``state``: for what the next run may need. ``before``: what a run of
    the same metric left there; exact lists are found only for what is new. Raises ``JobFailed`` where the store does
    not fit the images, or where recall is too low and nothing else is to be tried."""
    with step(spark, "pack vectors"):
        packed = pack(source, settings, plan.block_rows, before.known if before else NOTHING_KNOWN, scratch)
    if packed.usable + packed.unusable != plan.rows:
        raise JobFailed(
            f"{plan.rows:,} images, but {packed.usable:,} usable vectors and {packed.unusable:,} others: the store "
            "lacks some or "
            "has some twice; nothing was published; run embed_images with --set embeddings.recheck=always"
        )
    common_scale = scoring.scale_of(packed.largest, packed.dimensions, METRICS[settings.metric])
    found, brute_force, tables, exactly = None, 0, [], settings
    if plan.method == APPROXIMATE and settings.similar and packed.vectors > 1:
        found = approximate.run(spark, packed, common_scale, settings, how, scratch)
        if found.good_enough:
            exactly = settings.model_copy(update={"similar": 0})
            similar_alone = settings.model_copy(update={"dissimilar": 0})
            tables.append(_labelled(_named(found.lists, packed, similar_alone), settings, APPROXIMATE, "neighbours"))
        elif how.fallback == "fail":
            raise JobFailed(_too_low(found, how))
    if exactly.similar or exactly.dissimilar:
        lists, brute_force = exact.run(spark, packed, common_scale, exactly, plan, scratch, state, before)
        tables.append(_labelled(_named(lists, packed, exactly), settings, EXACT, "neighbours"))
    others = max(packed.numbers.entries(settings.drop_duplicates) - 1, 0)
    nothing = F.lit(None).cast("string")
    failures = packed.failures.withColumn("uri", nothing).withColumn("source_version", nothing)
    return Outputs(
        neighbours=reduce(DataFrame.unionAll, tables),
        failures=_labelled(failures, settings, EXACT, "failures"),
        packed=packed,
        rows=packed.usable * (min(settings.similar, others) + min(settings.dissimilar, others)),
        brute_force=brute_force,
        found=found,
    )


def _too_low(found: Found, how: ApproximateSettings) -> str:
    return (
        f"recall is {found.recall}, but approximate.recall_target is {how.recall_target} (and the interval may "
        "begin at "
        f"{how.recall_target - how.recall_slack:.4g}): nothing was published; raise approximate.visits, widenings "
        "or rounds, or "
        'set approximate.fallback = "exact"'
    )


def _named(lists: DataFrame, packed: Packed, settings: NeighboursSettings) -> DataFrame:
    naming = Naming(packed.blocks.folder, settings.similar, settings.dissimilar, settings.drop_duplicates)
    return lists.mapInArrow(naming.named, from_arrow_schema(ROWS))


def _labelled(rows: DataFrame, settings: NeighboursSettings, method: str, table: str) -> DataFrame:
    labels = {"fingerprint": settings.fingerprint, "metric": settings.metric, "method": method}
    return rows.withColumns({name: F.lit(value) for name, value in labels.items()}).select(*SCHEMAS[table].names)
