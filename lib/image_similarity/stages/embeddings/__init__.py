"""manifest -> embeddings and failures: the vectors of each image by one or several fingerprints.

- ``prepare``      what the driver prepares for workers; ``weights``: where a network's weights come from
- ``stage``        skips images that are known, embeds the others in one pass, and makes the tables
- ``in_process``   the same without Spark; ``outcomes``: what both say of an image
- ``embedder``     a task's work: fetches and decodes each image once, and computes each fingerprint
- ``workers``      that in Spark's Python workers
- ``checkpoints``  files in which tasks save vectors, from which the next run resumes
- ``projected``    fingerprints that are computed from the vectors of another one
"""
