"""How far probabilities can be believed, measured where it is known what pictures show.

A classifier is calibrated if, of all guesses with a probability of .8, eight in ten are right. The expected calibration
error is the mean gap between the two, over bins of equally many guesses (Nixon et al.: Measuring calibration in deep
learning, CVPRW 2019; of bins of equal width most are nearly empty). Dividing logits by a temperature closes most of the
gap, and changes no guess; the best one has the least negative log-likelihood of the true labels (Guo et al.: On
calibration of modern neural networks, ICML 2017). Accuracy by coverage tells what abstaining buys (El-Yaniv and Wiener:
On the foundations of noise-free selective classification, JMLR 2010).

Labels may be wider than classes. The guess is then made in the labels' words: where they say "dog", a beagle is guessed
as a dog, with the probability of all dogs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_similarity.tagging.hierarchy import Hierarchy
from image_similarity.tagging.scores import Scores, log_probabilities, log_sum_exp, probabilities
from image_similarity.tagging.tags import tags_of
from image_similarity.tagging.temperature import Fit, fitted

BINS = 15
POINTS = 20
"""Of accuracy by coverage, at most."""
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""At which tags are measured, besides at the one in use."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Point:
    """The guesses that are at least so probable."""

    threshold: float
    coverage: float
    """Their share of all."""
    accuracy: float
    """The share of them that is right."""


@dataclass(frozen=True)
class Said:
    """What a threshold lets through."""

    coverage: float
    """The share of images of which something is said."""
    precision: float | None
    """The share of these of which it is right; None if nothing is said of any."""


@dataclass(frozen=True)
class Calibration:
    """Of the images whose label is a class or a parent; at the temperature in use, where none is named."""

    images: int
    unmatched: Mapping[str, int]
    """Label that is neither -> its images, the most frequent first. They are in no measure."""
    accuracy: float
    """The share of images whose most probable class is right."""
    expected_calibration_error: float
    by_coverage: tuple[Point, ...]
    """Of the most probable classes, with rising coverage."""
    tags: Said
    """Of the first tags, parents included. A tag is right if it is the label, or above it, or below it."""
    by_threshold: Mapping[float, Said]
    """The same at each of `THRESHOLDS`."""
    classes: Said
    """The same if classes alone could be said."""
    temperature: Fit
    """The one that fits best."""
    error_at_best_temperature: float | None
    """The expected calibration error there; None if it cannot be told which it is."""

    def record(self) -> dict[str, Any]:
        """For ``runs``: numbers rounded to 4 digits."""
        return {
            "labelled": self.images,
            "unmatched": dict(self.unmatched),
            "accuracy": _short(self.accuracy),
            "expected_calibration_error": _short(self.expected_calibration_error),
            "accuracy_by_coverage": [
                [_short(of.threshold), _short(of.coverage), _short(of.accuracy)] for of in self.by_coverage
            ],
            "tags_by_threshold": [
                [threshold, _short(said.coverage), _short(said.precision)]
                for threshold, said in self.by_threshold.items()
            ],
            "coverage": _short(self.tags.coverage),
            "precision": _short(self.tags.precision),
            "coverage_of_classes": _short(self.classes.coverage),
            "precision_of_classes": _short(self.classes.precision),
            "best_temperature": _short(self.temperature.best),
            "temperatures_that_fit": [_short(end) for end in self.temperature.interval],
            "labels_for_temperature": self.temperature.needed,
            "expected_calibration_error_at_best": _short(self.error_at_best_temperature),
        }


def measured(
    scores: Scores, hierarchy: Hierarchy, labels: Sequence[str | None], threshold: float, temperature: float
) -> Calibration:
    """The calibration of ``scores`` (n images) by ``labels`` (n; None or "": the image has none).

    Labels are compared with classes and parents as `Hierarchy.named` does. ``ValueError`` if none of them is one, or if
    there are not as many as images.
    """
    if len(labels) != len(scores):
        raise ValueError(f"{len(labels)} labels for {len(scores)} images")
    known = {label: hierarchy.named(label) for label in {label for label in labels if label}}
    unmatched = Counter(label for label in labels if label and not known[label])
    rows = np.array([row for row, label in enumerate(labels) if label and known[label]], dtype=np.int64)
    if not len(rows):
        examples = ", ".join(f"{label!r:.60}" for label, _ in unmatched.most_common(3)) or "there are none"
        raise ValueError(f"no label is a class of the network, or a parent of its classes: {examples}")
    truth = _Truth.of([known[str(labels[row])] for row in rows], hierarchy)
    scores = scores.rows(rows)
    confidence, right = truth.guesses(scores, temperature)
    top = scores.classes[:, 0]
    top_probability = probabilities(scores, temperature)[:, 0].astype(np.float32)
    fit = truth.fit(scores)
    return Calibration(
        images=len(rows),
        unmatched=dict(sorted(unmatched.items(), key=lambda item: (-item[1], item[0]))),
        accuracy=float(truth.related(top).mean()),
        expected_calibration_error=expected_calibration_error(confidence, right),
        by_coverage=accuracy_by_coverage(confidence, right),
        tags=truth.said(scores, threshold, temperature),
        by_threshold={at: truth.said(scores, at, temperature) for at in THRESHOLDS},
        classes=_said(top_probability.astype(np.float64) >= threshold, truth.related(top)),
        temperature=fit,
        error_at_best_temperature=(
            None if fit.best is None else expected_calibration_error(*truth.guesses(scores, fit.best))
        ),
    )


def expected_calibration_error(confidence: Floats, right: Bools) -> float:
    """The mean gap between ``confidence`` (n,) and the share that is ``right`` (n,), over bins of equally many; 0 to 1.

    Equally confident guesses are in one bin, so their order does not matter. NaN of nothing. Chance adds to it: of a
    calibrated classifier it is about .4 * sqrt(15 / n).
    """
    if not len(confidence):
        return float("nan")
    edges = np.quantile(confidence, np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.searchsorted(edges, confidence)
    gaps = np.bincount(bins, confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def accuracy_by_coverage(confidence: Floats, right: Bools) -> tuple[Point, ...]:
    """How many of the most confident guesses are right, for up to `POINTS` shares of all; equal ones stay together."""
    if not len(confidence):
        return ()
    order = np.argsort(-confidence, kind="stable")
    falling, hits = confidence[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))  # of those that are equally confident
    wanted = np.ceil(np.linspace(0, 1, POINTS + 1)[1:] * len(falling)) - 1
    ends = np.unique(last[np.searchsorted(last, wanted)])
    return tuple(
        Point(float(falling[end]), (end + 1) / len(falling), float(hits[end]) / (end + 1)) for end in ends.tolist()
    )


@dataclass(frozen=True)
class _Truth:
    """What n images show. A label that means several nodes is any of them."""

    hierarchy: Hierarchy
    meanings: tuple[tuple[int, ...], ...]
    """Nodes, of each different label."""
    label: NDArray[np.int64]
    """(n,): numbers in ``meanings``."""

    @classmethod
    def of(cls, nodes: Sequence[tuple[int, ...]], hierarchy: Hierarchy) -> "_Truth":
        number = {meaning: place for place, meaning in enumerate(sorted(set(nodes)))}
        return cls(hierarchy, tuple(number), np.array([number[meaning] for meaning in nodes], dtype=np.int64))

    def related(self, nodes: NDArray[np.int32]) -> Bools:
        """(n,): whether each image's node is its label, or above it, or below it."""
        pairs, place = np.unique(np.column_stack([nodes, self.label]), axis=0, return_inverse=True)
        related = [
            any(self.hierarchy.related(node, meant) for meant in self.meanings[label]) for node, label in pairs.tolist()
        ]
        return np.array(related, dtype=np.bool_)[place.ravel()]

    def said(self, scores: Scores, threshold: float, temperature: float) -> Said:
        """Of the first tags."""
        tags = tags_of(scores, self.hierarchy, threshold, temperature, 1)
        first = tags.rank == 1
        return _said(tags.accepted[first], self.related(tags.node[first]))

    def guesses(self, scores: Scores, temperature: float) -> tuple[Floats, Bools]:
        """(n,) each: the probability of the guess, and whether it is right.

        The guess is the most probable class; where labels are wider, the narrowest label above it.
        """
        guess = self._narrowest()[scores.classes[:, 0]]
        below = _Below.of(scores.classes, [node.leaves for node in self.hierarchy.nodes], guess)
        return np.exp(below.log_probabilities(scores, temperature)), self.related(guess)

    def _narrowest(self) -> NDArray[np.int32]:
        """(c,): the label next above each class, or the class itself if it is no label and none is above it."""
        narrowest = np.arange(self.hierarchy.class_count, dtype=np.int32)
        meant = {node for meaning in self.meanings for node in meaning}
        for node in sorted(meant, key=lambda node: (-len(self.hierarchy.nodes[node].leaves), node)):
            narrowest[list(self.hierarchy.nodes[node].leaves)] = node
        return narrowest

    def fit(self, scores: Scores) -> Fit:
        """The temperature with the least negative log-likelihood."""
        leaves = [
            frozenset(leaf for node in meaning for leaf in self.hierarchy.nodes[node].leaves)
            for meaning in self.meanings
        ]
        below = _Below.of(scores.classes, leaves, self.label)
        return fitted(lambda temperature: -float(below.log_probabilities(scores, temperature).mean()), len(scores))


