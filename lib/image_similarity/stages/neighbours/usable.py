"""Which vectors can be compared, and why the others cannot."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.errors import JobFailed, counted
from image_similarity.knn.distances import Metric, Values

FAILURE_REASONS = {
    "no_vector": "the embedding is null or empty",
    "wrong_length": "the embedding has another length than most",
    "non_finite": "the embedding has nulls, infinite or undefined values",
    "zero_vector": "all values are 0: no direction, so no cosine distance",
    "constant_vector": "all values are the same: no correlation distance",
    "too_long": "the length is above 1.7e38: a euclidean distance might exceed float32",
}
"""Every ``reason`` that `find_neighbours` writes into ``failures``."""


def reasons_of(values: Values, metric: Metric) -> NDArray[np.object_]:
    """(n, d) -> (n,): why ``metric`` cannot compare a vector, one of `FAILURE_REASONS`; None where it can."""
    reasons = np.full(len(values), None, dtype=object)
    if values.shape[1] == 0:
        reasons[:] = "no_vector"
        return reasons
    reasons[metric.unusable(values)] = metric.unusable_reason
    reasons[~np.isfinite(values).all(axis=1)] = "non_finite"
    return reasons


def check_keys(fingerprint: str, keys: Sequence[str]) -> None:
    """Raise ``JobFailed`` if images were embedded in several ways."""
    if len(keys) > 1:
        raise JobFailed(f"the embeddings {fingerprint} mix the keys {', '.join(keys)}: run embed_images again")


def mismatch(images: int, usable: int, unusable: int) -> str:
    """What is wrong where the store of vectors does not have each image's vector once."""
    vectors = f"{counted(usable, 'usable vector')} and {counted(unusable, 'other')}"
    return f"{counted(images, 'image')}, but {vectors}: {_ADVICE}"


def check_once(names: pa.LargeStringArray) -> None:
    """Raise ``JobFailed`` if one of the sorted ``names`` of images stands twice: the store has its vector twice.

    Counts do not tell it where as many vectors are missing.
    """
    before, after = names.slice(0, max(0, len(names) - 1)), names.slice(1)
    if repeated := after.filter(pc.equal(before, after)).slice(0, 1).to_pylist():
        raise JobFailed(f"several vectors of the image {repeated[0]!r}: {_ADVICE}")


_ADVICE = (
    "the store lacks some or has some twice; nothing was published; run embed_images with --set "
    "embeddings.recheck=always"
)


def digests_of(values: Values) -> list[bytes]:
    """(n, d) -> n digests: equal digests mean equal vectors."""
    # Adding 0 turns -0.0 into 0.0, so that equal vectors have equal bytes.
    return [hashlib.sha256(row).digest() for row in values + np.float32(0)]


def most_frequent(rows_of_length: Mapping[int, int]) -> int:
    """The length that usable vectors have: that of most, and of two that are equally frequent the shorter; 0 for none.

    ``rows_of_length``: the number of vectors of each length.
    """
    return min(rows_of_length, key=lambda length: (-rows_of_length[length], length), default=0)


def wrong_length(length: int, dimensions: int) -> str:
    """The detail of a failure for this reason."""
    return f"{counted(length, 'value')}, not {dimensions}"


def by_length(lists: pa.ListArray) -> Iterator[tuple[NDArray[np.int64], Values]]:
    """For each length in ``lists`` (list<float>): the row indices, and their values (n, length) float32.

    A null list has length 0; a null value is nan.
    """
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    for length in np.unique(lengths):
        rows = np.nonzero(lengths == length)[0]
        of_one_length = lists if len(rows) == len(lists) else lists.take(pa.array(rows))
        values = of_one_length.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        yield rows, values.reshape(len(rows), int(length))
