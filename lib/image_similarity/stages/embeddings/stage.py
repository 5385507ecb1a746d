"""manifest -> embeddings, vectors and failures of one or several fingerprints, in one pass over the images.

Vectors are known by the sha256 of the file they come from. An image whose uri and version are those of the last run is not even
read; one whose content is known is read but not decoded; the rest is decoded once and goes through every fingerprint that lacks it.
"""

import functools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity import images
from image_similarity.errors import JobFailed
from image_similarity.kernels import decoding
from image_similarity.kernels.fingerprints.description import Description
from image_similarity.settings import EmbeddingsSettings
from image_similarity.spark import progress, task_count
from image_similarity.stages.embeddings import workers
from image_similarity.stages.embeddings.workers import NON_FINITE, Contents, Work
from image_similarity.tables import SCHEMAS
from image_similarity.warehouse import Scratch

FAILURE_REASONS = {
    **images.FETCH_REASONS,
    **decoding.UNREADABLE_REASONS,
    NON_FINITE: "the network's answer has infinite or undefined values",
}
"""Every ``reason`` that this stage writes into ``failures``."""

LASTING = (*decoding.UNREADABLE_REASONS, NON_FINITE, "too_many_bytes")
"""Reasons that lie in the file: while it is the same, trying again is asked for. The others may pass: they are always tried."""

LEAST_IMAGES_PER_TASK = 32


@dataclass(frozen=True)
class Fingerprint:
    """One of the fingerprints that images are put through, and what is there of it."""

    name: str
    description: Description
    file: str | None
    """What the driver shipped for it."""
    published: DataFrame
    """Rows of ``embeddings`` of this fingerprint, of any key; may be empty."""
    failures: DataFrame
    """Rows of ``failures`` published with them."""
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
    taken_over: int
    """Of these, images that an earlier run had embedded and not published."""
    read: int
    embedded: int
    """Images that went through it."""


def run(
    spark: SparkSession,
    manifest: DataFrame,
    fingerprints: Sequence[Fingerprint],
    settings: EmbeddingsSettings,
    retry: Retry,
    scratch: Scratch,
) -> list[Outputs]:
    """Read what is not known yet, once, and embed it. New vectors are in the fingerprints' folders, see `new_vectors`."""
    settled = [_settled(manifest, one, settings, retry) for one in fingerprints]
    unread = _unread(manifest, settled)
    count, to_read = manifest.count(), unread.count()
    tasks = task_count(spark, to_read, LEAST_IMAGES_PER_TASK, settings.images_per_task)
    # In order of size, copies of a file come to the same task (but for a border between two), which embeds them once.
    # The largest come first, so that none is late.
    ordered = unread.repartitionByRange(tasks, F.desc("size_bytes"), "image_id")
    ordered = ordered.select("image_id", "uri", "source_version", "wanted")
    work = [Work(one.description, one.file, one.folder, _known(spark, one)) for one in fingerprints]
    results = ordered.withColumn("result", workers.embed(work, settings, time.time()))
    with progress(spark, f"embed {', '.join(one.name for one in fingerprints)}", to_read, "images", tasks):
        results = scratch.write("results", results)
    results = results.select("image_id", "uri", "source_version", "wanted", "result.*")
    return [_split(number, one, results, settled[number], count) for number, one in enumerate(fingerprints)]


# -- what is known -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settled:
    """Images of the manifest that need not be read for a fingerprint."""

    embeddings: DataFrame
    taken_over: DataFrame
    """Of these, image_id of those that come from what an earlier run saved."""
    failures: DataFrame


def _settled(manifest: DataFrame, one: Fingerprint, settings: EmbeddingsSettings, retry: Retry) -> _Settled:
    """Same image, same version, same key."""
    same_key = one.published.where(F.col("fingerprint_key") == one.key)
    saved = _as_embeddings(one)
    failed = one.failures.where(F.col("reason").isin(*LASTING) & ~F.col("reason").isin(*retry.reasons))
    if settings.recheck == "always":
        same_key, saved, failed = same_key.limit(0), saved.limit(0), failed.limit(0)
    if retry.all or not one.published.where(F.col("fingerprint_key") == one.key).take(1):
        failed = failed.limit(0)  # those of another key say nothing about this one
    versions = manifest.select("image_id", "source_version", "uri")
    unchanged = _in(versions, same_key)
    taken_over = _in(versions, saved).join(unchanged, "image_id", "left_anti")
    failures = versions.join(failed.drop("uri"), ["image_id", "source_version"]).select(*SCHEMAS["failures"].fieldNames())
    failures = failures.join(unchanged, "image_id", "left_anti").join(taken_over, "image_id", "left_anti")
    return _Settled(unchanged.unionByName(taken_over), taken_over.select("image_id"), failures)


