"""The classes that are kept with a vector while it is computed, where logits do not follow from vectors."""

import numpy as np
from numpy.typing import NDArray

from image_similarity.stages.embeddings.checkpoints import ImageScores
from image_similarity.tagging import scores

UNCLEAR = ImageScores(np.empty(0, np.int32), np.empty(0, np.float32), None)
"""Of an image whose logits are not all finite."""


def image_scores(logits: NDArray[np.float32]) -> list[ImageScores]:
    """(n, c) float32 -> the most probable classes of each of n images; `UNCLEAR` where a logit is not finite."""
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(logits), axis=1)
    if not finite.any():
        return [UNCLEAR] * len(logits)
    kept = scores.kept(logits[finite])
    rows = iter(zip(kept.classes, kept.logits, kept.rest.tolist()))
    return [ImageScores(*next(rows)) if is_finite else UNCLEAR for is_finite in finite]
