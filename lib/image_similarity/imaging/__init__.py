"""From the bytes of a file to pixels. No Spark, no settings.

- ``decoding``    bytes -> (height, width, 3) uint8, upright, or the reason why not
- ``sandbox``     the same in a child process, for files that may bring a process down
- ``framing``     a decoded picture -> the pixels that a fingerprint takes
- ``thumbnails``  a decoded picture -> small files for pages
"""
