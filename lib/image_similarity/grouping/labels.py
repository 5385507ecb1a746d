"""What a group has in common, more than the collection has: words of its images, by lift.

A word is a tag or the value of an attribute, as a code. Lift is the share of the group's images that have the word over
the share of all images that have it (Brin et al., Dynamic itemset counting, SIGMOD 1997).
"""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.distances import Indices, Reals

LEAST_SHARE = 0.5
"""A label holds for at least half of its group,"""
LEAST_IMAGES = 2
"""for two images or more,"""
LEAST_LIFT = 2.0
"""and is at least twice as common there as in the collection."""
MOST_CHANCE = 0.01
"""The bound on the chance that a group drawn at random has any of its words so often."""


def telling(
    start: Indices,
    member: Indices,
    image: Indices,
    word: Indices,
    images: int,
    least_share: float | Reals = LEAST_SHARE,
) -> tuple[Indices, Indices]:
    """The words that tell most about each group: (p,) groups, ascending, and (p,) words.

    A group has one word, several if they tell equally much, and none where no word is common enough. ``start``: (g +
    1,), where in ``member`` the images of each group begin, and the end. ``image``, ``word``: (m,), which image has
    which word, each pair once; codes of both from 0. ``images``: n, of the collection. ``least_share``: of a group's
    images, the same for all or (g,).

    The score of a word is n_g KL(share in the group || share in the collection), in nats: it grows with lift, and with
    how many have the word in common. exp(-score) bounds the chance to draw so many images that have it without
    replacement (Hoeffding, Probability inequalities for sums of bounded random variables, 1963, theorem 1 and section
    6). For a pair that both have it, the bound is the squared share of the collection. It is multiplied by the number
    of words that two images of the group have.
    """
    none = np.zeros(0, dtype=np.int64)
    if not len(word) or len(start) < 2:
        return none, none
    words = int(word.max()) + 1
    total = np.bincount(word, minlength=words)
    of_group, count = np.unique(_said(start, member, image, word, images, words), return_counts=True)
    group, code = np.divmod(of_group, words)
    is_common = count >= LEAST_IMAGES
    tried = np.bincount(group[is_common], minlength=len(start) - 1)
    size = np.diff(start)
    share, rate = count / size[group], total[code] / images
    score = size[group] * _divergence(share, rate)
    least = np.broadcast_to(least_share, len(start) - 1)[group]
    is_telling = is_common & (share >= least) & (share >= LEAST_LIFT * rate)
    is_telling &= score >= np.log(np.maximum(tried[group], 1) / MOST_CHANCE)
    group, code, score = group[is_telling], code[is_telling], score[is_telling]
    best = np.zeros(len(start) - 1)
    np.maximum.at(best, group, score)
    is_best = score >= best[group] * (1 - 1e-9)
    return group[is_best], code[is_best]


def _said(start: Indices, member: Indices, image: Indices, word: Indices, images: int, words: int) -> Indices:
    """group * words + word, once for each image of the group that has the word."""
    order = np.argsort(image, kind="stable")
    ends = np.searchsorted(image[order], np.arange(images + 1))
    first, length = ends[member], ends[member + 1] - ends[member]
    group = np.repeat(np.arange(len(start) - 1), np.diff(start))
    within = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
    said: Indices = np.repeat(group, length) * words + word[order[np.repeat(first, length) + within]]
    return said


def _divergence(share: Reals, rate: Reals) -> Reals:
    """KL of two coins, in nats. ``rate`` is above 0; where it is 1, so is ``share``."""
    rest, other = 1 - share, 1 - rate
    ratio: NDArray[np.float64] = np.divide(rest, other, out=np.ones_like(rest), where=(rest > 0) & (other > 0))
    divergence: Reals = share * np.log(share / rate) + rest * np.log(ratio)
    return divergence
