"""Image similarity at cluster scale: from a collection of images to tables of neighbours.

The data's path, one job per arrow; jobs meet only in published tables::

    images --> manifest --> embeddings --> neighbours --> gallery
                               \\--> failures    \\--> audit (measured recall), comparisons of fingerprints

Where things are, from the top to the bottom; nothing imports upwards::

    jobs                      one module for each job: arguments, run
    stages                    Spark: tables in, tables out
    pages                     what the gallery and reports share
    imaging  fingerprints  knn    no Spark, no settings: arrays in, arrays out
    runtime  warehouse  storage  settings
    reporting  redaction  errors    what people and machines are told
"""

__version__ = "0.1.0"

from image_similarity.runtime import garbage

if garbage.is_spark_worker():
    garbage.freeze_modules()
