"""manifest -> embeddings, vectors and failures of one or several fingerprints, in one pass over the images.

A vector is identified by the sha256 of its file's content. An image with the uri and version of the last run is not
read. An image whose content is known is read, but not decoded. All others are decoded once and embedded by every
fingerprint that lacks their vector.
"""

import functools
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed, counted
from image_similarity.fingerprints.spec import FingerprintSpec
from image_similarity.imaging.quality import Limits
from image_similarity.runtime import devices
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import task_count
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.stages.embeddings import measurements, workers
from image_similarity.stages.embeddings.checkpoints import MEASUREMENTS, CheckpointCount
from image_similarity.stages.embeddings.embedder import NON_FINITE, Measuring, Work
from image_similarity.stages.embeddings.known import KnownContents, number_column
from image_similarity.stages.embeddings.outcomes import (
    CHECKPOINT,
    FAILED,
    LEAST_IMAGES_PER_TASK,
    PERMANENT_REASONS,
    PUBLISHED,
    Counts,
    Retry,
)
from image_similarity.warehouse.parquet import spark_schema
from image_similarity.warehouse.schemas import CLASS_SCORES, QUALITY, SCHEMAS, VECTORS
from image_similarity.warehouse.workspace import Workspace


@dataclass(frozen=True)
class Fingerprint:
    """One of the fingerprints to embed images with, and what is stored of it."""

    name: str
    spec: FingerprintSpec
    file: str | None
    """The file that the driver shipped for it."""
    published: DataFrame
    """Rows of ``embeddings`` of this fingerprint, of any key; may be empty."""
    failures: DataFrame
    """Rows of ``failures`` that were published with `published`."""
    failures_hold: bool
    """Whether `failures` were recorded with the same key."""
    vectors: DataFrame
    """Rows of ``vectors`` of this key as published."""
    checkpoints: DataFrame
    """Unpublished checkpoints of this run and earlier ones, with the columns of `checkpoints.SCHEMA`."""
    folder: str
    """Where this run's tasks write checkpoints, as programs outside Hadoop name it."""
    classifier: str | None
    """The key of the classifier whose most probable classes are kept with each vector; None if none are kept."""
    classified: DataFrame
    """Rows of ``class_scores`` of this key and classifier as published."""

    @property
    def key(self) -> str:
        return self.spec.key


@dataclass(frozen=True)
class Quality:
    """What is known of pictures by their contents, before they are measured."""

    published: DataFrame
    """``quality`` as published."""
    checkpoints: DataFrame
    """Unpublished measurements of this run and earlier ones, with the columns of `checkpoints.MEASUREMENTS`."""
    folder: str
    """Where this run's tasks write measurements, as programs outside Hadoop name it."""


@dataclass(frozen=True)
class Outputs(Counts):
    """The results for one fingerprint. The frames have the tables' schemas."""

    embeddings: DataFrame
    failures: DataFrame
    decoded: DataFrame
    """image_id and content_sha256 of the images that can be decoded. Null of one that was refused in an earlier run."""


def run(
    spark: SparkSession,
    manifest: DataFrame,
    fingerprints: Sequence[Fingerprint],
    settings: EmbeddingsSettings,
    http: HttpSettings,
    retry: Retry,
    scratch: Workspace,
    quality: Quality | None = None,
) -> list[Outputs]:
    """Reads the images that are not known yet, once each, and embeds them. With ``quality`` it measures them, too.

    The new vectors are in the fingerprints' checkpoint folders, see `new_vectors`; so are the classes and measurements,
    see `new_class_scores` and `quality_rows`.
    """
    matched = scratch.write(
        "matched", _matched(manifest, [_known(fingerprint, settings, retry) for fingerprint in fingerprints])
    )
    tally = _tally(matched, len(fingerprints))
    results = spark.createDataFrame([], _RESULTS)
    if tally.unread:
        unread = matched.where("needed_by > 0")
        results = _results(spark, unread, tally.unread, fingerprints, settings, http, scratch, quality)
    return [_split(number, fingerprint, matched, results, tally) for number, fingerprint in enumerate(fingerprints)]


# -- known images ------------------------------------------------------------------------------------------------------


