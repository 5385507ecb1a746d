"""How far fingerprints agree, and how well each finds images with the same label, measured on lists of neighbours.

A list holds the k nearest others of an image, nearest first; it is shorter where there are fewer others. All measures
are means over the images for which every compared fingerprint has a list, so that all fingerprints get the same
queries. Standard errors are those of a mean of independent values (the sample's deviation / sqrt(n)). Images that are
near to each other have much of their lists in common, so the true errors are somewhat larger. Each measure has a chance
level: the expected mean of lists drawn at random from the same images.

Files with the same bytes are separate images. Every fingerprint finds a copy, and a copy has the label of its original,
so copies raise all measures. (``neighbours.drop_duplicates`` leaves copies out of lists; the chance levels do not take
this into account.)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed
from image_similarity.warehouse.workspace import Workspace

OVERLAP, PRECISION, AVERAGE_PRECISION = "overlap", "precision", "mean_average_precision"


@dataclass(frozen=True)
class Comparison:
    """The parameters of a comparison."""

    fingerprints: tuple[str, ...]
    metric: str
    k: int
    label: str | None
    """The attribute whose value is equal for images that belong together; None if there is no such attribute."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(combinations(self.fingerprints, 2))


@dataclass(frozen=True)
class Measured:
    """One row of the table ``comparisons``."""

    fingerprint: str
    other: str | None
    metric: str
    measure: str
    k: int
    value: float
    standard_error: float | None
    """None for a single image."""
    chance: float
    images: int


@dataclass(frozen=True)
class Lists:
    """The lists of all images by all fingerprints."""

    rows: DataFrame
    """image_id, and for each fingerprint an array of neighbour ids (``list_0``, ...). The array is empty where the
    fingerprint has no list for the image."""
    fingerprints: tuple[str, ...]
    sizes: Mapping[tuple[bool, ...], int]
    """The number of images for each combination of fingerprints that have a list for the image (one bool for each
    fingerprint)."""

    @classmethod
    def collect(cls, neighbours: DataFrame, fingerprints: tuple[str, ...], scratch: Workspace) -> "Lists":
        """From rows image_id, fingerprint, rank, neighbour_id; takes one shuffle and is materialised.

        Raises ``JobFailed`` if there is no image for which all fingerprints have a list.
        """
        entry = F.struct("rank", "neighbour_id")
        ranked_lists = [
            F.sort_array(F.collect_list(F.when(F.col("fingerprint") == name, entry))) for name in fingerprints
        ]
        named = [ranked.getField("neighbour_id").alias(f"list_{number}") for number, ranked in enumerate(ranked_lists)]
        rows = scratch.write("lists", neighbours.groupBy("image_id").agg(*named))
        has_list = [(F.size(f"list_{number}") > 0).alias(f"has_{number}") for number in range(len(fingerprints))]
        sizes = {tuple(row[:-1]): row[-1] for row in rows.groupBy(*has_list).count().collect()}
        lists = cls(rows, fingerprints, sizes)
        if not lists.images(*fingerprints):
            raise JobFailed(
                f"no image has neighbours by all of {', '.join(fingerprints)}: make them from the same images"
            )
        return lists

    @property
    def compared(self) -> DataFrame:
        """The rows of the images for which all fingerprints have a list."""
        return self.rows.where(" AND ".join(f"size(list_{number}) > 0" for number in range(len(self.fingerprints))))

    def column(self, fingerprint: str) -> Column:
        return F.col(f"list_{self.fingerprints.index(fingerprint)}")

    def images(self, *fingerprints: str) -> int:
        """The number of images for which all of ``fingerprints`` have a list; without arguments, the number of images
        for which any fingerprint has one.
        """
        places = [self.fingerprints.index(name) for name in fingerprints]
        return sum(count for has, count in self.sizes.items() if all(has[place] for place in places))

    def length(self, fingerprint: str, k: int) -> int:
        """The length of the fingerprint's lists: ``k``, or the number of other images if that is less."""
        return min(k, self.images(fingerprint) - 1)


# -- agreement ---------------------------------------------------------------------------------------------------------


def overlap(first: Column, second: Column) -> Column:
    """overlap@k of two lists A and B of one image: |A and B| / k. Where both lists are shorter than k, the divisor is
    the length of the longer one.

    1 for the same images in any order, 0 for none in common. (Webber, Moffat, Zobel: A similarity measure for
    indefinite rankings, 2010, section 2, call it the overlap at depth k.)
    """
    return F.size(F.array_intersect(first, second)) / F.greatest(F.size(first), F.size(second))


