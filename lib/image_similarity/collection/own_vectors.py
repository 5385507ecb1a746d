"""Vectors of one's own that were compared (``find_neighbours --embeddings``): read from where they were, if they are
still the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.collection.defaults import metrics_of
from image_similarity.collection.vectors import Rows, Source, large, values_of
from image_similarity.errors import JobFailed
from image_similarity.knn.distances import METRICS, Metric
from image_similarity.settings import EmbeddingsSettings
from image_similarity.stages.neighbours import own_vectors
from image_similarity.stages.neighbours.numbers import DIGEST_BYTES, sha256_of
from image_similarity.stages.neighbours.own_vectors import ID, VECTOR, File
from image_similarity.stages.neighbours.usable import digests_of, reasons_of
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.snapshot import Snapshot

_SECONDS = EmbeddingsSettings().read_seconds


def source(snapshot: Snapshot, fingerprint: str) -> Source:
    """The vectors that the newest neighbours of ``fingerprint`` were found among: all of the length that was compared.

    Raises ``JobFailed`` if they are gone, or if neighbours by several metrics were found among different ones. Reading
    all rows raises it if they are others by now.
    """
    record = _newest(snapshot, fingerprint)
    uri, dimensions = record.inputs["embeddings"][0], int(record.counts.get("dimensions", 0))
    with _named_errors(fingerprint, uri):
        files = own_vectors.files_on_this_machine(uri, _SECONDS)
        ids, is_compared = _names(files, dimensions)
    order = pc.sort_indices(ids)
    row = np.empty(len(ids), np.int64)
    row[order.to_numpy()] = np.arange(len(ids))

    def rows() -> Rows:
        digests, start, first = np.zeros(len(ids), f"S{DIGEST_BYTES}"), 0, 0
        is_usable = np.zeros(len(ids), np.bool_)
        with _named_errors(fingerprint, uri):
            for batch in _batches(files, (VECTOR,)):
                of_length = is_compared[start : start + len(batch)]
                values = values_of(batch.column(0).filter(pa.array(of_length)), dimensions)
                places = row[first : first + len(values)]
                start, first = start + len(batch), first + len(values)
                digests[places], is_usable[places] = digests_of(values), reasons_of(values, _metric(record)) == None  # noqa: E711
                yield places, values
        _check_same(record, uri, ids.take(order), digests, is_usable)

    return Source(ids.take(order), None, dimensions, rows)


def _newest(snapshot: Snapshot, fingerprint: str) -> Record:
    """The run of the newest neighbours of ``fingerprint``."""
    slots = [f"{fingerprint}/{metric}" for metric in metrics_of(snapshot, fingerprint)]
    runs = sorted(run for slot in slots for run in snapshot.run_ids("neighbours", slot))
    if any(run not in snapshot.runs for run in runs):
        raise JobFailed(f"{snapshot.uri}: a run of {fingerprint} is not recorded: run find_neighbours again")
    places = {snapshot.runs[run].inputs["embeddings"][0] for run in runs}
    if len(places) > 1:
        others = ", ".join(sorted(places))
        raise JobFailed(
            f"{snapshot.uri}: neighbours of {fingerprint} were found among different vectors: {others}; run "
            "find_neighbours again by each metric, or give each its own --fingerprint"
        )
    return snapshot.runs[runs[-1]]


def _metric(record: Record) -> Metric:
    return METRICS[record.slot.rpartition("/")[2]]


def _batches(files: list[File], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for file in files:
        for group in range(len(file.rows)):
            yield from file.batches(group, columns)


def _names(files: list[File], dimensions: int) -> tuple[pa.LargeStringArray, NDArray[np.bool_]]:
    """The ids of the vectors of that length, and which of all rows these are."""
    ids, is_compared = [], []
    for batch in _batches(files, (ID, VECTOR)):
        of_length = pc.fill_null(pc.equal(pc.list_value_length(batch.column(1)), dimensions), False)
        ids.append(batch.column(0).filter(of_length))
        is_compared.append(of_length.to_numpy(zero_copy_only=False))
    names = large(pa.chunked_array(ids, pa.string()))
    return names, np.concatenate([np.zeros(0, np.bool_), *is_compared])


def _check_same(
    record: Record, uri: str, ids: pa.LargeStringArray, digests: NDArray[np.bytes_], is_usable: NDArray[np.bool_]
) -> None:
    """Raises ``JobFailed`` if the vectors are not those that ``record`` says were compared."""
    compared = record.settings.get("compared_sha256")
    if compared not in (None, sha256_of(ids.filter(pa.array(is_usable)), digests[is_usable])):
        raise JobFailed(
            f"{uri}: the vectors are no longer those that run {record.run_id} compared: run find_neighbours again"
        )


@contextmanager
def _named_errors(fingerprint: str, uri: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        raise JobFailed(f"{uri}: the vectors of {fingerprint} cannot be read: {message}") from None
