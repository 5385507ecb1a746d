"""Which file operations serve a URI."""

from typing import TYPE_CHECKING

from image_similarity.errors import WrongInput
from image_similarity.storage import uris
from image_similarity.storage.files import Files
from image_similarity.storage.local import LocalFiles
from image_similarity.storage.object_store import ObjectFiles

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OBJECT_STORES = ("s3", "gs")


def files_of(uri: str, spark: "SparkSession | None" = None) -> Files:
    """The operations for what is at ``uri``, as `uris.absolute` or `uris.for_spark` gives it.

    Local paths and object stores need no session. Any other file system is Hadoop's and is reached through the JVM of
    ``spark``; without a session ``WrongInput`` says so."""
    if uris.is_local(uri):
        return LocalFiles()
    if uris.scheme_of(uri) in OBJECT_STORES:
        return ObjectFiles(uri)
    if spark is None:
        raise WrongInput(
            f"{uri}: {uris.scheme_of(uri)}:// is reached through Spark only: start a job, or copy the folder"
        )
    from image_similarity.storage.hadoop import HadoopFiles

    return HadoopFiles(spark)