def chance_overlap(lists: Lists, first: str, second: str, k: int) -> float:
    """The expected overlap of lists drawn at random, each from all images of its fingerprint; k / (n - 1) if both
    fingerprints have the same n images.

    An image that both fingerprints have is in a random list of k with probability k / (n - 1), independently for both.
    """
    both = lists.images(first, second) - 1
    lengths = [lists.length(name, k) for name in (first, second)]
    shares = [length / (lists.images(name) - 1) for name, length in zip((first, second), lengths)]
    return both * shares[0] * shares[1] / max(lengths)


def agreement(lists: Lists, comparison: Comparison) -> Iterator[Measured]:
    """The mean overlap@k of each pair of fingerprints, in one pass over the lists; nothing for a single fingerprint."""
    if not comparison.pairs:
        return
    columns = []
    for number, (first, second) in enumerate(comparison.pairs):
        columns += _mean_of(overlap(lists.column(first), lists.column(second)), str(number))
    means = lists.compared.agg(F.count("*").alias("images"), *columns).collect()[0]
    for number, (first, second) in enumerate(comparison.pairs):
        chance = chance_overlap(lists, first, second, comparison.k)
        yield _measured_row(comparison, first, second, OVERLAP, means, str(number), chance)


def disagreements(lists: Lists, first: str, second: str, count: int) -> list[Row]:
    """The ``count`` images with the lowest overlap: image_id, first, second (ids of neighbours), overlap.

    Ties are broken by a hash of image_id, which spreads the images over the collection.
    """
    pairs = lists.compared.select("image_id", lists.column(first).alias("first"), lists.column(second).alias("second"))
    overlaps = pairs.withColumn("overlap", overlap(F.col("first"), F.col("second")))
    return overlaps.orderBy("overlap", F.xxhash64("image_id"), "image_id").limit(count).collect()


# -- labels ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """The measures that use labels, and the numbers of images with and without a usable label."""

    measured: tuple[Measured, ...] = ()
    images: int = 0
    """The queries: compared images that share their label with another compared image."""
    alone: int = 0
    """Compared images with a label that no other compared image has."""
    unlabelled: int = 0
    """Compared images without a label."""
    best_precision: float = 0.0
    """Precision of an ideal ranking, in which all others with the label come first; below 1 where most labels have k
    images or fewer."""


def by_label(
    neighbours: DataFrame, lists: Lists, labels: DataFrame, comparison: Comparison, scratch: Workspace
) -> Labelled:
    """precision@k and mean average precision at k of each fingerprint, for image_id, label in ``labels``.

    - precision@k: the share of the k nearest (of all others, where they are fewer) that have the image's label.
    - average precision at k: the sum over hits of the precision at the hit's rank, divided by min(k, others with the
      label). An ideal ranking has 1. (Manning, Raghavan, Schuetze: Introduction to Information Retrieval, 2008, section
      8.4; the average precision of a whole ranking is cut off at k here.)

    An image without a label is neither a query nor a hit. An image is no query, either, if no other compared image has
    its label. Others with the label are counted among all images for which the fingerprint has a list.
    """
    labelled = lists.compared.select("image_id").join(labels, "image_id")
    shared = labelled.groupBy("label").count().where("count > 1").select("label")
    queries = scratch.write("asked", labelled.join(shared, "label").select("image_id", "label"))
    images, with_label = queries.count(), labelled.count()
    counts = Labelled((), images, with_label - images, lists.images(*comparison.fingerprints) - with_label)
    if not images:
        return counts
    scores = _scored(_hits(neighbours, queries, labels), _relevant(neighbours, labels), _collections(lists, comparison))
    columns = [*_mean_of(F.col("precision"), PRECISION), *_mean_of(F.col("average"), AVERAGE_PRECISION)]
    best = F.avg("best_precision").alias("best_precision")
    chances = [F.avg(f"chance_{name}").alias(f"chance_{name}") for name in (PRECISION, AVERAGE_PRECISION)]
    means = scores.groupBy("fingerprint").agg(F.count("*").alias("images"), *columns, *chances, best)
    means_by_fingerprint = {row.fingerprint: row for row in means.collect()}
    measured = [
        _measured_row(
            comparison,
            name,
            None,
            measure,
            means_by_fingerprint[name],
            measure,
            means_by_fingerprint[name][f"chance_{measure}"],
        )
        for measure in (PRECISION, AVERAGE_PRECISION)
        for name in comparison.fingerprints
    ]
    best_precision = max(row.best_precision for row in means_by_fingerprint.values())
    return replace(counts, measured=tuple(measured), best_precision=best_precision)


