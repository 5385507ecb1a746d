"""The odd ones out, from lists of neighbours: what is like no other, and whose neighbours speak for another label.

Lists are flat: row i says that ``neighbour[i]`` is in the list of ``owner[i]``, at ``distance[i]``. Rows are in any
order, and lists may be of any length.
"""

from typing import NamedTuple

import numpy as np

from image_similarity.knn.distances import Indices, Reals, Values

SHARPNESS = 2.0
"""A neighbour at the mean distance of its list weighs exp(-2), one at distance 0 weighs 1."""
DIGITS = 9
"""Shares are rounded to so many decimal places: sums in another order, as of a database, tie alike."""


class Isolation(NamedTuple):
    mean_distance: Values
    """(n,) float32: the mean distance of the images in the list of each; NaN for an image without a list."""
    percentile: Values
    """(n,) float32, 0 to 1: the share of all other images that are less isolated; NaN for one without a list."""


class Judgement(NamedTuple):
    """What the neighbours of each image say of its label."""

    score: Values
    """(n,) float32, -1 to 1: the share of the best other label less the own one; NaN for an image not judged. Above 0
    the neighbours speak for another label.
    """
    suggested: Indices
    """(n,) int64: the best other label; -1 where no neighbour has another one."""
    own_share: Values
    """(n,) float32, 0 to 1: the share of the own label in the weight of all neighbours; NaN for an image not judged."""


def isolation(owner: Indices, distance: Values, images: int) -> Isolation:
    """How far each of ``images`` is from the images in its list. ``owner``: (m,), ``distance``: (m,) float32.

    Equally isolated images have the same percentile, so all have 0 where all are alike, and a single image has 0. No
    rows: all NaN.
    """
    length = np.bincount(owner, minlength=images)
    mean = np.where(length > 0, _sums(owner, distance, images) / np.maximum(length, 1), np.nan).astype(np.float32)
    percentile = np.full(images, np.nan, dtype=np.float32)
    listed = np.nonzero(length)[0]
    below = np.searchsorted(np.sort(mean[listed]), mean[listed])
    percentile[listed] = below / max(1, len(listed) - 1)
    return Isolation(mean, percentile)


def mislabelled(owner: Indices, neighbour: Indices, distance: Values, label: Indices) -> Judgement:
    """How much the neighbours of each image speak for another label than its own.

    ``owner``, ``neighbour``: (m,), ``distance``: (m,) float32. ``label``: (n,), codes from 0; -1 for an image without
    a label. Such an image is not judged. As a neighbour it speaks for no label, and its weight counts all the same: one
    vote among many that say nothing is weak. Nor is an image judged whose label nobody else has, or none of whose
    neighbours has a label.

    A neighbour weighs exp(-2 (d / mean distance of the list)^2): the nearest ones count most, on the scale of the
    place. The score is the margin between the best other label and the own one, as of a kNN classifier that leaves out
    the image itself; tests/benchmarks/mislabelled.py compares it with others. Of labels with equal shares the lesser
    code is suggested. Raises ``ValueError`` where no label has two images.
    """
    label = np.asarray(label, dtype=np.int64)
    images, labels = len(label), int(label.max(initial=-1)) + 1
    count = np.bincount(label[label >= 0], minlength=1)
    if count.max(initial=0) < 2:
        raise ValueError("no label has two images")
    has_say = (label[neighbour] >= 0) & (label[owner] >= 0) & (count[label[owner]] > 1)
    weight = _weights(owner, distance, images)
    total = _sums(owner, weight, images)
    is_known = _sums(owner, np.where(has_say, weight, 0), images) > 0
    said, place = np.unique(owner[has_say] * labels + label[neighbour[has_say]], return_inverse=True)
    image, of_label = np.divmod(said, labels)
    spoken = _sums(place, weight[has_say], len(said))
    share = np.round(np.divide(spoken, total[image], out=np.zeros(len(said)), where=is_known[image]), DIGITS)
    is_own = of_label == label[image]
    own, other, suggested = np.zeros(images), np.zeros(images), np.full(images, -1, dtype=np.int64)
    own[image[is_own]] = share[is_own]
    others = np.nonzero(~is_own & is_known[image])[0]
    np.maximum.at(other, image[others], share[others])
    best = others[share[others] == other[image[others]]][::-1]
    suggested[image[best]] = of_label[best]  # of equals the lesser code, which is written last
    own = np.where(is_known, own, np.nan)
    return Judgement((other - own).astype(np.float32), suggested, own.astype(np.float32))


def _weights(owner: Indices, distance: Values, images: int) -> Reals:
    """(m,) float64. Those of a list of equal pictures, whose distances are all 0, are 1."""
    length = np.maximum(np.bincount(owner, minlength=images), 1)
    mean = (_sums(owner, distance, images) / length)[owner]
    relative = np.divide(distance, mean, out=np.zeros(len(owner)), where=mean > 0)
    weight: Reals = np.exp(-SHARPNESS * relative**2)
    return weight


def _sums(place: Indices, values: Values | Reals, places: int) -> Reals:
    sums: Reals = np.bincount(place, values, minlength=places).astype(np.float64)
    return sums
