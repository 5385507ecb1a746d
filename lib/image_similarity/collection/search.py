"""What looks like one picture or vector: `Collection.search`.

The query is compared with every vector of the collection, exactly, by the same functions as `find_neighbours`: so an
image of the collection has the neighbours, ranks and distances of the published table.
"""

import operator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.collection import answers, defaults, queries
from image_similarity.collection.answers import Neighbours, Stored
from image_similarity.collection.encoder import Seen, devices_of, settings_of
from image_similarity.collection.queries import Member, Picture, Vector
from image_similarity.collection.vectors import Store
from image_similarity.errors import Unreadable, WrongInput
from image_similarity.runtime.session import available_cores
from image_similarity.settings import EmbeddingsSettings
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

if TYPE_CHECKING:
    from image_similarity.collection.collection import Collection
    from image_similarity.knn.distances import Vectors

PUBLISHED, EMBEDDED, GIVEN = "published", "embedded", "given"
"""Where the query's vector is from, as the metadata of an answer say it."""


@dataclass(frozen=True, eq=False)
class Asked:
    """The query as it is compared."""

    vector: NDArray[np.float32]
    """(d,)"""
    name: str
    """For messages."""
    vector_is: str
    """`PUBLISHED`, `EMBEDDED` or `GIVEN`."""
    itself: int | None = None
    """The row that is left out of the answer."""
    row: int | None = None
    """A row with the query's bytes; None if there is none."""
    seen: Seen | None = None
    """What was seen of a picture that was embedded."""


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
    """See `Collection.search`."""
    counts = _count("k", k), _count("dissimilar", dissimilar)
    if not any(counts):
        raise WrongInput("k and dissimilar are 0: nothing is asked for")
    snapshot = collection.snapshot
    name = defaults.fingerprint_of(snapshot, fingerprint)
    chosen = defaults.metric_of(snapshot, name, metric)
    store = collection.store(name)
    limits = settings_of(snapshot, name) if snapshot.run_ids("embeddings", name) else EmbeddingsSettings()
    understood = queries.understood(query, image_id, store, limits)
    with ThreadPoolExecutor(1, "query") as aside:  # what compares is loaded while the picture is embedded
        asking = aside.submit(_asked, collection, name, store, understood)
        vectors = store.measured(chosen)
        asked = asking.result()
    lists = _nearest(chosen, _measured(asked, chosen), vectors, asked.itself, *counts)
    pictures = answers.pictures_of(snapshot, name, store, [*(row for each in lists for row in each.rows), asked.row])
    about = _about(collection, name, chosen, vectors, asked, pictures)
    return answers.table(snapshot, store, lists, pictures, about)


def _count(what: str, number: Any) -> int:
    try:
        count = operator.index(number)
    except TypeError:
        raise WrongInput(f"{what} is a whole number of 0 or more, not {number!r}") from None
    if count < 0 or isinstance(number, bool):
        raise WrongInput(f"{what} is a whole number of 0 or more, not {number!r}")
    return count


# -- the query's vector ------------------------------------------------------------------------------------------------


def _asked(collection: "Collection", name: str, store: Store, query: queries.Query) -> Asked:
    if isinstance(query, Member):
        return Asked(store.vectors[query.row], query.image_id, PUBLISHED, itself=query.row, row=query.row)
    if isinstance(query, Vector):
        return Asked(query.values, "the vector", GIVEN)
    return _of_picture(collection, name, store, query)


def _of_picture(collection: "Collection", name: str, store: Store, picture: Picture) -> Asked:
    """Bytes that the collection has have their vector already. Others are embedded."""
    content = queries.content_of(picture)
    row = store.row_of_content(content)
    if row is not None:
        return Asked(store.vectors[row], picture.name, PUBLISHED, row=row)
    try:
        seen = collection.encoder(name).look(picture.content)
    except Unreadable as fault:
        raise queries.refused(picture.name, fault) from None
    return Asked(seen.vector, picture.name, EMBEDDED, seen=seen)


def _measured(asked: Asked, metric: str) -> "Vectors":
    """The query's vector with shift and scale. Raises ``WrongInput``, with a reason of ``failures``, if it has none."""
    from image_similarity.knn import distances
    from image_similarity.stages.neighbours.usable import FAILURE_REASONS, reasons_of

    values = np.array(asked.vector[None])
    reason = reasons_of(values, distances.METRICS[metric])[0]
    if reason is not None:
        raise queries.refused(asked.name, Unreadable(reason, FAILURE_REASONS[reason]))
    return distances.measured(values, distances.METRICS[metric])


# -- its neighbours ----------------------------------------------------------------------------------------------------


def _nearest(
    metric: str, query: "Vectors", vectors: "Vectors", itself: int | None, similar: int, dissimilar: int
) -> list[Neighbours]:
    """The similar and the dissimilar neighbours. Rows without such a distance (of scale 0) are nobody's neighbours."""
    from image_similarity.knn import engine
    from image_similarity.knn.candidates import MAX_INDEX
    from image_similarity.knn.distances import METRICS
    from image_similarity.knn.queries import nearest
    from image_similarity.knn.rerank import Part

    positions = np.arange(len(vectors))
    own = MAX_INDEX if itself is None else itself
    # Vectors with the query's index are left out of its lists: itself, and those that cannot be compared.
    index = np.where(vectors.scale == 0, own, positions)
    everyone = Part(vectors, positions.astype(np.int32), index)
    asker = Part(query, np.zeros(1, np.int32), np.array([own]))
    keys = nearest(METRICS[metric], asker, everyone, similar, dissimilar, available_cores())
    ranked = [engine.ranked(of, np.zeros(1, np.int64), farthest) for of, farthest in zip(keys, (False, True))]
    relations = zip((SIMILAR, DISSIMILAR), ranked)
    return [Neighbours(relation, each.neighbour, each.distance) for relation, each in relations]


# -- what is said about it ---------------------------------------------------------------------------------------------


def _about(
    collection: "Collection",
    name: str,
    metric: str,
    vectors: "Vectors",
    asked: Asked,
    pictures: Mapping[int, Stored],
) -> dict[str, str]:
    """The metadata of the answer."""
    snapshot = collection.snapshot
    compared = int((vectors.scale != 0).sum()) - (asked.itself is not None)
    about: dict[str, Any] = {
        "warehouse": collection.uri,
        "version": collection.version,
        "fingerprint": name,
        "metric": metric,
        "run_id": ",".join(snapshot.run_ids("embeddings", name)),
        "vectors": compared,
        "exact": "true",
        "query_vector": asked.vector_is,
    }
    picture: Stored | Seen | None = asked.seen or pictures.get(-1 if asked.row is None else asked.row)
    if picture is not None:
        about |= {"query_sha256": picture.content_sha256, "query_width": picture.width, "query_height": picture.height}
    if asked.seen is not None:
        about |= {"device": asked.seen.device, "devices_of_collection": ", ".join(devices_of(snapshot, name))}
    return {key: str(value) for key, value in about.items() if value is not None}
