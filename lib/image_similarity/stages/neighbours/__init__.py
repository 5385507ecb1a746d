"""embeddings -> neighbours: for each image the most similar and the most dissimilar others.

- ``sources``, ``numbers``, ``vectors``  which vectors a metric can use, under which numbers, packed into blocks
- ``plan``         what it is going to take, and which way is taken
- ``exact``        all pairs of blocks; ``previous``: only what is new since the run before
- ``approximate``  the likely pairs, by the parts of ``layout``, as a ``graph``; ``audit``: how many true neighbours
  that finds
- ``table``        numbers become names"""
