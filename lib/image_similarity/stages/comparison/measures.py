"""How far fingerprints agree, and how well each finds images with the same label: numbers about lists of neighbours.

A list holds the k nearest others of an image, nearest first; it is shorter where there are fewer others. All numbers
are means over the images that every compared fingerprint has lists for, so that each is asked the same questions.
Standard errors are those of a mean of independent values (the sample's deviation / sqrt(n)); images that are near to
each other have much of their lists in common, so that the true ones are somewhat larger. Beside each number stands its
chance level: the mean that lists drawn at random from the same images would have.

Files with the same bytes are images like others: a copy is found by every fingerprint and has the label of its
original, which raises all numbers. (``neighbours.copies = "one"`` leaves copies out of lists; the chance levels do not
know of it.)"""

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
    """What is asked for."""

    fingerprints: tuple[str, ...]
    metric: str
    k: int
    label: str | None
    """The attribute that tells which images belong together; None: there is none."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(combinations(self.fingerprints, 2))


@dataclass(frozen=True)
class Measured:
    """One row of ``comparisons``."""

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
    """image_id, and for each fingerprint an array of neighbour ids (``list_0``, ...), empty where it has no list of
    that image."""
    fingerprints: tuple[str, ...]
    sizes: Mapping[tuple[bool, ...], int]
    """Images, by which of the fingerprints have lists of them."""

    @classmethod
    def collect(cls, neighbours: DataFrame, fingerprints: tuple[str, ...], scratch: Workspace) -> "Lists":
        """From rows image_id, fingerprint, rank, neighbour_id: one shuffle, materialised. `JobFailed` if no image is in
        all."""
        entry = F.struct("rank", "neighbour_id")
        own = [F.sort_array(F.collect_list(F.when(F.col("fingerprint") == name, entry))) for name in fingerprints]
        named = [ranked.getField("neighbour_id").alias(f"list_{number}") for number, ranked in enumerate(own)]
        rows = scratch.write("lists", neighbours.groupBy("image_id").agg(*named))
        has = [(F.size(f"list_{number}") > 0).alias(f"has_{number}") for number in range(len(fingerprints))]
        sizes = {tuple(row[:-1]): row[-1] for row in rows.groupBy(*has).count().collect()}
        made = cls(rows, fingerprints, sizes)
        if not made.images(*fingerprints):
            raise JobFailed(
                f"no image has neighbours by all of {', '.join(fingerprints)}: make them from the same images"
            )
        return made

    @property
    def compared(self) -> DataFrame:
        """The rows of images that all fingerprints have lists of."""
        return self.rows.where(" AND ".join(f"size(list_{number}) > 0" for number in range(len(self.fingerprints))))

    def column(self, fingerprint: str) -> Column:
        return F.col(f"list_{self.fingerprints.index(fingerprint)}")

    def images(self, *fingerprints: str) -> int:
        """How many images all of ``fingerprints`` have lists of; those that any has, if none is named."""
        places = [self.fingerprints.index(name) for name in fingerprints]
        return sum(count for has, count in self.sizes.items() if all(has[place] for place in places))

    def length(self, fingerprint: str, k: int) -> int:
        """Of the fingerprint's lists."""
        return min(k, self.images(fingerprint) - 1)


# -- agreement ---------------------------------------------------------------------------------------------------------


def overlap(first: Column, second: Column) -> Column:
    """overlap@k of two lists A and B of one image: |A and B| / k; where both are shorter than k, over the length of the
    longer.

    1 for the same images in any order, 0 for none in common. (Webber, Moffat, Zobel: A similarity measure for
    indefinite rankings, 2010, section 2, call it the overlap at depth k.)"""
    return F.size(F.array_intersect(first, second)) / F.greatest(F.size(first), F.size(second))


