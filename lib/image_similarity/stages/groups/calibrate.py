"""The limit of near-duplicates chosen on the collection, and what it finds of copies made for it."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping import calibration
from image_similarity.grouping.calibration import Found
from image_similarity.stages.groups.confirm import Candidates, Pictures
from image_similarity.stages.groups.limits import Calibrated

MOST_PAIRS = 100_000
"""Pairs whose pictures are aligned for a calibration: they take a minute of one core. Of larger collections a part of
the images is looked at."""
_POOR = 0.8
"""Kinds of copies of which fewer are found are named."""

Recall = Callable[[float], Sequence[Found]]
"""A limit -> what it finds of copies by kind; none if none can be made."""


def calibrated(
    found: Candidates, images: int, hashes: NDArray[np.uint64], pictures: Pictures, recall: Recall
) -> Calibrated | None:
    """The limit; None if too few images stand alone, or too few pictures are known.

    ``hashes``: (images,) of the nodes, the same whatever their order.
    """
    chosen = found.scaled <= calibration.MOST
    chosen &= _part(found, chosen, images, hashes)
    pairs, scaled = found.edges[chosen], found.scaled[chosen]
    disagreement = pictures.disagreement(pairs, True, "compare pictures to choose the limit")
    known = ~np.isnan(disagreement)
    if known.sum() < 0.9 * len(known):
        return None
    looked_at = np.zeros(images, dtype=np.bool_)
    looked_at[pairs.a] = looked_at[pairs.b] = True
    seen = int(looked_at.sum()) if len(pairs) < (found.scaled <= calibration.MOST).sum() else images
    choice = calibration.choose(pairs.a[known], pairs.b[known], scaled[known], disagreement[known], images)
    if choice is None:
        return None
    by_kind = recall(choice.limit)
    return Calibrated(
        choice.limit, {**calibration.record(choice, by_kind), "images": seen}, tuple(_lines(choice, by_kind))
    )


def _part(found: Candidates, chosen: NDArray[np.bool_], images: int, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """The pairs among a part of the images that has `MOST_PAIRS` of the ``chosen`` pairs, about."""
    count = int(chosen.sum())
    if count <= MOST_PAIRS:
        return np.ones(len(chosen), dtype=np.bool_)
    wanted = int(images * MOST_PAIRS / count / 2)
    is_wanted = np.zeros(images, dtype=np.bool_)
    is_wanted[calibration.sample(wanted, images, hashes)] = True
    part: NDArray[np.bool_] = is_wanted[found.edges.a] | is_wanted[found.edges.b]
    return part


def _lines(choice: calibration.Choice, found: Sequence[Found]) -> list[str]:
    lines = [
        f"limit {choice.limit:g} of the local scale, calibrated on {choice.strangers:,} images without a copy: "
        f"precision {choice.precision:.3f} expected where one image in {round(1 / calibration.COPIES)} is a copy"
    ]
    if found:
        made, joined = sum(of.made for of in found), sum(of.found for of in found)
        lines.append(
            f"of {made:,} copies made for it {joined:,} were found: "
            + ", ".join(f"{of.kind} {of.found}/{of.made}" for of in found)
        )
    return lines
