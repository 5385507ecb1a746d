"""What looks like one picture or vector: `Collection.search`.

The query is compared with every vector of the collection, exactly, by the same functions as `find_neighbours`: so an
image of the collection has the neighbours, ranks and distances of the published table.
"""

import importlib
import operator
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.collection import answers, defaults, queries, reading
from image_similarity.collection.answers import Neighbours, Stored
from image_similarity.collection.encoder import Seen, devices_of, settings_of
from image_similarity.collection.queries import Member, Picture, Query, Vector
from image_similarity.collection.vectors import Store, key_of
from image_similarity.errors import Unreadable, WrongInput
from image_similarity.runtime import garbage
from image_similarity.runtime.session import available_cores
from image_similarity.settings import EmbeddingsSettings
from image_similarity.warehouse.defaults import tags_by
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

if TYPE_CHECKING:
    from image_similarity.collection.collection import Collection
    from image_similarity.knn.distances import Vectors
    from image_similarity.stages.search.judging import Judge

_ANSWERS = "image_similarity.collection.judged"
"""Imports numba, which takes part of a second."""

PUBLISHED, EMBEDDED, GIVEN = "published", "embedded", "given"
"""Where the query's vector is from, as the metadata of an answer say it."""


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
    similar, dissimilar = _count("k", k), _count("dissimilar", dissimilar)
    if not similar and not dissimilar:
        raise WrongInput("k and dissimilar are 0: nothing is asked for")
    name = defaults.fingerprint_of(collection.snapshot, fingerprint)
    one = OneSearch(collection, name, defaults.metric_of(collection.snapshot, name, metric), collection.store(name))
    similar, dissimilar = (min(asked, len(one.store)) for asked in (similar, dissimilar))
    understood = queries.understood(query, image_id, one.store, one.limits)
    with ThreadPoolExecutor(1, "query") as aside:
        asking = aside.submit(one.asked, understood)
        one.load()  # what compares is loaded while the picture is embedded
        asked = asking.result()
    return one.answer(asked, similar, dissimilar)


def _count(what: str, number: Any) -> int:
    try:
        count = operator.index(number)
    except TypeError:
        count = -1
    if count < 0 or isinstance(number, bool):
        raise WrongInput(f"{what} is a whole number of 0 or more, not {number!r}")
    return count


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


