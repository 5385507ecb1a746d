"""Numbers for images and vectors, so that tasks need no ids.

The number of an image is the position of its id in the byte order of all usable ids, so comparing numbers compares ids.
Images with equal vectors share one vector: it is compared once, under the number of the first of them. The driver sorts
the ids and holds the numbers as arrays, which take some 500 bytes per image while they are built. Workers map two
kinds of files: the ids (`Images`), and for each block of vectors the rows that are compared (`alive_file`).
"""

import hashlib
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
from image_similarity.knn.candidates import MAX_INDEX, NONE, Keys, moved, positions_of
from image_similarity.knn.distances import Indices
from image_similarity.knn.hashing import fnv, mixed
from image_similarity.stages.neighbours.usable import check_once
from image_similarity.storage import blobs, uris

ALIVE = np.dtype(
    [("row", np.int32), ("index", np.int64), ("shift", np.float64), ("scale", np.float64), ("new", np.bool_)]
)
"""One entry for each compared vector of a block: its row in the block, its number, whether it is new since the previous
run, and the shift and scale that distances need (see `distances.measured`)."""
DIGEST_BYTES = 32
KNOWN = np.dtype([("digest", f"S{DIGEST_BYTES}"), ("vector", np.int64)])
"""One entry for each distinct vector: its digest and number, stored for the next run."""
NOTHING_KNOWN = np.empty(0, dtype=KNOWN)

_WORTH_KEEPING = 0.5
_FILES_AT_ONCE = 16


@dataclass(frozen=True)
class Numbers:
    """Usable images in the byte order of their ids; arrays (n,), indexed by number."""

    digest: NDArray[np.bytes_]
    """Digest of the vector: equal digests mean equal vectors."""
    file: NDArray[np.int32]
    row: NDArray[np.int32]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    content: Indices
    """The first image whose file has the same bytes; where contents are not known, the first with an equal vector."""
    vector: Indices
    """The first image with an equal vector."""
    sha256: str
    """Of all ids and digests: what a run compared is known by it."""

    def __len__(self) -> int:
        return len(self.vector)

    @property
    def compared(self) -> Indices:
        """The numbers of distinct vectors, ascending."""
        return np.nonzero(self.vector == np.arange(len(self)))[0]

    @property
    def known(self) -> NDArray[Any]:
        """`KNOWN`, for the next run."""
        compared = self.compared
        known = np.empty(len(compared), dtype=KNOWN)
        known["digest"], known["vector"] = self.digest[compared], compared
        return known

    def entries(self, drop_duplicates: bool) -> int:
        """The number of images that can be neighbours; with ``drop_duplicates``, files with the same bytes count
        once.
        """
        return len(np.unique(self.content)) if drop_duplicates else len(self)

    def kept(self, previous: NDArray[Any]) -> tuple[Indices, Indices]:
        """The present and the previous numbers (n,) of vectors that are also in ``previous`` (`KNOWN`).

        Both are empty if no more than half of the present vectors are known: reuse would not pay.
        """
        known = self.known
        _, now, then = np.intersect1d(known["digest"], previous["digest"], assume_unique=True, return_indices=True)
        worth_it = len(now) > len(known) * _WORTH_KEEPING
        return (
            (known["vector"][now], previous["vector"][then])
            if worth_it
            else (known["vector"][:0], previous["vector"][:0])
        )


def of_images(images: pa.Table | None, contents: pa.Table) -> pa.Table:
    """``contents`` (content, ...) with the image_id of each image that has such a content, in the order of image_id.

    ``images``: image_id, content; None where each content is an image. A content that the store has twice gives two
    rows, so that counts do not match.
    """
    # large_string: the rows of a column of strings hold at most 2 GiB.
    contents = contents.set_column(0, "content", contents["content"].cast(pa.large_string()))
    if images is None:
        return contents.add_column(0, "image_id", contents["content"]).sort_by("image_id")
    schema = pa.schema([(name, pa.large_string()) for name in ("image_id", "content")])
    images = images.select(schema.names).cast(schema)
    return images.join(contents, keys="content", join_type="inner").sort_by("image_id")


