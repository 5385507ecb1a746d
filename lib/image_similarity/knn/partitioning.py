"""Partitions of a collection whose vectors are near one another: k-means on a sample, spherical for angular metrics.

Vectors are the copies that scores are computed from (`scoring.copies`). For angular metrics their length is 1, so the
nearest by euclidean distance is the nearest by angle.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from image_similarity.knn.distances import Values

SAMPLE_OF_EACH = 32
"""Vectors of the sample for each partition. k-means gains little from more."""
_TOO_LARGE, _TOO_SMALL = 2.0, 0.125
_ITERATIONS = 12
_SPLITS = 4
_ROWS_AT_ONCE = 8192
_PARTITIONS_AT_ONCE = 64


def centres(sample: Values, partitions: int, angular: bool, seed: int) -> Values:
    """Centroids (about ``partitions``, d) float32 of partitions of about the same size. ``sample``: (n, d) float32.

    A partition with more than twice its share of the sample is cut again. One with less than an eighth of its share is
    dropped, and its vectors fall to neighbouring partitions. There are at most n centroids; one partition has the mean.
    The result is the same for the same sample in the same order.
    """
    partitions = max(1, min(partitions, len(sample)))
    share = len(sample) / partitions
    with threadpool_limits(1):  # with one thread, sums are added in one order
        centroids, partition_of = _in_two_steps(sample, partitions, seed)
        for _ in range(_SPLITS):
            sizes = np.bincount(partition_of, minlength=len(centroids))
            large = np.nonzero(sizes > max(_TOO_LARGE * share, 1))[0]
            if len(large) == 0:
                break
            pieces = [
                _k_means(sample[partition_of == partition], int(np.ceil(sizes[partition] / share)), seed)[0]
                for partition in large
            ]
            centroids = np.concatenate([np.delete(centroids, large, axis=0), *pieces])
            partition_of = nearest(sample, centroids, 1)[:, 0]
    sizes = np.bincount(partition_of, minlength=len(centroids))
    kept = sizes >= min(_TOO_SMALL * share, sizes.max())
    centroids = centroids[kept]
    if angular:
        lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
        centroids = np.divide(centroids, lengths, out=centroids, where=lengths > 0)
    return np.ascontiguousarray(centroids[_neighbourly(centroids, seed)], dtype=np.float32)


def _neighbourly(centroids: Values, seed: int) -> NDArray[np.intp]:
    """An order of the centroids in which near ones are next to each other."""
    groups = round(np.sqrt(len(centroids)))
    return np.argsort(_k_means(centroids, groups, seed)[1], kind="stable") if groups > 1 else np.arange(len(centroids))


def _in_two_steps(sample: Values, partitions: int, seed: int) -> tuple[Values, NDArray[np.int32]]:
    """Centroids, and the nearest of them for each vector of the sample.

    Many partitions are found in two steps: k-means cuts the sample into groups, then each group into partitions. This
    takes far less time than one step.
    """
    if partitions <= _PARTITIONS_AT_ONCE:
        return _k_means(sample, partitions, seed)
    _, group = _k_means(sample, round(np.sqrt(partitions)), seed)
    members = [sample[group == each] for each in np.unique(group)]
    centroids = np.concatenate(
        [_k_means(rows, max(1, round(partitions * len(rows) / len(sample))), seed)[0] for rows in members]
    )
    return centroids, nearest(sample, centroids, 1)[:, 0]


def _k_means(sample: Values, partitions: int, seed: int) -> tuple[Values, NDArray[np.int32]]:
    partitions = min(partitions, len(sample))
    # Here, since importing scikit-learn takes a second, and most jobs and workers never come here.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # there may be fewer different vectors than partitions
        model = KMeans(
            partitions,
            init="random" if partitions > 50 else "k-means++",
            n_init=1,
            max_iter=_ITERATIONS,
            random_state=seed,
        )
        partition_of = model.fit_predict(sample)
    return model.cluster_centers_, partition_of


def nearest(rows: Values, centroids: Values, count: int) -> NDArray[np.int32]:
    """(n, min(``count``, m)) int32: for each row the partitions with the nearest of m centroids, nearest first.

    Among equally near partitions the lower number comes first. Of those that are as near as the last one, any may be
    missing.
    """
    count = min(count, len(centroids))
    half = (np.einsum("ij,ij->i", centroids, centroids) / 2).astype(np.float32)
    result = np.empty((len(rows), count), dtype=np.int32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = slice(start, start + _ROWS_AT_ONCE)
        # Half of the squared distance, less a constant of each row.
        distance = half - rows[chunk] @ centroids.T
        if count == 1:
            result[chunk, 0] = distance.argmin(axis=1)
            continue
        best = (
            np.argpartition(distance, count - 1, axis=1)[:, :count]
            if count < len(centroids)
            else np.argsort(distance, axis=1)
        )
        order = np.lexsort((best, np.take_along_axis(distance, best, axis=1)), axis=1)
        result[chunk] = np.take_along_axis(best, order, axis=1)
    return result