@dataclass(frozen=True)
class _Below:
    """Which classes count for each of n images: those below one node."""

    kept: Bools
    """(n, K): whether each class that is kept counts."""
    others: NDArray[np.int64]
    """(n,): how many that are not kept."""

    @classmethod
    def of(cls, classes: NDArray[np.int32], leaves: Sequence[frozenset[int]], which: NDArray[np.integer]) -> "_Below":
        """``classes``: (n, K); ``which``: (n,) numbers in ``leaves``."""
        kept, sizes = np.zeros(classes.shape, dtype=np.bool_), np.array([len(of) for of in leaves])
        order = np.argsort(which, kind="stable")
        numbers, starts = np.unique(which[order], return_index=True)
        for number, rows in zip(numbers, np.split(order, starts[1:])):
            kept[rows] = np.isin(classes[rows], list(leaves[number]))
        return cls(kept, sizes[which] - kept.sum(axis=1))

    def log_probabilities(self, scores: Scores, temperature: float) -> Floats:
        """(n,): the log of the sum over the classes that count."""
        of_kept, of_other = log_probabilities(scores, temperature)
        with np.errstate(divide="ignore"):  # none of the others counts
            rest = np.where(self.others > 0, of_other + np.log(self.others), -np.inf)
        return log_sum_exp(np.column_stack([np.where(self.kept, of_kept, -np.inf), rest]))


def _said(accepted: Bools, right: Bools) -> Said:
    return Said(float(accepted.mean()), float(right[accepted].mean()) if accepted.any() else None)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
