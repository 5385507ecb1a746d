"""Image similarity at cluster scale: from a collection of images to tables of neighbours.

Programs and notebooks read what was published by `open`::

    import image_similarity as ims

    collection = ims.open("demo/samples-warehouse")
    collection.neighbours(relation="similar")
    collection.search("photo.jpg")

The data's path, one job per arrow; jobs meet only in published tables::

    images --> manifest --> embeddings --> neighbours --> groups --> gallery
                               |              \\--> audit (measured recall), comparisons of fingerprints
                               \\--> failures, matches (pictures from outside against the collection)

Where things are, from the top to the bottom; nothing imports upwards::

    command                   the installed command: search, serve, and every job
    jobs                      one module for each job: arguments, run
    serve                     a page that asks a collection
    collection                what was published, for programs and notebooks
    stages                    tables in, tables out, by Spark or by one process
    pages                     what the gallery, reports and other pages share
    imaging  fingerprints  knn  grouping    no Spark, no settings: arrays in, arrays out
    runtime  warehouse  storage  settings
    reporting  redaction  errors    what people and machines are told
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.runtime import garbage

if TYPE_CHECKING:
    from image_similarity.collection import Collection, Embeddings, Run, open

__all__ = ["Collection", "Embeddings", "JobFailed", "Run", "WrongInput", "open"]

_OF_COLLECTION = ("Collection", "Embeddings", "Run", "open")

if garbage.is_spark_worker():
    garbage.freeze_modules()


def __getattr__(name: str) -> Any:
    # Spark's workers import this package, and should not wait for what they do not use.
    if name in _OF_COLLECTION:
        from image_similarity import collection

        return getattr(collection, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_COLLECTION})
