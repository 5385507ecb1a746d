"""Numbers for images and vectors, so that tasks need no names.

The number of an image is its place in the byte order of all usable ids: to compare numbers is to compare ids. Images
with the same vector share it: it is compared once, under the number of the first of them. Spark sorts the ids; the
numbers are arrays of the driver, some 300 bytes an image while they are made. What workers need of them lies in files
that they map: the ids (`Images`), and for each block of vectors which of its rows are compared (`alive_file`)."""

import io
import mmap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.errors import WrongInput
from image_similarity.knn.candidates import MAX_INDEX
from image_similarity.knn.distances import Indices
from image_similarity.storage import blobs, uris

ALIVE = np.dtype(
    [("row", np.int32), ("index", np.int64), ("shift", np.float64), ("scale", np.float64), ("new", np.bool_)]
)
"""Of a block's vectors that are compared: place in the block, number, and what distances need; see
`distances.measured`."""
DIGEST_BYTES = 20
KNOWN = np.dtype([("digest", f"S{DIGEST_BYTES}"), ("vector", np.int64)])
"""Of different vectors: what a run remembers for the next."""
NOTHING_KNOWN = np.empty(0, dtype=KNOWN)

_WORTH_KEEPING = 0.5
_FILES_AT_ONCE = 16


@dataclass(frozen=True)
class Numbers:
    """Usable images in the byte order of their ids, so that places are numbers; arrays (n,)."""

    digest: NDArray[np.bytes_]
    """Of the vector: equal digests are equal vectors."""
    file: NDArray[np.int32]
    row: NDArray[np.int32]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    content: Indices
    """Equal numbers are files with the same bytes."""
    vector: Indices
    """The first image with the same vector."""

    def __len__(self) -> int:
        return len(self.vector)

    @property
    def compared(self) -> Indices:
        """The numbers of different vectors, ascending."""
        return np.nonzero(self.vector == np.arange(len(self)))[0]

    @property
    def known(self) -> NDArray[Any]:
        """`KNOWN`, for the next run."""
        compared = self.compared
        known = np.empty(len(compared), dtype=KNOWN)
        known["digest"], known["vector"] = self.digest[compared], compared
        return known

    def entries(self, one_of_copies: bool) -> int:
        """How many images can be neighbours."""
        return len(np.unique(self.content)) if one_of_copies else len(self)

    def kept(self, before: NDArray[Any]) -> tuple[Indices, Indices]:
        """The numbers, now and then, of vectors that are in ``before`` (`KNOWN`); none if they are too few to be worth
        it."""
        known = self.known
        _, now, then = np.intersect1d(known["digest"], before["digest"], assume_unique=True, return_indices=True)
        worth_it = len(now) > len(known) * _WORTH_KEEPING
        return (
            (known["vector"][now], before["vector"][then]) if worth_it else (known["vector"][:0], before["vector"][:0])
        )


def numbered(parts: Iterable[pa.Table], files: list[str], by_content: bool, folder: str) -> Numbers:
    """Numbers of the rows of ``parts`` (image_id, digest, file, row, shift, scale, and content if ``by_content``), in
    their order.

    The ids go to ``folder``, for `Images`. Without ``by_content`` equal vectors are copies.
    """
    ids = pa.concat_tables(parts)
    if len(ids) >= MAX_INDEX:
        raise WrongInput(f"{len(ids):,} vectors: at most {MAX_INDEX - 1:,} can be compared")
    digest = _digests(ids.column("digest"))
    vector = _first_of_equals(digest)
    content = _first_of_equals(_codes(ids.column("content"))) if by_content else vector
    file = pc.index_in(ids.column("file"), value_set=pa.array(files, pa.string()))
    row, shift, scale = (ids.column(name).to_numpy() for name in ("row", "shift", "scale"))
    numbers = Numbers(digest, file.to_numpy(), row, shift, scale, content, vector)
    _save_images(ids.column("image_id"), numbers, folder)
    return numbers


def _codes(texts: pa.ChunkedArray) -> NDArray[np.int32]:
    # Large, since a column of short ones holds 2 GiB at most.
    codes: NDArray[np.int32] = texts.cast(pa.large_string()).combine_chunks().dictionary_encode().indices.to_numpy()
    return codes


