"""Image similarity at cluster scale: from a collection of images to tables of neighbours.

The data's path, one job per arrow; jobs meet only in published tables::

    images --> manifest --> embeddings --> neighbours --> gallery
                               \\--> failures    \\--> audit (measured recall), comparisons of fingerprints

Where things are:

- ``settings``   every setting, typed and validated
- ``fingerprints``  what settings declare as fingerprints, made ready for workers; ``weights``: where networks' parameters come from
- ``tables``     the schemas of all tables
- ``warehouse``  write a run, publish it, read what is current
- ``storage``    bytes at a URI; ``http``: at an address of the web; ``images``: those of an image, or why they cannot be had
- ``spark``      the session, and progress of what runs in it
- ``site``       a folder of pages that a job makes again and again: the gallery, a report
- ``texts``      what pages say of an image
- ``cli``        what all jobs' command lines share; ``endings``: signals, one-line errors, exit codes
- ``application``  the runs of jobs, and how they are published; ``reporting``: what people and machines are told
- ``housekeeping``  which runs may go, which can come back; ``leases``: which are at work
- ``packaging``  what a cluster needs; ``devices``: which GPU is a task's
- ``stages``     Spark: tables in, tables out, one module per arrow
- ``kernels``    no Spark: arrays in, arrays out
- ``samples``    a collection of pictures to try it on
"""

__version__ = "0.1.0"