def _known(fingerprint: Fingerprint, settings: EmbeddingsSettings, retry: Retry) -> DataFrame:
    """The images that need not be read: image_id, source_version, and ``known`` (kind, content_sha256, reason, detail).

    ``kind`` is one of `PUBLISHED`, `CHECKPOINT` and `FAILED`.
    """
    nothing = F.lit(None).cast("string")
    of_key = fingerprint.published.where(F.col("fingerprint_key") == fingerprint.key)
    sources = [
        of_key.select(
            "image_id", "source_version", F.lit(PUBLISHED).alias("kind"), "content_sha256", *_none("reason", "detail")
        ),
        fingerprint.checkpoints.select(
            "image_id", "source_version", F.lit(CHECKPOINT), "content_sha256", nothing, nothing
        ),
    ]
    # Failures recorded with another key say nothing about this one.
    if fingerprint.failures_hold and not retry.all:
        failed = fingerprint.failures.where(
            F.col("reason").isin(*PERMANENT_REASONS) & ~F.col("reason").isin(*retry.reasons)
        )
        sources.append(failed.select("image_id", "source_version", F.lit(FAILED), nothing, "reason", "detail"))
    known = functools.reduce(DataFrame.unionAll, sources).where("source_version IS NOT NULL")
    if settings.recheck == "always":
        known = known.limit(0)
    best = F.min(F.struct("kind", "content_sha256", "reason", "detail")).alias("known")
    return known.groupBy("image_id", "source_version").agg(best)


def _none(*names: str) -> list[Column]:
    return [F.lit(None).cast("string").alias(name) for name in names]


def _matched(manifest: DataFrame, known: Sequence[DataFrame]) -> DataFrame:
    """Each image with what is known of it by fingerprint i (``known_<i>``) and the bit mask ``needed_by``.

    Bit i of ``needed_by`` is set if fingerprint i knows nothing of the image.
    """
    rows, needed_by = manifest.drop("attributes", "modified_at"), F.lit(0).cast("long")
    for number, images in enumerate(known):
        rows = rows.join(images.withColumnRenamed("known", f"known_{number}"), ["image_id", "source_version"], "left")
        needed_by = needed_by + F.when(F.col(f"known_{number}").isNull(), F.lit(1 << number)).otherwise(F.lit(0))
    return rows.withColumn("needed_by", needed_by)


@dataclass(frozen=True)
class _Tally:
    images: int
    unread: int
    read: tuple[int, ...]
    """By fingerprint: the images that are read for it."""
    resumed: tuple[int, ...]
    failed: tuple[int, ...]
    """By fingerprint: the known images that failed before, and are not tried again."""


def _tally(matched: DataFrame, fingerprints: int) -> _Tally:
    counts = [F.count("*"), F.count_if(F.col("needed_by") > 0)]
    for number in range(fingerprints):
        known = F.col(f"known_{number}")
        counts += [F.count_if(known.isNull()), F.count_if(known["kind"] == CHECKPOINT)]
        counts += [F.count_if(known["reason"].isNotNull())]
    images, unread, *each = matched.agg(*[column.alias(f"_{place}") for place, column in enumerate(counts)]).collect()[
        0
    ]
    return _Tally(images, unread, tuple(each[::3]), tuple(each[1::3]), tuple(each[2::3]))


def _embedded_contents(fingerprint: Fingerprint, settings: EmbeddingsSettings) -> DataFrame:
    """The contents that are not embedded again."""
    vectors, saved = fingerprint.vectors, fingerprint.checkpoints
    if fingerprint.classifier is not None and settings.recheck == "always":
        vectors, saved = fingerprint.classified, with_classes(saved, fingerprint.classifier)
    return vectors.select("content_sha256").unionAll(saved.select("content_sha256"))


def _known_contents(spark: SparkSession, contents: DataFrame) -> "Broadcast[KnownContents] | None":
    """``contents``, for all workers; None if there are none."""
    key = secrets.token_hex(16)
    numbers = contents.select(number_column(key, "content_sha256").alias("number")).toArrow()["number"]
    known = KnownContents(key, np.unique(numbers.to_numpy()))
    return spark.sparkContext.broadcast(known) if len(known.numbers) else None


# -- the pass over the images ------------------------------------------------------------------------------------------

_DECODED = ("image_id", "content_sha256")
_RESULTS = f"image_id string, uri string, source_version string, needed_by long, {workers.RESULT}"


