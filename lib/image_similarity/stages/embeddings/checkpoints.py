"""Checkpoints: the Parquet files in which tasks save vectors and measurements, in folders below ``_state``, at work.

A file appears only when it is complete. Its content stays valid whatever happens to the run: each row is the vector of
a content, or what was measured of it. So the next run resumes from the checkpoints of a killed run, and a retried task
from those of its first attempt.
"""

import io
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_similarity.errors import JobFailed
from image_similarity.imaging import quality, thumbprint
from image_similarity.storage import blobs, uris
from image_similarity.warehouse.schemas import CLASS_SCORES, QUALITY, SCHEMAS, VECTORS

_SCORES = ("classifier_key", "classes", "logits", "rest")
SCHEMA = pa.schema(
    [
        *SCHEMAS[VECTORS],
        ("image_id", pa.string()),
        ("source_version", pa.string()),
        *(SCHEMAS[CLASS_SCORES].field(name) for name in _SCORES),
    ]
)
"""The columns of a checkpoint file of vectors: a vector, the image that it was computed from, and the classes that were
kept with it by the classifier of that key. Key and classes are null where none are kept, and missing in files of
earlier versions.
"""

MEASUREMENTS = pa.schema(
    [
        SCHEMAS[QUALITY].field(name)
        for name in ("content_sha256", "width", "height", "size_bytes", "format", *quality.MEASURES)
    ]
)
"""The columns of a checkpoint file of measurements: what is measured of a content while it is decoded."""

FOLDER = "saved"
"""The folder of checkpoint files within a run's state. The name is on disk and stays."""

BYTES_PER_FILE = 64 * 2**20
SHARE_AT_RISK = 0.05
"""A task writes a checkpoint after working for this share of the job's run time so far."""

_FILES_AT_ONCE = 16
_SHARE_LEFT = {"network": 0.04, "pca": 0.5}
"""Kind of a fingerprint -> the share of bytes that zstd leaves of its vectors, at least: 0.9 of dense ones; of a layer
of which one value in twenty is not 0, 0.07, and 0.043 in bfloat16. Histograms, gradients and programs may have nearly
no values but 0: of them nothing is sure."""
_MAGIC = b"PAR1"
_TYPE = "application/vnd.apache.parquet"


class ImageScores(NamedTuple):
    """The most probable classes of one image, see `image_similarity.tagging.scores.Scores`."""

    classes: NDArray[np.int32]
    logits: NDArray[np.float32]
    rest: float


@dataclass(frozen=True)
class VectorSource:
    """Everything known of a vector, except its values."""

    content_sha256: str
    width: int
    height: int
    thumbprint: bytes
    """32 x 32 pixels of grey, row by row, see `thumbprint.of`."""
    image_id: str
    source_version: str | None
    scores: "ImageScores | None" = None
    """None where no classes are kept, or logits are not finite."""


class CheckpointFiles:
    """The checkpoint files of one task, in ``folder`` (as programs outside Hadoop name it).

    ``partition``, ``attempt``: the task's numbers, for the file names. ``started``: when the job began, in seconds
    since 1970. ``least_seconds``: the least time between two files.
    """

    def __init__(self, folder: str, partition: int, attempt: int, started: float, least_seconds: float):
        self._folder, self._partition, self._attempt = folder, partition, attempt
        self._started, self._least_seconds = started, least_seconds
        self._files = 0
        self._last = time.monotonic()

    def is_due(self, buffered_bytes: int) -> bool:
        seconds_due = max(self._least_seconds, SHARE_AT_RISK * (time.time() - self._started))
        return buffered_bytes >= BYTES_PER_FILE or time.monotonic() - self._last >= seconds_due

    def write(self, rows: pa.Table | None) -> None:
        """Writes ``rows`` to a new file, if there are any. The time until the next one begins now."""
        if rows is not None:
            name = f"part-{self._partition:05d}-{self._attempt}-{self._files:05d}.parquet"
            blobs.write(uris.join(self._folder, name), _parquet(rows), _TYPE)
            self._files += 1
        self._last = time.monotonic()

    def earlier_contents(self) -> list[str]:
        """The contents in the checkpoints of earlier attempts of the same task."""
        prefix = f"part-{self._partition:05d}-"
        try:
            files = [file.uri for file in blobs.list_files(self._folder) if file.path.startswith(prefix)]
        except FileNotFoundError:  # no checkpoint was written yet
            return []
        return [content for file in files for content in _contents(file)]


