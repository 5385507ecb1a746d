"""How a collection is cut for approximate search: how many partitions there are, and how many a vector probes."""

from image_similarity.knn import partitioning
from image_similarity.settings import ApproximateSettings, NeighboursSettings

BLOCKS_WANTED = 16
_PARTITIONS_PER_ROOT = 4.0
_ROWS_PER_NEIGHBOUR = 5
_MIN_NPROBE = 5
_MIN_SAMPLE_PER_PARTITION = 4
"""Vectors of the sample for each partition."""
_BLOCK_ROWS = 4096


def nlist_for(vectors: int, dimensions: int, settings: NeighboursSettings, approximate: ApproximateSettings) -> int:
    """The number of partitions that a collection is cut into, 1 or more.

    A partition holds some times as many vectors as there are neighbours in a list.
    """
    # Ranking the partitions takes time for each partition, comparing takes time for each vector in a partition. With
    # the number of partitions in proportion to the root of the number of vectors, both grow like the root.
    partitions = min(
        vectors / max(approximate.partition_rows, _ROWS_PER_NEIGHBOUR * settings.similar),
        _PARTITIONS_PER_ROOT * vectors**0.5,
    )
    partitions = min(partitions, _max_sample(dimensions, settings) / _MIN_SAMPLE_PER_PARTITION)
    return max(1, min(approximate.nlist or round(partitions), vectors))


def sample_for(dimensions: int, nlist: int, settings: NeighboursSettings) -> int:
    """The number of vectors that ``nlist`` centres are trained on: `partitioning.SAMPLE_OF_EACH` for each centre, or as
    many as fit into memory, since k-means holds several copies.
    """
    return min(nlist * partitioning.SAMPLE_OF_EACH, max(nlist, _max_sample(dimensions, settings)))


def _max_sample(dimensions: int, settings: NeighboursSettings) -> int:
    return settings.task_bytes // 8 // (4 * dimensions)


def block_rows_for(vectors: int, dimensions: int, settings: NeighboursSettings) -> int:
    """About how many vectors a block of partitions holds. Does not depend on the number of cores, since the blocks
    decide which pairs are compared.
    """
    rows_in_memory = settings.task_bytes // 16 // (4 * dimensions)
    return max(1, min(_BLOCK_ROWS, rows_in_memory, -(-vectors // BLOCKS_WANTED)))


def nprobe_for(vectors: int, nlist: int, approximate: ApproximateSettings) -> int:
    """The number of partitions that each vector probes at first: fewer where partitions are larger than by default."""
    rows = approximate.nprobe * approximate.partition_rows
    return min(approximate.nprobe, max(_MIN_NPROBE, round(rows * nlist / max(vectors, 1))))


def max_nprobe(vectors: int, nlist: int, approximate: ApproximateSettings) -> int:
    """The most partitions that each vector may probe."""
    return nprobe_for(vectors, nlist, approximate) * int(2**approximate.probe_doublings)
