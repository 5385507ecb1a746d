"""Damaged copies of good files: bits flipped here and there, or the end cut off. Seeded."""

from collections.abc import Iterator, Sequence

import numpy as np


def mutations(originals: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """``count`` damaged files: of every five one is cut off, and four have 1 to 64 bits flipped, at their beginning or
    anywhere.
    """
    random = np.random.default_rng(seed)
    for number in range(count):
        content = np.frombuffer(originals[number % len(originals)], np.uint8).copy()
        if number % 5 == 0:
            yield content[: random.integers(len(content))].tobytes()
            continue
        reach = min(len(content), 1000) if number % 2 else len(content)
        places = random.integers(reach, size=random.integers(1, 65))
        content[places] ^= (1 << random.integers(8, size=len(places))).astype(np.uint8)
        yield content.tobytes()
