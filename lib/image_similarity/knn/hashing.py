"""Hashes of names, which are the same on every machine and in every process."""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.compiled import compiled

BASIS = 0xCBF29CE484222325
"""The offset basis of FNV-1a. Another one gives other hashes: two names that collide by one do not by the next."""


def fnv(content: NDArray[np.uint8], ends: NDArray[np.int64], basis: int = BASIS) -> NDArray[np.uint64]:
    """(n,): FNV-1a (Fowler, Noll, Vo) of each name. Name i is the bytes ``content[ends[i] : ends[i + 1]]``."""
    hashed = np.empty(len(ends) - 1, dtype=np.uint64)
    _fnv(content, ends, np.uint64(basis), hashed)
    return hashed


@compiled()
def _fnv(content, ends, basis, hashed):  # type: ignore[no-untyped-def]
    for i in range(len(hashed)):
        word = basis
        for byte in content[ends[i] : ends[i + 1]]:
            word = (word ^ np.uint64(byte)) * np.uint64(0x100000001B3)
        hashed[i] = word


def mixed(words: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Other random numbers for each ``seed`` (Steele et al., splitmix64)."""
    with np.errstate(over="ignore"):
        words = words + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
