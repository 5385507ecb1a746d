"""manifest -> embeddings, vectors and failures of one or several fingerprints, in one pass over the images.

Vectors are known by the sha256 of the file they come from. An image whose uri and version are those of the last run is
not even read; one whose content is known is read but not decoded; the rest is decoded once and goes through every
fingerprint that lacks it."""

import functools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed
from image_similarity.fingerprints.spec import FingerprintSpec
from image_similarity.imaging import decoding
from image_similarity.runtime import devices
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import task_count
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.stages.embeddings import workers
from image_similarity.stages.embeddings.saved import Count
from image_similarity.stages.embeddings.workers import NON_FINITE, Contents, Work
from image_similarity.storage import fetch
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.workspace import Workspace

FAILURE_REASONS = {
    **fetch.FETCH_REASONS,
    **decoding.UNREADABLE_REASONS,
    NON_FINITE: "the network's answer has infinite or undefined values",
}
"""Every ``reason`` that this stage writes into ``failures``."""

PERMANENT_REASONS = (*decoding.UNREADABLE_REASONS, NON_FINITE, "too_many_bytes")
"""Reasons that lie in the file: while it is the same, trying again is asked for. The others may pass: they are always
tried."""

LEAST_IMAGES_PER_TASK = 32


@dataclass(frozen=True)
class Fingerprint:
    """One of the fingerprints that images are put through, and what is there of it."""

    name: str
    description: FingerprintSpec
    file: str | None
    """What the driver shipped for it."""
    published: DataFrame
    """Rows of ``embeddings`` of this fingerprint, of any key; may be empty."""
    failures: DataFrame
    """Rows of ``failures`` published with them."""
    failures_hold: bool
    """Whether these were made with the same key."""
    vectors: DataFrame
    """Rows of ``vectors`` of this key as published."""
    saved: DataFrame
    """What runs before saved and did not publish, as `saved.SCHEMA`."""
    folder: str
    """Where this run saves vectors, as programs outside Hadoop name it."""

    @property
    def key(self) -> str:
        return self.description.key


@dataclass(frozen=True)
class Retry:
    """Which failures of before are tried again though their files are the same."""

    all: bool = False
    reasons: Collection[str] = ()


@dataclass(frozen=True)
class Outputs:
    """Of one fingerprint: frames in the schemas of the tables."""

    embeddings: DataFrame
    failures: DataFrame
    images: int
    reused: int
    """Images that were not read, since they are as they were."""
    resumed: int
    """Of these, images that an earlier run had embedded and not published."""
    read: int
    embedded_on: dict[str, int]
    """Images that went through it, by the device that it computed on."""


def run(
    spark: SparkSession,
    manifest: DataFrame,
    fingerprints: Sequence[Fingerprint],
    settings: EmbeddingsSettings,
    http: HttpSettings,
    retry: Retry,
    scratch: Workspace,
) -> list[Outputs]:
    """Read what is not known yet, once, and embed it. New vectors are in the fingerprints' folders, see
    `new_vectors`."""
    matched = scratch.write("matched", _matched(manifest, [_known(one, settings, retry) for one in fingerprints]))
    tally = _tally(matched, len(fingerprints))
    results = spark.createDataFrame([], _RESULTS)
    if tally.unread:
        results = _results(spark, matched.where("wanted > 0"), tally.unread, fingerprints, settings, http, scratch)
    return [_split(number, one, matched, results, tally) for number, one in enumerate(fingerprints)]


# -- what is known -----------------------------------------------------------------------------------------------------

_PUBLISHED, _SAVED, _FAILED = 0, 1, 2
"""Where it is known from what an image is, the best first."""


