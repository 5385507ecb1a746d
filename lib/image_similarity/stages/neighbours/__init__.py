"""embeddings -> neighbours: for each image the most similar and the most dissimilar others.

- ``plan``         estimates of time and memory, and the choice of the method and the runner; ``resources``: what this
  machine has of memory and disk; ``partitions``: how many approximate search cuts
- ``in_process``, ``approximate_in_process``  search by this process alone, without Spark
- ``sources``, ``numbers``, ``vectors``  read the vectors, number those that the metric can use, pack them into blocks;
  ``own_vectors`` and ``usable``: the user's own, and which can be compared
- ``exact``        compares all pairs of blocks; with ``previous``, only those with vectors that are new
- ``approximate``  compares the likely pairs. ``probing`` finds those that the partitions of ``layout`` suggest, and
  ``exchange`` those that the lists suggest. Both are ``offers`` to the lists, which are kept as a ``graph``.
- ``audit``        measures the recall of lists
- ``table``        turns numbers into ids of images
"""