def numbered(tables: Iterable[pa.Table], files: list[str], by_content: bool) -> "tuple[Numbers, Images]":
    """Number the rows of ``tables`` (image_id, digest, file, row, shift, scale, and content if ``by_content``) in their
    order.

    With ``by_content``, images are copies if their content is equal; without, if their vectors are equal. Raises
    ``WrongInput`` for more rows than can be numbered, ``JobFailed`` for an image that has two.
    """
    ids = pa.concat_tables(tables)
    if len(ids) >= MAX_INDEX:
        raise WrongInput(f"{len(ids):,} vectors: at most {MAX_INDEX - 1:,} can be compared")
    digest = _digests(ids.column("digest"))
    vector = _first_of_equals(digest)
    content = _first_of_equals(_codes(ids.column("content"))) if by_content else vector
    file = pc.index_in(ids.column("file"), value_set=pa.array(files, pa.string()))
    row, shift, scale = (ids.column(name).to_numpy() for name in ("row", "shift", "scale"))
    names = pa.concat_arrays([pa.array([], pa.large_string()), *ids.column("image_id").cast(pa.large_string()).chunks])
    check_once(names)
    numbers = Numbers(digest, file.to_numpy(), row, shift, scale, content, vector, sha256_of(names, digest))
    return numbers, Images.numbered(names, numbers)


def sha256_of(names: pa.LargeStringArray, digest: NDArray[np.bytes_]) -> str:
    """`Numbers.sha256` of all ids, in their order, and digests."""
    total = hashlib.sha256(np.ascontiguousarray(digest).data)
    # The lengths tell where one name ends and the next begins.
    total.update(pc.binary_length(names).to_numpy().data)
    ends = np.frombuffer(names.buffers()[1], np.int64)[names.offset : names.offset + len(names) + 1]
    if len(names):
        total.update(names.buffers()[2][int(ends[0]) : int(ends[-1])])
    return total.hexdigest()


def _codes(texts: pa.ChunkedArray) -> NDArray[np.int32]:
    # large_string: a column of strings holds at most 2 GiB.
    codes: NDArray[np.int32] = texts.cast(pa.large_string()).combine_chunks().dictionary_encode().indices.to_numpy()
    return codes


def _digests(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    chunks = [chunk.cast(pa.binary(DIGEST_BYTES)) for chunk in column.chunks]
    size = f"S{DIGEST_BYTES}"
    return np.concatenate(
        [np.empty(0, size), *(np.frombuffer(c.buffers()[1], size)[c.offset : c.offset + len(c)] for c in chunks)]
    )


def _first_of_equals(values: NDArray[Any]) -> Indices:
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


# -- samples ----------------------------------------------------------------------------------------------------------


def sampled(digests: NDArray[np.bytes_], size: int, seed: int) -> Indices:
    """Indices of ``size`` of ``digests`` (n,), or of all: those that a hash with ``seed`` puts first."""
    words = np.frombuffer(digests.tobytes(), np.uint8).reshape(len(digests), -1)[:, :8].copy().view(np.uint64)[:, 0]
    return np.lexsort((digests, mixed(words, seed)))[:size]


def hashes(ids: pa.LargeStringArray, seed: int) -> NDArray[np.uint64]:
    """(n,): a hash of each id and ``seed``. Those of two seeds are independent."""
    ends, content = np.frombuffer(ids.buffers()[1], np.int64)[ids.offset : ids.offset + len(ids) + 1], ids.buffers()[2]
    return mixed(fnv(np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8), ends), seed)


def lowest(hashed: NDArray[np.uint64], size: int) -> Indices:
    """Indices of the ``size`` lowest, or of all; of equal ones the first."""
    return np.argsort(hashed, kind="stable")[:size]