def _known(one: Fingerprint, settings: EmbeddingsSettings, retry: Retry) -> DataFrame:
    """What need not be found out again: image_id, source_version, and ``known`` (see `_PUBLISHED`, content, reason,
    detail)."""
    nothing = F.lit(None).cast("string")
    of_key = one.published.where(F.col("fingerprint_key") == one.key)
    sources = [
        of_key.select(
            "image_id", "source_version", F.lit(_PUBLISHED).alias("kind"), "content_sha256", *_none("reason", "detail")
        ),
        one.saved.select("image_id", "source_version", F.lit(_SAVED), "content_sha256", nothing, nothing),
    ]
    # Failures of another key say nothing about this one.
    if one.failures_hold and not retry.all:
        failed = one.failures.where(F.col("reason").isin(*PERMANENT_REASONS) & ~F.col("reason").isin(*retry.reasons))
        sources.append(failed.select("image_id", "source_version", F.lit(_FAILED), nothing, "reason", "detail"))
    known = functools.reduce(DataFrame.unionAll, sources).where("source_version IS NOT NULL")
    if settings.recheck == "always":
        known = known.limit(0)
    best = F.min(F.struct("kind", "content_sha256", "reason", "detail")).alias("known")
    return known.groupBy("image_id", "source_version").agg(best)


def _none(*names: str) -> list[Column]:
    return [F.lit(None).cast("string").alias(name) for name in names]


def _matched(manifest: DataFrame, known: Sequence[DataFrame]) -> DataFrame:
    """Each image with what each fingerprint knows of it (``known_<i>``), and ``wanted``: bit i if that is nothing for
    i."""
    rows, wanted = manifest.drop("attributes", "modified_at"), F.lit(0).cast("long")
    for number, one in enumerate(known):
        rows = rows.join(one.withColumnRenamed("known", f"known_{number}"), ["image_id", "source_version"], "left")
        wanted = wanted + F.when(F.col(f"known_{number}").isNull(), F.lit(1 << number)).otherwise(F.lit(0))
    return rows.withColumn("wanted", wanted)


@dataclass(frozen=True)
class _Tally:
    images: int
    unread: int
    wanted: tuple[int, ...]
    """By fingerprint: images that are read for it."""
    resumed: tuple[int, ...]


def _tally(matched: DataFrame, fingerprints: int) -> _Tally:
    counted = [F.count("*"), F.count_if(F.col("wanted") > 0)]
    for number in range(fingerprints):
        known = F.col(f"known_{number}")
        counted += [F.count_if(known.isNull()), F.count_if(known["kind"] == _SAVED)]
    images, unread, *each = matched.agg(*[column.alias(f"_{place}") for place, column in enumerate(counted)]).collect()[
        0
    ]
    return _Tally(images, unread, tuple(each[::2]), tuple(each[1::2]))


def _known_contents(spark: SparkSession, one: Fingerprint) -> "Broadcast[Contents] | None":
    """The contents whose vectors are there, for all workers."""
    contents = one.vectors.select("content_sha256").unionAll(one.saved.select("content_sha256"))
    numbers = contents.select(F.conv(F.substring("content_sha256", 1, 15), 16, 10).cast("long").alias("content"))
    known = np.unique(numbers.toArrow()["content"].to_numpy())
    return spark.sparkContext.broadcast(known) if len(known) else None


# -- the pass over the images ------------------------------------------------------------------------------------------

_RESULTS = f"image_id string, uri string, source_version string, wanted long, {workers.RESULT}"


def _results(
    spark: SparkSession,
    unread: DataFrame,
    count: int,
    fingerprints: Sequence[Fingerprint],
    settings: EmbeddingsSettings,
    http: HttpSettings,
    scratch: Workspace,
) -> DataFrame:
    """What became of the unread images, as `_RESULTS`; written once."""
    available = devices.for_tasks(spark, settings)
    tasks = task_count(spark, count, LEAST_IMAGES_PER_TASK, settings.images_per_task)
    most = available.most_tasks() if any(one.description.uses_torch for one in fingerprints) else None
    if most is not None:
        tasks = min(tasks, most)
    # In order of size, copies of a file come to the same task (but for a border between two), which embeds them once.
    # The largest come first, so that none is late.
    ordered = unread.repartitionByRange(tasks, F.desc("size_bytes"), "image_id")
    ordered = ordered.select("image_id", "uri", "source_version", "wanted")
    work = [Work(one.description, one.file, one.folder, _known_contents(spark, one)) for one in fingerprints]
    results = ordered.withColumn("result", workers.embed(work, available, settings, http, time.time()))
    # The end of so few tasks tells nothing of how far they are: what they have saved does.
    share = _share_saved(fingerprints, count) if most is not None else None
    with progress(spark, f"embed {', '.join(one.name for one in fingerprints)}", count, "images", tasks, share=share):
        written = scratch.write("results", results)
    return written.select("image_id", "uri", "source_version", "wanted", "result.*")


