"""The limit of near-duplicates, chosen on the collection itself, and what it finds of copies that were made for it.

The risk of a limit is that strangers pass for copies. Whether a pair that passes is one of strangers nobody knows. But
pairs that *nearly* pass are known: their pictures disagree by up to three times what is allowed. The share of strangers
whose pictures disagree by less than x falls as a power of x, so pairs that nearly pass tell how many pass by chance.
Copies must not be taken for strangers: of images that have a copy, and of these alone, nothing is counted. So the limit
is about the same whether a collection holds no copies or many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping import confirmation
from image_similarity.knn.distances import Indices, Values

PRECISION = 0.98
"""The share of pairs that must be copies, of all that pass."""
COPIES = 0.05
"""Copies for each image in the collection for which `PRECISION` must hold. In one with more copies it is higher."""

_EXPONENT = 1.5
"""Of the power by which strangers become fewer as their pictures disagree less. It was 1.9 to 3.4 for paintings and
photographs; a lower one expects more strangers to pass."""
_NEARLY = 3.0
"""Times the allowed disagreement: pairs below it nearly pass."""
_CAUTION = 2.0
"""An image has a copy if a pair of it disagrees by up to this many times what is allowed."""
_PASSING = 1 / (_NEARLY**_EXPONENT - _CAUTION**_EXPONENT)
"""Strangers that pass, for each of those that nearly pass: whose pictures disagree by 2 to 3 times what is allowed."""
LEAST, MOST, UNPROVEN = 0.3, 0.84, 0.64
_STEP = 0.02
_LIMITS = np.round(np.arange(LEAST, MOST + _STEP / 2, _STEP), 2)
FEWEST = 50
"""Images without a copy; of fewer nothing is learnt."""


@dataclass(frozen=True)
class Choice:
    """A limit, and what it was chosen on."""

    limit: float
    strangers: int
    """Images without a copy, whose pairs were looked at."""
    near_misses: int
    """Pairs of these within the limit that nearly pass."""

    @property
    def precision(self) -> float:
        """At least what is expected in a collection with `COPIES` for each image: with one more that nearly passes."""
        return float(COPIES / (COPIES + (self.near_misses + 1) * _PASSING / self.strangers))


def choose(
    a: NDArray[np.integer],
    b: NDArray[np.integer],
    scaled: Values,
    disagreement: Values,
    images: int,
    owners: NDArray[np.bool_] | None = None,
    owned: NDArray[np.bool_] | None = None,
) -> Choice | None:
    """The greatest limit with the precision asked for; None if fewer than `FEWEST` of the ``images`` have no copy.

    ``a``, ``b``: (m,) pairs of images that are listed as neighbours, each once; ``scaled``: their distances on the
    local scale; ``disagreement``: see `agreement`, of those with ``scaled`` up to `MOST`. ``owners``: (images,) bool,
    where only the pairs of a part of them are given; ``owned``: (m,) bool, the pairs that count, each of which belongs
    to one image. Where there are too few strangers to prove the precision of any limit, it is the greatest limit up to
    `UNPROVEN` that no pair nearly passes, or else the least.
    """
    near = scaled <= MOST
    a, b, scaled, disagreement = a[near], b[near], scaled[near], disagreement[near]
    owned = None if owned is None else owned[near]
    best, surest = None, None
    for limit in _LIMITS:
        allowed = confirmation.allowed(scaled / np.float32(limit))
        alone = np.ones(images, dtype=np.bool_)
        copies = disagreement <= _CAUTION * allowed
        alone[a[copies]] = alone[b[copies]] = False
        strangers = int((alone if owners is None else alone & owners).sum())
        if strangers < FEWEST:
            continue
        nearly = alone[a] & alone[b] & (scaled <= limit) & (disagreement <= _NEARLY * allowed)
        if owned is not None:
            nearly &= owned
        choice = Choice(float(limit), strangers, int(nearly.sum()))
        if choice.precision >= PRECISION:
            best = choice
        if surest is None or (not choice.near_misses and limit <= UNPROVEN + 1e-9):
            surest = choice
    return best or surest


@dataclass(frozen=True)
class KindRecall:
    """How many of the copies of one kind were found."""

    kind: str
    copies: int
    joined: int
    """Copies that would be in a group with their originals."""

    @property
    def recall(self) -> float:
        return self.joined / self.copies


def recall_by_kind(
    kinds: Sequence[str],
    distance: Values,
    scale: Values,
    own_scale: Values,
    common_scale: float,
    disagreement: Values,
    limit: float,
) -> list[KindRecall]:
    """How many copies would be joined to their originals, for each kind in the order of first appearance.

    All (m,): the ``kinds`` of the copies, their ``distance`` to their originals, the local ``scale`` of the originals
    and ``own_scale`` of the copies (the distance of the 8th neighbour in the collection), and their ``disagreement``.
    ``common_scale``: the least scale of a pair.
    """
    least = max(common_scale, np.finfo(np.float64).tiny)
    scaled = distance / np.maximum(np.sqrt(scale.astype(np.float64) * own_scale), least)
    passes = disagreement <= confirmation.allowed(scaled / limit)
    by_kind: dict[str, list[bool]] = {}
    for kind, joined in zip(kinds, passes.tolist()):
        by_kind.setdefault(kind, []).append(joined)
    return [KindRecall(kind, len(joined), sum(joined)) for kind, joined in by_kind.items()]


def record(choice: Choice, by_kind: Sequence[KindRecall]) -> Mapping[str, Any]:
    """For ``runs.settings``."""
    return {
        "precision": round(choice.precision, 4),
        "asked_precision": PRECISION,
        "copies_for_each_image": COPIES,
        "strangers": choice.strangers,
        "near_misses": choice.near_misses,
        "recall": {of.kind: [of.joined, of.copies] for of in by_kind},
    }


def sample(count: int, of: int, hashes: NDArray[np.uint64]) -> Indices:
    """The positions of ``count`` of ``of`` images, the least by their ``hashes`` (of,): the same in every order."""
    return np.sort(np.argsort(hashes, kind="stable")[: min(count, of)])
