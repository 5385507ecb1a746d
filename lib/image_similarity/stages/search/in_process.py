"""Queries against a collection by this process, without Spark: both on this machine, and in its memory."""

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from image_similarity.knn import all_pairs, calibration, queries, scoring, screening
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.distances import METRICS
from image_similarity.knn.engine import MAX_UNCERTAIN_SHARE, Search
from image_similarity.knn.queries import STRIP_ROWS, Answering
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import BFLOAT16, FLOAT32
from image_similarity.knn.screening import Choice
from image_similarity.reporting import current
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.search.answers import Answers, Images, Nearest, Vectors, named

AUTO = "auto"
_STRIPS_TRIED = 16
_WORTH_TRYING = 10.0
"""Seconds of comparing. torch, which multiplies bfloat16, takes some seconds to import."""
_IMPORT_SECONDS = 3.0
_ASSUMED_PRODUCT, _ASSUMED_PAIRS = 4e10, 3e8
"""A second's multiplications and additions, and its pairs of short vectors, on a core of a modest machine."""


class InMemory(Vectors, Protocol):
    """Vectors in memory, checked and numbered."""

    @property
    def images(self) -> Images: ...

    @property
    def vectors(self) -> Part:
        """The distinct ones. Their indices are their numbers, and their positions ascend."""
        ...


def run(spark: Any, asked: InMemory, collection: InMemory, settings: NeighboursSettings, threads: int) -> Answers:
    """The answers to ``asked``, whose vectors are as long as those of ``collection``.

    ``settings``: which answers, and how to compare. ``spark``: a session, for the names of steps; it is not started.
    """
    search = _search(asked, collection, settings)
    answering = Answering(search, queries.strangers(asked.vectors), collection.vectors, threads)
    choice = _choice(spark, answering, settings, threads)
    screens = list(dict.fromkeys([choice.screen, FLOAT32.name])) if settings.screen == AUTO else [choice.screen]
    for screen in screens:
        answering.search = replace(search, screen=screen)
        uncertain = _compared(spark, answering)
        if uncertain <= MAX_UNCERTAIN_SHARE * len(asked.vectors):
            break
        if screen != screens[-1]:
            plain, detail = screening.once_more(screen, uncertain, len(asked.vectors))
            current().tell("note", plain)
            current().tell("note", detail, detail=True)
    if uncertain:
        pairs = uncertain * len(collection.vectors)
        with progress(
            spark, "compare at full precision", pairs, "pairs", 1, lambda: answering.pairs_done / max(1, pairs)
        ):
            answering.complete()
    nearest = Nearest(asked.vectors.index, *answering.keys, uncertain, replace(choice, screen=screen))
    with step(spark, "name answers"):
        return named(asked.images, asked.failures, collection.images, collection, nearest)


def _search(asked: InMemory, collection: InMemory, settings: NeighboursSettings) -> Search:
    largest = max(asked.largest, collection.largest)
    return Search(
        settings.metric,
        FLOAT32.name,
        collection.dimensions,
        scoring.scale_of(largest, collection.dimensions, METRICS[settings.metric]),
        settings.similar,
        settings.dissimilar,
        len(collection.vectors),
    )


def _compared(spark: Any, answering: Answering) -> int:
    """Compares by scores. Returns the number of queries whose answers this does not prove."""
    pairs, screen = answering.pairs, answering.search.screen
    with progress(spark, f"compare in {screen}", pairs, "pairs", 1, lambda: answering.pairs_done / max(1, pairs)):
        answering.compare()
    with step(spark, "exact distances"):
        return answering.rerank()


def _choice(spark: Any, answering: Answering, settings: NeighboursSettings, threads: int) -> Choice:
    """The precision that is taken first."""
    if settings.screen != AUTO:
        return Choice(settings.screen, "neighbours.screen asks for it")
    if seconds_of(answering.pairs, answering.search.dimensions, threads) < _WORTH_TRYING:
        return Choice(FLOAT32.name, "the work is too short for another one")
    if not calibration.multiplies_bfloat16():
        return Choice(FLOAT32.name, "this processor multiplies nothing faster")
    with step(spark, "try precisions"):
        return _tried(answering, threads)


def seconds_of(pairs: int, dimensions: int, cores: int) -> float:
    """A guess at the time that comparing takes, before anything is measured."""
    return pairs * (2 * dimensions / _ASSUMED_PRODUCT + 1 / _ASSUMED_PAIRS) / cores


def _tried(answering: Answering, threads: int) -> Choice:
    """The precision in which all takes least time, by a sample of the queries and of the collection."""
    search, vectors = answering.search, answering.vectors
    with all_pairs.one_core(FLOAT32):
        rate = calibration.rate(
            len(vectors), search.dimensions, search.metric, search.similar, search.dissimilar, FLOAT32.name
        )
    rows = np.unique(np.linspace(0, len(answering.queries) - 1, screening.QUERIES).astype(np.int64))
    starts = range(0, len(vectors), STRIP_ROWS)
    tried = np.unique(np.linspace(0, len(starts) - 1, _STRIPS_TRIED).astype(np.int64)).tolist()
    parts = [vectors[starts[strip] : starts[strip] + STRIP_ROWS] for strip in tried]
    backend = Cpu()
    shares = screening.unproven(
        search,
        answering.queries[rows],
        (search.strip(backend, part, (0, 0)) for part in parts),
        lambda reranker: reranker.add(vectors),
        len(vectors),
        sum(map(len, parts)),
    )
    seconds = answering.pairs / rate.pairs / threads
    by_screen = {FLOAT32.name: seconds}
    if shares[BFLOAT16.name] <= MAX_UNCERTAIN_SHARE:
        speedup = calibration.speedup(vectors.vectors.values, search.metric, BFLOAT16)
        by_screen[BFLOAT16.name] = seconds / speedup + _IMPORT_SECONDS
    return screening.chosen(shares, by_screen, 2 * seconds)
