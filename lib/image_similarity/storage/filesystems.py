"""Selects the file operations for a URI: `local` for this machine's disks, `object_store` for S3 and Google's store,
`hadoop` for all others.
"""

from typing import TYPE_CHECKING

from image_similarity.errors import WrongInput
from image_similarity.storage import uris
from image_similarity.storage.files import Files
from image_similarity.storage.local import LocalFiles
from image_similarity.storage.object_store import ObjectFiles

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OBJECT_STORES = ("s3", "gs")
HDFS = ("hdfs", "viewfs")
"""Schemes of Hadoop whose renames are one step. ``viewfs`` may mount other stores, which its addresses do not tell."""


def has_compare_and_swap(uri: str) -> bool:
    """Whether several jobs may publish below ``uri`` at once, as far as its scheme tells."""
    return uris.is_local(uri) or uris.scheme_of(uri) in (*OBJECT_STORES, *HDFS)


def files_of(uri: str, spark: "SparkSession | None" = None) -> Files:
    """The file operations of the store of ``uri``, which is a result of `uris.absolute` or `uris.for_spark`.

    Local paths and object stores need no session. All other file systems are Hadoop's, and are reached through the JVM
    of ``spark``. Raises ``WrongInput`` if these have no session.
    """
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
