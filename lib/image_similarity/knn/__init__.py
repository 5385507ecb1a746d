"""Nearest and farthest neighbours of vectors: arrays in, arrays out. No Spark, no settings.

- ``distances``     exact distances, the same on every machine
- ``scoring``       fast scores, and a bound on their error
- ``backends``      the best candidates of each row by score: on the processor, or on a GPU
- ``candidates``    keys of neighbours, and lists of them with a lower bound on the dropped ones
- ``rerank``        exact distances of candidates, and the proof that no other vector is nearer
- ``engine``        compare, merge, rerank, certify: the steps of exact search
- ``all_pairs``     the same for vectors in memory: with threads, or on a GPU
- ``queries``       the neighbours of some vectors among others: few or many queries against a collection
- ``screening``     the precision of scores that proves most for its time
- ``partitioning``  spherical k-means; ``nndescent``, ``graphs``: neighbours of neighbours
- ``probing``       the pairs that partitions suggest, for vectors in memory; ``running_lists``: what is kept of them
- ``range_search``  all pairs within a radius; ``trees``: what pairs connect
- ``recall``        the share of true neighbours in a list
- ``calibration``   the speed of this machine; ``compiled``, ``warmup``: functions that numba compiles
"""
