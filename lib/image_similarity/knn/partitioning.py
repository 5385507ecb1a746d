"""Parts of a collection that hold what is near to one another: k-means on a sample, spherical for angular metrics.

Vectors come as the copies that scores are made of (`screening.copies`): of length 1 for angular metrics. Nearest by
euclidean distance is then nearest by angle."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from image_similarity.knn.distances import Values

SAMPLE_OF_EACH = 32
"""Vectors of the sample for each part: k-means gains little from more."""
_TOO_LARGE, _TOO_SMALL = 2.0, 0.125
_ITERATIONS = 12
_SPLITS = 4
_ROWS_AT_ONCE = 8192
_PARTS_AT_ONCE = 64


def centres(sample: Values, parts: int, angular: bool, seed: int) -> Values:
    """Centres (about ``parts``, d) float32 of parts of about the same size; ``sample``: (n, d) float32.

    A part that holds more than twice its share is cut again, one with less than an eighth goes to its neighbours. At
    most n centres; with one part the mean. The same for the same sample, in the same order."""
    parts = max(1, min(parts, len(sample)))
    share = len(sample) / parts
    with threadpool_limits(1):  # sums in one order
        found, of = _in_two_steps(sample, parts, seed)
        for _ in range(_SPLITS):
            sizes = np.bincount(of, minlength=len(found))
            large = np.nonzero(sizes > max(_TOO_LARGE * share, 1))[0]
            if len(large) == 0:
                break
            cut = [_k_means(sample[of == part], int(np.ceil(sizes[part] / share)), seed)[0] for part in large]
            found = np.concatenate([np.delete(found, large, axis=0), *cut])
            of = nearest(sample, found, 1)[:, 0]
    sizes = np.bincount(of, minlength=len(found))
    kept = sizes >= min(_TOO_SMALL * share, sizes.max())
    found = found[kept]
    if angular:
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        found = np.divide(found, lengths, out=found, where=lengths > 0)
    return np.ascontiguousarray(found[_neighbourly(found, seed)], dtype=np.float32)


def _neighbourly(found: Values, seed: int) -> NDArray[np.intp]:
    """An order of centres in which near ones stand together."""
    groups = round(np.sqrt(len(found)))
    return np.argsort(_k_means(found, groups, seed)[1], kind="stable") if groups > 1 else np.arange(len(found))


def _in_two_steps(sample: Values, parts: int, seed: int) -> tuple[Values, NDArray[np.int32]]:
    """Centres, and the nearest of them for each of the sample: k-means in groups that k-means made, which takes far
    less time."""
    if parts <= _PARTS_AT_ONCE:
        return _k_means(sample, parts, seed)
    _, group = _k_means(sample, round(np.sqrt(parts)), seed)
    members = [sample[group == each] for each in np.unique(group)]
    found = np.concatenate(
        [_k_means(some, max(1, round(parts * len(some) / len(sample))), seed)[0] for some in members]
    )
    return found, nearest(sample, found, 1)[:, 0]


def _k_means(sample: Values, parts: int, seed: int) -> tuple[Values, NDArray[np.int32]]:
    parts = min(parts, len(sample))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than parts
        model = KMeans(
            parts, init="random" if parts > 50 else "k-means++", n_init=1, max_iter=_ITERATIONS, random_state=seed
        )
        of = model.fit_predict(sample)
    return model.cluster_centers_, of


def nearest(rows: Values, found: Values, count: int) -> NDArray[np.int32]:
    """(n, min(``count``, parts)) int32: for each row the parts with the nearest centres, nearest first; the lower one
    of equals, but any of those that are as near as the last."""
    count = min(count, len(found))
    half = (np.einsum("ij,ij->i", found, found) / 2).astype(np.float32)
    result = np.empty((len(rows), count), dtype=np.int32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        away = half - rows[some] @ found.T
        if count == 1:
            result[some, 0] = away.argmin(axis=1)
            continue
        best = np.argpartition(away, count - 1, axis=1)[:, :count] if count < len(found) else np.argsort(away, axis=1)
        order = np.lexsort((best, np.take_along_axis(away, best, axis=1)), axis=1)
        result[some] = np.take_along_axis(best, order, axis=1)
    return result
