"""images -> manifest: lists the images, with a version that changes when they change. No image is opened.

The images are a folder, a glob, or a CSV, JSON or Parquet file with a ``uri`` column. ``in_process`` lists those on
this machine, ``by_spark`` all others; ``images`` and ``lists`` are for both.
"""