def _results(
    spark: SparkSession,
    unread: DataFrame,
    count: int,
    fingerprints: Sequence[Fingerprint],
    settings: EmbeddingsSettings,
    http: HttpSettings,
    scratch: Workspace,
    quality: Quality | None,
) -> DataFrame:
    """The outcome of each unread image, with the columns of `_RESULTS`; computed once."""
    available = devices.for_tasks(spark, settings)
    tasks = task_count(spark, count, LEAST_IMAGES_PER_TASK, settings.images_per_task)
    most = available.most_tasks() if any(fingerprint.spec.uses_torch for fingerprint in fingerprints) else None
    if most is not None:
        tasks = min(tasks, most)
    # Ordered by size, copies of a file fall into the same task, which embeds them once (except where a partition ends
    # between two copies). The largest files come first, so that none of them finishes late.
    ordered = unread.repartitionByRange(tasks, F.desc("size_bytes"), "image_id")
    ordered = ordered.select("image_id", "uri", "source_version", "size_bytes", "needed_by")
    work = []
    for fingerprint in fingerprints:
        known = _known_contents(spark, _embedded_contents(fingerprint, settings))
        work.append(Work(fingerprint.spec, fingerprint.file, fingerprint.folder, known, fingerprint.classifier))
    measuring = None
    if quality is not None:
        measured = quality.published.select("content_sha256").unionAll(quality.checkpoints.select("content_sha256"))
        measuring = Measuring(quality.folder, _known_contents(spark, measured))
    results = ordered.withColumn("result", workers.embed(work, available, settings, http, time.time(), measuring))
    # With so few tasks, finished tasks are no measure of progress: the checkpoints are.
    share = _checkpointed_share(fingerprints, count) if most is not None else None
    with progress(
        spark,
        f"embed {', '.join(fingerprint.name for fingerprint in fingerprints)}",
        count,
        "images",
        tasks,
        share=share,
    ):
        written = scratch.write("results", results)
    return written.select("image_id", "uri", "source_version", "needed_by", "result.*")


def _checkpointed_share(fingerprints: Sequence[Fingerprint], count: int) -> Callable[[], float]:
    """A function that returns the share of ``count`` images whose vectors are in checkpoints."""
    counters = [CheckpointCount(fingerprint.folder) for fingerprint in fingerprints]
    return lambda: min(1.0, max(counter() for counter in counters) / count)


# -- the tables --------------------------------------------------------------------------------------------------------


def _split(number: int, fingerprint: Fingerprint, matched: DataFrame, results: DataFrame, tally: _Tally) -> Outputs:
    """The outcome of all images for fingerprint ``number``."""
    refusal = F.element_at("refused", number + 1)
    fresh = results.where(F.col("needed_by").bitwiseAND(F.lit(1 << number)) != 0)
    fresh = fresh.withColumn("detail", F.coalesce("detail", refusal))
    fresh = fresh.withColumn("reason", F.coalesce("reason", F.when(refusal.isNotNull(), F.lit(NON_FINITE))))
    known = matched.select("image_id", "uri", "source_version", f"known_{number}.*").where("kind IS NOT NULL")
    outcomes = known.drop("kind").unionByName(
        fresh.select("image_id", "uri", "source_version", "content_sha256", "reason", "detail")
    )
    rows = outcomes.withColumn("fingerprint", F.lit(fingerprint.name)).withColumn(
        "fingerprint_key", F.lit(fingerprint.key)
    )
    return Outputs(
        embeddings=rows.where("reason IS NULL").select(*SCHEMAS["embeddings"].names),
        failures=rows.where("reason IS NOT NULL").select(*SCHEMAS["failures"].names),
        decoded=rows.where(F.col("reason").isNull() | (F.col("reason") == NON_FINITE)).select(*_DECODED),
        images=tally.images,
        reused=tally.images - tally.read[number],
        resumed=tally.resumed[number],
        failed_before=tally.failed[number],
        read=tally.read[number],
        embedded_on=_by_device(number, results) if tally.read[number] else {},
    )


def _by_device(number: int, results: DataFrame) -> dict[str, int]:
    """device -> images that fingerprint ``number`` embedded on it."""
    on = results.select(F.element_at("embedded_on", number + 1).alias("device")).where("device IS NOT NULL")
    return {row.device: row["count"] for row in on.groupBy("device").count().orderBy("device").collect()}


def new_vectors(checkpoints: DataFrame, published: DataFrame) -> DataFrame:
    """Rows for ``vectors``: each content in the checkpoints once, without those that are ``published``."""
    return _each_content_once(checkpoints.select(*SCHEMAS[VECTORS].names), published)


