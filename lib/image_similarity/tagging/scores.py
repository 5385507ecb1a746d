"""What is kept of a classifier's logits: the greatest, and the mass of all others.

A network knows 1,000 classes or more; the first few say what is in a picture. `MOST` of them are enough for sums over
dozens of classes, and take a tenth of the space. Softmax of what is kept is exact at temperature 1, since the log of
the sum over the others is kept too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST = 64
"""Classes that are kept for each image."""

Logits = NDArray[np.float32]
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """The greatest logits of n images; K of c classes."""

    classes: NDArray[np.int32]
    """(n, K), by falling logit; equal ones by number."""
    logits: Logits
    """(n, K)."""
    rest: Logits
    """(n,): the log of the sum of exp of all other logits; -inf if there are none."""
    class_count: int
    """c: how many classes the classifier has."""

    def __post_init__(self) -> None:
        if self.classes.shape != self.logits.shape or len(self.rest) != len(self.logits):
            shapes = f"classes {self.classes.shape}, logits {self.logits.shape}, rest {self.rest.shape}"
            raise ValueError(f"these are not the scores of the same images: {shapes}")
        if self.classes.size and not 0 <= self.classes.min() <= self.classes.max() < self.class_count:
            raise ValueError(f"class {self.classes.max()} of a classifier of {self.class_count} classes")

    def __len__(self) -> int:
        return len(self.classes)

    def rows(self, rows: NDArray[np.integer] | slice) -> "Scores":
        """Those of some images."""
        return Scores(self.classes[rows], self.logits[rows], self.rest[rows], self.class_count)

    @property
    def other_count(self) -> int:
        """How many classes are in ``rest``."""
        return self.class_count - int(self.classes.shape[1])


def kept(logits: Logits, most: int = MOST) -> Scores:
    """What is kept of ``logits`` (n, c), which must be finite: ``ValueError`` if they are not."""
    if not np.isfinite(logits).all():
        raise ValueError("logits that are not finite say nothing: leave those images out")
    order = np.argsort(-logits, axis=1, kind="stable")
    falling = np.take_along_axis(logits, order, axis=1)
    return Scores(
        classes=order[:, :most].astype(np.int32),
        logits=falling[:, :most].astype(np.float32),
        rest=log_sum_exp(falling[:, most:].astype(np.float64)).astype(np.float32),
        class_count=logits.shape[1],
    )


def probabilities(scores: Scores, temperature: float = 1.0) -> Probabilities:
    """(n, K) float64: softmax over all classes, of the logits divided by ``temperature``; those that are kept.

    Exact at temperature 1. At another one the others count as equal classes. Above 1 that gives them the most that they
    can have: the true probabilities of the classes kept are not lower.
    """
    of_kept, _ = log_probabilities(scores, temperature)
    return np.exp(of_kept)


def log_probabilities(scores: Scores, temperature: float) -> tuple[Probabilities, Probabilities]:
    """(n, K) and (n,): the logs of the `probabilities` of the classes kept, and of each other class; -inf if none."""
    logits = scores.logits.astype(np.float64) / temperature
    others = np.log(max(scores.other_count, 1))
    each_other = (scores.rest.astype(np.float64) - others) / temperature
    total = log_sum_exp(np.column_stack([logits, each_other + others]))
    return logits - total[:, None], each_other - total


def log_sum_exp(values: Probabilities) -> Probabilities:
    """(n,): of each row of ``values`` (n, m); -inf where m is 0."""
    if not values.shape[1]:
        return np.full(len(values), -np.inf)
    greatest = values.max(axis=1)
    sums = np.exp(values - greatest[:, None]).sum(axis=1)
    logs: Probabilities = np.log(sums) + greatest
    return logs
