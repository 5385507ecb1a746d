"""`open`: finds a published warehouse and reads its state."""

import os
from collections.abc import Mapping

from image_similarity.collection.collection import Collection
from image_similarity.errors import WrongInput
from image_similarity.warehouse.snapshot import open_snapshot


def open(uri: "str | os.PathLike[str]", *, weights: Mapping[str, str] | None = None) -> Collection:
    """The collection that is published in the warehouse at ``uri``, as it is now. Needs neither Spark nor Java.

    ``uri``: a folder, or ``s3://bucket/folder``, ``gs://bucket/folder``. ``weights``: fingerprint -> file or address
    of its weights, where those that the run recorded are gone. Raises ``WrongInput`` if no warehouse is there,
    or Spark alone reaches it, and ``JobFailed`` if it is damaged or cannot be read.
    """
    location = os.fspath(uri)
    snapshot = open_snapshot(location)
    if not snapshot.pointer.version:
        raise WrongInput(f"{location}: nothing is published there")
    return Collection(snapshot, dict(weights or {}))
