"""Scores of classes as columns of a batch: those that were kept while images were embedded, and those that a classifier
gives to stored vectors.
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.errors import JobFailed
from image_similarity.tagging.scores import Scores, kept

if TYPE_CHECKING:
    from image_similarity.fingerprints.classifier import Classifier

Number = TypeVar("Number", bound=np.generic)

CONTENT, VECTOR = "content_sha256", "embedding"
SCORES = pa.schema(
    [
        (CONTENT, pa.string()),
        ("classes", pa.list_(pa.int32())),
        ("logits", pa.list_(pa.float32())),
        ("rest", pa.float32()),
    ]
)
"""The columns of ``class_scores`` that are read."""


def from_vectors(batch: pa.RecordBatch, classifier: "Classifier") -> pa.RecordBatch:
    """Contents and their vectors (string, list<float>), one or more -> a batch of `SCORES`.

    Contents whose logits are not all finite are left out. Raises ``JobFailed`` for vectors of several lengths.
    """
    logits = classifier.logits(_matrix(batch.column(1), np.float32))
    is_finite = np.isfinite(logits).all(axis=1)
    return as_batch(batch.column(0).filter(pa.array(is_finite)), kept(logits[is_finite]))


def as_batch(contents: pa.Array, scores: Scores) -> pa.RecordBatch:
    """The scores of ``contents`` (n,), strings, as a batch of `SCORES`."""
    columns = [contents, _lists(scores.classes, pa.int32()), _lists(scores.logits, pa.float32()), pa.array(scores.rest)]
    return pa.RecordBatch.from_arrays(columns, schema=SCORES)


def scores_in(batch: pa.RecordBatch, class_count: int) -> Scores:
    """The scores of a batch of `SCORES` with rows, by a classifier of so many classes.

    Raises ``JobFailed`` for lists of several lengths, and for scores that another classifier gave.
    """
    classes, logits = _matrix(batch.column("classes"), np.int32), _matrix(batch.column("logits"), np.float32)
    if classes.max(initial=0) >= class_count or classes.shape[1] > class_count:
        raise JobFailed(
            f"scores of classes were kept by another classifier than this one of {class_count:,}: {_ADVICE}"
        )
    return Scores(classes, logits, batch.column("rest").to_numpy(zero_copy_only=False), class_count)


def _lists(values: NDArray[np.generic], kind: pa.DataType) -> pa.ListArray:
    """(n, k) -> n lists of k values."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).ravel(), kind))


def _matrix(lists: pa.Array, kind: type[Number]) -> NDArray[Number]:
    """Lists of equal length -> (n, k). Raises ``JobFailed`` for a null, or lists of several lengths."""
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    if not len(lengths):
        return np.empty((0, 0), kind)
    if lengths[0] < 0 or (lengths != lengths[0]).any():
        raise JobFailed(f"stored lists of {int(lengths.min())} to {int(lengths.max())} values in one column: {_ADVICE}")
    values: NDArray[Number] = lists.flatten().to_numpy(zero_copy_only=False).astype(kind, copy=False)
    return values.reshape(len(lists), int(lengths[0]))


_ADVICE = "nothing was published; run embed_images with --set embeddings.recheck=always"
