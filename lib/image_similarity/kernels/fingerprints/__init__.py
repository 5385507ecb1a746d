"""What an image looks like, as a vector: (n, height, width, 3) uint8 -> (n, d) float32.

- ``description``  what determines a fingerprint's vectors, and its key
- ``framing``      a decoded picture -> the pixels that a fingerprint takes
- ``networks``     a layer of one of torchvision's networks
- ``exported``     an encoder of one's own, as a ``torch.export`` program
- ``inference``    what runs both: batches, precision, devices
- ``histograms``, ``gradients``  the classical ones: colours, and oriented edges
- ``projections``  vectors of any of these, in fewer dimensions
"""
