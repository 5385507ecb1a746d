"""The vectors of a fingerprint, an image each: mapped from a copy in the order of image_id.

The warehouse keeps a vector once for each content, in files of many runs, in no order. So they are copied once, a batch
at a time, into one file that is mapped by every process that asks (see `image_similarity.collection.copies`). Where no
copy can be kept they stay in memory, or in a file of this process alone. What is known of the pictures (their size, and
their thumbprints) lies beside them in the same order, so that an answer reads what it shows.
"""

import bisect
import hashlib
import json
import math
import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.collection import copies
from image_similarity.collection.copies import CannotKeep, Copy
from image_similarity.collection.defaults import metrics_of, one_of
from image_similarity.errors import JobFailed, counted
from image_similarity.reporting import current
from image_similarity.stages.neighbours.resources import available_memory
from image_similarity.storage import disk_space
from image_similarity.warehouse.parquet import list_length, streaming
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from image_similarity.knn.distances import Vectors

_FORMAT = 2
"""Of copies: another number makes new ones."""
_BATCH_BYTES = 16 * 2**20
_WORTH_SAYING = 2**30
"""Bytes of a copy that takes many seconds."""
THUMBPRINT_BYTES = 1024
_SHARE_OF_MEMORY = 4
"""Vectors stay in memory where they take at most one part in four of what is available."""

Values = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Indices = NDArray[np.int64]
Rows = Iterator[tuple[Indices, Values]]
"""Vectors (m, d) with the rows (m,) that they belong to."""


@dataclass(frozen=True, eq=False)
class Store:
    """The vectors of one fingerprint, a row for each image, in the order of image_id (bytes of UTF-8)."""

    ids: pa.LargeStringArray
    """(n,): image_id."""
    contents: pa.LargeStringArray | None
    """(n,): content_sha256 of the embedded file; images with the same bytes have the same. None for vectors of one's
    own."""
    vectors: Values
    """(n, d). Nobody may write to it: it is mapped from the copy, as a private one, since numba compiles functions
    again for read-only arrays."""
    copy: Copy | None = None
    """The copy that is mapped; None where the vectors are kept by this process alone."""
    pictures: pa.RecordBatch | None = None
    """(n,): ``width``, ``height`` (int32) and ``has_thumbprint`` of each row; None for vectors of one's own."""
    thumbprints: Pixels | None = None
    """(n, 1024), see `imaging.thumbprint`, mapped as the vectors are; zeros where a picture has none. None where no
    picture has one."""
    _measured: dict[str, "Vectors"] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[1])

    def row_of(self, image_id: str) -> int | None:
        """The row of an image; None if it is not among them."""
        wanted = image_id.encode(errors="surrogatepass")  # a name of a file may be no UTF-8: it is no image's
        row: int = bisect.bisect_left(self.ids, wanted, key=lambda name: name.as_py().encode())
        return row if row < len(self) and bool(self.ids[row].as_py() == image_id) else None

    def row_of_content(self, content_sha256: str) -> int | None:
        """The first row with that content; None if there is none, or contents are not known."""
        row = -1 if self.contents is None else pc.index(self.contents, content_sha256).as_py()
        return None if row < 0 else int(row)

    def measured(self, metric: str) -> "Vectors":
        """The vectors with shift and scale for ``metric``, computed once and kept beside the copy.

        The scale of those that ``metric`` cannot compare (see `unusable`) is 0.
        """
        with self._lock:
            if metric not in self._measured:
                self._measured[metric] = _measured(self, metric)
            return self._measured[metric]

    def unusable(self, metric: str) -> NDArray[np.int64]:
        """The rows that ``metric`` cannot compare, ascending: zero vectors have no cosine distance, say."""
        rows: NDArray[np.int64] = np.nonzero(self.measured(metric).scale == 0)[0]
        return rows


@dataclass(frozen=True)
class Source:
    """Where the vectors of a store come from."""

    ids: pa.LargeStringArray
    contents: pa.LargeStringArray | None
    dimensions: int
    rows: Callable[[], Rows]
    """Every row once."""
    pictures: pa.RecordBatch | None = None
    """See `Store`."""
    thumbprints: Callable[[], Iterator[tuple[Indices, Pixels]]] | None = None
    """Every row with a thumbprint once; None if there is none."""

    @property
    def size(self) -> int:
        """Bytes of a copy, about."""
        columns = (self.ids, self.contents, self.pictures)
        known = sum(int(column.nbytes) for column in columns if column is not None)
        return len(self.ids) * (4 * self.dimensions + (THUMBPRINT_BYTES if self.thumbprints else 0)) + known


