"""Lists by the pairs that partitions suggest: which pairs are compared, and that nothing else decides."""

from typing import Any

import numpy as np
import pytest

import oracle
from image_similarity.knn import calibration, partitioning, probing, running_lists, scoring
from image_similarity.knn.candidates import NONE
from image_similarity.knn.distances import METRICS, measured
from image_similarity.knn.probing import Probing


def made(vectors: Any, metric: str = "cosine", nlist: int = 12, length: int = 9, threads: int = 1) -> Probing:
    chosen = METRICS[metric]
    scale = scoring.scale_of(float(np.abs(vectors).max()), vectors.shape[1], chosen)
    everyone = np.arange(len(vectors))

    def copied(rows: Any) -> scoring.Copies:
        return scoring.copies(measured(vectors, chosen)[rows], chosen, scoring.FLOAT32, scale)

    centres = partitioning.centres(copied(everyone).low, nlist, chosen.angular, 0)
    return Probing(copied, everyone, centres, length, threads)


def lists(of: Probing) -> list[list[int]]:
    """For each row its neighbours, nearest first."""
    keys = np.sort(of.keys(slice(None)), axis=1)
    by_row = np.empty_like(keys)
    by_row[of.order] = keys
    return [[int(key) & (2**32 - 1) for key in row if key != NONE] for row in by_row]


@pytest.mark.parametrize("metric", METRICS)
def test_with_all_partitions_the_lists_are_the_nearest(metric: str) -> None:
    vectors = oracle.planted(400, 12, seed=3)
    of = made(vectors, metric)
    of.compare(of.nlist)
    right: dict[int, list[int]] = {}
    for row, _, other, _ in oracle.neighbours(vectors, metric, 9):
        right.setdefault(row, []).append(other)
    distance = oracle.distances(vectors, metric)
    for row, found in enumerate(lists(of)):
        assert len(set(found)) == 9
        farthest = distance[row, right[row]].max()
        assert distance[row, found].max() <= farthest + 1e-6 * max(1, farthest), "a tie of float32 scores, no more"


@pytest.mark.parametrize("nprobe", [1, 2, 5])
def test_those_pairs_are_compared_that_their_ranks_say(nprobe: int) -> None:
    vectors = oracle.planted(300, 8, seed=4)
    of = made(vectors, length=299)
    everyone = np.arange(300)
    others = np.stack([np.delete(everyone, place) for place in everyone]).astype(np.int32)
    ranks = of.ranks(everyone, others)
    of.compare(nprobe)
    found = lists(of)
    for place in everyone:
        likely = of.order[others[place][ranks[place] < nprobe]]
        assert sorted(found[of.order[place]]) == sorted(likely.tolist())


def test_threads_pieces_and_steps_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of small integers, many of them as near as others: what is kept of equals must be the same, too."""
    vectors = np.random.default_rng(5).integers(-1, 2, (500, 6)).astype(np.float32)
    vectors = np.unique(vectors[np.abs(vectors).sum(axis=1) > 0], axis=0)
    at_once = made(vectors, "euclidean")
    at_once.compare(6)
    monkeypatch.setattr(probing, "_PROBERS_AT_ONCE", 7)
    monkeypatch.setattr(probing, "_RESIDENTS_AT_ONCE", 5)
    monkeypatch.setattr(probing, "_PROBES_AT_ONCE", 40)
    for threads in (1, 3):
        stepwise = made(vectors, "euclidean", threads=threads)
        for nprobe in (1, 2, 6, 4):
            stepwise.compare(nprobe)
        assert stepwise.nprobe == 6 and lists(stepwise) == lists(at_once)


def test_the_order_of_the_vectors_does_not_matter() -> None:
    vectors = oracle.planted(400, 12, seed=6)
    order = np.random.default_rng(7).permutation(400)
    first, chosen = made(vectors), METRICS["cosine"]
    again = measured(vectors[order], chosen)
    second = Probing(
        lambda rows: scoring.copies(again[rows], chosen, scoring.FLOAT32, 1.0), order, first._centres, 9, 2
    )
    for of in (first, second):
        of.compare(4)
    renamed = {int(order[row]): {int(order[other]) for other in found} for row, found in enumerate(lists(second))}
    assert [renamed[row] for row in range(400)] == list(map(set, lists(first)))


def test_a_sample_gets_its_true_neighbours() -> None:
    vectors = oracle.planted(400, 12, seed=8)
    of = made(vectors, threads=2)
    places = np.arange(0, 400, 9)
    nearest = of.nearest(places, 5)
    right: dict[int, set[int]] = {}
    for row, _, other, _ in oracle.neighbours(vectors, "cosine", 5):
        right.setdefault(row, set()).add(other)
    for place, found in zip(places, nearest):
        assert set(of.order[found].tolist()) == right[int(of.order[place])]


def test_a_list_has_each_neighbour_once_with_its_best_score() -> None:
    scores, positions = np.full((1, 4), -np.inf, np.float32), np.full((1, 4), -1, np.int32)
    cut = np.full(1, -np.inf, np.float32)
    for score, position in ((1.0, 7), (2.0, 8), (3.0, 7), (0.5, 7), (0.5, 6), (0.5, 5), (0.5, 9), (0.5, 4)):
        running_lists.keep(scores, positions, cut, 0, np.float32(score), np.int32(position))
    assert sorted(zip(scores[0].tolist(), positions[0].tolist())) == [(0.5, 4), (0.5, 5), (2.0, 8), (3.0, 7)]
    assert cut[0] == 0.5


def test_few_vectors_and_one_partition() -> None:
    for rows in (2, 3):
        of = made(oracle.planted(rows, 4, seed=1), nlist=1, length=5)
        of.compare(9)
        assert [sorted(found) for found in lists(of)] == [[j for j in range(rows) if j != i] for i in range(rows)]


def test_the_speed_of_probing_is_measured() -> None:
    for dimensions in (1, 8):
        rate = calibration.probing_rate(dimensions, "correlation", 5)
        assert rate.pairs > 1e5 and rate.distances > 1e4 and 0 < rate.partition < 1


def test_offers_are_no_more_than_lists_hold() -> None:
    """Of vectors that are much alike nearly all pairs are offered. The best are those that lists would have kept."""
    random = np.random.default_rng(5)
    to = np.repeat(np.arange(7, dtype=np.int32), 60)
    other = np.tile(random.permutation(60).astype(np.int32), 7)
    score = random.integers(0, 9, len(to)).astype(np.float32)  # many are equal
    kept = probing._best((to, other, score), 7, 5)
    for prober in range(7):
        of_prober = [(-score[place], other[place]) for place in np.nonzero(to == prober)[0]]
        got = [(-a, b) for t, b, a in zip(*kept) if t == prober]
        assert sorted(got) == sorted(of_prober)[:5]
    few = to[:20], other[:20], score[:20]
    assert probing._best(few, 7, 5) is few