class CheckpointWriter:
    """Writes the vectors of one task for one fingerprint.

    ``key``: the fingerprint key of the vectors; ``classifier``: the key of the classifier whose classes are kept with
    them. The other arguments: see `CheckpointFiles`.
    """

    before_each: Callable[[], None] | None = None
    """Called before a file is written. What was measured of its images must be on the disk by then: a run that resumes
    from the file does not read them again."""

    def __init__(
        self,
        folder: str,
        key: str,
        partition: int,
        attempt: int,
        started: float,
        least_seconds: float,
        classifier: str | None = None,
    ):
        self._files = CheckpointFiles(folder, partition, attempt, started, least_seconds)
        self._key, self._classifier = key, classifier
        self._sources: list[VectorSource] = []
        self._vectors: list[NDArray[np.float32]] = []

    def add(self, sources: Sequence[VectorSource], vectors: NDArray[np.float32]) -> None:
        """Buffers (n, d) vectors of n contents, and writes a checkpoint if one is due."""
        if not sources:
            return
        self._sources += sources
        self._vectors.append(vectors)
        bytes_each = vectors.shape[1] * vectors.itemsize + thumbprint.SIDE**2
        if self._files.is_due(len(self._sources) * bytes_each):
            self.write()

    def write(self) -> None:
        """Writes the buffered vectors to a new file, if there are any."""
        if self._sources:
            if self.before_each is not None:
                self.before_each()
            self._files.write(_rows(self._key, self._classifier, self._sources, np.concatenate(self._vectors)))
        else:
            self._files.write(None)
        self._sources, self._vectors = [], []

    def earlier_contents(self) -> list[str]:
        """The contents in the checkpoints of earlier attempts of the same task."""
        return self._files.earlier_contents()