def _share_saved(fingerprints: Sequence[Fingerprint], count: int) -> Callable[[], float]:
    """What tells the share of ``count`` images whose vectors are saved."""
    saved = [Count(one.folder) for one in fingerprints]
    return lambda: min(1.0, max(of_one() for of_one in saved) / count)


# -- the tables --------------------------------------------------------------------------------------------------------


def _split(number: int, one: Fingerprint, matched: DataFrame, results: DataFrame, tally: _Tally) -> Outputs:
    """What became of the images for fingerprint ``number``."""
    why_not = F.element_at("refused", number + 1)
    told = results.where(F.col("wanted").bitwiseAND(F.lit(1 << number)) != 0)
    told = told.withColumn("detail", F.coalesce("detail", why_not))
    told = told.withColumn("reason", F.coalesce("reason", F.when(why_not.isNotNull(), F.lit(NON_FINITE))))
    known = matched.select("image_id", "uri", "source_version", f"known_{number}.*").where("kind IS NOT NULL")
    both = known.drop("kind").unionByName(
        told.select("image_id", "uri", "source_version", "content_sha256", "reason", "detail")
    )
    named = both.withColumn("fingerprint", F.lit(one.name)).withColumn("fingerprint_key", F.lit(one.key))
    return Outputs(
        embeddings=named.where("reason IS NULL").select(*SCHEMAS["embeddings"].names),
        failures=named.where("reason IS NOT NULL").select(*SCHEMAS["failures"].names),
        images=tally.images,
        reused=tally.images - tally.wanted[number],
        resumed=tally.resumed[number],
        read=tally.wanted[number],
        embedded_on=_by_device(number, results) if tally.wanted[number] else {},
    )


def _by_device(number: int, results: DataFrame) -> dict[str, int]:
    """How many images went through fingerprint ``number``, by device."""
    on = results.select(F.element_at("embedded_on", number + 1).alias("device")).where("device IS NOT NULL")
    return {row.device: row["count"] for row in on.groupBy("device").count().orderBy("device").collect()}


def new_vectors(saved: DataFrame, published: DataFrame) -> DataFrame:
    """Rows for ``vectors``: what this run and those before saved, each content once, without what is published."""
    contents = published.select("content_sha256")
    new = saved.select(*SCHEMAS["vectors"].names)
    if contents.take(1):
        # By whole contents Spark would sort the vectors; there are few to be left out, if any.
        both = new.select("content_sha256").join(contents, "content_sha256", "left_semi")
        new = new.join(F.broadcast(both), "content_sha256", "left_anti") if both.take(1) else new
    counted = new.agg(F.count("*").alias("all"), F.count_distinct("content_sha256").alias("contents")).collect()[0]
    return new if counted["all"] == counted["contents"] else new.dropDuplicates(["content_sha256"])


def check(manifest: DataFrame, embeddings: DataFrame, failures: DataFrame, vectors: DataFrame) -> None:
    """Raise ``JobFailed`` unless every image of the manifest is embedded or failed, once, and every embedding has its
    vector."""
    outcomes = embeddings.select("image_id").unionAll(failures.select("image_id")).groupBy("image_id").count()
    listed = manifest.select("image_id", F.lit(1).alias("listed"))
    both = outcomes.join(listed, "image_id", "full")
    once, missing, others = both.agg(
        F.count_if((F.col("listed") == 1) & (F.col("count") == 1)),
        F.count_if(F.col("count").isNull()),
        F.count_if(F.col("listed").isNull() | (F.col("count") > 1)),
    ).collect()[0]
    if missing or others:
        raise JobFailed(
            f"{once:,} images of the manifest are embedded or failed, but {missing:,} are neither, and {others:,} "
            "are so twice or "
            "are not in it: nothing was published"
        )
    lost = embeddings.join(vectors.select("content_sha256"), "content_sha256", "left_anti").count()
    if lost:
        raise JobFailed(
            f"{lost:,} embeddings have no vector in the store: nothing was published; run again with recheck = 'always'"
        )
