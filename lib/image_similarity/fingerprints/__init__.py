"""What an image looks like, as a vector: (n, height, width, 3) uint8 -> (n, d) float32. No Spark, no settings.

- ``spec``              what determines a fingerprint's vectors, and its key
- ``networks``          a layer of one of torchvision's networks
- ``exported``          an encoder of one's own, as a ``torch.export`` program
- ``inference``         what runs both: batches, precision, devices
- ``colour_histogram``, ``hog``  the classical ones: colours, and oriented edges
- ``pca``               vectors of any of these, in fewer dimensions
"""
