"""What looks like one picture or vector: `Collection.search`."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from image_similarity.collection.collection import Collection


def search(
    collection: "Collection",
    query: Any,
    k: int,
    *,
    image_id: str | None,
    fingerprint: str | None,
    metric: str | None,
    dissimilar: int,
) -> pa.Table:
    raise NotImplementedError
