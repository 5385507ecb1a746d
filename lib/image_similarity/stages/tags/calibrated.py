"""Tags measured against labels: which scores are read for it."""

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa

from image_similarity.stages.tags.scores import scores_in
from image_similarity.stages.tags.table import Tagger
from image_similarity.tagging.calibration import Calibration, measured
from image_similarity.tagging.scores import Scores

Read = Callable[[Collection[str]], Iterator[pa.RecordBatch]]
"""Contents -> batches of `SCORES`, of those of them that have scores."""


def against(labels: Sequence[tuple[str, str]], read: Read, tagger: Tagger) -> Calibration:
    """What the classifier says of contents, measured against their ``labels`` (content, label), one for each image.

    Images without scores are in no measure. Raises ``ValueError`` if no label is a class, or a parent of classes.
    """
    place: dict[str, int] = {}
    parts: list[Scores] = []
    for batch in filter(len, read({content for content, _ in labels})):
        place |= zip(batch.column(0).to_pylist(), range(len(place), len(place) + len(batch)))
        parts.append(scores_in(batch, tagger.hierarchy.class_count))
    known = [(place[content], label) for content, label in labels if content in place]
    if not known:
        raise ValueError("no labelled image has a vector")
    rows = np.array([row for row, _ in known])
    classes, logits, rest = (
        np.concatenate([getattr(part, name) for part in parts])[rows] for name in ("classes", "logits", "rest")
    )
    scores = Scores(classes, logits, rest, tagger.hierarchy.class_count)
    return measured(scores, tagger.hierarchy, [label for _, label in known], tagger.threshold, tagger.temperature)
