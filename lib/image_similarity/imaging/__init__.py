"""From the bytes of a file to pixels. No Spark, no settings.

- ``decoding``    bytes -> an RGB picture, upright, or the reason for a failure
- ``sandbox``     the same in child processes: for files that may crash or hang a decoder, and to keep a GPU busy
- ``png``         PNG files without what pixels do not need
- ``tiff``, ``jpeg2000``   what such files claim beside their size, before a decoder takes memory for it
- ``framing``     a decoded picture -> the square of pixels that a fingerprint takes
- ``quality``     a decoded picture -> six numbers that say how good it is, and flags
- ``thumbnails``  bytes -> the small files that pages show
"""