def _in(versions: DataFrame, embeddings: DataFrame) -> DataFrame:
    return versions.join(embeddings, ["image_id", "source_version"]).select(*SCHEMAS["embeddings"].fieldNames())


def _as_embeddings(one: Fingerprint) -> DataFrame:
    """The images whose vectors earlier runs saved."""
    named = one.saved.withColumn("fingerprint", F.lit(one.name)).select(*SCHEMAS["embeddings"].fieldNames())
    return named.dropDuplicates(["image_id", "source_version"])


def _unread(manifest: DataFrame, settled: Sequence[_Settled]) -> DataFrame:
    """Rows of the manifest that some fingerprint wants, with ``wanted``: bit i for fingerprint i."""
    rows, bits = manifest, []
    for number, one in enumerate(settled):
        known = one.embeddings.select("image_id").unionAll(one.failures.select("image_id"))
        rows = rows.join(known.withColumn(f"_known_{number}", F.lit(True)), "image_id", "left")
        bits.append(F.when(F.col(f"_known_{number}").isNull(), F.lit(1 << number)).otherwise(F.lit(0)))
    wanted = functools.reduce(lambda a, b: a + b, bits)
    return rows.withColumn("wanted", wanted.cast("long")).where("wanted > 0").select(*manifest.columns, "wanted")


def _known(spark: SparkSession, one: Fingerprint) -> "Broadcast[Contents] | None":
    """The contents whose vectors are there, for all workers."""
    contents = one.vectors.select("content_sha256").unionAll(one.saved.select("content_sha256"))
    numbers = contents.select(F.conv(F.substring("content_sha256", 1, 15), 16, 10).cast("long").alias("content"))
    known = np.unique(numbers.toArrow()["content"].to_numpy())
    return spark.sparkContext.broadcast(known) if len(known) else None


# -- the tables ----------------------------------------------------------------------------------------------------------------


def _split(number: int, one: Fingerprint, results: DataFrame, settled: _Settled, count: int) -> Outputs:
    """What became of the images for fingerprint ``number``."""
    own = results.where(F.col("wanted").bitwiseAND(F.lit(1 << number)) != 0)
    own = own.withColumn("fingerprint", F.lit(one.name)).withColumn("fingerprint_key", F.lit(one.key))
    why_not = F.element_at("refused", number + 1)
    detail = F.coalesce("detail", why_not)
    reason = F.coalesce("reason", F.when(why_not.isNotNull(), F.lit(NON_FINITE)))
    told = own.withColumn("detail", detail).withColumn("reason", reason)
    embedded = F.count_if(F.element_at("embedded", number + 1)).alias("embedded")
    counted = told.agg(F.count("*").alias("read"), embedded).collect()[0]
    usable = told.where(F.col("reason").isNull()).select(*SCHEMAS["embeddings"].fieldNames())
    failed = told.where(F.col("reason").isNotNull()).select(*SCHEMAS["failures"].fieldNames())
    return Outputs(
        embeddings=settled.embeddings.unionByName(usable),
        failures=settled.failures.unionByName(failed),
        images=count,
        reused=count - counted["read"],
        taken_over=settled.taken_over.count(),
        read=counted["read"],
        embedded=counted["embedded"],
    )


def new_vectors(saved: DataFrame, published: DataFrame) -> DataFrame:
    """Rows for ``vectors``: what this run and those before saved, each content once, without what is published."""
    contents = published.select("content_sha256")
    new = saved.select(*SCHEMAS["vectors"].fieldNames())
    if contents.take(1):
        # By whole contents Spark would sort the vectors; there are few to be left out, if any.
        both = new.select("content_sha256").join(contents, "content_sha256", "left_semi")
        new = new.join(F.broadcast(both), "content_sha256", "left_anti") if both.take(1) else new
    counted = new.agg(F.count("*").alias("all"), F.count_distinct("content_sha256").alias("contents")).collect()[0]
    return new if counted["all"] == counted["contents"] else new.dropDuplicates(["content_sha256"])


def check(manifest: DataFrame, embeddings: DataFrame, failures: DataFrame, vectors: DataFrame) -> None:
    """Raise ``JobFailed`` unless every image of the manifest is embedded or failed, once, and every embedding has its vector."""
    outcomes = embeddings.select("image_id").unionAll(failures.select("image_id"))
    images, told = manifest.count(), outcomes.count()
    missing = manifest.join(outcomes, "image_id", "left_anti").count()
    if images != told or missing:
        raise JobFailed(
            f"{images:,} images in the manifest, {told:,} embedded or failed, {missing:,} neither: nothing was published"
        )
    lost = embeddings.join(vectors.select("content_sha256"), "content_sha256", "left_anti").count()
    if lost:
        raise JobFailed(
            f"{lost:,} embeddings have no vector in the store: nothing was published; run again with recheck = 'always'"
        )