def new_class_scores(checkpoints: DataFrame, published: DataFrame, classifier: str) -> DataFrame:
    """Rows for ``class_scores``: each content in the checkpoints that the classifier of that key has seen, once,
    without those that are ``published``.
    """
    kept = with_classes(checkpoints, classifier).select(*SCHEMAS[CLASS_SCORES].names)
    return _each_content_once(kept, published)


def with_classes(checkpoints: DataFrame, classifier: str) -> DataFrame:
    """The rows of contents that the classifier of that key has seen."""
    return checkpoints.where(F.col("classifier_key") == classifier)


def _each_content_once(new: DataFrame, published: DataFrame) -> DataFrame:
    contents = published.select("content_sha256")
    if contents.take(1):
        # An anti join by content would make Spark sort the vectors. Few rows, if any, have to be left out.
        stored = new.select("content_sha256").join(contents, "content_sha256", "left_semi")
        new = new.join(F.broadcast(stored), "content_sha256", "left_anti") if stored.take(1) else new
    counted = new.agg(F.count("*").alias("all"), F.count_distinct("content_sha256").alias("contents")).collect()[0]
    return new if counted["all"] == counted["contents"] else new.dropDuplicates(["content_sha256"])


def class_counts(embeddings: DataFrame, classified: DataFrame) -> tuple[int, int]:
    """How many images have no classes, and how many of these because their logits are not finite: they have no ``rest``
    in ``class_scores``.
    """
    is_clear = classified.select("content_sha256", F.col("rest").isNotNull().alias("is_clear"))
    of_images = embeddings.join(is_clear, "content_sha256", "left")
    lacking, unclear = of_images.agg(
        F.count_if(~F.coalesce("is_clear", F.lit(False))), F.count_if(~F.col("is_clear"))
    ).collect()[0]
    return lacking, unclear


def decoded_images(outputs: Sequence[Outputs], quality: Quality) -> DataFrame:
    """The images that any fingerprint could decode: image_id and content_sha256, which is null if it is not known."""
    frames = [output.decoded for output in outputs]
    images = functools.reduce(DataFrame.unionAll, frames).groupBy("image_id").agg(F.max("content_sha256").alias("now"))
    earlier = quality.published.select("image_id", F.col("content_sha256").alias("earlier"))
    content = F.coalesce("now", "earlier").alias("content_sha256")
    return images.join(earlier, "image_id", "left").select("image_id", content)


def quality_rows(images: DataFrame, quality: Quality, limits: Limits) -> DataFrame:
    """The rows of ``quality``: of `decoded_images` those that were measured, by this run or an earlier one."""
    _, *columns = MEASUREMENTS.names
    known = quality.published.select(*MEASUREMENTS.names).unionAll(quality.checkpoints)
    measured = known.groupBy("content_sha256").agg(F.min(F.struct(*columns)).alias("measured"))
    rows = images.join(measured, "content_sha256").select("image_id", "content_sha256", "measured.*")

    def flagged(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from measurements.with_flags(pa.Table.from_batches([batch]), limits).to_batches()

    return rows.mapInArrow(flagged, spark_schema(QUALITY))


def check(manifest: DataFrame, embeddings: DataFrame, failures: DataFrame, vectors: DataFrame) -> None:
    """Raises ``JobFailed`` unless every image of the manifest is embedded or failed, once, and every embedding has a
    vector.
    """
    outcomes = embeddings.select("image_id").unionAll(failures.select("image_id")).groupBy("image_id").count()
    listed = manifest.select("image_id", F.lit(1).alias("listed"))
    joined = outcomes.join(listed, "image_id", "full")
    once, missing, unexpected = joined.agg(
        F.count_if((F.col("listed") == 1) & (F.col("count") == 1)),
        F.count_if(F.col("count").isNull()),
        F.count_if(F.col("listed").isNull() | (F.col("count") > 1)),
    ).collect()[0]
    if missing or unexpected:
        raise JobFailed(
            f"{counted(once, 'image')} of the manifest {'is' if once == 1 else 'are'} embedded or failed, but "
            f"{counted(missing, 'is', 'are')} neither, and {counted(unexpected, 'is', 'are')} so twice or not in it: "
            "nothing was published"
        )
    lost = embeddings.join(vectors.select("content_sha256"), "content_sha256", "left_anti").count()
    if lost:
        raise JobFailed(
            f"{counted(lost, 'embedding has', 'embeddings have')} no vector in the store: nothing was published; run "
            "again with --discard-checkpoints --set embeddings.recheck=always"
        )
