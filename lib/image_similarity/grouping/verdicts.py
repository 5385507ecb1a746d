"""Whether a picture from outside is in a collection already: what is said of each pair of a query and an image.

The rules are those of near-duplicates (`local_scale`, `confirmation`), with the limits that were published for the
collection. A query has no list of its own in it. Its scale is taken from the images that answer it.
"""

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping import agreement, confirmation
from image_similarity.grouping.local_scale import LEAST_NEIGHBOURS, SCALE_RANK, Limits
from image_similarity.knn.distances import Indices, Values

YES, NEAR, NO = "yes", "near", "no"
"""The same picture again; within the limit, but no picture confirms it; neither."""

LEAST_ANSWERS = 2 * SCALE_RANK
"""Similar images to ask for, at least: the scale of a query is that of the 8th, and copies of it do not count."""


def scales(distance: Values, content: Indices | None = None) -> Values:
    """The local scale of each query, (m,) float32, from the distances of its similar images (m, k), sorted and padded
    with inf.

    That is the distance of the 8th, or of the last one where there are fewer. Distances of 0 do not count: they are of
    the query itself. Nor do further images of a content that was counted: identical files are one node of
    near-duplicates. 0 where fewer than `LEAST_NEIGHBOURS` are left: then only the strict limit holds.

    ``content``: (m, k), a number for the bytes of each image, -1 where they are not known. None: of none.
    """
    m, k = distance.shape
    counts = np.isfinite(distance) & (distance > 0)
    if content is not None:
        counts &= ~repeated(content)
    number = np.cumsum(counts, axis=1)
    total = number[:, -1] if k else np.zeros(m, dtype=np.int64)
    is_last = counts & (number == np.minimum(total, SCALE_RANK)[:, None])
    scale = np.where(is_last, distance, np.float32(0)).max(axis=1, initial=0)
    return np.where(total < LEAST_NEIGHBOURS, np.float32(0), scale).astype(np.float32)


def repeated(content: Indices) -> NDArray[np.bool_]:
    """(m, k): whether an earlier one of the row has that content. Not where it is not known (-1)."""
    order = np.argsort(content, axis=1, kind="stable")
    in_order = np.take_along_axis(content, order, axis=1)
    is_same = np.zeros(content.shape, dtype=np.bool_)
    is_same[:, 1:] = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)
    in_place = np.empty_like(is_same)
    np.put_along_axis(in_place, order, is_same, axis=1)
    return in_place


def shares(distance: Values, query_scale: Values, image_scale: Values, limits: Limits, common: float = 0.0) -> Values:
    """(m, k) float32: how far an image is, as a share of the pair's limit; up to 1 it is within.

    ``distance``: (m, k). ``query_scale``: (m,). ``image_scale``: (m, k). ``common``: the scale below which none is
    taken where pictures decide (`local_scale.common_scale`), since they tell copies from what is dense there. 0 at
    distance 0, inf where there is no scale and for padding.
    """
    between = np.sqrt(query_scale.astype(np.float64)[:, None] * image_scale)
    limit = limits.scaled * np.maximum(between, common)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(distance == 0, 0.0, distance / limit)
    return np.where(distance <= limits.strict, np.minimum(share, 1), share).astype(np.float32)


def disagreements(
    share: Values,
    queries: NDArray[np.uint8],
    query: NDArray[np.integer],
    images: NDArray[np.uint8],
    image: NDArray[np.integer],
) -> Values:
    """(m, k) float32: how much the pictures of each pair disagree; NaN where one of the two is not known.

    ``share``: (m, k), see `shares`; only what is within its limit is aligned, which takes time. ``queries``,
    ``images``: (n, 1024), thumbprints; ``query``: (m,), ``image``: (m, k), places in them, -1 for one that is not
    known.
    """
    values = np.full(share.shape, np.nan, dtype=np.float32)
    row, column = np.nonzero((image >= 0) & (query >= 0)[:, None])
    if not len(row):  # what compares pictures is compiled at its first call, which takes seconds
        return values
    used, place = np.unique(image[row, column], return_inverse=True)
    # Only those that are used: all images' are gigabytes, and lie in a file.
    thumbprints = np.concatenate([queries, images[used]])
    within = share[row, column] <= 1
    for align in (True, False):
        chosen = within if align else ~within
        a, b = query[row[chosen]], len(queries) + place[chosen]
        values[row[chosen], column[chosen]] = agreement.disagreement(thumbprints, a, b, align)
    return values


def verdicts(
    distance: Values,
    query_scale: Values,
    image_scale: Values,
    limits: Limits,
    disagreement: Values | None = None,
    *,
    common: float = 0.0,
    same: NDArray[np.bool_] | None = None,
) -> NDArray[np.object_]:
    """(m, k): `YES`, `NEAR` or `NO` of each pair; None for padding (distance inf).

    - `YES`: the same bytes; or the pictures agree as those of near-duplicates at that distance do; or, where a picture
      is not known, the distance is 0: vectors are equal or, by cosine, say, differ in their length alone
    - `NEAR`: within the limit of the vectors, but the pictures do not agree, or are not known
    - `NO`: anything else

    ``distance``, ``image_scale``: (m, k). ``query_scale``: (m,), see `scales`. ``disagreement``: (m, k), see
    `disagreements`; None where no picture is known. ``common``: see `shares`. ``same``: (m, k), whether the query has
    the bytes of the image.
    """
    if disagreement is None:
        disagreement = np.full(distance.shape, np.nan, dtype=np.float32)
    share = shares(distance, query_scale, image_scale, limits, common)
    confirmed = disagreement <= confirmation.allowed(share)
    is_yes = confirmed | (np.isnan(disagreement) & (distance == 0))
    if same is not None:
        is_yes |= same
    is_near = shares(distance, query_scale, image_scale, limits) <= 1
    words = np.where(is_yes, YES, np.where(is_near, NEAR, NO)).astype(object)
    words[~np.isfinite(distance)] = None
    return words
