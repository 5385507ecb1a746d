"""From pictures to vectors: (n, height, width, 3) uint8 -> (n, d) float32. No Spark, no settings.

- ``spec``              everything that determines a fingerprint's vectors, and its key
- ``networks``          a layer of one of torchvision's networks
- ``exported``          the user's own encoder, as a ``torch.export`` program
- ``inference``         runs both of these: batches, precision, devices
- ``colour_histogram``, ``hog``  classical fingerprints: colours, and oriented edges
- ``pca``               the vectors of another fingerprint, in fewer dimensions
"""
