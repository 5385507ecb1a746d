"""The stage: vectors in, rows of the table out. Approximate lists are used only where their recall is high enough."""

from dataclasses import dataclass
from functools import partial, reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import JobFailed
from image_similarity.knn import scoring
from image_similarity.knn.distances import METRICS
from image_similarity.knn.screening import Choice
from image_similarity.runtime.progress import step
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours import approximate as approximate_search
from image_similarity.stages.neighbours import exact, quality
from image_similarity.stages.neighbours.approximate import ApproximateResult
from image_similarity.stages.neighbours.numbers import NOTHING_KNOWN
from image_similarity.stages.neighbours.plan import APPROXIMATE, EXACT, Plan
from image_similarity.stages.neighbours.previous import PreviousRun
from image_similarity.stages.neighbours.sources import Source
from image_similarity.stages.neighbours.table import ROWS, Naming
from image_similarity.stages.neighbours.usable import mismatch
from image_similarity.stages.neighbours.vectors import Packed, pack
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.workspace import Workspace


@dataclass(frozen=True)
class Outputs:
    """Frames in the schemas of the tables, and counts."""

    neighbours: DataFrame
    failures: DataFrame
    packed: Packed
    rows: int
    """The number of rows that ``neighbours`` must have."""
    brute_force: int
    """The number of vectors whose scores did not prove their neighbours, and which were compared by brute force."""
    screen: Choice | None
    """The precision of exact search; None where there was none."""
    approximate: ApproximateResult | None
    """The approximate lists, also where their recall was too low and exact ones replaced them; None where none were
    made."""


def run(
    spark: SparkSession,
    source: Source,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
    plan: Plan,
    scratch: Workspace,
    state: Workspace,
    previous_run: PreviousRun | None = None,
) -> Outputs:
    """Neighbours among the images of ``source``.

    ``approximate`` matters only where ``plan.method`` is approximate. ``state`` receives what the next run may need.
    ``previous_run``: the state of a run with the same metric; exact search then compares no two vectors that are both
    not new. Raises ``JobFailed`` where images and stored vectors do not match, or where recall is too low and
    ``approximate.fallback`` is fail.
    """
    with step(spark, "pack vectors"):
        packed = pack(source, settings, plan.block_rows, previous_run.known if previous_run else NOTHING_KNOWN, scratch)
    if packed.usable + packed.unusable != plan.rows:
        raise JobFailed(mismatch(plan.rows, packed.usable, packed.unusable))
    common_scale = scoring.scale_of(packed.largest, packed.dimensions, METRICS[settings.metric])
    result, brute_force, screen, tables, exact_settings = None, 0, None, [], settings
    if plan.method == APPROXIMATE and settings.similar and packed.vectors > 1:
        result = approximate_search.run(spark, packed, common_scale, settings, approximate, scratch)
        if result.good_enough:
            exact_settings = settings.model_copy(update={"similar": 0})
            similar_only = settings.model_copy(update={"dissimilar": 0})
            tables.append(_labelled(_named(result.lists, packed, similar_only), settings, APPROXIMATE, "neighbours"))
        elif approximate.fallback == "fail":
            raise JobFailed(quality.too_low(result, approximate))
    if previous_run is not None and previous_run.similar < exact_settings.similar:
        # Exact lists take the place of approximate ones, of which the previous run left none.
        packed, previous_run = packed.all_new(), None
    if exact_settings.similar or exact_settings.dissimilar:
        lists, brute_force, screen = exact.run(
            spark, packed, common_scale, exact_settings, plan, scratch, state, previous_run
        )
        tables.append(_labelled(_named(lists, packed, exact_settings), settings, EXACT, "neighbours"))
    others = max(packed.numbers.entries(settings.drop_duplicates) - 1, 0)
    null = F.lit(None).cast("string")
    failures = packed.failures.withColumn("uri", null).withColumn("source_version", null)
    return Outputs(
        neighbours=reduce(DataFrame.unionAll, tables),
        failures=_labelled(failures, settings, EXACT, "failures"),
        packed=packed,
        rows=packed.usable * (min(settings.similar, others) + min(settings.dissimilar, others)),
        brute_force=brute_force,
        screen=screen,
        approximate=result,
    )


def _named(lists: DataFrame, packed: Packed, settings: NeighboursSettings) -> DataFrame:
    naming = Naming(settings.similar, settings.dissimilar, settings.drop_duplicates)
    return lists.mapInArrow(partial(naming.named, packed.blocks.folder), from_arrow_schema(ROWS))


def _labelled(rows: DataFrame, settings: NeighboursSettings, method: str, table: str) -> DataFrame:
    labels = {"fingerprint": settings.fingerprint, "metric": settings.metric, "method": method}
    return rows.withColumns({name: F.lit(value) for name, value in labels.items()}).select(*SCHEMAS[table].names)
