"""Scores of contents -> their tags -> the rows of ``tags``: of each image the classes that are kept, by rank."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.stages.tags.scores import CONTENT, scores_in
from image_similarity.tagging.hierarchy import Hierarchy
from image_similarity.tagging.tags import Tags, tags_of
from image_similarity.warehouse.schemas import SCHEMAS

_IMAGES_AT_ONCE = 2**15
_OF_CONTENT = ("rank", "class", "wnid", "probability", "accepted")
TAGS = pa.schema([(CONTENT, pa.string()), *(SCHEMAS["tags"].field(name) for name in _OF_CONTENT)])
"""The tags of contents."""


@dataclass(frozen=True)
class Tagger:
    """What is said of scores. It is sent to workers."""

    hierarchy: Hierarchy
    threshold: float
    temperature: float
    keep: int

    def tags(self, batch: pa.RecordBatch) -> Tags:
        """The tags of a batch of `SCORES` with rows."""
        scores = scores_in(batch, self.hierarchy.class_count)
        return tags_of(scores, self.hierarchy, self.threshold, self.temperature, self.keep)

    def of_contents(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same as a batch of `TAGS`."""
        tags = self.tags(batch)
        columns = [tags.rank, tags.name, tags.wnid, tags.probability, tags.accepted]
        arrays = [pa.array(values, TAGS.field(name).type) for name, values in zip(_OF_CONTENT, columns)]
        return pa.RecordBatch.from_arrays([batch.column(0).take(pa.array(tags.row)), *arrays], schema=TAGS)


class Collected:
    """The tags of many contents, in 17 bytes each. A content's number is its place in ``contents``, strings."""

    def __init__(self, contents: pa.Array, tagger: Tagger):
        self._tagger, self._contents = tagger, contents
        self._parts: list[tuple[NDArray[np.generic], ...]] = []

    def add(self, number: NDArray[np.int32], batch: pa.RecordBatch) -> None:
        """``number`` (n,): the contents of a batch of `SCORES` with n rows."""
        tags = self._tagger.tags(batch)
        self._parts.append((number[tags.row], tags.rank, tags.node, tags.probability, tags.accepted))

    def of_images(self, ids: pa.Array, content: NDArray[np.int32], fingerprint: str) -> Iterator[pa.RecordBatch]:
        """Rows of ``tags``: the images ``ids`` (m,), in their order, whose contents are ``content`` (m,)."""
        number, rank, node, probability, accepted = self._sorted()
        names, wnids = (
            pa.array([getattr(one, name) for one in self._tagger.hierarchy.nodes], pa.string())
            for name in ("name", "wnid")
        )
        contents = self._contents
        ends = np.searchsorted(number, np.arange(len(contents) + 1))
        for start in range(0, len(ids), _IMAGES_AT_ONCE):
            part = content[start : start + _IMAGES_AT_ONCE]
            count = ends[part + 1] - ends[part]
            image = np.repeat(np.arange(len(part)), count)
            entry = np.repeat(ends[part] - np.cumsum(count) + count, count) + np.arange(count.sum())
            nodes = pa.array(node[entry])
            columns = [
                ids.slice(start, len(part)).take(pa.array(image)),
                pa.nulls(len(image), pa.string()).fill_null(fingerprint),
                *(pa.array(rank[entry]), names.take(nodes), wnids.take(nodes)),
                *(pa.array(probability[entry]), pa.array(accepted[entry])),
                contents.take(pa.array(part[image])),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=SCHEMAS["tags"])

    def _sorted(self) -> tuple[NDArray[np.generic], ...]:
        """The parts as one, by content and rank."""
        kinds = (np.int32, np.int32, np.int32, np.float32, np.bool_)
        columns = [np.concatenate(parts) for parts in zip(*self._parts)] or [np.empty(0, kind) for kind in kinds]
        order = np.lexsort((columns[1], columns[0]))
        return tuple(column[order] for column in columns)