def _hits(neighbours: DataFrame, queries: DataFrame, labels: DataFrame) -> DataFrame:
    """fingerprint, image_id, label, hits (ranks of the neighbours with that label, ascending), length (of the list)."""
    theirs = labels.select(F.col("image_id").alias("neighbour_id"), F.col("label").alias("theirs"))
    rows = neighbours.join(queries, "image_id").join(theirs, "neighbour_id", "left")
    hit = F.when(F.col("theirs") == F.col("label"), F.col("rank"))
    hits = F.sort_array(F.collect_list(hit)).alias("hits")
    return rows.groupBy("fingerprint", "image_id", "label").agg(hits, F.count("*").alias("length"))


def _relevant(neighbours: DataFrame, labels: DataFrame) -> DataFrame:
    """fingerprint, label, relevant (the number of other images with that label)."""
    members = neighbours.where("rank = 1").select("fingerprint", "image_id").join(labels, "image_id")
    return members.groupBy("fingerprint", "label").agg((F.count("*") - 1).alias("relevant"))


def _collections(lists: Lists, comparison: Comparison) -> DataFrame:
    """fingerprint, others (images that an image is compared with), k (length of lists), harmonic (1 + 1/2 + ... +
    1/k).
    """
    rows = []
    for name in comparison.fingerprints:
        length = lists.length(name, comparison.k)
        rows.append((name, lists.images(name) - 1, length, sum(1 / rank for rank in range(1, length + 1))))
    return lists.rows.sparkSession.createDataFrame(rows, "fingerprint string, others long, k int, harmonic double")


def _scored(hits: DataFrame, relevant: DataFrame, collections: DataFrame) -> DataFrame:
    """One row for each query: fingerprint, precision, best_precision (of an ideal ranking), average (precision), and
    the chance levels of precision and average precision.
    """
    rows = hits.join(relevant, ["fingerprint", "label"]).join(F.broadcast(collections), "fingerprint")
    precision_at_hits = F.transform("hits", lambda rank, place: (place + 1) / rank)
    sum_of_shares = F.aggregate(precision_at_hits, F.lit(0.0), lambda sum_so_far, share: sum_so_far + share)
    return rows.select(
        "fingerprint",
        (F.size("hits") / F.col("length")).alias("precision"),
        (F.least("k", "relevant") / F.col("length")).alias("best_precision"),
        (sum_of_shares / F.least("k", "relevant")).alias("average"),
        (F.col("relevant") / F.col("others")).alias(f"chance_{PRECISION}"),
        _chance_average_precision().alias(f"chance_{AVERAGE_PRECISION}"),
    )


def _chance_average_precision() -> Column:
    """The expected average precision of lists of k drawn at random from N others, R of which are relevant.

    Rank i is a hit with probability R / N. Given that, each of the i - 1 ranks before it is a hit with probability (R -
    1) / (N - 1). The sum over ranks is R / N (H + (k - H) (R - 1) / (N - 1)) / min(k, R), where H = 1 + 1/2 + ... +
    1/k. (Bestgen: Exact expected average precision of the random baseline for system evaluation, 2015; here cut off at
    k.)
    """
    relevant, others, k, harmonic = (F.col(name) for name in ("relevant", "others", "k", "harmonic"))
    another = (relevant - 1) / F.greatest(others - 1, F.lit(1))  # with one other image there is only rank 1
    return relevant / others * (harmonic + (k - harmonic) * another) / F.least(k, relevant)


# -- means -------------------------------------------------------------------------------------------------------------


def _mean_of(value: Column, name: str) -> list[Column]:
    return [F.avg(value).alias(f"mean_{name}"), (F.stddev_samp(value) / F.sqrt(F.count("*"))).alias(f"error_{name}")]


def _measured_row(
    comparison: Comparison, first: str, other: str | None, measure: str, means: Any, name: str, chance: float
) -> Measured:
    mean, error = means[f"mean_{name}"], means[f"error_{name}"]
    return Measured(first, other, comparison.metric, measure, comparison.k, mean, error, chance, means["images"])