@dataclass(frozen=True, eq=False)
class OneSearch:
    """One query by one fingerprint and metric."""

    collection: "Collection"
    fingerprint: str
    metric: str
    store: Store

    @cached_property
    def limits(self) -> EmbeddingsSettings:
        """The limits of files and pictures."""
        snapshot = self.collection.snapshot
        is_embedded = bool(snapshot.run_ids("embeddings", self.fingerprint))
        with reading.named_errors(snapshot):
            return settings_of(snapshot, self.fingerprint) if is_embedded else EmbeddingsSettings()

    @cached_property
    def vectors(self) -> "Vectors":
        """All vectors, with shift and scale; the scale is 0 of those that cannot be compared."""
        return self.store.measured(self.metric)

    @cached_property
    def judge(self) -> "Judge | None":
        """What the published near-duplicates say; None if there are none."""
        from image_similarity.stages.search import judging

        snapshot = self.collection.snapshot
        with reading.named_errors(snapshot):
            return judging.judge(snapshot, self.fingerprint, self.metric, key_of(snapshot, self.fingerprint))

    @cached_property
    def tags(self) -> "pa.DictionaryArray | None":
        """The tag of each row; None where no tags are published."""
        return self.collection.tags_of(self.fingerprint)

    def load(self) -> None:
        """Loads what the answer needs beside the query's vector. The first time modules are imported."""
        with nullcontext() if _ANSWERS in sys.modules else garbage.paused():
            importlib.import_module(_ANSWERS)
            importlib.import_module("pyarrow.dataset")
            self.vectors, self.judge, self.tags  # noqa: B018 - they are kept

    # -- the query's vector --------------------------------------------------------------------------------------------

    def asked(self, query: Query) -> Asked:
        """Raises ``WrongInput`` for a picture that cannot be read, and as `Encoder.look` does."""
        if isinstance(query, Member):
            return Asked(self.store.vectors[query.row], query.image_id, PUBLISHED, itself=query.row, row=query.row)
        if isinstance(query, Vector):
            return Asked(query.values, "the vector", GIVEN)
        return self._of_picture(query)

    def _of_picture(self, picture: Picture) -> Asked:
        """Bytes that the collection has have their vector already. Others are embedded."""
        row = self.store.row_of_content(picture.content_sha256)
        if row is not None:
            return Asked(self.store.vectors[row], picture.name, PUBLISHED, row=row)
        try:
            seen = self.collection.encoder(self.fingerprint).look(picture.content)
        except Unreadable as fault:
            raise queries.refused(picture.name, fault) from None
        return Asked(seen.vector, picture.name, EMBEDDED, seen=seen)

    def _measured(self, asked: Asked) -> "Vectors":
        """The query's vector with shift and scale. Raises ``WrongInput``, with a reason of ``failures``, if it has
        none.
        """
        from image_similarity.knn import distances
        from image_similarity.stages.neighbours.usable import FAILURE_REASONS, reasons_of

        values, metric = np.array(asked.vector[None]), distances.METRICS[self.metric]
        reason = reasons_of(values, metric)[0]
        if reason is not None:
            raise queries.refused(asked.name, Unreadable(reason, FAILURE_REASONS[reason]))
        return distances.measured(values, metric)

    # -- its neighbours ------------------------------------------------------------------------------------------------

    def answer(self, asked: Asked, similar: int, dissimilar: int) -> pa.Table:
        from image_similarity.collection import judged

        # A verdict needs the query's surroundings, also where fewer are asked for.
        enough = similar if self.judge is None else max(similar, judged.LEAST_ANSWERS)
        near, far = self._neighbours(asked, enough, dissimilar)
        shown = near.first(similar)
        if asked.row is not None and asked.itself is None:  # more images than are listed may have its very vector
            shown = shown.holding(asked.row)
        lists = [shown, far]
        rows = [row for each in lists for row in each.rows.tolist()]
        pictures = answers.pictures_of(self.store, [*rows, asked.row])
        picture: Seen | Stored | None = asked.seen or (None if asked.row is None else pictures.get(asked.row))
        scale = judged.scale_of(near, self.store)
        verdicts = judged.judged(self.judge, scale, lists, self.store, picture, pictures)
        return answers.table(
            self.collection.snapshot, self.store, lists, verdicts, pictures, self.tags, self._about(asked, picture)
        )

    def _neighbours(self, asked: Asked, similar: int, dissimilar: int) -> list[Neighbours]:
        from image_similarity.knn import engine
        from image_similarity.knn.candidates import MAX_INDEX
        from image_similarity.knn.distances import METRICS
        from image_similarity.knn.queries import nearest
        from image_similarity.knn.rerank import Part

        query, positions = self._measured(asked), np.arange(len(self.store))
        own = MAX_INDEX if asked.itself is None else asked.itself
        # Vectors with the query's index are left out of its lists: itself, and those that cannot be compared.
        index = np.where(self.vectors.scale == 0, own, positions)
        everyone = Part(self.vectors, positions.astype(np.int32), index)
        asker = Part(query, np.zeros(1, np.int32), np.array([own]))
        keys = nearest(METRICS[self.metric], asker, everyone, similar, dissimilar, available_cores())
        ranked = [engine.ranked(of, np.zeros(1, np.int64), farthest) for of, farthest in zip(keys, (False, True))]
        relations = zip((SIMILAR, DISSIMILAR), ranked)
        return [Neighbours(relation, each.neighbour, each.distance) for relation, each in relations]

    def _tags_runs(self) -> list[str]:
        snapshot = self.collection.snapshot
        return snapshot.run_ids("tags", tags_by(snapshot.slots("tags"), self.fingerprint) or "")

    def _about(self, asked: Asked, picture: Seen | Stored | None) -> dict[str, str]:
        """The metadata of the answer."""
        snapshot = self.collection.snapshot
        about: dict[str, Any] = {
            "warehouse": self.collection.uri,
            "version": self.collection.version,
            "fingerprint": self.fingerprint,
            "metric": self.metric,
            "run_id": ",".join(snapshot.run_ids("embeddings", self.fingerprint)) or None,
            "vectors": int(np.count_nonzero(self.vectors.scale)) - (asked.itself is not None),
            "exact": "true",
            "query_vector": asked.vector_is,
            "tags_run_id": ",".join(self._tags_runs()) or None,
            "near_duplicates_run_id": self.judge.run if self.judge is not None else None,
        }
        if picture is not None:
            about |= {
                "query_sha256": picture.content_sha256,
                "query_width": picture.width,
                "query_height": picture.height,
            }
        if asked.seen is not None:
            collections = ", ".join(devices_of(snapshot, self.fingerprint))
            about |= {"query_device": asked.seen.device, "collection_devices": collections}
        return {key: str(value) for key, value in about.items() if value is not None}
