"""`open`: finds a published warehouse and reads its state."""

import os
from collections.abc import Mapping

from image_similarity.collection import defaults, reading
from image_similarity.collection.collection import Collection
from image_similarity.errors import WrongInput


def open(uri: "str | os.PathLike[str]", *, weights: "Mapping[str, str | os.PathLike[str]] | None" = None) -> Collection:
    """The collection that is published in the warehouse at ``uri``, as it is now. Needs neither Spark nor Java.

    ``uri``: a folder, or ``s3://bucket/folder``, ``gs://bucket/folder``. ``weights``: fingerprint -> file or address
    of its weights, for `Collection.search` where the recorded ones are gone. Raises ``WrongInput`` if no warehouse is
    there (with near names), if Spark alone reaches it (``hdfs://``), or for ``weights`` of a fingerprint that is not
    published; and ``JobFailed`` if the warehouse is damaged or cannot be read.
    """
    snapshot = reading.newest(os.fspath(uri))
    known = defaults.fingerprints_of(snapshot)
    for name in weights or {}:
        if name not in known:
            raise WrongInput(f"weights: {defaults.not_published(snapshot.uri, 'fingerprint', name, known)}")
    return Collection(snapshot, {name: _address(name, place) for name, place in (weights or {}).items()})


def _address(fingerprint: str, place: "str | os.PathLike[str]") -> str:
    if not isinstance(place, str | os.PathLike):
        raise WrongInput(f"weights of {fingerprint}: give a file or an address, not {place!r}")
    return os.fsdecode(place)
