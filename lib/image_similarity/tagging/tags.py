"""What can be said of a picture: the most specific word that is probable enough, or nothing.

A network divides its belief among the classes that it knows, so a cat may be a Siamese cat at .3 and a tabby at .4. The
probability of a parent is the sum over the classes below it: that picture shows a cat at .7 or more. What is below the
threshold is not said (hedging: Deng et al.: Hedging your bets, CVPR 2012). Classes that are not kept count as nothing,
so sums are lower bounds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.tagging.hierarchy import Hierarchy
from image_similarity.tagging.scores import Scores, probabilities

_IMAGES_AT_ONCE = 4096


@dataclass(frozen=True)
class Tags:
    """One entry for each image and class or parent, by image, then by rank."""

    row: NDArray[np.int64]
    """The number of the image."""
    rank: NDArray[np.int32]
    """From 1. The first is *the* tag if it is accepted; if not, it is the best guess, and the image has no tag. See
    `tags_of`."""
    node: NDArray[np.int32]
    """The number of the class or parent in `Hierarchy.nodes`."""
    name: list[str]
    wnid: list[str | None]
    probability: NDArray[np.float32]
    accepted: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)


def tags_of(scores: Scores, hierarchy: Hierarchy, threshold: float, temperature: float, keep: int) -> Tags:
    """The ``keep`` most probable classes of each image, and all parents whose probability is ``threshold`` or more.

    Classes and parents are accepted from ``threshold`` on. Those come first. The first of them, the tag, is looked for
    from the top: the most probable, then the most probable accepted one below it, and so on until there is none. So of
    two that exclude each other, as below .5 both may be accepted, the tag is the more probable. What is above the tag
    follows, then the other accepted ones, then those that are not. Among each of these the most specific (with the
    fewest classes below it) comes before others, then the more probable, then by name. ``temperature`` divides logits.
    The entries of an image do not depend on what other images there are. ``ValueError`` if the hierarchy has other
    classes.
    """
    if scores.class_count != hierarchy.class_count:
        raise ValueError(f"{scores.class_count} classes have scores, and {hierarchy.class_count} have names")
    parts = [
        _entries(scores.rows(slice(start, start + _IMAGES_AT_ONCE)), start, hierarchy, threshold, temperature, keep)
        for start in range(0, max(len(scores), 1), _IMAGES_AT_ONCE)
    ]
    row, node, probability = (np.concatenate(values) for values in zip(*parts))
    accepted = probability.astype(np.float64) >= threshold
    order = _order(row, node, probability, accepted, hierarchy)
    row, node = row[order], node[order]
    wnids = np.array([node.wnid for node in hierarchy.nodes], dtype=object)
    return Tags(
        row=row,
        rank=_ranks(row),
        node=node,
        name=_names(hierarchy)[node].tolist(),
        wnid=wnids[node].tolist(),
        probability=probability[order],
        accepted=accepted[order],
    )


_Entries = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


def _entries(
    scores: Scores, start: int, hierarchy: Hierarchy, threshold: float, temperature: float, keep: int
) -> _Entries:
    """(m,) each: numbers of images, nodes, and probabilities, as they are published: rounded, and no more than 1."""
    of_classes = probabilities(scores, temperature)
    of_parents = _rounded(_sums(scores.classes, of_classes, hierarchy))
    images, parents = np.nonzero(of_parents.astype(np.float64) >= threshold)
    classes = scores.classes[:, :keep]
    return (
        np.concatenate([np.repeat(np.arange(len(scores)), classes.shape[1]), images]) + start,
        np.concatenate([classes.ravel(), parents + hierarchy.class_count]).astype(np.int32),
        np.concatenate([_rounded(of_classes[:, :keep]).ravel(), of_parents[images, parents]]),
    )


def _sums(classes: NDArray[np.int32], of_classes: NDArray[np.float64], hierarchy: Hierarchy) -> NDArray[np.float64]:
    """(n, p): the probability of each parent, added up in the order of ``classes`` whatever else is in the block."""
    images, count = len(classes), len(hierarchy.nodes) - hierarchy.class_count
    above = hierarchy.above[classes]  # (n, K, parents of each), a class that has fewer: count
    cells = np.arange(images)[:, None, None] * (count + 1) + above
    weights = np.broadcast_to(of_classes[:, :, None], above.shape)
    sums = np.bincount(cells.ravel(), weights.ravel(), minlength=images * (count + 1)).astype(np.float64)
    return sums.reshape(images, count + 1)[:, :count]


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.minimum(values, 1).astype(np.float32)


def _order(
    row: NDArray[np.int64],
    node: NDArray[np.int32],
    probability: NDArray[np.float32],
    accepted: NDArray[np.bool_],
    hierarchy: Hierarchy,
) -> NDArray[np.int64]:
    """(m,): the numbers of the entries, as `tags_of` orders them."""
    width = np.array([len(node.leaves) for node in hierarchy.nodes])
    by_name = np.empty(len(hierarchy.nodes), dtype=np.int64)
    by_name[np.argsort(_names(hierarchy), kind="stable")] = np.arange(len(hierarchy.nodes))
    likely = np.lexsort((by_name[node], width[node], -probability, row))
    likely = likely[accepted[likely]]
    tag = _tag_of(row[likely], node[likely], hierarchy, row.max(initial=-1) + 1)[row]
    is_beside = (node != tag) & ~hierarchy.is_below(tag, node)
    order: NDArray[np.int64] = np.lexsort((by_name[node], -probability, width[node], is_beside, ~accepted, row))
    return order


def _tag_of(row: NDArray[np.int64], node: NDArray[np.int32], hierarchy: Hierarchy, images: int) -> NDArray[np.int32]:
    """(images,): of each the tag, -1 if it has none. Entries are accepted ones, by image, the most probable first."""
    tag = np.full(images, -1, dtype=np.int32)
    while len(row):
        is_first = np.append(True, row[1:] != row[:-1])
        tag[row[is_first]] = node[is_first]
        is_below = hierarchy.is_below(node, tag[row])
        row, node = row[is_below], node[is_below]
    return tag


def _names(hierarchy: Hierarchy) -> NDArray[np.object_]:
    return np.array([node.name for node in hierarchy.nodes], dtype=object)


def _ranks(row: NDArray[np.int64]) -> NDArray[np.int32]:
    """(m,) int32, from 1: the place of each entry among those of its image. ``row`` rises."""
    first = np.searchsorted(row, row)
    return (np.arange(len(row)) - first + 1).astype(np.int32)
