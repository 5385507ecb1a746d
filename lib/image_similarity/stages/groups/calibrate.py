"""The limit of near-duplicates chosen on the collection, and what it finds of copies made for it."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from image_similarity.errors import counted
from image_similarity.grouping import calibration
from image_similarity.grouping.calibration import KindRecall
from image_similarity.stages.groups.confirm import Candidates, Pictures
from image_similarity.stages.groups.limits import Calibrated

MOST_PAIRS = 100_000
"""Pairs whose pictures are aligned for a calibration: they take a minute of one core. Of larger collections a part of
the images is looked at."""
Recall = Callable[[float], Sequence[KindRecall]]
"""A limit -> what it finds of copies by kind; none if none can be made."""


def calibrated(
    listed: Candidates, images: int, hashes: NDArray[np.uint64], pictures: Pictures, recall: Recall
) -> Calibrated | str:
    """The limit; or why there is none.

    ``hashes``: (images,) of the nodes, the same whatever their order.
    """
    chosen = listed.scaled <= calibration.MOST
    owners, part, owned = _part(listed, int(chosen.sum()), images, hashes)
    chosen &= part
    pairs, scaled = listed.edges[chosen], listed.scaled[chosen]
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
    listed: Candidates, count: int, images: int, hashes: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """The images that are looked at, all pairs of these, `MOST_PAIRS` of ``count``, about, and the pairs that count as
    theirs. Each pair belongs to one of its two images, as their hashes decide.
    """
    owners = np.ones(images, dtype=np.bool_)
    if count > MOST_PAIRS:
        owners[:] = False
        owners[calibration.sample(images * MOST_PAIRS // count // 2, images, hashes)] = True
    a, b = listed.edges.a, listed.edges.b
    is_first = (hashes[a] ^ hashes[b]) >> np.uint64(20) & np.uint64(1) == 0
    return owners, owners[a] | owners[b], owners[np.where(is_first, a, b)]


def _lines(choice: calibration.Choice, by_kind: Sequence[KindRecall]) -> list[str]:
    lines = [
        f"limit {choice.limit:g} of the local scale, calibrated on {choice.strangers:,} images without a copy: where "
        f"one image in {round(1 / calibration.COPIES)} is a copy, at least {choice.precision:.1%} of the pairs are "
        "expected to be copies"
        + ("" if choice.precision >= calibration.PRECISION else "; so few images cannot prove more")
    ]
    if by_kind:
        copies, joined = sum(of.copies for of in by_kind), sum(of.joined for of in by_kind)
        lines.append(
            f"of {counted(copies, 'copy')} made for it {counted(joined, 'was', 'were')} found: "
            + ", ".join(f"{of.kind} {of.joined}/{of.copies}" for of in by_kind)
        )
    return lines
