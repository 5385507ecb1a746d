"""Which contents have vectors already, in eight bytes each: workers hold them all in memory."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pyspark.sql import Column

_DIGITS = 15  # of 4 bits: as many as a signed number of 64 bits holds


@dataclass(frozen=True)
class KnownContents:
    """Contents as sorted numbers: 60 bits of the sha256 of ``key`` and the content's own sha256.

    ``key`` is drawn anew by every run. So nobody can make two files beforehand that agree in these bits, as was easy
    with bits of the content's own sha256. By chance one of n files that are new agrees with one of n that are known in
    one of 10^18 / n^2 runs. Such a run ends with an error, and the next one, with another key, does not.
    """

    key: str
    numbers: NDArray[np.int64]
    """Sorted, each once."""

    def __contains__(self, content_sha256: str) -> bool:
        number = number_of(self.key, content_sha256)
        place = int(np.searchsorted(self.numbers, number))
        return place < len(self.numbers) and int(self.numbers[place]) == number


def number_of(key: str, content_sha256: str) -> int:
    """The number that stands for a content."""
    return int(hashlib.sha256(f"{key}{content_sha256}".encode()).hexdigest()[:_DIGITS], 16)


def number_column(key: str, content_sha256: str) -> "Column":
    """`number_of` for the column ``content_sha256``."""
    from pyspark.sql import functions as F

    digest = F.sha2(F.concat(F.lit(key), F.col(content_sha256)), 256)
    return F.conv(F.substring(digest, 1, _DIGITS), 16, 10).cast("long")
