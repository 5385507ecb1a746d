"""The stage: from vectors to the rows of the table. Approximate lists are used only where their recall is enough."""

from dataclasses import dataclass
from functools import partial

import pyarrow as pa
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
from image_similarity.stages.neighbours.exact import Output
from image_similarity.stages.neighbours.local_source import LocalSource
from image_similarity.stages.neighbours.numbers import NOTHING_KNOWN
from image_similarity.stages.neighbours.plan import APPROXIMATE, EXACT, Plan
from image_similarity.stages.neighbours.previous import PreviousRun
from image_similarity.stages.neighbours.sources import Source
from image_similarity.stages.neighbours.table import ROWS, Naming, labelled
from image_similarity.stages.neighbours.usable import mismatch
from image_similarity.stages.neighbours.vectors import Packed, pack
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.workspace import Workspace


@dataclass(frozen=True)
class Outputs:
    """What was found beside the rows, and counts."""

    failures: pa.Table
    """In the table's schema."""
    packed: Packed
    rows: int
    """The number of rows that must have been written."""
    brute_force: int
    """The number of vectors whose scores did not prove their neighbours, and which were compared by brute force."""
    screen: Choice | None
    """The precision of exact search; None where there was none."""
    approximate: ApproximateResult | None
    """The approximate lists, also where their recall was too low and exact ones replaced them; None where none were
    made."""


def run(
    spark: SparkSession,
    source: Source | LocalSource,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
    plan: Plan,
    scratch: Workspace,
    state: Workspace,
    output: Output,
    previous_run: PreviousRun | None = None,
) -> Outputs:
    """Writes the neighbours among the images of ``source`` to ``output``, in the table's schema.

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
    result, brute_force, screen, exact_settings = None, 0, None, settings
    if plan.method == APPROXIMATE and settings.similar and packed.vectors > 1:
        result = approximate_search.run(spark, packed, common_scale, settings, approximate, scratch)
        if result.good_enough:
            exact_settings = settings.model_copy(update={"similar": 0})
        elif approximate.fallback == "fail":
            raise JobFailed(quality.too_low(result, approximate))
    if previous_run is not None and previous_run.similar < exact_settings.similar:
        # Exact lists take the place of approximate ones, of which the previous run left none.
        packed, previous_run = packed.all_new(), None
    if exact_settings.similar or exact_settings.dissimilar:
        exact_rows = _Labelled(output, settings, EXACT)
        brute_force, screen = exact.run(
            spark, packed, common_scale, exact_settings, plan, scratch, state, previous_run, exact_rows
        )
    if result is not None and result.good_enough:
        with step(spark, "name neighbours"):
            similar_only = settings.model_copy(update={"dissimilar": 0})
            _Labelled(output, settings, APPROXIMATE).write(_named(result.lists, packed, similar_only))
    others = max(packed.numbers.entries(settings.drop_duplicates) - 1, 0)
    return Outputs(
        failures=labelled(packed.failures, settings, "failures"),
        packed=packed,
        rows=packed.usable * (min(settings.similar, others) + min(settings.dissimilar, others)),
        brute_force=brute_force,
        screen=screen,
        approximate=result,
    )


def _named(lists: DataFrame, packed: Packed, settings: NeighboursSettings) -> DataFrame:
    naming = Naming(settings.similar, settings.dissimilar, settings.drop_duplicates)
    return lists.mapInArrow(partial(naming.named, packed.blocks.folder), from_arrow_schema(ROWS))


@dataclass(frozen=True)
class _Labelled:
    """``output``, which gets rows with all columns of the table."""

    output: Output
    settings: NeighboursSettings
    method: str

    def write(self, rows: DataFrame) -> None:
        labels = {"fingerprint": self.settings.fingerprint, "metric": self.settings.metric, "method": self.method}
        labelled = rows.withColumns({name: F.lit(value) for name, value in labels.items()})
        self.output.write(labelled.select(*SCHEMAS["neighbours"].names))

    def clear(self) -> None:
        self.output.clear()
