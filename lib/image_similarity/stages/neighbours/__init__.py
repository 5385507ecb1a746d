"""embeddings -> neighbours: for each image the most similar and the most dissimilar others.

- ``vectors``  which vectors a metric can use, in which order, packed into blocks
- ``exact``    all pairs of blocks
"""