class MeasurementWriter:
    """Writes what one task measures of pictures, by content. The arguments: see `CheckpointFiles`."""

    def __init__(self, folder: str, partition: int, attempt: int, started: float, least_seconds: float):
        self._files = CheckpointFiles(folder, partition, attempt, started, least_seconds)
        self._rows: list[tuple[Any, ...]] = []

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Buffers rows with the columns of `MEASUREMENTS`, and writes a checkpoint if one is due."""
        self._rows += rows
        if self._rows and self._files.is_due(0):
            self.write()

    def write(self) -> None:
        """Writes the buffered rows to a new file, if there are any."""
        columns = [pa.array(values, field.type) for values, field in zip(zip(*self._rows), MEASUREMENTS)]
        self._files.write(pa.table(columns, schema=MEASUREMENTS) if columns else None)
        self._rows = []

    def earlier_contents(self) -> list[str]:
        """The contents in the checkpoints of earlier attempts of the same task."""
        return self._files.earlier_contents()


def least_bytes(kind: str, contents: int, dimensions: int, resumes: bool) -> int:
    """Bytes of disk that so many contents take at least: as checkpoints, then as rows of ``vectors``.

    ``kind``: of the fingerprint. Projections write no checkpoints. ``resumes``: there are checkpoints already, maybe of
    all contents.
    """
    copies = 1 if resumes or kind == "pca" else 2
    return int(copies * _SHARE_LEFT.get(kind, 0) * 4 * contents * dimensions)


def files(folder: str) -> tuple[list[str], list[str]]:
    """The checkpoint files in ``folder`` that are whole, and those that are damaged: a machine lost its power, say.

    Raises ``JobFailed`` if one cannot be read at all, for lack of permission, say: that is no damage.
    """
    try:
        listed = sorted(file.uri for file in blobs.list_files(folder) if file.path.endswith(".parquet"))
    except FileNotFoundError:  # no checkpoint was written yet
        return [], []
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        is_whole = dict(zip(listed, pool.map(_is_whole, listed)))
    return [file for file in listed if is_whole[file]], [file for file in listed if not is_whole[file]]


def _contents(file: str) -> list[str]:
    with blobs.open_input_file(file) as opened:
        contents: list[str] = pq.read_table(opened, columns=["content_sha256"])["content_sha256"].to_pylist()
        return contents


def _is_whole(file: str) -> bool:
    """Whether the file ends with the footer of a Parquet file. Raises ``JobFailed`` if it cannot be read.

    The footer is read first, and parsed then: pyarrow's errors of both are ``OSError``.
    """
    try:
        footer = _footer(file)
    except FileNotFoundError:  # another run has published what was in it, and removed it
        return False
    except OSError as error:
        raise JobFailed(
            f"checkpoint {file} cannot be read: {error}. It may be whole: make it readable, or remove what unpublished "
            "runs left by clean_warehouse.py --discard-checkpoints"
        ) from error
    try:
        pq.read_metadata(pa.BufferReader(_MAGIC + footer))
        return True
    except (OSError, ValueError):
        return False


def _footer(file: str) -> bytes:
    """The last bytes of a Parquet file: its metadata, their length in four bytes, and `_MAGIC`. Fewer if damaged."""
    with blobs.open_input_file(file) as opened:
        size = opened.size()
        end: bytes = opened.read_at(min(size, 8), max(size - 8, 0))
        length = min(int.from_bytes(end[:4], "little") + 8, size)
        footer: bytes = opened.read_at(length, size - length) if end[4:] == _MAGIC else b""
        return footer


class CheckpointCount:
    """Counts the vectors in the checkpoints in ``folder`` so far. The metadata of each file is read once."""

    def __init__(self, folder: str):
        self._folder, self._rows = folder, dict[str, int]()

    def __call__(self) -> int:
        try:
            files = [file.uri for file in blobs.list_files(self._folder)]
        except FileNotFoundError:  # no checkpoint was written yet
            return 0
        for file in files:
            if file not in self._rows:
                with blobs.open_input_file(file) as opened:
                    self._rows[file] = pq.read_metadata(opened).num_rows
        return sum(self._rows.values())


def _rows(key: str, classifier: str | None, sources: Sequence[VectorSource], vectors: NDArray[np.float32]) -> pa.Table:
    """Rows in `SCHEMA`. No value of a vector becomes a Python object."""
    columns = {
        "content_sha256": [source.content_sha256 for source in sources],
        "fingerprint_key": [key] * len(sources),
        "width": [source.width for source in sources],
        "height": [source.height for source in sources],
        "embedding": as_lists(vectors),
        "thumbprint": [source.thumbprint for source in sources],
        "image_id": [source.image_id for source in sources],
        "source_version": [source.source_version for source in sources],
        "classifier_key": [None if source.scores is None else classifier for source in sources],
        "classes": [None if source.scores is None else source.scores.classes for source in sources],
        "logits": [None if source.scores is None else source.scores.logits for source in sources],
        "rest": [None if source.scores is None else source.scores.rest for source in sources],
    }
    return pa.table(columns, schema=SCHEMA)


def _parquet(rows: pa.Table) -> bytes:
    """``rows`` as a Parquet file."""
    out = io.BytesIO()
    # Dense floats: a dictionary makes them larger and slower to read.
    dictionaries = [name for name in ("fingerprint_key", "classifier_key", "format") if name in rows.column_names]
    pq.write_table(rows, out, compression="zstd", use_dictionary=dictionaries, write_statistics=False)
    return out.getvalue()


def as_lists(vectors: NDArray[np.float32]) -> pa.ListArray:
    """(n, d) float32 as n lists, without copying."""
    rows, dimensions = vectors.shape
    offsets = pa.array(np.arange(0, (rows + 1) * dimensions, dimensions, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
