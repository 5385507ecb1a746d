"""Groups of images become rows of the tables ``groups`` and ``group_summary``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from image_similarity.grouping import group_id
from image_similarity.knn.distances import Indices, Values
from image_similarity.neighbour_graph import Images
from image_similarity.warehouse.schemas import SCHEMAS

GROUPS, SUMMARY = "groups", "group_summary"
_IMAGES_AT_ONCE = 2**16


@dataclass(frozen=True)
class Grouping:
    """The groups of one kind and level, the largest first, ties by representative. Raw distances."""

    kind: str
    level: int
    start: Indices
    """(g + 1,): where in ``image`` each group begins, and the end."""
    image: Indices
    """The images of all groups, one group after the other: the representative, then by distance to it."""
    distance: Values
    """To the representative, NaN where it is not known."""
    weakest_link: Values
    widest_pair: Values
    nearest_outside: Values
    """(g,), NaN where there is none."""
    outside: Indices
    """(g,): the image that is nearest to the group; -1 if there is none."""

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def sizes(self) -> Indices:
        """(g,): images in each group."""
        sizes: Indices = np.diff(self.start)
        return sizes

    @property
    def representative(self) -> Indices:
        """(g,): the image that stands for each group."""
        images: Indices = self.image[self.start[:-1]]
        return images

    def in_order(self) -> "Grouping":
        """The groups in their order in tables."""
        order = np.lexsort((self.representative, -self.sizes))
        rows = ranges(self.start[:-1][order], self.start[1:][order])
        numbers = {name: getattr(self, name)[order] for name in _NUMBERS}
        start = np.concatenate([[0], np.cumsum(self.sizes[order])])
        return replace(self, start=start, image=self.image[rows], distance=self.distance[rows], **numbers)


_NUMBERS = ("weakest_link", "widest_pair", "nearest_outside", "outside")


def ranges(start: Indices, end: Indices) -> Indices:
    """All numbers of the ranges, one range after the other."""
    count = end - start
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    numbers: Indices = np.repeat(start, count) + within
    return numbers


@dataclass(frozen=True)
class Rows:
    """The rows of both tables."""

    images: Images
    fingerprint: str
    metric: str
    groupings: Sequence[Grouping]
    labels: Sequence[Sequence[str | None]]
    """Those of the groups of each of ``groupings``."""

    def of(self, table: str) -> Iterator[pa.RecordBatch]:
        """The rows of ``table`` in its schema, group by group, some 65,000 images at once."""
        for grouping, labels in zip(self.groupings, self.labels, strict=True):
            for first, last in _chunks(grouping.start):
                ids = self.images.ids.take(pa.array(grouping.image[grouping.start[first] : grouping.start[last]]))
                starts = grouping.start[first : last + 1] - grouping.start[first]
                names = ids.to_pylist()
                about = (self.fingerprint, self.metric, grouping.kind, grouping.level)
                group_ids = [group_id(*about, names[start:end]) for start, end in zip(starts, starts[1:])]
                chunk = slice(first, last)
                yield (
                    self._groups(grouping, chunk, ids, starts, group_ids)
                    if table == GROUPS
                    else self._summary(grouping, chunk, ids, starts, group_ids, labels[chunk])
                )

    def _groups(
        self, grouping: Grouping, chunk: slice, ids: pa.Array, starts: Indices, group_ids: list[str]
    ) -> pa.RecordBatch:
        group = np.repeat(np.arange(len(group_ids)), np.diff(starts))
        position = np.arange(len(ids)) - starts[group]
        first = int(grouping.start[chunk.start])
        return self._batch(
            GROUPS,
            grouping,
            len(ids),
            group_id=pa.array(group_ids, pa.string()).take(pa.array(group)),
            image_id=ids,
            representative=pa.array(position == 0),
            distance_to_representative=_numbers(grouping.distance[first : first + len(ids)]),
            position=pa.array(position),
        )

    def _summary(
        self,
        grouping: Grouping,
        chunk: slice,
        ids: pa.Array,
        starts: Indices,
        group_ids: list[str],
        labels: Sequence[str | None],
    ) -> pa.RecordBatch:
        outside = grouping.outside[chunk]
        return self._batch(
            SUMMARY,
            grouping,
            len(group_ids),
            group_id=pa.array(group_ids, pa.string()),
            size=pa.array(np.diff(starts)),
            representative_id=ids.take(pa.array(starts[:-1])),
            weakest_link=_numbers(grouping.weakest_link[chunk]),
            widest_pair=_numbers(grouping.widest_pair[chunk]),
            nearest_outside=_numbers(grouping.nearest_outside[chunk]),
            nearest_outside_id=self.images.ids.take(pa.array(outside, mask=outside < 0)),
            label=pa.array(labels, pa.string()),
        )

    def _batch(self, table: str, grouping: Grouping, rows: int, **columns: pa.Array) -> pa.RecordBatch:
        values = {"fingerprint": self.fingerprint, "metric": self.metric, "kind": grouping.kind}
        constants = {**values, "level": grouping.level}
        arrays = [
            columns[field.name].cast(field.type)
            if field.name in columns
            else pa.repeat(pa.scalar(constants[field.name], field.type), rows)
            for field in SCHEMAS[table]
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=SCHEMAS[table])


def _numbers(values: Values) -> pa.Array:
    """NaN is null."""
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def _chunks(start: Indices) -> Iterator[tuple[int, int]]:
    """Ranges of groups with some images each; a larger group is alone."""
    first = 0
    while first < len(start) - 1:
        last = int(np.searchsorted(start, start[first] + _IMAGES_AT_ONCE, side="right")) - 1
        last = max(first + 1, last)
        yield first, last
        first = last
