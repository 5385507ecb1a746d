"""Nearest and farthest neighbours of vectors: arrays in, arrays out. No Spark, no settings.

- ``distances``     exact distances, the same on every machine
- ``scoring``       fast scores, and a bound on their error
- ``candidates``    the best of each row by scores, and a lower bound on what was dropped
- ``rerank``        exact distances for candidates, and the proof that they are the nearest
- ``partitioning``  spherical k-means; ``nndescent``, ``graphs``: neighbours of neighbours
- ``recall``        how many of the true neighbours a list has
- ``calibration``   how fast this machine is; ``compiled``, ``warmup``: what numba compiles
"""