def _digests(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    chunks = [chunk.cast(pa.binary(DIGEST_BYTES)) for chunk in column.chunks]
    size = f"S{DIGEST_BYTES}"
    return np.concatenate(
        [np.empty(0, size), *(np.frombuffer(c.buffers()[1], size)[c.offset : c.offset + len(c)] for c in chunks)]
    )


def _first_of_equals(values: NDArray[Any]) -> Indices:
    _, first, which = np.unique(values, return_index=True, return_inverse=True)
    return first[which]


# -- what workers read -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Members:
    """Images by the number of their vector: those of vector ``v`` are ``order[start[v]:start[v + 1]]``, ascending."""

    order: Indices
    start: Indices

    @classmethod
    def by(cls, vector: Indices, images: Indices) -> "Members":
        """Of ``images``; ``vector``: (n,) that of every image."""
        order = images[np.argsort(vector[images], kind="stable")]
        return cls(order, np.searchsorted(vector[order], np.arange(len(vector) + 1)))

    def of(self, vector: Indices, most: int = MAX_INDEX) -> tuple[Indices, Indices]:
        """All images, or the first ``most``, of each vector, and for each of them the place of its vector in
        ``vector``."""
        first, count = self.start[vector], np.minimum(self.start[vector + 1] - self.start[vector], most)
        row = np.repeat(np.arange(len(vector)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        return self.order[first[row] + within], row


@dataclass(frozen=True)
class Sharing:
    """Which images share a vector."""

    all: Members
    once: Members
    """Of files with the same bytes only the first."""
    content: Indices
    """Of each image the first with the same bytes."""


@dataclass(frozen=True)
class Images:
    """The ids by number; ``sharing`` is None if each has a vector of its own."""

    ids: pa.Array
    sharing: Sharing | None

    @classmethod
    def load(cls, folder: str) -> "Images":
        name = uris.join(folder, "images.arrow")
        source = pa.memory_map(uris.local_path(name)) if uris.is_local(name) else pa.BufferReader(blobs.read(name))
        ids = (
            pa.ipc.open_file(source).get_batch(0).column("image_id")
        )  # one batch: nothing is copied from the mapped file
        if not blobs.exists(uris.join(folder, f"{_SHARING[0]}.npy")):
            return cls(ids, None)
        order, start, order_once, start_once, content = (load(uris.join(folder, f"{name}.npy")) for name in _SHARING)
        return cls(ids, Sharing(Members(order, start), Members(order_once, start_once), content))


_SHARING = ("order", "start", "order-once", "start-once", "content")


def _save_images(ids: pa.ChunkedArray, numbers: Numbers, folder: str) -> None:
    whole = pa.record_batch(
        {"image_id": pa.concat_arrays([pa.array([], pa.large_string()), *ids.cast(pa.large_string()).chunks])}
    )
    content = pa.BufferOutputStream()
    with pa.ipc.new_file(content, whole.schema) as writer:
        writer.write_batch(whole)
    blobs.write(uris.join(folder, "images.arrow"), content.getvalue(), "application/octet-stream")
    if len(numbers.compared) < len(numbers):
        everything = np.arange(len(numbers))
        members = Members.by(numbers.vector, everything)
        once = Members.by(numbers.vector, everything[numbers.content == everything])
        for name, values in zip(_SHARING, (members.order, members.start, once.order, once.start, numbers.content)):
            save(uris.join(folder, f"{name}.npy"), values)


def alive_file(folder: str, file: str) -> str:
    """Beside the vectors ``file``: `ALIVE` of those that are compared."""
    return uris.join(folder, file.replace(".npy", "-alive.npy"))


def save_alive(
    numbers: Numbers, files: list[str], kept: Indices, folder: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write `alive_file` for each of ``files``, but for those of which nothing is compared; ``kept``: vectors that are
    not new.

    Returns how many of each are new, and how many are not.
    """
    compared = numbers.compared
    compared = compared[np.lexsort((numbers.row[compared], numbers.file[compared]))]
    alive = np.empty(len(compared), dtype=ALIVE)
    alive["index"], alive["new"] = compared, ~np.isin(compared, kept)
    for name in ("row", "shift", "scale"):
        alive[name] = getattr(numbers, name)[compared]
    ends = np.searchsorted(numbers.file[compared], np.arange(len(files) + 1))

    def write(block: int) -> tuple[int, int]:
        rows = alive[ends[block] : ends[block + 1]]
        if len(rows):
            save(alive_file(folder, files[block]), rows)
        return int(rows["new"].sum()), int((~rows["new"]).sum())

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        counts = np.array(list(pool.map(write, range(len(files)))), dtype=np.int64).reshape(-1, 2)
    return counts[:, 0], counts[:, 1]


def load(file: str) -> Any:
    """The array in ``file``; on this machine's own disk mapped, not read before it is used."""
    if not uris.is_local(file):
        return np.load(io.BytesIO(blobs.read(file)))
    with open(uris.local_path(file), "rb") as opened:
        # Copy on write, since compiled functions are compiled again for arrays that cannot be written.
        content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 10 + int.from_bytes(content[8:10], "little")
    shape, kind = _described(content[:start])
    return np.frombuffer(content, kind, offset=start).reshape(shape)


@lru_cache(maxsize=4096)
def _described(header: bytes) -> tuple[tuple[int, ...], Any]:
    """Tasks open many files with few different headers, and reading one takes longer than mapping the file."""
    opened = io.BytesIO(header)
    np.lib.format.read_magic(opened)
    shape, _, kind = np.lib.format.read_array_header_1_0(opened)
    return shape, kind


def save(file: str, values: NDArray[Any]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    # In one piece; numpy's own writing to memory copies many times.
    blobs.write(file, b"".join((header.getvalue(), np.ascontiguousarray(values).data)), "application/octet-stream")
