"""Whether the query is in the collection already: the verdict on each of its neighbours, as search_images gives it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.collection import reading
from image_similarity.collection.answers import Neighbours, Stored
from image_similarity.collection.encoder import Seen
from image_similarity.collection.vectors import Store
from image_similarity.grouping import verdicts
from image_similarity.knn.distances import Values
from image_similarity.stages.search.judging import THUMBPRINT_BYTES, Contents, Judge, Thumbprints

LEAST_ANSWERS = verdicts.LEAST_ANSWERS
"""Similar images that must be known to judge, where there are as many."""


def scale_of(similar: Neighbours, store: Store) -> Values:
    """(1,): the query's local scale, from at least `LEAST_ANSWERS` similar images."""
    content = None
    if store.contents is not None:
        content = store.contents.take(pa.array(similar.rows)).dictionary_encode().indices.to_numpy()[None]
    return verdicts.scales(similar.distance[None], content)


def judged(
    judge: Judge | None,
    scale: Values,
    lists: Sequence[Neighbours],
    store: Store,
    picture: Seen | Stored | None,
    pictures: Mapping[int, Stored],
) -> list[str | None]:
    """The verdicts on the rows of ``lists``, one after the other. ``scale``: see `scale_of`.

    ``picture``: the query's; None for a vector. ``pictures``: of the rows. Without a ``judge`` only the same bytes are
    told: they are the same picture whatever the limits are.
    """
    rows = np.concatenate([each.rows for each in lists])
    known = [pictures.get(row) for row in rows.tolist()]
    same = np.array(
        [of is not None and picture is not None and of.content_sha256 == picture.content_sha256 for of in known]
    )
    if judge is None or not len(rows):
        return [verdicts.YES if is_same else None for is_same in same]
    with reading.named_errors(judge.published):
        known_contents = None if store.contents is None else Contents.of(store.ids, store.contents)
        image_scale = judge.scales(store.ids.take(pa.array(rows)), known_contents)
    answers = judge.verdicts(
        np.concatenate([each.distance for each in lists])[None],
        scale,
        image_scale[None],
        same[None],
        _thumbprints([picture]),
        _thumbprints(known),
        np.arange(len(rows))[None],
    )
    return [None if verdict is None else str(verdict) for verdict in answers[0]]


def _thumbprints(known: Sequence[Seen | Stored | None]) -> Thumbprints:
    contents = [None if picture is None else picture.thumbprint for picture in known]
    pixels: NDArray[np.uint8] = np.zeros((len(known), THUMBPRINT_BYTES), np.uint8)
    for place, content in enumerate(contents):
        if content is not None:
            pixels[place] = np.frombuffer(content, np.uint8)
    return Thumbprints(pixels, np.array([content is not None for content in contents], np.bool_))
