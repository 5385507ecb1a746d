"""Lists of neighbours between the steps of `approximate`, in files that tasks map: one set for each block and step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import candidates
from image_similarity.knn.candidates import MAX_INDEX, NONE, Keys
from image_similarity.knn.distances import Indices
from image_similarity.stages.neighbours.layout import Layout
from image_similarity.stages.neighbours.numbers import load, save
from image_similarity.storage import uris


@dataclass(frozen=True)
class Graph:
    """The lists of all vectors after some steps: keys (n, k), and which of them are fresh, that is, not yet told to
    neighbours."""

    layout: Layout
    kept: int
    step: int = 0
    short: int = 0
    """Lists with fewer entries than are wanted, where there are more."""

    @property
    def following(self) -> "Graph":
        return replace(self, step=self.step + 1)

    def _file(self, name: str, block: int) -> str:
        return uris.join(self.layout.folder, f"{name}-{self.step}-{block:06d}.npy")

    def load(self, block: int) -> tuple[Keys, NDArray[np.bool_]]:
        """Nothing yet at step 0."""
        if self.step == 0:
            size = self.layout.blocks.new[block]
            return np.full((size, self.kept), NONE), np.zeros((size, self.kept), dtype=np.bool_)
        return load(self._file("keys", block)), load(self._file("fresh", block))

    def save(self, block: int, keys: Keys, fresh: NDArray[np.bool_]) -> None:
        for name, values in (("keys", keys), ("fresh", fresh), ("last", keys[:, -1])):
            save(self._file(name, block), values)

    def last(self, block: int) -> Keys:
        """(n,): the last key of each list."""
        return load(self._file("last", block)) if self.step else np.full(self.layout.blocks.new[block], NONE)

    def lists(self, slots: NDArray[np.int32], reach: int = MAX_INDEX) -> tuple[Keys, NDArray[np.bool_]]:
        """The first ``reach`` entries of the lists of ``slots`` (n,), and which are fresh."""
        keys = np.empty((len(slots), min(self.kept, reach)), dtype=np.int64)
        fresh = np.empty(keys.shape, dtype=np.bool_)
        for block, some, at in self._by_block(slots):
            of_keys, of_fresh = self.load(block)
            keys[some], fresh[some] = of_keys[at, :reach], of_fresh[at, :reach]
        return keys, fresh

    def last_of(self, slots: NDArray[np.int32]) -> Keys:
        """The last keys of the lists of ``slots`` (n,)."""
        last = np.empty(len(slots), dtype=np.int64)
        for block, some, at in self._by_block(slots):
            last[some] = self.last(block)[at]
        return last

    def _by_block(self, slots: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.bool_], Indices]]:
        """Blocks, which of ``slots`` are in each, and their rows there."""
        home = self.layout.home(slots)
        for block in np.unique(home).tolist():
            some = home == block
            yield block, some, slots[some] - self.layout.blocks.first[block]


def slots_of(keys: Keys, slot_of: NDArray[np.int32]) -> NDArray[np.int32]:
    """(n, k): the slots that ``keys`` name, -1 for none; ``slot_of``: by number."""
    slots: NDArray[np.int32] = np.where(
        keys == NONE, np.int32(-1), slot_of[np.where(keys == NONE, 0, candidates.positions_of(keys))]
    )
    return slots
