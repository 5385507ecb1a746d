"""One comparison: what is measured, then the report of it."""

from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed
from image_similarity.pages.site import Site
from image_similarity.settings import Settings
from image_similarity.stages.comparison import cards, measures, plot, report
from image_similarity.stages.comparison.measures import Comparison, Labelled, Lists, Measured
from image_similarity.stages.comparison.report import NEAREST_SHOWN, Pair, Report
from image_similarity.warehouse.schemas import SIMILAR
from image_similarity.warehouse.workspace import Workspace


@dataclass(frozen=True)
class Inputs:
    manifest: DataFrame
    """May be without rows: then there are no labels and no pictures."""
    neighbours: DataFrame
    """By the metric of the comparison."""
    untrained: tuple[str, ...]
    """Fingerprints made with untrained weights."""


@dataclass(frozen=True)
class Outputs:
    measured: tuple[Measured, ...]
    """The rows of ``comparisons``."""
    index: str
    """The report's page."""
    labelled: Labelled
    counts: dict[str, Any]


def run(
    spark: SparkSession,
    inputs: Inputs,
    comparison: Comparison,
    examples: int,
    settings: Settings,
    site: Site,
    rendering: str,
    scratch: Workspace,
) -> Outputs:
    """Measure, and write the folder ``rendering`` of the report, with ``examples`` images for each pair of
    fingerprints.

    What the report shows stays untouched. Raises ``JobFailed`` if there is nothing to measure: no image that
    all fingerprints have lists of, or of a single one no two images with the same label.
    """
    neighbours = _lists_of(inputs.neighbours, comparison)
    lists = Lists.collect(neighbours, comparison.fingerprints, scratch)
    labels = labels_of(inputs.manifest, comparison.label)
    labelled = measures.by_label(neighbours, lists, labels, comparison, scratch) if comparison.label else Labelled()
    overlaps = list(measures.agreement(lists, comparison))
    measured = (*overlaps, *labelled.measured)
    if not measured:
        raise JobFailed(
            f"nothing to measure: of the images that were compared, no two have the same {comparison.label}"
        )
    chosen = [measures.disagreements(lists, *pair, examples) for pair in comparison.pairs]
    folder = site.folder(rendering)
    made = cards.make(spark, _shown(chosen), inputs.manifest, comparison.label, settings, folder)
    pairs = [Pair(row, tuple(_disagreement(row, one, made) for one in images)) for row, images in zip(overlaps, chosen)]
    images = lists.images(*comparison.fingerprints)
    told = Report(comparison, images, lists.images() - images, measured, labelled, pairs, inputs.untrained)
    index = report.write(told, plot.draw(comparison, measured), folder)
    counts = {
        "images": images,
        "left_out": told.left_out,
        "unlabelled": labelled.unlabelled,
        "alone": labelled.alone,
        "pictures": sum(card.picture is not None for card in made.values()),
        "pictures_absent": sum(card.picture is None for card in made.values()),
    }
    return Outputs(measured, index, labelled, counts)


def labels_of(manifest: DataFrame, attribute: str | None) -> DataFrame:
    """image_id, label: the images that have ``attribute``, and not an empty one."""
    label = F.col("attributes")[attribute] if attribute is not None else F.lit(None).cast("string")
    return manifest.select("image_id", label.alias("label")).where("trim(label) != ''")


def _lists_of(neighbours: DataFrame, comparison: Comparison) -> DataFrame:
    near = (F.col("relation") == SIMILAR) & (F.col("rank") <= comparison.k)
    return neighbours.where(near).select("image_id", "fingerprint", "rank", "neighbour_id")


def _shown(chosen: list[list[Row]]) -> set[str]:
    """The ids of all images that the report shows."""
    rows = [row for images in chosen for row in images]
    nearest = [image_id for row in rows for ids in (row.first, row.second) for image_id in ids[:NEAREST_SHOWN]]
    return {*nearest, *(row.image_id for row in rows)}


def _disagreement(measured: Measured, row: Row, made: dict[str, cards.Card]) -> report.Disagreement:
    lists = {measured.fingerprint: row.first, str(measured.other): row.second}
    return report.disagreement(row.image_id, lists, made)
