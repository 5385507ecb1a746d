"""Where images and vectors come from that need no reader of Spark's: files on this machine.

This process reads them, or each of Spark's tasks some row groups.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from image_similarity.errors import WrongInput
from image_similarity.stages.neighbours import own_vectors
from image_similarity.stages.neighbours.usable import (
    check_keys,
    most_frequent,
)
from image_similarity.storage import uris
from image_similarity.warehouse.snapshot import Snapshot

_SAMPLE = 100
_BATCH_ROWS = 1024

Batches = Callable[[], Iterator[pa.RecordBatch]]
"""Reads some of a source's vectors: batches of content (string), embedding (list<float>)."""


@dataclass(frozen=True)
class LocalSource:
    """Images, and vectors by content, in files on this machine."""

    images: pa.Table | None
    """image_id, content (strings); None where each content is an image."""
    groups: Sequence[Batches]
    """The vectors, one row group each."""
    count: int
    """How many images."""


@dataclass(frozen=True)
class LocalFiles:
    """The files of a `LocalSource`, as far as their ends tell: so little is read before a runner is chosen."""

    count: int
    """How many images."""
    dimensions: int
    """The length of most of the first vectors; 0 if there are none."""
    inputs: dict[str, list[str]]
    """What is read, for the record of the run."""
    open: Callable[[int], LocalSource]
    """Reads and checks the ids, with so many threads. Raises ``WrongInput`` for the user's own that are not unique."""


def from_parquet(uri: str, read_seconds: float) -> LocalFiles:
    """The user's own Parquet, on this machine. Raises ``WrongInput`` as `sources.from_parquet` does."""
    own_vectors.check(uri, read_seconds)
    location = uris.absolute(uri)
    with _named(uri):
        files = own_vectors.files_on_this_machine(location, read_seconds)
        groups = [(file, group) for file in files for group in range(len(file.rows))]
        vectors = [_with_name(uri, partial(file.batches, group)) for file, group in groups]
        rows, dimensions = sum(sum(file.rows) for file in files), _length_of_first(vectors)

    def opened(threads: int) -> LocalSource:
        with _named(uri), ThreadPoolExecutor(threads) as pool:
            batches = pool.map(lambda of: list(of[0].batches(of[1], (own_vectors.ID,))), groups)
            ids = pa.chunked_array([batch.column(0) for of_group in batches for batch in of_group], pa.string())
        own_vectors.check_ids(uri, len(ids), ids.null_count, _repeated(ids))
        return LocalSource(None, vectors, len(ids))

    return LocalFiles(rows, dimensions, {"embeddings": [location]}, opened)


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Turns what goes wrong while the user's own Parquet is read into ``WrongInput`` with its name."""
    try:
        yield
    except (ValueError, OSError) as error:  # among them TimeoutError, and pyarrow's own
        raise WrongInput(f"--embeddings {uri}: {' '.join(str(error).split())}") from None


def _with_name(uri: str, batches: Batches) -> Batches:
    def read() -> Iterator[pa.RecordBatch]:
        with _named(uri):
            yield from batches()

    return read


def _repeated(ids: pa.ChunkedArray) -> list[str]:
    """The first ids that stand several times, at most five."""
    counts = pc.value_counts(ids.cast(pa.large_string()).combine_chunks())
    several = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    names: list[str] = several.take(pc.sort_indices(several)).slice(0, 5).to_pylist()
    return names


def from_runs(published: Snapshot, fingerprint: str) -> LocalFiles:
    """The published images of ``fingerprint``, and their vectors.

    Raises ``JobFailed`` if the images have several fingerprint keys.
    """
    embeddings = published.dataset("embeddings", fingerprint)
    keys = {
        key for batch in embeddings.to_batches(columns=["fingerprint_key"]) for key in batch[0].unique().to_pylist()
    }
    check_keys(fingerprint, sorted(keys))
    inputs = {
        "embeddings": published.run_ids("embeddings", fingerprint),
        "vectors": [run for key in keys for run in published.run_ids("vectors", key)],
    }
    files = [file for key in keys for file in published.dataset("vectors", key).files]

    def images() -> pa.Table:
        rows = embeddings.to_table(columns=["image_id", "content_sha256"])
        return pa.table({"image_id": rows["image_id"], "content": rows["content_sha256"]})

    return from_files(files, embeddings.count_rows(), images, inputs)


def from_files(
    files: Sequence[str], count: int, images: Callable[[], pa.Table], inputs: dict[str, list[str]]
) -> LocalFiles:
    """``count`` images (image_id, content: strings), and their vectors in Parquet ``files`` on this machine.

    ``files``: content_sha256, embedding, and any other columns. They may also hold vectors of other images.
    """
    groups = [(file, group) for file in files for group in range(pq.read_metadata(file).num_row_groups)]
    dimensions = _length_of_first([partial(_stored, file, group) for file, group in groups])

    def opened(threads: int) -> LocalSource:
        wanted_images = images()
        contents = pa.chunked_array(
            [_NO_TEXT if not rows else pa.concat_arrays(rows) for rows in map(_contents_of, groups)], pa.string()
        )
        is_wanted = pc.is_in(contents, value_set=wanted_images["content"].combine_chunks())
        starts = np.cumsum([0, *map(len, contents.chunks)]).tolist()
        chosen = [is_wanted.slice(start, end - start).combine_chunks() for start, end in zip(starts, starts[1:])]
        wanted = [partial(_filtered, *group, _copied(of)) for group, of in zip(groups, chosen)]
        return LocalSource(wanted_images, wanted, len(wanted_images))

    return LocalFiles(count, dimensions, inputs, opened)


_NO_TEXT = pa.nulls(0, pa.string())


def _contents_of(group: tuple[str, int]) -> list[pa.Array]:
    return [batch[0] for batch in _stored(*group, ["content_sha256"])]


def _stored(
    file: str, group: int, columns: Sequence[str] = ("content_sha256", "embedding")
) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file) as opened:
        yield from opened.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(columns))


def _copied(part: pa.BooleanArray) -> pa.BooleanArray:
    """``part`` alone: a slice is sent to workers with all that it was cut from."""
    return pa.array(part.to_numpy(zero_copy_only=False))


def _filtered(file: str, group: int, is_wanted: pa.BooleanArray) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in _stored(file, group):
        chosen = is_wanted.slice(start, len(batch))
        start += len(batch)
        yield batch if pc.all(chosen).as_py() else batch.filter(chosen)


def _length_of_first(groups: Sequence[Batches]) -> int:
    lengths: list[int] = []
    for group in groups:
        for batch in group():
            lengths += [length for length in pc.list_value_length(batch.column(1)).to_pylist() if length]
            if len(lengths) >= _SAMPLE:
                break
        if len(lengths) >= _SAMPLE:
            break
    return most_frequent({length: lengths[:_SAMPLE].count(length) for length in lengths[:_SAMPLE]})
