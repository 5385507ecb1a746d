"""Neighbours of queries among the vectors of a collection, against all distances in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

import oracle
from image_similarity.knn import engine, queries, scoring
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.candidates import NONE, Keys
from image_similarity.knn.distances import METRICS, measured
from image_similarity.knn.engine import Search
from image_similarity.knn.queries import FEW, Answering
from image_similarity.knn.rerank import Part

Lists = list[list[tuple[int, float]]]
MANY = 3 * FEW


def part(values: NDArray[np.float32], metric: str, first: int = 0) -> Part:
    index = np.arange(first, first + len(values))
    return Part(measured(values, METRICS[metric]), np.arange(len(values), dtype=np.int32), index)


def defined(asked: NDArray[np.float32], vectors: NDArray[np.float32], metric: str, k: int, farthest: bool) -> Lists:
    """For each query the ``k`` best vectors by definition: index and distance."""
    of_all = oracle.distances(np.concatenate([asked, vectors]), metric)[: len(asked), len(asked) :]
    lists = []
    for row in of_all:
        order = np.lexsort((np.arange(len(row)), -row if farthest else row))[:k]
        lists.append([(int(i), float(row[i])) for i in order])
    return lists


def listed(keys: Keys, farthest: bool) -> Lists:
    ranked = engine.ranked(keys, np.arange(len(keys)), farthest)
    lists: Lists = [[] for _ in range(len(keys))]
    for row, neighbour, distance in zip(ranked.row.tolist(), ranked.neighbour.tolist(), ranked.distance.tolist()):
        lists[row].append((neighbour, distance))
    return lists


@pytest.fixture(autouse=True)
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few hundred vectors are several strips, and their queries several batches."""
    for name, value in (("STRIP_ROWS", 70), ("_QUERIES_AT_ONCE", 13), ("_RERANKED_AT_ONCE", 5)):
        monkeypatch.setattr(queries, name, value)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, FEW, FEW + 1, MANY])
@pytest.mark.parametrize("metric", METRICS)
def test_the_best_of_both_relations(metric: str, count: int, threads: int) -> None:
    """Among copies, opposites and many equal distances; a query may be one of the vectors, too."""
    vectors = oracle.planted(300, 6, seed=4)
    asked = np.concatenate([oracle.planted(100, 6, seed=5)[: count // 2], vectors[: count - count // 2]])
    given = METRICS[metric], queries.strangers(part(asked, metric)), part(vectors, metric)
    near, far = queries.nearest(*given, 12, 5, threads)
    assert listed(near, False) == defined(asked, vectors, metric, 12, False)
    assert listed(far, True) == defined(asked, vectors, metric, 5, True)
    only_near, nothing = queries.nearest(*given, 12, 0, threads)
    assert np.array_equal(only_near, near) and nothing.shape == (count, 0)


@pytest.mark.parametrize("count", [2, MANY])
def test_lists_are_no_longer_than_the_collection(count: int) -> None:
    vectors, asked = oracle.planted(40, 5, seed=1)[:7], oracle.planted(60, 5, seed=2)[:count]
    near, far = queries.nearest(
        METRICS["cosine"], queries.strangers(part(asked, "cosine")), part(vectors, "cosine"), 10, 9, 2
    )
    assert near.shape == (count, 10) and (near[:, 7:] == NONE).all()
    assert listed(near, False) == defined(asked, vectors, "cosine", 10, False)
    assert listed(far, True) == defined(asked, vectors, "cosine", 9, True)


@pytest.mark.parametrize("count", [3, MANY])
def test_a_query_with_the_index_of_a_vector_is_left_out(count: int) -> None:
    """Its copies are not."""
    vectors = oracle.planted(200, 6, seed=8)
    expected = [(row, rank, other, distance) for row, rank, other, distance in oracle.neighbours(vectors, "cosine", 4)]
    whole = part(vectors, "cosine")
    near, _ = queries.nearest(METRICS["cosine"], whole[:count], whole, 4, 0, 2)
    assert oracle.rows_of(engine.ranked(near, whole.index[:count], False)) == [
        row for row in expected if row[0] < count
    ]
    everyone, _ = queries.nearest(METRICS["cosine"], whole, whole, 250, 0, 2)
    assert (everyone != NONE).sum(axis=1).tolist() == [199] * 200


@pytest.mark.parametrize("count", [0, 2, MANY])
@pytest.mark.parametrize("among", [0, 30])
def test_nothing_to_compare(count: int, among: int) -> None:
    vectors, asked = oracle.planted(40, 5, seed=1)[:among], oracle.planted(60, 5, seed=2)[:count]
    near, far = queries.nearest(METRICS["cosine"], part(asked, "cosine", 99), part(vectors, "cosine"), 3, 2, 2)
    assert near.shape == (count, 3) and far.shape == (count, 2)
    assert ((near == NONE) == (among == 0)).all()


@pytest.mark.parametrize("screen", scoring.SCREENS)
@pytest.mark.parametrize("metric", METRICS)
def test_what_scores_do_not_prove_is_compared_by_brute_force(metric: str, screen: str) -> None:
    random = np.random.default_rng(3)
    groups = np.repeat(random.standard_normal((3, 24)), 90, axis=0)
    vectors = (groups + 1e-7 * random.standard_normal(groups.shape)).astype(np.float32)
    asked, others = vectors[::9], np.delete(vectors, np.s_[::9], axis=0)
    scale = scoring.scale_of(float(np.abs(vectors).max()), 24, METRICS[metric])
    search = Search(metric, screen, 24, scale, 6, 3, len(others))
    answering = Answering(search, queries.strangers(part(asked, metric)), part(others, metric), 2)
    answering.compare()
    assert answering.pairs_done == answering.pairs == len(asked) * len(others)
    assert answering.rerank() == answering.uncertain.sum() > 0
    answering.complete()
    assert answering.pairs_done == answering.uncertain.sum() * len(others)
    assert listed(answering.keys[0], False) == defined(asked, others, metric, 6, False)
    assert listed(answering.keys[1], True) == defined(asked, others, metric, 3, True)


@pytest.mark.parametrize("lengths", [(9, 0), (0, 9), (7, 4)])
@pytest.mark.parametrize("columns", [63, 64, 65, 700])
def test_lists_of_one_side_alone_are_those_of_both(lengths: tuple[int, int], columns: int) -> None:
    """Scores are tested many at once where the other side keeps no lists.

    The values are multiples of 1/32, so that products are exact: else the last bits of a score depend on where BLAS
    divides its blocks, which differs between processors.
    """
    values = (np.round(32 * np.random.default_rng(1).standard_normal((700 + columns, 8))) / 32).astype(np.float32)
    whole = part(values, "euclidean")
    search = Search("euclidean", "float32", 8, scoring.scale_of(9, 8, METRICS["euclidean"]), 1, 1, columns)
    rows, others = whole[:700], whole[700:]
    keys = []
    for lengths_of_others in ((0, 0), (1, 1)):
        strip = search.strip(Cpu(), rows, lengths)
        engine.compare([strip], [search.strip(Cpu(), others, lengths_of_others)])
        keys.append([np.sort(of_relation, axis=1) for of_relation in strip.keys()])
    assert all(np.array_equal(alone, both) for alone, both in zip(*keys))
    assert (keys[0][0] != NONE).all() and (keys[0][1] != NONE).all()
