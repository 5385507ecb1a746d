"""The stage: measures fingerprints, then writes the report."""

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
    """The manifest; without rows, there are no labels and no pictures."""
    neighbours: DataFrame
    """Rows of ``neighbours`` by the metric of the comparison."""
    untrained: tuple[str, ...]
    """Fingerprints made with untrained weights."""


@dataclass(frozen=True)
class Outputs:
    measured: tuple[Measured, ...]
    """The rows of ``comparisons``."""
    index: str
    """The HTML of the report's page, which is not written yet."""
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

    The published page and its files stay as they are. Raises ``JobFailed`` if there is nothing to measure: there is no
    image for which all fingerprints have a list, or there is a single fingerprint and no two images have the same
    label.
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
    examples_by_pair = [measures.disagreements(lists, *pair, examples) for pair in comparison.pairs]
    folder = site.folder(rendering)
    cards_by_id = cards.make(spark, _shown(examples_by_pair), inputs.manifest, comparison.label, settings, folder)
    pairs = [
        Pair(row, tuple(_disagreement(row, image, cards_by_id) for image in images))
        for row, images in zip(overlaps, examples_by_pair)
    ]
    images = lists.images(*comparison.fingerprints)
    contents = Report(comparison, images, lists.images() - images, measured, labelled, pairs, inputs.untrained)
    index = report.write(contents, plot.draw(comparison, measured), folder)
    counts = {
        "images": images,
        "left_out": contents.left_out,
        "unlabelled": labelled.unlabelled,
        "alone": labelled.alone,
        "pictures": sum(card.picture is not None for card in cards_by_id.values()),
        "pictures_absent": sum(card.picture is None for card in cards_by_id.values()),
    }
    return Outputs(measured, index, labelled, counts)


def labels_of(manifest: DataFrame, attribute: str | None) -> DataFrame:
    """image_id, label: the images whose ``attribute`` is not empty."""
    label = F.col("attributes")[attribute] if attribute is not None else F.lit(None).cast("string")
    return manifest.select("image_id", label.alias("label")).where("trim(label) != ''")


def _lists_of(neighbours: DataFrame, comparison: Comparison) -> DataFrame:
    near = (F.col("relation") == SIMILAR) & (F.col("rank") <= comparison.k)
    return neighbours.where(near).select("image_id", "fingerprint", "rank", "neighbour_id")


def _shown(examples_by_pair: list[list[Row]]) -> set[str]:
    """The ids of all images that the report shows."""
    rows = [row for images in examples_by_pair for row in images]
    nearest = [image_id for row in rows for ids in (row.first, row.second) for image_id in ids[:NEAREST_SHOWN]]
    return {*nearest, *(row.image_id for row in rows)}


def _disagreement(measured: Measured, row: Row, cards_by_id: dict[str, cards.Card]) -> report.Disagreement:
    lists = {measured.fingerprint: row.first, str(measured.other): row.second}
    return report.disagreement(row.image_id, lists, cards_by_id)