def name_of(snapshot: Snapshot, fingerprint: str) -> str:
    """The name of the copy of the published vectors of ``fingerprint``: another one for every other state of them."""
    runs = snapshot.run_ids("embeddings", fingerprint)
    key = key_of(snapshot, fingerprint) if runs else None
    read = [runs, snapshot.run_ids("vectors", key) if key else []]
    if not runs:
        read += [snapshot.run_ids("neighbours", f"{fingerprint}/{by}") for by in metrics_of(snapshot, fingerprint)]
    parts = [_FORMAT, sys.byteorder, snapshot.uri, fingerprint, key, read]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def store_of(snapshot: Snapshot, fingerprint: str) -> Store:
    """The published vectors of ``fingerprint``, from their copy; it is made if there is none.

    Raises ``JobFailed`` where vectors are missing, or cannot be read or put anywhere.
    """
    name = name_of(snapshot, fingerprint)
    if (copy := copies.existing(name)) is not None:
        if (store := _opened(copy)) is not None:
            return store
        copies.forget(copy)
    return _made(name, source_of(snapshot, fingerprint))


def key_of(snapshot: Snapshot, fingerprint: str) -> str | None:
    """The ``fingerprint_key`` of the published vectors; None if there are none.

    Raises ``JobFailed`` if images were embedded in several ways.
    """
    runs = snapshot.run_ids("embeddings", fingerprint)
    recorded = {snapshot.runs[run].settings.get("fingerprint_key") for run in runs if run in snapshot.runs}
    keys = recorded if recorded and None not in recorded else _keys_in_table(snapshot, fingerprint)
    if len(keys) > 1:
        names = ", ".join(sorted(map(str, keys)))
        raise JobFailed(f"the embeddings {fingerprint} mix the keys {names}: run embed_images again")
    return keys.pop() if keys else None


def _keys_in_table(snapshot: Snapshot, fingerprint: str) -> set[str | None]:
    return set(snapshot.table("embeddings", fingerprint, ["fingerprint_key"])["fingerprint_key"].unique().to_pylist())


def dimensions_of(snapshot: Snapshot, key: str) -> int | None:
    """The length of the published vectors of a ``fingerprint_key``, by the end of one file; None if there are none."""
    footers = (fragment.metadata for fragment in snapshot.dataset("vectors", key).get_fragments())
    return next((list_length(footer, "embedding") for footer in footers if footer.num_rows), None)


# -- copies ------------------------------------------------------------------------------------------------------------

_VECTORS, _THUMBPRINTS, _IMAGES = "vectors.npy", "thumbprints.npy", "images.arrow"


def _made(name: str, source: Source) -> Store:
    def write(folder: Path) -> None:
        for array, name in zip(_arrays(source), (_VECTORS, _THUMBPRINTS)):
            with open(folder / name, "wb") as file:
                array.write(file)
                os.fsync(file.fileno())
        _write_images(folder / _IMAGES, source)

    if source.size > _WORTH_SAYING:
        current().tell("progress", f"copying {disk_space.shown(source.size)} of vectors, once")
    try:
        copy = copies.made(name, source.size, write)
    except CannotKeep as error:
        return _kept_by_this_process(source, str(error))
    store = _opened(copy)
    if store is None:
        raise JobFailed(f"{copy.folder} was damaged while it was written: try again")
    return store


def _opened(copy: Copy) -> Store | None:
    """The store in ``copy``; None if it is damaged."""
    try:
        with pa.memory_map(str(copy.folder / _IMAGES)) as mapped:
            batch = pa.ipc.open_file(mapped).get_batch(0)
        names = batch.schema.names
        contents = batch["content_sha256"] if "content_sha256" in names else None
        pictures = batch.select(_PICTURE) if _HAS_THUMBPRINT in names else None
        has_thumbprints = pictures is not None and pc.any(pictures[_HAS_THUMBPRINT]).as_py()
        arrays = []
        for name, dtype in [(_VECTORS, np.float32), *([(_THUMBPRINTS, np.uint8)] if has_thumbprints else [])]:
            with open(copy.folder / name, "rb") as file:
                arrays.append(_mapped(file, dtype, copy.lock))
    except (OSError, ValueError, pa.ArrowException):
        return None
    if any(len(array) != len(batch) for array in arrays):
        return None
    return Store(batch["image_id"], contents, arrays[0], copy, pictures, arrays[1] if has_thumbprints else None)