def overlap_by_chance(lists: Lists, first: str, second: str, k: int) -> float:
    """The mean overlap of lists drawn at random from all images that the fingerprint has: k / (n - 1) where these are
    the same.

    Each of the images that both have is in the one with probability k / (n - 1), and in the other likewise.
    """
    both = lists.images(first, second) - 1
    lengths = [lists.length(name, k) for name in (first, second)]
    shares = [length / (lists.images(name) - 1) for name, length in zip((first, second), lengths)]
    return both * shares[0] * shares[1] / max(lengths)


def agreement(lists: Lists, comparison: Comparison) -> Iterator[Measured]:
    """The mean overlap@k of each pair of fingerprints, in one pass over the lists; nothing for a single one."""
    if not comparison.pairs:
        return
    columns = []
    for number, (first, second) in enumerate(comparison.pairs):
        columns += _mean_of(overlap(lists.column(first), lists.column(second)), str(number))
    told = lists.compared.agg(F.count("*").alias("images"), *columns).collect()[0]
    for number, (first, second) in enumerate(comparison.pairs):
        chance = overlap_by_chance(lists, first, second, comparison.k)
        yield _measured(comparison, first, second, OVERLAP, told, str(number), chance)


def disagreements(lists: Lists, first: str, second: str, count: int) -> list[Row]:
    """The ``count`` images with the lowest overlap: image_id, first, second (ids of neighbours), overlap.

    Of equal ones those with the lowest hash of image_id, which spreads them over the collection.
    """
    named = lists.compared.select("image_id", lists.column(first).alias("first"), lists.column(second).alias("second"))
    told = named.withColumn("overlap", overlap(F.col("first"), F.col("second")))
    return told.orderBy("overlap", F.xxhash64("image_id"), "image_id").limit(count).collect()


# -- labels ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """What labels say, and of how many images."""

    measured: tuple[Measured, ...] = ()
    images: int = 0
    """Compared images that share their label with another compared one: those that are asked about."""
    alone: int = 0
    """Whose label nobody shares."""
    unlabelled: int = 0
    best_precision: float = 0.0
    """That of lists in which all others with the label come first: below 1 where most labels have k images or fewer."""


def by_label(
    neighbours: DataFrame, lists: Lists, labels: DataFrame, comparison: Comparison, scratch: Workspace
) -> Labelled:
    """precision@k and mean average precision at k of each fingerprint, for image_id, label in ``labels``.

    - precision@k: the share of the k nearest (of all others, where they are fewer) that have the image's label.
    - average precision at k: the sum over hits of the precision at the hit's rank, over min(k, others with the label),
      so that a list that begins with all there are gets 1. (Manning, Raghavan, Schuetze: Introduction to Information
      Retrieval, 2008, section 8.4, whose average precision of a whole ranking is cut off at k here.)

    An image without a label is never asked about, and is no hit. Nor is one asked about whose label no other compared
    image has. Others with the label are counted among all that the fingerprint has lists of."""
    labelled = lists.compared.select("image_id").join(labels, "image_id")
    shared = labelled.groupBy("label").count().where("count > 1").select("label")
    asked = scratch.write("asked", labelled.join(shared, "label").select("image_id", "label"))
    images, with_label = asked.count(), labelled.count()
    counted = Labelled((), images, with_label - images, lists.images(*comparison.fingerprints) - with_label)
    if not images:
        return counted
    scores = _scored(_hits(neighbours, asked, labels), _relevant(neighbours, labels), _collections(lists, comparison))
    columns = [*_mean_of(F.col("precision"), PRECISION), *_mean_of(F.col("average"), AVERAGE_PRECISION)]
    best = F.avg("best_precision").alias("best_precision")
    chances = [F.avg(f"chance_{name}").alias(f"chance_{name}") for name in (PRECISION, AVERAGE_PRECISION)]
    means = scores.groupBy("fingerprint").agg(F.count("*").alias("images"), *columns, *chances, best)
    told = {row.fingerprint: row for row in means.collect()}
    measured = [
        _measured(comparison, name, None, measure, told[name], measure, told[name][f"chance_{measure}"])
        for measure in (PRECISION, AVERAGE_PRECISION)
        for name in comparison.fingerprints
    ]
    best_precision = max(row.best_precision for row in told.values())
    return replace(counted, measured=tuple(measured), best_precision=best_precision)


