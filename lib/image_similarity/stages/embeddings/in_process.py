"""Embedding without Spark: tables by the job's own process, images by worker processes that may die.

The outcomes, vectors and checkpoints are those of `stage`.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from image_similarity.errors import JobFailed, counted
from image_similarity.fingerprints.spec import FingerprintSpec
from image_similarity.imaging import decoding
from image_similarity.imaging.quality import Limits
from image_similarity.runtime import processes
from image_similarity.runtime.devices import CPU, Devices
from image_similarity.runtime.processes import Task
from image_similarity.runtime.progress import progress
from image_similarity.settings import EmbeddingsSettings, FingerprintSettings, HttpSettings
from image_similarity.stages.embeddings import checkpoints, embedder, measurements
from image_similarity.stages.embeddings.checkpoints import MEASUREMENTS
from image_similarity.stages.embeddings.embedder import NON_FINITE, Attempt, Embedder, Measuring, Results, Row, Work
from image_similarity.stages.embeddings.known import KnownContents, number_of
from image_similarity.stages.embeddings.outcomes import (
    CHECKPOINT,
    DECODABLE,
    FAILED,
    LEAST_IMAGES_PER_TASK,
    PERMANENT_REASONS,
    PUBLISHED,
    Counts,
    Retry,
)
from image_similarity.warehouse.parquet import in_schema
from image_similarity.warehouse.schemas import CLASS_SCORES, SCHEMAS, VECTORS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MOST_KNOWN = 1_000_000
"""Rows of a published table that are looked through."""
MOST_IMAGES = 100_000
"""What is known of so many images takes some 100 MB of this process."""

_MODULES = {
    "network": "image_similarity.fingerprints.networks",
    "exported": "image_similarity.fingerprints.exported",
    "colour-histogram": "image_similarity.fingerprints.colour_histogram",
    "hog": "image_similarity.fingerprints.hog",
}
"""Kind of a fingerprint -> what computes it. Importing torch takes seconds."""

_RESULTS = {"content_sha256", "reason", "detail", "embedded_on", "refused"}
_BATCH = 16
"""Pictures of 224 pixels in a batch on a CPU. One that is not full takes as long."""

_ROWS = 1024  # of vectors, in memory at once


@dataclass(frozen=True)
class Fingerprint:
    """As `stage.Fingerprint`, with what is stored in the memory of this process."""

    name: str
    spec: FingerprintSpec
    file: str | None
    published: pa.Table
    """image_id, source_version, content_sha256, fingerprint_key"""
    failures: pa.Table
    """image_id, source_version, reason, detail"""
    failures_hold: bool
    contents: frozenset[str]
    """The contents in ``vectors`` of this key as published."""
    checkpoints: Sequence[str]
    """Whole files of unpublished checkpoints of earlier runs."""
    folder: str
    classifier: str | None = None
    """The key of the classifier whose most probable classes are kept with each vector; None if none are kept."""
    classified: Mapping[str, bool] = field(default_factory=dict)
    """The contents in ``class_scores`` of this key and classifier as published -> whether their logits are finite."""

    @property
    def key(self) -> str:
        return self.spec.key


@dataclass(frozen=True)
class Quality:
    """As `stage.Quality`, with what is stored in the memory of this process."""

    published: pa.Table
    """``quality`` as published."""
    checkpoints: Sequence[str]
    """Whole files of unpublished measurements of earlier runs."""
    folder: str


@dataclass(frozen=True)
class Outputs(Counts):
    """The results for one fingerprint. The tables have the schemas of ``embeddings`` and ``failures``."""

    embeddings: pa.Table
    failures: pa.Table
    decoded: Mapping[str, str | None]
    """image_id -> content_sha256 of the images that can be decoded. None of one that was refused in an earlier run."""


class _Outcome(NamedTuple):
    """What became of an image: ``kind`` says how it is known."""

    kind: int | None
    content_sha256: str | None
    reason: str | None = None
    detail: str | None = None


_Known = Mapping[tuple[str, str], _Outcome]


def prepare_workers(declared: Sequence[FingerprintSettings]) -> processes.Server:
    """The server of workers for fingerprints that are ``declared`` so. It is started if it is not there."""
    kinds = sorted({_MODULES[fingerprint.kind] for fingerprint in declared if fingerprint.kind in _MODULES})
    return processes.prepare(__name__, *kinds)


def run(
    session: "SparkSession",
    cores: int,
    workers: Callable[[], processes.Server],
    manifest: pa.Table,
    fingerprints: Sequence[Fingerprint],
    settings: EmbeddingsSettings,
    http: HttpSettings,
    retry: Retry,
    quality: Quality | None = None,
) -> list[Outputs]:
    """As `stage.run`. ``session`` only names the work. ``workers`` is called if there are images to read."""
    columns = [manifest[name].to_pylist() for name in ("image_id", "uri", "source_version", "size_bytes")]
    rows = [Row(image, uri, version, 0, _size(size)) for image, uri, version, size in zip(*columns)]
    known = [_known(fingerprint, settings, retry) for fingerprint in fingerprints]
    needed = [_needed_by(row, known) for row in rows]
    unread = [
        Row(row.image_id, row.uri, row.source_version, bits, row.size_bytes) for row, bits in zip(rows, needed) if bits
    ]
    results: dict[str, dict[str, Any]] = {}
    if unread:
        work = [_work(fingerprint, settings) for fingerprint in fingerprints]
        measuring = None if quality is None else _measuring(quality)
        names = [fingerprint.name for fingerprint in fingerprints]
        results = _results(session, cores, workers(), unread, work, settings, http, names, measuring)
    return [
        _split(number, fingerprint, rows, known[number], results) for number, fingerprint in enumerate(fingerprints)
    ]


def _size(size: int | None) -> int:
    return embedder.UNKNOWN_SIZE if size is None else size


# -- known images ------------------------------------------------------------------------------------------------------


def _known(fingerprint: Fingerprint, settings: EmbeddingsSettings, retry: Retry) -> _Known:
    """(image_id, source_version) -> outcome, of the images that need not be read."""
    if settings.recheck == "always":
        return {}
    known: dict[tuple[str, str], _Outcome] = {}
    # The last one wins: the published vectors.
    if fingerprint.failures_hold and not retry.all:
        for image_id, version, reason, detail in _rows(fingerprint.failures, "reason", "detail"):
            if reason in PERMANENT_REASONS and reason not in retry.reasons:
                known[image_id, version] = _Outcome(FAILED, None, reason, detail)
    for file in fingerprint.checkpoints:
        table = pq.read_table(file, columns=["image_id", "source_version", "content_sha256"])
        known |= {(image_id, version): _Outcome(CHECKPOINT, content) for image_id, version, content in _rows(table)}
    for image_id, version, content, key in _rows(fingerprint.published, "content_sha256", "fingerprint_key"):
        if key == fingerprint.key:
            known[image_id, version] = _Outcome(PUBLISHED, content)
    return {image: outcome for image, outcome in known.items() if image[1] is not None}


def _rows(table: pa.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in ("image_id", "source_version", *(columns or ["content_sha256"]))))


def _needed_by(row: Row, known: Sequence[_Known]) -> int:
    """Bit i: fingerprint i knows nothing of the image."""
    image = row.image_id, str(row.source_version)
    return sum(1 << number for number, outcomes in enumerate(known) if image not in outcomes)


def _contents_of(files: Sequence[str]) -> Iterator[str]:
    for file in files:
        yield from pq.read_table(file, columns=["content_sha256"])["content_sha256"].to_pylist()


def _work(fingerprint: Fingerprint, settings: EmbeddingsSettings) -> Work:
    contents = fingerprint.contents.union(_contents_of(fingerprint.checkpoints))
    if fingerprint.classifier is not None and settings.recheck == "always":
        contents &= {*fingerprint.classified, *classified_in(fingerprint.checkpoints, fingerprint.classifier)}
    known = _known_contents(contents)
    return Work(fingerprint.spec, fingerprint.file, fingerprint.folder, known, fingerprint.classifier)


def _measuring(quality: Quality) -> Measuring:
    contents = quality.published["content_sha256"].to_pylist()
    return Measuring(quality.folder, _known_contents({*contents, *_contents_of(quality.checkpoints)}))


def _known_contents(contents: Collection[str]) -> KnownContents:
    key = secrets.token_hex(16)
    return KnownContents(key, np.unique(np.array([number_of(key, content) for content in contents], np.int64)))


# -- the pass over the images ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Share:
    """A task: some of the images."""

    rows: Sequence[Row]
    work: Sequence[Work]
    available: Devices
    settings: EmbeddingsSettings
    http: HttpSettings
    started: float
    measuring: Measuring | None


def _results(
    session: "SparkSession",
    cores: int,
    server: processes.Server,
    unread: list[Row],
    work: Sequence[Work],
    settings: EmbeddingsSettings,
    http: HttpSettings,
    names: Sequence[str],
    measuring: Measuring | None,
) -> dict[str, dict[str, Any]]:
    """The results of the ``unread`` images by image_id, with the columns of `embedder.Results`."""
    available = Devices(settings.device, settings.device_fallback, settings.tasks_per_gpu, in_local_mode=True)
    most = available.most_tasks() if any(item.spec.uses_torch for item in work) else None
    # As in `stage`: copies of a file fall into the same task, and the largest files come first.
    ordered = sorted(unread, key=lambda row: (-row.size_bytes, row.image_id))
    tasks = processes.task_count(cores, len(ordered), LEAST_IMAGES_PER_TASK, settings.images_per_task)
    parts = _parts(ordered, min(tasks, most or tasks), settings.images_per_task)
    shares = [_Share(part, work, available, settings, http, time.time(), measuring) for part in parts]
    answers: list[list[Results]] = [[] for _ in parts]
    results: dict[str, dict[str, Any]] = {}
    answered = Counter[int]()

    def share() -> float:
        return answered.total() / len(ordered)

    with (
        progress(session, f"embed {', '.join(names)}", len(ordered), "images", len(parts), share=share),
        closing(processes.run(server, embed, shares, min(cores, most or cores))) as finished,
    ):
        for number, answer in finished:
            if answer == processes.BEGUN:
                answers[number], answered[number] = [], 0
            elif answer != processes.DONE:
                answered[number] += _checked(answer, len(parts[number]) - answered[number])
                answers[number].append(answer)
            else:
                results |= _by_image(parts[number], answers[number])
    return results


def _parts(rows: list[Row], count: int, most: int) -> list[list[Row]]:
    """``rows`` in ``count`` parts or fewer, of ``most`` rows at most, and of whole batches if possible."""
    size = -(-len(rows) // count)
    whole = -(-size // _BATCH) * _BATCH
    size = whole if whole <= most else size
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _checked(answer: Any, most: int) -> int:
    """The number of results in ``answer``. Raises ``JobFailed`` if it is not `Results` of ``most`` images or fewer: a
    worker that is taken over by a file may say anything.
    """
    columns = list(answer.values()) if isinstance(answer, dict) and set(answer) == _RESULTS else []
    lengths = {len(column) for column in columns if isinstance(column, list)}
    if len(lengths) != 1 or not all(isinstance(column, list) for column in columns) or max(lengths) > most:
        raise JobFailed("a worker answered what is no result: nothing was published")
    return int(max(lengths))


def _by_image(rows: Sequence[Row], answers: Sequence[Results]) -> dict[str, dict[str, Any]]:
    """Raises ``JobFailed`` unless there is one result for each of ``rows``."""
    results = [dict(zip(answer, values)) for answer in answers for values in zip(*answer.values())]
    if len(results) != len(rows):
        raise JobFailed(
            f"{counted(len(results), 'result')} of a worker for {counted(len(rows), 'image')}: nothing was published"
        )
    return {row.image_id: result for row, result in zip(rows, results)}


def embed(task: Task) -> Iterator[Results]:
    """In a worker: the results of a `_Share`, batch by batch."""
    share: _Share = task.work
    uses_torch = any(item.spec.uses_torch for item in share.work)
    device = share.available.of_task(task.number) if uses_torch else CPU
    attempt = Attempt(task.number, task.attempt, is_retry=task.attempt > 0)
    with decoding.quiet_decoders():
        loaded = embedder.load(share.work, device, share.settings, share.started, attempt)
        measurer = embedder.measurer_of(share.measuring, loaded, share.settings, share.started, attempt)
        with embedder.isolated(loaded, share.available, share.settings, attempt.is_retry) as decoders:
            yield from Embedder(loaded, share.settings, share.http, decoders, measurer).results(iter(share.rows))


# -- the tables --------------------------------------------------------------------------------------------------------


def _split(
    number: int, fingerprint: Fingerprint, rows: Sequence[Row], known: _Known, results: Mapping[str, dict[str, Any]]
) -> Outputs:
    """The outcome of all images for fingerprint ``number``."""
    outcomes = [
        known.get((row.image_id, str(row.source_version))) or _fresh(number, results[row.image_id]) for row in rows
    ]
    kinds = Counter(outcome.kind for outcome in outcomes)
    devices = Counter(result["embedded_on"][number] for result in results.values() if result["embedded_on"][number])
    return Outputs(
        embeddings=_table("embeddings", fingerprint, rows, [o if o.reason is None else None for o in outcomes]),
        failures=_table("failures", fingerprint, rows, [o if o.reason is not None else None for o in outcomes]),
        decoded={row.image_id: o.content_sha256 for row, o in zip(rows, outcomes) if o.reason in DECODABLE},
        images=len(rows),
        reused=len(rows) - kinds[None],
        resumed=kinds[CHECKPOINT],
        failed_before=kinds[FAILED],
        read=kinds[None],
        embedded_on=dict(sorted(devices.items())),
    )


def _fresh(number: int, result: Mapping[str, Any]) -> _Outcome:
    refusal = result["refused"][number]
    reason = result["reason"] or (NON_FINITE if refusal is not None else None)
    return _Outcome(None, result["content_sha256"], reason, result["detail"] if result["reason"] else refusal)


def _table(name: str, fingerprint: Fingerprint, rows: Sequence[Row], outcomes: Sequence[_Outcome | None]) -> pa.Table:
    """The rows whose outcome is not None, in the schema of the table ``name``."""
    taken = [(row, outcome) for row, outcome in zip(rows, outcomes) if outcome is not None]
    values = {
        "image_id": [row.image_id for row, _ in taken],
        "uri": [row.uri for row, _ in taken],
        "fingerprint": [fingerprint.name] * len(taken),
        "fingerprint_key": [fingerprint.key] * len(taken),
        "content_sha256": [outcome.content_sha256 for _, outcome in taken],
        "reason": [outcome.reason for _, outcome in taken],
        "detail": [outcome.detail for _, outcome in taken],
        "source_version": [row.source_version for row, _ in taken],
    }
    return pa.table({column: values[column] for column in SCHEMAS[name].names}, schema=SCHEMAS[name])


def new_vectors(files: Sequence[str], published: frozenset[str]) -> Iterator[pa.Table]:
    """Rows for ``vectors``: each content in the checkpoint ``files`` once, without those that are ``published``.

    Columns that an earlier version did not write are null.
    """
    yield from _each_content_once(VECTORS, files, published)


def new_class_scores(files: Sequence[str], published: Collection[str], classifier: str) -> Iterator[pa.Table]:
    """Rows for ``class_scores``: each content in the checkpoint ``files`` that the classifier of that key has seen,
    once, without those that are ``published``.
    """
    yield from _each_content_once(CLASS_SCORES, _with_classes(files), published, classifier)


def _with_classes(files: Sequence[str]) -> list[str]:
    """Checkpoints of earlier versions have none, or do not say whose they are."""
    return [file for file in files if "classifier_key" in pq.read_schema(file).names]


def _each_content_once(
    table: str, files: Sequence[str], published: Collection[str], classifier: str | None = None
) -> Iterator[pa.Table]:
    """``classifier``: only rows of its key."""
    schema, seen = SCHEMAS[table], set(published)
    for file in files:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_ROWS, columns=schema.names):
                if classifier is not None:
                    batch = batch.filter(pc.equal(batch["classifier_key"], classifier))
                first = dict(zip(reversed(contents := batch["content_sha256"].to_pylist()), range(len(batch))[::-1]))
                new = sorted(place for content, place in first.items() if content not in seen)
                seen.update(contents)
                if new:
                    yield in_schema(pa.Table.from_batches([batch.take(pa.array(new))]), schema)


def contents_of(files: Sequence[str]) -> set[str]:
    """The contents in checkpoint ``files``."""
    return set(_contents_of(files))


def classified_in(files: Sequence[str], classifier: str) -> dict[str, bool]:
    """The contents in checkpoint ``files`` that the classifier of that key has seen -> whether logits are finite."""
    classified: dict[str, bool] = {}
    for file in _with_classes(files):
        table = pq.read_table(file, columns=["content_sha256", "classifier_key", "rest"])
        classified |= are_clear(table.filter(pc.equal(table["classifier_key"], classifier)))
    return classified


def are_clear(scores: pa.Table) -> dict[str, bool]:
    """Rows of ``class_scores`` -> content -> whether its logits are finite: those that are not have no ``rest``."""
    return dict(zip(scores["content_sha256"].to_pylist(), scores["rest"].is_valid().to_pylist()))


def quality_rows(outputs: Sequence[Outputs], quality: Quality, limits: Limits) -> pa.Table:
    """The rows of ``quality``: the images that any fingerprint could decode, if they were measured, by this run or an
    earlier one.
    """
    earlier = dict(zip(*(quality.published[name].to_pylist() for name in ("image_id", "content_sha256"))))
    content_by_image: dict[str, str | None] = {}
    for output in outputs:
        for image, content in output.decoded.items():
            content_by_image[image] = content_by_image.get(image) or content
    files = [*quality.checkpoints, *checkpoints.files(quality.folder)[0]]
    measured = [pq.read_table(file, schema=MEASUREMENTS) for file in files]
    known = pa.concat_tables([quality.published.select(MEASUREMENTS.names), *measured])
    row_by_content = {content: row for row, content in enumerate(known["content_sha256"].to_pylist())}
    images = {image: row_by_content.get(content or earlier.get(image)) for image, content in content_by_image.items()}
    rows = {image: row for image, row in images.items() if row is not None}
    table = known.take(pa.array(list(rows.values()), pa.int64()))
    table = table.append_column("image_id", pa.array(list(rows), pa.string()))
    return measurements.with_flags(table, limits)


def check(outputs: Outputs, contents: frozenset[str] | set[str]) -> None:
    """As `stage.check`. ``contents``: those of all vectors."""
    lost = sum(content not in contents for content in outputs.embeddings["content_sha256"].to_pylist())
    if lost or len(outputs.embeddings) + len(outputs.failures) != outputs.images:
        raise JobFailed(
            f"{counted(lost, 'embedding has', 'embeddings have')} no vector in the store: nothing was published; run "
            "again with --discard-checkpoints --set embeddings.recheck=always"
        )
