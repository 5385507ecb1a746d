"""The vectors of a source in memory: checked, numbered, and measured, as `vectors.pack` does with files."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.errors import JobFailed
from image_similarity.knn import distances
from image_similarity.knn.candidates import Keys
from image_similarity.knn.distances import METRICS, Metric, Values, Vectors
from image_similarity.knn.rerank import Part
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.local_source import Batches, LocalSource
from image_similarity.stages.neighbours.numbers import DIGEST_BYTES, Images, Numbers, numbered, of_images
from image_similarity.stages.neighbours.plan import EXACT
from image_similarity.stages.neighbours.table import Naming, labelled
from image_similarity.stages.neighbours.usable import (
    by_length,
    digests_of,
    mismatch,
    most_frequent,
    reasons_of,
    wrong_length,
)

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Loaded:
    """The usable vectors of a source, and what is known of them."""

    numbers: Numbers
    images: Images
    vectors: Part
    """The distinct ones. Their indices are their numbers."""
    failures: pa.Table
    """image_id, reason, detail: one row for each unusable image."""
    largest: float
    """The largest absolute value in any usable vector."""

    @property
    def dimensions(self) -> int:
        """Length of a usable vector; 0 if there is none."""
        return int(self.vectors.vectors.values.shape[1])

    def rows(
        self, similar: Keys, dissimilar: Keys, settings: NeighboursSettings, method: str = EXACT
    ) -> Iterator[pa.RecordBatch]:
        """The rows of ``neighbours``, in the order of image_id for each relation.

        ``similar``, ``dissimilar``: (n, any) the keys that each vector has; a relation without any has no rows.
        """
        order = np.argsort(self.vectors.index)
        asked = (settings.similar if similar.shape[1] else 0), (settings.dissimilar if dissimilar.shape[1] else 0)
        naming = Naming(*asked, settings.drop_duplicates)
        for batch in naming.rows(self.images, self.vectors.index[order], similar[order], dissimilar[order]):
            yield labelled(batch, settings, "neighbours", method)

    def failures_in(self, settings: NeighboursSettings) -> Iterator[pa.RecordBatch]:
        """The rows of ``failures``."""
        for batch in self.failures.to_batches():
            yield labelled(batch, settings, "failures")


def load(source: LocalSource, settings: NeighboursSettings, threads: int, dimensions: int | None = None) -> Loaded:
    """Read and check the vectors of ``source``, and number them.

    A vector is usable only if it has ``dimensions`` values, or the most frequent length where that is None. Raises
    ``JobFailed`` where images and stored vectors do not match, ``WrongInput`` for more vectors than can be numbered.
    """
    metric = METRICS[settings.metric]
    with ThreadPoolExecutor(threads) as pool:
        groups = list(pool.map(lambda group: _read(group, metric), source.groups))
        rows_of_length: dict[int, int] = {}
        for of_group in groups:
            for length, (_, values) in of_group.usable.items():
                rows_of_length[length] = rows_of_length.get(length, 0) + len(values)
        if dimensions is None:
            dimensions = most_frequent(rows_of_length)
        contents, values = _usable(groups, dimensions)
        unusable = _unusable(groups, dimensions)
        groups.clear()
        starts = range(0, len(values), _ROWS_AT_ONCE)
        measured = list(pool.map(lambda start: _measured(values[start : start + _ROWS_AT_ONCE], metric), starts))
    shift, scale = (np.concatenate([np.empty(0), *(getattr(part, name) for part in measured)]) for name in _MEASURED)
    digests = pa.chunked_array([part.digests for part in measured], pa.binary(DIGEST_BYTES))
    keys = {"digest": digests, "row": pa.array(np.arange(len(values), dtype=np.int32))}
    keys |= {"shift": pa.array(shift), "scale": pa.array(scale)}
    packed = pa.table({"content": contents, **keys})
    ids, failures = of_images(source.images, packed), of_images(source.images, unusable)
    if len(ids) + len(failures) != source.count:
        raise JobFailed(mismatch(source.count, len(ids), len(failures)))
    ids = ids.append_column("file", pa.repeat(_MEMORY, len(ids)))
    by_content = settings.drop_duplicates and source.images is not None
    numbers, images = numbered([ids], [_MEMORY], by_content)
    largest = max((part.largest for part in measured), default=0.0)
    return Loaded(numbers, images, _compared(numbers, values), failures, largest)


_MEMORY = "memory"
"""The name of the only file of vectors: they are in none."""
_MEASURED = ("shift", "scale")


@dataclass(frozen=True)
class _Group:
    """The vectors of a row group."""

    usable: Mapping[int, tuple[list[pa.Array], Values]]
    """length -> contents, and values (n, length)."""
    unusable: list[tuple[pa.Array, NDArray[np.object_]]]
    """Contents, and reasons (n,)."""


def _read(batches: Batches, metric: Metric) -> _Group:
    usable: dict[int, list[tuple[pa.Array, Values]]] = {}
    unusable = []
    for batch in batches():
        contents = batch.column(0)
        for rows, values in by_length(batch.column(1)):
            reasons = reasons_of(values, metric)
            is_usable = reasons == None  # noqa: E711 (element by element)
            if not is_usable.all():
                unusable.append((contents.take(pa.array(rows[~is_usable])), reasons[~is_usable]))
                rows, values = rows[is_usable], values[is_usable]
            if len(rows):
                usable.setdefault(values.shape[1], []).append((contents.take(pa.array(rows)), values))
    joined = {
        length: ([contents for contents, _ in parts], np.concatenate([values for _, values in parts]))
        for length, parts in usable.items()
    }
    return _Group(joined, unusable)


def _usable(groups: Sequence[_Group], dimensions: int) -> tuple[pa.ChunkedArray, Values]:
    chosen = [group.usable[dimensions] for group in groups if dimensions in group.usable]
    contents = pa.chunked_array([content for contents, _ in chosen for content in contents], pa.string())
    values = [values for _, values in chosen]
    # One group alone is not copied again.
    return contents, values[0] if len(values) == 1 else np.concatenate([np.empty((0, dimensions), np.float32), *values])


def _unusable(groups: Sequence[_Group], dimensions: int) -> pa.Table:
    """content, reason, detail."""
    tables = [_UNUSABLE.empty_table()]
    for group in groups:
        for contents, reasons in group.unusable:
            columns = [contents, pa.array(reasons, pa.string()), pa.nulls(len(contents), pa.string())]
            tables.append(pa.Table.from_arrays(columns, schema=_UNUSABLE))
        for length, (parts, _) in group.usable.items():
            for contents in parts if length != dimensions else ():
                texts = [pa.repeat(text, len(contents)) for text in ("wrong_length", wrong_length(length, dimensions))]
                tables.append(pa.Table.from_arrays([contents, *texts], schema=_UNUSABLE))
    return pa.concat_tables(tables)


_UNUSABLE = pa.schema([("content", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True)
class _Chunk:
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    digests: pa.Array
    largest: float


def _measured(values: Values, metric: Metric) -> _Chunk:
    vectors = distances.measured(values, metric)
    largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    return _Chunk(vectors.shift, vectors.scale, pa.array(digests_of(values), pa.binary(DIGEST_BYTES)), largest)


def _compared(numbers: Numbers, values: Values) -> Part:
    """Each distinct vector once, in the order of ``values``."""
    compared = numbers.compared
    compared = compared[np.argsort(numbers.row[compared])]
    rows = numbers.row[compared]
    chosen = values if len(rows) == len(values) else values[rows]
    vectors = Vectors(chosen, numbers.shift[compared], numbers.scale[compared])
    return Part(vectors, np.arange(len(compared), dtype=np.int32), compared)
