"""What was found for each query: ids and distances, whichever runner compared."""

from dataclasses import dataclass

import pyarrow as pa

from image_similarity.knn.engine import Ranked
from image_similarity.knn.screening import Choice

_ROWS_AT_ONCE = 2**18


@dataclass(frozen=True)
class Answers:
    """The images that look most, and least, like each query. ``row`` and ``neighbour`` of a relation are indices into
    ``queries`` and ``images``; its rows are in the order of queries, then ranks.
    """

    queries: pa.Array
    """The ids of all queries that were compared (large_string), in the order of their bytes."""
    images: pa.Array
    """The ids that occur in answers (large_string), in the order of their bytes."""
    similar: Ranked
    dissimilar: Ranked
    failures: pa.Table
    """image_id, reason, detail (strings): the queries that could not be compared. The reasons are those of
    `find_neighbours`."""
    compared: int
    """The images of the collection that queries were compared with."""
    left_out: int
    """The images of the collection whose vectors have no distance of this metric."""
    dimensions: int
    brute_force: int
    """The number of distinct queries whose scores did not prove their answers, and which were compared by brute
    force."""
    screen: Choice
    """The precision of scores, and why."""