# -- what workers read -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Members:
    """Images by the number of their vector: the images of vector ``v`` are ``order[start[v]:start[v + 1]]``,
    ascending.
    """

    order: Indices
    start: Indices

    @classmethod
    def by(cls, vector: Indices, images: Indices) -> "Members":
        """Group ``images`` by vector; ``vector`` (n,) holds the vector's number for every image."""
        order = images[np.argsort(vector[images], kind="stable")]
        return cls(order, np.searchsorted(vector[order], np.arange(len(vector) + 1)))

    def of_vectors(self, vector: Indices, most: int = MAX_INDEX) -> tuple[Indices, Indices]:
        """The images of each vector, at most the first ``most``, and for each image the index of its vector in
        ``vector``.
        """
        first, count = self.start[vector], np.minimum(self.start[vector + 1] - self.start[vector], most)
        row = np.repeat(np.arange(len(vector)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        return self.order[first[row] + within], row

    def best(self, keys: Keys, k: int) -> Keys:
        """The sorted keys (n, ``k``) of the best images, from the ``keys`` (n, any) of the best vectors.

        Of images with equal vectors the first is the best. Lists are padded with `NONE`.
        """
        row, place = np.nonzero(keys != NONE)
        key = keys[row, place]
        image, source = self.of_vectors(positions_of(key), k)
        row, key = row[source], moved(key[source], image)
        order = np.lexsort((key, row))
        row, key = row[order], key[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        best, within = np.full((len(keys), k), NONE), place < k
        best[row[within], place[within]] = key[within]
        return best


@dataclass(frozen=True)
class Sharing:
    """Which images share a vector."""

    all: Members
    once: Members
    """Only the first image of those whose files have the same bytes."""
    content: Indices
    """For each image, the first image whose file has the same bytes."""


@dataclass(frozen=True)
class Images:
    """The ids by number; ``sharing`` is None if no two images share a vector."""

    ids: pa.Array
    sharing: Sharing | None

    def best(self, keys: Keys, k: int) -> Keys:
        """The keys (n, ``k``) of the best images, from the sorted ``keys`` (n, at least k) of the best vectors."""
        return keys[:, :k] if self.sharing is None else self.sharing.all.best(keys[:, :k], k)

    def with_vectors(self, vector: Indices) -> tuple[Indices, Indices]:
        """The images of the vectors (n,), ascending, and for each the index of its vector in ``vector``."""
        image, row = (vector, np.arange(len(vector))) if self.sharing is None else self.sharing.all.of_vectors(vector)
        order = np.argsort(image)
        return image[order], row[order]

    @classmethod
    def numbered(cls, names: pa.LargeStringArray, numbers: Numbers) -> "Images":
        """``names`` (n,): the ids of ``numbers``."""
        if len(numbers.compared) == len(numbers):
            return cls(names, None)
        everything = np.arange(len(numbers))
        members = Members.by(numbers.vector, everything)
        once = Members.by(numbers.vector, everything[numbers.content == everything])
        return cls(names, Sharing(members, once, numbers.content))

    def save(self, folder: str) -> None:
        """Write the ids to ``folder``, for `load`."""
        batch = pa.record_batch({"image_id": self.ids})
        content = pa.BufferOutputStream()
        with pa.ipc.new_file(content, batch.schema) as writer:
            writer.write_batch(batch)
        blobs.write(uris.join(folder, "images.arrow"), content.getvalue(), "application/octet-stream")
        if self.sharing is not None:
            of_all, once = self.sharing.all, self.sharing.once
            arrays = of_all.order, of_all.start, once.order, once.start, self.sharing.content
            for name, values in zip(_SHARING, arrays):
                save(uris.join(folder, f"{name}.npy"), values)

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


def alive_file(folder: str, file: str) -> str:
    """The file beside the vectors ``file`` that holds `ALIVE` for its compared rows."""
    return uris.join(folder, file.replace(".npy", "-alive.npy"))


def save_alive(
    numbers: Numbers, files: list[str], kept: Indices, folder: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write `alive_file` for each of ``files`` that has compared rows; ``kept``: numbers of the vectors that are not
    new.

    Returns the number of new and of other compared vectors in each file.
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
    """The array in ``file``. A file on a local disk is mapped, and read only where it is used.

    Raises ``OSError`` or ``ValueError`` if there is no such file, or if it is cut short.
    """
    if not uris.is_local(file):
        return np.load(io.BytesIO(blobs.read(file)))
    with open(uris.local_path(file), "rb") as stream:
        # Copy on write: numba compiles functions again for read-only arrays.
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 10 + int.from_bytes(content[8:10], "little")
    shape, dtype = _parse_header(content[:start])
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype. Cached: tasks open many files with few different headers, and parsing a header takes longer than
    mapping the file.
    """
    stream = io.BytesIO(header)
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype


def save(file: str, values: NDArray[Any]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    # One join instead of np.save into memory, which copies many times.
    blobs.write(file, b"".join((header.getvalue(), np.ascontiguousarray(values).data)), "application/octet-stream")
