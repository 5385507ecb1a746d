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
    """The lists of all vectors after ``step`` steps: for each block keys (n, k), and flags (n, k) of fresh entries. An
    entry is fresh until it has been exchanged with the neighbours.
    """

    layout: Layout
    list_length: int
    step: int = 0
    incomplete: int = 0
    """The number of lists that have fewer entries than are required, although more vectors exist."""

    @property
    def following(self) -> "Graph":
        return replace(self, step=self.step + 1)

    def _file(self, name: str, block: int) -> str:
        return uris.join(self.layout.folder, f"{name}-{self.step}-{block:06d}.npy")

    def load(self, block: int) -> tuple[Keys, NDArray[np.bool_]]:
        """Keys (n, k) and fresh flags (n, k) of ``block``; at step 0 all keys are `NONE`."""
        if self.step == 0:
            size = self.layout.blocks.new[block]
            return np.full((size, self.list_length), NONE), np.zeros((size, self.list_length), dtype=np.bool_)
        return load(self._file("keys", block)), load(self._file("fresh", block))

    def save(self, block: int, keys: Keys, fresh: NDArray[np.bool_]) -> None:
        for name, values in (("keys", keys), ("fresh", fresh), ("last", keys[:, -1])):
            save(self._file(name, block), values)

    def last(self, block: int) -> Keys:
        """The last key (n,) of each list of ``block``."""
        return load(self._file("last", block)) if self.step else np.full(self.layout.blocks.new[block], NONE)

    def lists(self, positions: NDArray[np.int32], reach: int = MAX_INDEX) -> tuple[Keys, NDArray[np.bool_]]:
        """The first ``reach`` entries of the lists of ``positions`` (n,), and which of them are fresh."""
        keys = np.empty((len(positions), min(self.list_length, reach)), dtype=np.int64)
        fresh = np.empty(keys.shape, dtype=np.bool_)
        for block, in_block, rows in self._by_block(positions):
            block_keys, block_fresh = self.load(block)
            keys[in_block], fresh[in_block] = block_keys[rows, :reach], block_fresh[rows, :reach]
        return keys, fresh

    def last_of(self, positions: NDArray[np.int32]) -> Keys:
        """The last keys (n,) of the lists of ``positions`` (n,)."""
        last = np.empty(len(positions), dtype=np.int64)
        for block, in_block, rows in self._by_block(positions):
            last[in_block] = self.last(block)[rows]
        return last

    def _by_block(self, positions: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.bool_], Indices]]:
        """For each block with any of ``positions``: the block, a mask (n,) of the positions in it, and their rows in
        the block.
        """
        blocks = self.layout.block_of(positions)
        for block in np.unique(blocks).tolist():
            in_block = blocks == block
            yield block, in_block, positions[in_block] - self.layout.blocks.first[block]


def layout_positions(keys: Keys, position_of: NDArray[np.int32]) -> NDArray[np.int32]:
    """The positions (n, k) of the vectors in ``keys`` (n, k), -1 for `NONE`; ``position_of`` holds the position of each
    number.
    """
    positions: NDArray[np.int32] = np.where(
        keys == NONE, np.int32(-1), position_of[np.where(keys == NONE, 0, candidates.positions_of(keys))]
    )
    return positions