_HAS_THUMBPRINT = "has_thumbprint"
_PICTURE = ["width", "height", _HAS_THUMBPRINT]


def _write_images(path: Path, source: Source) -> None:
    columns = {"image_id": source.ids} | ({} if source.contents is None else {"content_sha256": source.contents})
    if source.pictures is not None:
        columns |= {name: source.pictures[name] for name in _PICTURE}
    batch = pa.record_batch(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


@dataclass(frozen=True)
class _Array:
    """An array that comes a few rows at a time. The others are zeros."""

    shape: tuple[int, int]
    dtype: Any
    rows: Callable[[], Iterator[tuple[Indices, Any]]]

    def write(self, file: IO[bytes]) -> None:
        """Writes it as ``.npy``. Raises ``OSError`` if the disk is full."""
        header = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        start, row_bytes = file.tell(), np.dtype(self.dtype).itemsize * self.shape[1]
        file.truncate(start + self.shape[0] * row_bytes)
        for place, values in self.rows():
            order = np.argsort(place)
            place, values = place[order], np.ascontiguousarray(values[order])
            begins = np.nonzero(np.diff(place, prepend=-2) != 1)[0].tolist()
            for first, end in zip(begins, [*begins[1:], len(place)]):  # rows that follow one another
                _put(file.fileno(), values[first:end].data.cast("B"), start + int(place[first]) * row_bytes)

    def in_memory(self) -> NDArray[Any]:
        array = np.zeros(self.shape, self.dtype)
        for place, values in self.rows():
            array[place] = values
        return array

    def in_a_file(self) -> NDArray[Any]:
        """Mapped from a file without a name. Raises ``OSError`` if the disk is full."""
        with tempfile.TemporaryFile() as file:
            self.write(file)
            return _mapped(file, self.dtype, None)


def _arrays(source: Source) -> list[_Array]:
    """The vectors, and thumbprints where there are some."""
    count = len(source.ids)
    vectors = _Array((count, source.dimensions), np.float32, source.rows)
    if source.thumbprints is None:
        return [vectors]
    return [vectors, _Array((count, THUMBPRINT_BYTES), np.uint8, source.thumbprints)]


def _put(descriptor: int, content: memoryview, offset: int) -> None:
    while len(content):
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Nothing is written, so no memory need be set aside: else a file larger than memory could not be mapped."""


class _Mapping(mmap.mmap):
    """A mapped file, and the lock that says so: as long as there is an array of it, the copy is in use."""

    lock: IO[bytes] | None = None


def _mapped(file: IO[bytes], dtype: Any, lock: IO[bytes] | None) -> NDArray[Any]:
    """The array in a ``.npy`` file. Raises ``ValueError`` if it is cut short."""
    file.seek(0)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another format")
    shape, _, written = np.lib.format.read_array_header_1_0(file)
    size = np.dtype(dtype).itemsize * math.prod(shape)
    if written != dtype or len(shape) != 2 or os.fstat(file.fileno()).st_size != file.tell() + size:
        raise ValueError("cut short")
    if not size:
        return np.empty(shape, dtype)
    private = mmap.MAP_PRIVATE | _NO_RESERVE
    content = _Mapping(file.fileno(), 0, flags=private, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    content.lock = lock
    values: NDArray[Any] = np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)
    return values


def _kept_by_this_process(source: Source, because: str) -> Store:
    """A store without a copy: in memory, or in a temporary file that nobody else sees. Says which, and why."""
    reason = "" if copies.limit() == 0 else f" ({because})"
    available = available_memory()
    if available is None or source.size <= available // _SHARE_OF_MEMORY:
        arrays = [array.in_memory() for array in _arrays(source)]
        if reason:  # else it was asked for
            current().tell("progress", f"vectors are kept in memory{reason}")
        return _uncopied(source, *arrays)
    folder = tempfile.gettempdir()
    lacking = disk_space.lack("a copy of the vectors", [disk_space.Need("$TMPDIR", folder, source.size)])
    if lacking is not None:
        raise JobFailed(f"{lacking}{reason}")
    try:
        arrays = [array.in_a_file() for array in _arrays(source)]
    except OSError as error:
        raise JobFailed(f"{folder}: {error.strerror or error}{reason}") from None
    current().tell("progress", f"vectors are kept in {folder} until this process ends{reason}")
    return _uncopied(source, *arrays)


def _uncopied(source: Source, vectors: Values, thumbprints: Pixels | None = None) -> Store:
    return Store(source.ids, source.contents, vectors, None, source.pictures, thumbprints)


# -- sources -----------------------------------------------------------------------------------------------------------


def source_of(snapshot: Snapshot, fingerprint: str) -> Source:
    """The vectors of ``fingerprint`` in the warehouse, or one's own that were compared."""
    key = key_of(snapshot, fingerprint)
    if key is not None:
        return _stored(snapshot, fingerprint, key)
    if snapshot.run_ids("embeddings", fingerprint):  # every image failed
        return Source(_NO_NAMES, _NO_NAMES, 0, lambda: iter(()))
    from image_similarity.collection import own_vectors

    return own_vectors.source(snapshot, fingerprint)


def _stored(snapshot: Snapshot, fingerprint: str, key: str) -> Source:
    import pyarrow.dataset as ds

    images = snapshot.table("embeddings", fingerprint, ["image_id", "content_sha256"])
    ids, contents = (large(images[name]) for name in images.column_names)
    order = pc.sort_indices(ids)
    ids, contents = ids.take(order), contents.take(order)
    distinct = contents.dictionary_encode()
    of_image = distinct.indices.to_numpy()
    store = snapshot.dataset("vectors", key)
    columns = {name: ds.field(name) for name in ("content_sha256", "width", "height")}
    stored = store.to_table(columns={**columns, _HAS_THUMBPRINT: ds.field("thumbprint").is_valid()}, **streaming())
    # The store also keeps vectors of images that are gone.
    places = pc.index_in(large(stored["content_sha256"]), value_set=distinct.dictionary)
    code: Indices = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    places = _Places(_once(code), *_by_code(of_image, len(distinct.dictionary)))
    if missing := len(distinct.dictionary) - int((places.code >= 0).sum()):
        raise JobFailed(
            f"{snapshot.uri}: {counted(missing, 'vector')} of {fingerprint} {'is' if missing == 1 else 'are'} missing: "
            "run embed_images with --set embeddings.recheck=always"
        )
    dimensions = dimensions_of(snapshot, key) or 0

    def rows() -> Rows:
        batches = store.to_batches(columns=["embedding"], batch_size=batch_rows(dimensions), **streaming())
        return places.spread(batches, lambda lists: values_of(lists, dimensions))

    # A vector that was stored again may have what earlier versions did not know of the picture.
    has_thumbprint: NDArray[np.bool_] = stored[_HAS_THUMBPRINT].to_numpy()
    with_thumbprint = replace(places, code=_once(np.where(has_thumbprint, code, -1)))

    def thumbprints() -> Iterator[tuple[Indices, Pixels]]:
        rows_at_once = _BATCH_BYTES // THUMBPRINT_BYTES
        batches = store.to_batches(columns=["thumbprint"], batch_size=rows_at_once, **streaming())
        return with_thumbprint.spread(batches, _pixels_of)

    has_size = pc.is_valid(stored["width"]).to_numpy()
    sized = _first_of(_once(np.where(has_size, code, -1)), len(distinct.dictionary))[of_image]
    known = _first_of(with_thumbprint.code, len(distinct.dictionary))[of_image] >= 0
    sizes = stored.select(["width", "height"]).take(pa.array(sized, mask=sized < 0)).combine_chunks()
    columns_of = [*(_one_piece(column) for column in sizes.columns), pa.array(known)]
    pictures = pa.record_batch(columns_of, names=_PICTURE)
    return Source(ids, contents, dimensions, rows, pictures, thumbprints if known.any() else None)


def _one_piece(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([pa.array([], column.type), *column.chunks])


def _pixels_of(thumbprints: pa.Array) -> Pixels:
    """binary (m) -> (m, 1024)."""
    if not pc.all(pc.equal(pc.binary_length(thumbprints), THUMBPRINT_BYTES)).as_py():
        raise JobFailed(f"thumbprints have other lengths than {THUMBPRINT_BYTES}: run embed_images again")
    return np.frombuffer(b"".join(thumbprints.to_pylist()), np.uint8).reshape(-1, THUMBPRINT_BYTES)


@dataclass(frozen=True)
class _Places:
    """Where the rows of the store of vectors go: what is known of a content goes to all images with these bytes."""

    code: Indices
    """(s,): the content of each stored row; -1: it goes nowhere."""
    row: Indices
    """(n,): the rows of images, ordered by their content."""
    first: Indices
    """Where each content begins among these, and their end."""

    def spread(
        self, batches: Iterator[pa.RecordBatch], values_of: Callable[[pa.Array], NDArray[Any]]
    ) -> Iterator[tuple[Indices, NDArray[Any]]]:
        """The values of all stored rows, a batch at a time, with the rows of the images that they go to."""
        start = 0
        for batch in batches:
            of_batch = self.code[start : start + len(batch)]
            start += len(batch)
            wanted = of_batch[of_batch >= 0]
            values = values_of(batch.column(0).filter(pa.array(of_batch >= 0)))
            counts = self.first[wanted + 1] - self.first[wanted]  # images with the same bytes
            within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
            yield self.row[np.repeat(self.first[wanted], counts) + within], np.repeat(values, counts, axis=0)


_NO_NAMES = pa.array([], pa.large_string())


def batch_rows(dimensions: int) -> int:
    """How many vectors are read at once."""
    return max(1, _BATCH_BYTES // (4 * max(1, dimensions)))


def large(column: pa.ChunkedArray) -> pa.LargeStringArray:
    """``column`` in one piece, which may be longer than 2 GiB."""
    return pa.concat_arrays([pa.array([], pa.large_string()), *column.cast(pa.large_string()).chunks])


def _by_code(codes: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows ordered by their code, and where in them each code begins (count + 1,)."""
    order = np.argsort(codes, kind="stable")
    return order, np.searchsorted(codes[order], np.arange(count + 1))


def _once(code: Indices) -> Indices:
    """``code``, each of them where it is met first; else -1."""
    _, first = np.unique(code, return_index=True)
    once = np.full(len(code), -1, np.int64)
    once[first] = code[first]
    return once


def _first_of(once: Indices, count: int) -> Indices:
    """(count,): where each code is in ``once``; -1 where it is not."""
    place = np.full(count, -1, np.int64)
    place[once[once >= 0]] = np.nonzero(once >= 0)[0]
    return place


def values_of(lists: pa.Array, dimensions: int) -> Values:
    """list<float> (n) -> (n, d). Raises ``JobFailed`` for lists of other lengths."""
    if not len(lists):
        return np.empty((0, dimensions), np.float32)
    lengths = pc.fill_null(pc.list_value_length(lists), -1)
    if pc.any(pc.not_equal(lengths, dimensions)).as_py():
        raise JobFailed("vectors have several lengths: run embed_images again")
    values: Values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return values.reshape(len(lists), dimensions)


# -- measures ----------------------------------------------------------------------------------------------------------


def _measured(store: Store, metric: str) -> "Vectors":
    from image_similarity.knn.distances import Vectors

    file = None if store.copy is None else store.copy.folder / f"{metric}.npy"
    try:
        if file is not None:
            shift, scale = np.load(file)
            if len(scale) == len(store):
                return Vectors(store.vectors, shift, scale)
    except (OSError, ValueError):
        pass
    shift, scale = _shift_and_scale(store.vectors, metric)
    if file is not None:
        _keep(file, np.stack([shift, scale]))
    return Vectors(store.vectors, shift, scale)


def _shift_and_scale(vectors: Values, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from image_similarity.knn import distances

    chosen = distances.METRICS[one_of("metric", metric, distances.METRICS)]
    shift, scale = np.zeros(len(vectors)), np.zeros(len(vectors))
    step = batch_rows(vectors.shape[1])
    for start in range(0, len(vectors), step):
        values = vectors[start : start + step]
        usable = ~chosen.unusable(values) & np.isfinite(values).all(axis=1)
        of_usable = distances.measured(values if usable.all() else values[usable], chosen)
        shift[start : start + step][usable], scale[start : start + step][usable] = of_usable.shift, of_usable.scale
    return shift, scale


def _keep(file: Path, values: NDArray[np.float64]) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with open(partial, "wb") as out:
            np.save(out, values)
        os.replace(partial, file)
    except OSError:  # a full disk: they are computed again
        partial.unlink(missing_ok=True)
