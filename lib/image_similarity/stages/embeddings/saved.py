"""Vectors as tasks save them: Parquet files in a run's folder below ``_state``, one after the other while the task goes
on.

A file appears when it is whole, and what it holds is right whatever becomes of the run: each row is the vector of a
content. So the next run takes over what a killed one had finished, and a task that is tried again what its first
attempt had."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_similarity.storage import blobs, uris
from image_similarity.warehouse.schemas import SCHEMAS, VECTORS

SCHEMA = pa.schema([*SCHEMAS[VECTORS], ("image_id", pa.string()), ("source_version", pa.string())])
"""Of the files: a vector, and the image that it was made from."""

FOLDER = "saved"
"""Of a run's state: where its files are."""

BYTES_PER_FILE = 64 * 2**20
SHARE_AT_RISK = 0.05
"""Of the time that the job has run: so long a task works before it saves."""

_TYPE = "application/vnd.apache.parquet"


@dataclass(frozen=True)
class Made:
    """What is known of a vector but its values."""

    content_sha256: str
    width: int
    height: int
    image_id: str
    source_version: str | None


class Saver:
    """Saves the vectors of one task and fingerprint.

    ``folder``: where, as programs outside Hadoop name it; ``partition``, ``attempt``: of the task, for the files'
    names; ``started``: of the job, in seconds since 1970; ``least_seconds``: between two files."""

    def __init__(self, folder: str, key: str, partition: int, attempt: int, started: float, least_seconds: float):
        self._folder, self._key, self._partition, self._attempt = folder, key, partition, attempt
        self._started, self._least_seconds = started, least_seconds
        self._made: list[Made] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._files = 0
        self._last = time.monotonic()

    def add(self, made: Sequence[Made], vectors: NDArray[np.float32]) -> None:
        """Keep (n, d) vectors of n contents, and save what is kept if it is time."""
        if not made:
            return
        self._made += made
        self._vectors.append(vectors)
        patience = max(self._least_seconds, SHARE_AT_RISK * (time.time() - self._started))
        is_much = len(self._made) * vectors.shape[1] * vectors.itemsize >= BYTES_PER_FILE
        if is_much or time.monotonic() - self._last >= patience:
            self.save()

    def save(self) -> None:
        """Write a file of what was added since the last one, if anything."""
        if self._made:
            name = f"part-{self._partition:05d}-{self._attempt}-{self._files:05d}.parquet"
            content = _parquet(self._key, self._made, np.concatenate(self._vectors))
            blobs.write(uris.join(self._folder, name), content, _TYPE)
            self._files += 1
        self._made, self._vectors, self._last = [], [], time.monotonic()

    def before(self) -> list[str]:
        """The contents that earlier attempts of the same task have saved."""
        beginning = f"part-{self._partition:05d}-"
        try:
            files = [file.uri for file in blobs.list_files(self._folder) if file.path.startswith(beginning)]
        except FileNotFoundError:  # nothing was saved by anybody yet
            return []
        saved = [pq.read_table(blobs.open_input_file(file), columns=["content_sha256"]) for file in files]
        return [content for table in saved for content in table["content_sha256"].to_pylist()]


class Count:
    """How many vectors the tasks of a run have saved in ``folder`` so far. Each file is asked once."""

    def __init__(self, folder: str):
        self._folder, self._rows = folder, dict[str, int]()

    def __call__(self) -> int:
        try:
            files = [file.uri for file in blobs.list_files(self._folder)]
        except FileNotFoundError:  # nothing yet
            return 0
        for file in files:
            if file not in self._rows:
                self._rows[file] = pq.read_metadata(blobs.open_input_file(file)).num_rows
        return sum(self._rows.values())


def _parquet(key: str, made: Sequence[Made], vectors: NDArray[np.float32]) -> bytes:
    """A file in `SCHEMA`, without a Python object for any value of a vector."""
    columns = {
        "content_sha256": pa.array([one.content_sha256 for one in made]),
        "fingerprint_key": pa.array([key] * len(made)),
        "width": pa.array([one.width for one in made], pa.int32()),
        "height": pa.array([one.height for one in made], pa.int32()),
        "embedding": as_lists(vectors),
        "image_id": pa.array([one.image_id for one in made]),
        "source_version": pa.array([one.source_version for one in made], pa.string()),
    }
    out = io.BytesIO()
    # Dense floats: a dictionary makes them larger and slower.
    pq.write_table(
        pa.table(columns), out, compression="zstd", use_dictionary=["fingerprint_key"], write_statistics=False
    )
    return out.getvalue()


def as_lists(vectors: NDArray[np.float32]) -> pa.ListArray:
    """(n, d) as n lists, without copying."""
    rows, dimensions = vectors.shape
    offsets = pa.array(np.arange(0, (rows + 1) * dimensions, dimensions, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