def _hits(neighbours: DataFrame, asked: DataFrame, labels: DataFrame) -> DataFrame:
    """fingerprint, image_id, label, hits (ranks of neighbours with that label, ascending), length of the list."""
    theirs = labels.select(F.col("image_id").alias("neighbour_id"), F.col("label").alias("theirs"))
    rows = neighbours.join(asked, "image_id").join(theirs, "neighbour_id", "left")
    hit = F.when(F.col("theirs") == F.col("label"), F.col("rank"))
    hits = F.sort_array(F.collect_list(hit)).alias("hits")
    return rows.groupBy("fingerprint", "image_id", "label").agg(hits, F.count("*").alias("length"))


def _relevant(neighbours: DataFrame, labels: DataFrame) -> DataFrame:
    """fingerprint, label, relevant: how many others an image with that label could find."""
    members = neighbours.where("rank = 1").select("fingerprint", "image_id").join(labels, "image_id")
    return members.groupBy("fingerprint", "label").agg((F.count("*") - 1).alias("relevant"))


def _collections(lists: Lists, comparison: Comparison) -> DataFrame:
    """fingerprint, others (images that an image is compared with), k (length of lists), harmonic (1 + 1/2 + ... +
    1/k)."""
    rows = []
    for name in comparison.fingerprints:
        length = lists.length(name, comparison.k)
        rows.append((name, lists.images(name) - 1, length, sum(1 / rank for rank in range(1, length + 1))))
    return lists.rows.sparkSession.createDataFrame(rows, "fingerprint string, others long, k int, harmonic double")


def _scored(hits: DataFrame, relevant: DataFrame, collections: DataFrame) -> DataFrame:
    """fingerprint, precision, average (precision), the chance level of each for that image, and its best precision."""
    rows = hits.join(relevant, ["fingerprint", "label"]).join(F.broadcast(collections), "fingerprint")
    at_hits = F.transform("hits", lambda rank, place: (place + 1) / rank)
    total = F.aggregate(at_hits, F.lit(0.0), lambda sum_so_far, one: sum_so_far + one)
    return rows.select(
        "fingerprint",
        (F.size("hits") / F.col("length")).alias("precision"),
        (F.least("k", "relevant") / F.col("length")).alias("best_precision"),
        (total / F.least("k", "relevant")).alias("average"),
        (F.col("relevant") / F.col("others")).alias(f"chance_{PRECISION}"),
        _average_precision_by_chance().alias(f"chance_{AVERAGE_PRECISION}"),
    )


def _average_precision_by_chance() -> Column:
    """The mean average precision of lists of k drawn at random from N others, R of which are relevant.

    At rank i there is a hit with probability R / N, and each of the i - 1 before it is one, too, with (R - 1) / (N -
    1). Summed over ranks: R / N (H + (k - H) (R - 1) / (N - 1)) / min(k, R), where H = 1 + 1/2 + ... + 1/k. (Bestgen:
    Exact expected average precision of the random baseline for system evaluation, 2015; here cut off at k.)"""
    relevant, others, k, harmonic = (F.col(name) for name in ("relevant", "others", "k", "harmonic"))
    another = (relevant - 1) / F.greatest(others - 1, F.lit(1))  # with one other there is no rank but the first
    return relevant / others * (harmonic + (k - harmonic) * another) / F.least(k, relevant)


# -- means -------------------------------------------------------------------------------------------------------------


def _mean_of(value: Column, name: str) -> list[Column]:
    return [F.avg(value).alias(f"mean_{name}"), (F.stddev_samp(value) / F.sqrt(F.count("*"))).alias(f"error_{name}")]


def _measured(
    comparison: Comparison, first: str, other: str | None, measure: str, told: Any, name: str, chance: float
) -> Measured:
    mean, error = told[f"mean_{name}"], told[f"error_{name}"]
    return Measured(first, other, comparison.metric, measure, comparison.k, mean, error, chance, told["images"])
