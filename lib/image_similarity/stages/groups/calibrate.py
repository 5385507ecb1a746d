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
Recall = Callable[[float], Sequence[Found]]
"""A limit -> what it finds of copies by kind; none if none can be made."""


def calibrated(
    found: Candidates, images: int, hashes: NDArray[np.uint64], pictures: Pictures, recall: Recall
) -> Calibrated | str:
    """The limit; or why there is none.

    ``hashes``: (images,) of the nodes, the same whatever their order.
    """
    chosen = found.scaled <= calibration.MOST
    owners, part, owned = _part(found, int(chosen.sum()), images, hashes)
    chosen &= part
    pairs, scaled = found.edges[chosen], found.scaled[chosen]
    disagreement = pictures.disagreement(pairs, True, "compare pictures to choose the limit")
    known = ~np.isnan(disagreement)
    if known.sum() < 0.9 * len(known) or not pictures.thumbprints.is_there.any():
        return "most images have no thumbprints"
    of_known = (pairs.a[known], pairs.b[known], scaled[known], disagreement[known])
    choice = calibration.choose(*of_known, images, owners, owned[chosen][known])
    if choice is None:
        return f"fewer than {calibration.FEWEST} images have no copy"
    by_kind = recall(choice.limit)
    record = {**calibration.record(choice, by_kind), "images": int(owners.sum())}
    return Calibrated(choice.limit, record, tuple(_lines(choice, by_kind)))


def _part(
    found: Candidates, count: int, images: int, hashes: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """The images that are looked at, all pairs of these, `MOST_PAIRS` of ``count``, about, and the pairs that count as
    theirs. Each pair belongs to one of its two images, as their hashes decide.
    """
    owners = np.ones(images, dtype=np.bool_)
    if count > MOST_PAIRS:
        owners[:] = False
        owners[calibration.sample(images * MOST_PAIRS // count // 2, images, hashes)] = True
    a, b = found.edges.a, found.edges.b
    is_first = (hashes[a] ^ hashes[b]) >> np.uint64(20) & np.uint64(1) == 0
    return owners, owners[a] | owners[b], owners[np.where(is_first, a, b)]


def _lines(choice: calibration.Choice, found: Sequence[Found]) -> list[str]:
    lines = [
        f"limit {choice.limit:g}, calibrated on {choice.strangers:,} images without a copy: where one image in "
        f"{round(1 / calibration.COPIES)} is a copy, at least {choice.precision:.1%} of the pairs are expected to be "
        "copies" + ("" if choice.precision >= calibration.PRECISION else "; so few images cannot prove more")
    ]
    if found:
        made, joined = sum(of.made for of in found), sum(of.found for of in found)
        lines.append(
            f"of {made:,} copies made for it {joined:,} were found: "
            + ", ".join(f"{of.kind} {of.found}/{of.made}" for of in found)
        )
    return lines
