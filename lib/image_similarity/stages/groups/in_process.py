"""Blocks of components, one after the other, by this process without Spark."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from image_similarity.grouping.near_duplicates import Limits
from image_similarity.knn.distances import Indices
from image_similarity.neighbour_graph import Images
from image_similarity.runtime.progress import progress
from image_similarity.runtime.session import local_cores
from image_similarity.stages.groups.blocks import FOUND, Block, work
from image_similarity.stages.groups.vectors import Source


def run(
    spark: Any,
    blocks: list[Indices],
    make: Callable[[Indices], Block],
    images: Images,
    source: Source,
    metric: str,
    limits: Limits,
) -> pa.Table:
    """`FOUND` of all ``blocks``. The vectors are read once for each block.

    ``spark``: a session, for the name of the step; it is not started.
    """
    found, done = [FOUND.empty_table()], 0
    with progress(spark, "compare images of groups", len(blocks), "blocks", 1, lambda: done / len(blocks)):
        for chosen in blocks:
            block = make(chosen)
            values = source.of(images, block.node.astype(np.int64))
            found.append(work(block, values, metric, limits, local_cores(spark)))
            done += 1
    return pa.concat_tables(found)
