"""How well pairs and groups agree with what is known to belong together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from benchmarks.group_collections import BRIDGE, Collection

Labels = NDArray[np.int64]
Pairs = NDArray[np.int64]
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Truth:
    """A collection as numbers: images in the order of their names. ``shown`` and ``content``: (n,), equal where two
    images show the same and where their files are the same bytes. ``kind`` and ``original``: of copies.
    """

    images: list[str]
    shown: Labels
    content: Labels
    kind: dict[int, str]
    original: dict[int, int]

    @classmethod
    def of(cls, collection: Collection) -> "Truth":
        images = collection.images
        number = {image: each for each, image in enumerate(images)}
        return cls(
            images=images,
            shown=numbered([collection.truth[image] for image in images]),
            content=numbered([collection.contents[image] for image in images]),
            kind={number[copy]: kind for copy, (kind, _) in collection.edits.items()},
            original={number[copy]: number[original] for copy, (_, original) in collection.edits.items()},
        )

    @property
    def positives(self) -> int:
        """Pairs that show the same and are not the same bytes."""
        return pairs_within(self.shown) - pairs_within(self.content)


@dataclass(frozen=True)
class Scores:
    """Of pairs that are not the same bytes: any method finds those that are."""

    pairs: int
    false: int
    precision: float
    recall: float
    copies: dict[str, float] = field(repr=False)
    """The share of pairs of a copy and its original that are found, by the kind of edit."""
    copies_recall: float
    """The same of all kinds."""
    largest: int
    bridge: int
    """The pictures of ``bridge`` that are together."""
    widest: float
    """The greatest distance within a group."""
    false_pairs: Pairs = field(repr=False)

    @property
    def f1(self) -> float:
        return 2 * self.precision * self.recall / max(1e-12, self.precision + self.recall)


def scored(truth: Truth, pairs: Pairs, groups: Labels, vectors: NDArray[np.float32] | None) -> Scores:
    """``pairs``: (p, 2), each once. ``groups``: (n,), -1 for images in none. ``vectors``: (n, d), or None where a
    distance is no cosine distance.
    """
    pairs = pairs[truth.content[pairs[:, 0]] != truth.content[pairs[:, 1]]]
    right = truth.shown[pairs[:, 0]] == truth.shown[pairs[:, 1]]
    known = {(min(a, b), max(a, b)) for a, b in pairs[right].tolist()}
    found: dict[str, list[bool]] = {}
    for copy, original in truth.original.items():
        found.setdefault(truth.kind[copy], []).append((min(copy, original), max(copy, original)) in known)
    bridge = groups[[image.startswith(BRIDGE) for image in truth.images]]
    return Scores(
        pairs=len(pairs),
        false=int((~right).sum()),
        precision=float(right.mean()) if len(pairs) else np.nan,
        recall=float(right.sum() / truth.positives) if truth.positives else np.nan,
        copies={kind: float(np.mean(each)) for kind, each in found.items()},
        copies_recall=float(np.mean([each for kind in found.values() for each in kind])) if found else np.nan,
        largest=largest(groups),
        bridge=largest(bridge),
        widest=widest(groups, vectors) if vectors is not None else np.nan,
        false_pairs=pairs[~right],
    )


def numbered(values: Sequence[str]) -> Labels:
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)


def pairs_within(labels: Labels) -> int:
    count = np.bincount(labels[labels >= 0])
    return int((count * (count - 1) // 2).sum())


def largest(groups: Labels) -> int:
    return int(np.bincount(groups[groups >= 0]).max(initial=0))


def pairs_of(groups: Labels) -> Pairs:
    """All pairs of images with the same label, (p, 2)."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max(initial=-1) + 2))
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        members = order[start:end]
        a, b = np.triu_indices(len(members), 1)
        pairs.append(np.stack([members[a], members[b]], axis=1))
    return np.concatenate(pairs)


def components(images: int, pairs: Pairs) -> Labels:
    """What ``pairs`` connect: a label for each image, -1 for those in no pair."""
    ones = np.ones(len(pairs), dtype=np.bool_)
    _, labels = connected_components(coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), (images, images)), directed=False)
    return np.where(np.bincount(labels)[labels] > 1, labels, -1).astype(np.int64)


def widest(groups: Labels, vectors: NDArray[np.float32]) -> float:
    """The greatest cosine distance within a group."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    most = 0.0
    for label in np.unique(groups[groups >= 0]):
        members = unit[groups == label]
        for start in range(0, len(members), _ROWS_AT_ONCE):
            most = max(most, float(1 - (members[start : start + _ROWS_AT_ONCE] @ members.T).min()))
    return most


def best_limit(truth: Truth, pairs: Pairs, distance: NDArray[np.float32]) -> float:
    """The distance at which the connected components of ``pairs`` have the best F1, for somebody who knows the truth.

    Files of the same bytes are together at any limit.
    """
    order = np.argsort(distance, kind="stable")
    root = np.arange(len(truth.images))
    members = [[image] for image in range(len(truth.images))]
    shown = [Counter([label]) for label in truth.shown.tolist()]
    together = right = 0  # pairs
    same_bytes = pairs_within(truth.content)
    best, limit = 0.0, 0.0
    identical = np.stack([truth.content.argsort(kind="stable")[:-1], truth.content.argsort(kind="stable")[1:]], axis=1)
    identical = identical[truth.content[identical[:, 0]] == truth.content[identical[:, 1]]]
    joins = [(a, b, 0.0) for a, b in identical.tolist()]
    joins += [(a, b, d) for (a, b), d in zip(pairs[order].tolist(), distance[order].tolist(), strict=True)]
    for place, (a, b, at) in enumerate(joins):
        one, other = sorted((root[a], root[b]), key=lambda each: len(members[each]))
        if one != other:
            together += len(members[one]) * len(members[other])
            right += sum(count * shown[other][label] for label, count in shown[one].items())
            root[members[one]] = other
            members[other] += members[one]
            shown[other] += shown[one]
        last_at_this_distance = place + 1 == len(joins) or joins[place + 1][2] > at
        if last_at_this_distance and place >= len(identical):
            score = 2 * (right - same_bytes) / max(1, together - same_bytes + truth.positives)
            if score > best:
                best, limit = score, at
    return limit
