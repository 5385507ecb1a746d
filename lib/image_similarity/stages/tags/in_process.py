"""Tags by this process: it reads scores, or vectors, a batch at a time, and holds the tags of all contents."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from image_similarity.runtime.progress import progress
from image_similarity.stages.tags.scores import CONTENT, SCORES, VECTOR, from_vectors
from image_similarity.stages.tags.table import Collected, Tagger
from image_similarity.warehouse.parquet import streaming
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from image_similarity.fingerprints.classifier import Classifier

MOST_IMAGES = 1_000_000
"""Their tags, and the names of their contents, take about a gigabyte."""
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class Source:
    """Scores by content that this process reads: those that were kept, or of the vectors that are there.

    ``classifier``: what turns vectors into scores; None where scores were kept.
    """

    published: Snapshot
    slot: str
    """Of ``vectors``, or of ``class_scores`` where there is no ``classifier``."""
    classifier: "Classifier | None" = None

    def of(self, contents: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Batches of `SCORES`, of those of ``contents`` that have scores."""
        if self.classifier is None:
            yield from self._read("class_scores", SCORES.names, contents)
            return
        for batch in self._read("vectors", [CONTENT, VECTOR], contents):
            yield from_vectors(batch, self.classifier)

    def _read(self, table: str, columns: list[str], contents: Collection[str]) -> Iterator[pa.RecordBatch]:
        stored = self.published.dataset(table, self.slot)
        for batch in stored.to_batches(columns=columns, batch_size=_BATCH_ROWS, **streaming()):
            wanted = batch.filter(
                pa.array([content in contents for content in batch.column(0).to_pylist()], pa.bool_())
            )
            if len(wanted):
                yield wanted


def run(session: Any, source: Source, fingerprint: str, tagger: Tagger) -> Iterator[pa.RecordBatch]:
    """Rows of ``tags`` for the published images of ``fingerprint`` that have scores, in the order of ids and ranks."""
    images = source.published.table("embeddings", fingerprint, ["image_id", CONTENT]).sort_by("image_id")
    encoded = images[CONTENT].combine_chunks().dictionary_encode()
    number = {content: place for place, content in enumerate(encoded.dictionary.to_pylist())}
    tags, done = Collected(encoded.dictionary, tagger), 0
    with progress(session, "tag", len(number), "pictures", 1, lambda: done / max(1, len(number))):
        for batch in filter(len, source.of(number)):
            tags.add(np.array([number[content] for content in batch.column(0).to_pylist()], np.int32), batch)
            done += len(batch)
    yield from tags.of_images(images["image_id"].combine_chunks(), encoded.indices.to_numpy(), fingerprint)
