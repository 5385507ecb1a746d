"""How many of the labels that were swapped on purpose come first in the list of likely mislabelled images.

    .venv/bin/python tests/benchmarks/mislabelled.py WAREHOUSE [--label folder|number//4] [--swapped 20] [--first 40]

WAREHOUSE has published neighbours, of every fingerprint that is compared. The label of an image is the folder in its
id, or the last number in its name divided by four (UKBench: four pictures of one object). For each seed, ten pairs of
images with different labels exchange them. Reported is how many of these twenty are in the first forty of the list:
mean and least over the seeds, and what a list drawn at random has. Scores: the share of the neighbours for other labels
(own), the margin of the best other label (margin: ours with the weights `gaussian`), the share relative to the mean
share of the label (normalised), and confident learning's threshold of each label first (confident: Northcutt, Jiang,
Chuang 2021). Prints Markdown.
"""

import argparse
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import image_similarity as ims
from image_similarity.grouping.isolation import SHARPNESS, mislabelled

Reals = NDArray[np.float64]
Labels = NDArray[np.int64]
Lists = tuple[Labels, Labels, Reals]
"""owner, neighbour, distance: (m,), of each list the nearest first."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Swapped labels in the list of likely mislabelled images.")
    parser.add_argument("warehouse")
    parser.add_argument("--label", choices=("folder", "number//4"), default="folder")
    parser.add_argument("--swapped", type=int, default=20)
    parser.add_argument("--first", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    collection = ims.open(arguments.warehouse)
    for fingerprint in collection.fingerprints()["fingerprint"].to_pylist():
        ids, lists = read(collection, fingerprint)
        label = labels_of(ids, arguments.label)
        chance = arguments.swapped * arguments.first / len(ids)
        print(f"\n{fingerprint}: {len(ids):,} images, {label.max() + 1} labels, by chance {chance:.2f}\n")
        report(lists, label, arguments.swapped, arguments.first, arguments.seeds)


def report(lists: Lists, label: Labels, swapped: int, first: int, seeds: int) -> None:
    found: dict[tuple[str, str], list[int]] = {}
    for seed in range(seeds):
        labels, wrong = swap(label, swapped, seed)
        for name, score in scores(lists, labels):
            order = np.lexsort((np.arange(len(score)), -np.nan_to_num(score, nan=-np.inf)))
            found.setdefault(name, []).append(int(np.isin(order[:first], wrong).sum()))
    names = list(dict.fromkeys(score for _, score in found))
    print(f"| weights | {' | '.join(names)} |\n| --- |{' --: |' * len(names)}")
    for weights in dict.fromkeys(weights for weights, _ in found):
        cells = [found.get((weights, name)) for name in names]
        shown = [f"{np.mean(counts):.2f} ({min(counts)})" if counts else "" for counts in cells]
        print(f"| {weights} | {' | '.join(shown)} |", flush=True)


def read(collection: ims.Collection, fingerprint: str) -> tuple[list[str], Lists]:
    table = collection.neighbours(fingerprint, relation="similar")
    ids = sorted(set(table["image_id"].to_pylist()))
    number = {name: place for place, name in enumerate(ids)}
    owner, neighbour = (np.array([number[n] for n in table[c].to_pylist()]) for c in ("image_id", "neighbour_id"))
    return ids, (owner, neighbour, table["distance"].to_numpy().astype(np.float64))


def labels_of(ids: list[str], rule: str) -> Labels:
    names = [name.rpartition("/")[0] for name in ids]
    if rule == "number//4":
        names = [str(int(re.findall(r"\d+", name)[-1]) // 4) for name in ids]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def swap(label: Labels, count: int, seed: int) -> tuple[Labels, Labels]:
    """``label`` after ``count`` images, in pairs of different labels, have exchanged them; and these images."""
    waiting, swapped = np.random.default_rng(seed).permutation(len(label)).tolist(), label.copy()
    wrong: list[int] = []
    while len(wrong) < count:
        one = waiting.pop()
        other = waiting.pop(next(place for place, image in enumerate(waiting) if label[image] != label[one]))
        swapped[[one, other]] = label[[other, one]]
        wrong += [one, other]
    return swapped, np.array(wrong)


def scores(lists: Lists, label: Labels) -> Iterator[tuple[tuple[str, str], Reals]]:
    """(weights, score) -> the score of each image: the higher, the likelier it is mislabelled."""
    owner, neighbour, distance = lists
    images = np.arange(len(label))
    for weights, weight in weightings(owner, distance):
        share = np.zeros((len(label), label.max() + 1))
        np.add.at(share, (owner, label[neighbour]), weight)
        share /= share.sum(axis=1, keepdims=True)
        own, others = share[images, label], share.copy()
        others[images, label] = -1
        other, best = others.max(axis=1), others.argmax(axis=1)
        mean = np.bincount(label, own) / np.bincount(label)
        yield (weights, "own"), 1 - own
        yield (weights, "margin"), other - own
        yield (weights, "normalised"), -own / np.maximum(mean[label], 1e-9)
        yield (weights, "margin + half the label's mean"), other - own + mean[label] / 2
        yield (weights, "confident"), 2.0 * (other >= mean[best]) + other - own
    ours = mislabelled(owner, neighbour, distance.astype(np.float32), label)
    yield ("the project's", "margin"), ours.score.astype(np.float64)


def weightings(owner: Labels, distance: Reals) -> Iterator[tuple[str, Reals]]:
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner) + 1
    mean = (np.bincount(owner, distance) / np.bincount(owner))[owner]
    last = distance[np.searchsorted(owner, owner, side="right") - 1]
    yield "equal", np.ones(len(owner))
    yield "1 / rank", 1 / rank
    yield "1 / distance", 1 / np.maximum(distance, 1e-6)
    yield "1 - distance / last", np.maximum(1 - distance / np.maximum(last, 1e-9), 1e-3)
    yield "gaussian", np.exp(-SHARPNESS * (distance / np.maximum(mean, 1e-9)) ** 2)


if __name__ == "__main__":
    main()
