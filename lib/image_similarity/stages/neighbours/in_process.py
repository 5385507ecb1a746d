"""Exact neighbours by this process, without Spark: of a collection on this machine that fits into its memory.

Checks, numbers, lists and rows are those of the Spark stage, bit for bit, and so is the state that is left to the next
run: either runner continues what the other left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.errors import DeviceFailed, JobFailed
from image_similarity.knn import backends, calibration, scoring, screening
from image_similarity.knn.all_pairs import AllPairs
from image_similarity.knn.backends import Backend
from image_similarity.knn.candidates import Lists
from image_similarity.knn.distances import METRICS, Indices
from image_similarity.knn.engine import MAX_UNCERTAIN_SHARE, Pair, Search
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import BFLOAT16, FLOAT32
from image_similarity.knn.screening import Choice
from image_similarity.reporting import current
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.in_memory import Loaded, load
from image_similarity.stages.neighbours.local_source import LocalSource
from image_similarity.stages.neighbours.plan import CPU, Plan
from image_similarity.stages.neighbours.previous import (
    SETTLED,
    SETTLED_LISTS,
    PreviousRun,
    save_known,
    settled_rows,
)
from image_similarity.warehouse.workspace import Workspace

_STATE_BYTES = 2**26
AUTO = "auto"


@dataclass(frozen=True)
class Outputs:
    """Tables, in their schemas, and counts."""

    loaded: Loaded
    lists: Pair
    """Exact lists of the distinct vectors."""
    kept: int
    """The number of vectors whose lists the run before left."""
    brute_force: int
    """The number of vectors whose scores did not prove their neighbours, and which were compared by brute force."""
    screen: Choice
    """The precision of scores."""
    rows: int
    """The number of rows that ``neighbours`` has."""
    _settings: NeighboursSettings

    def neighbours(self) -> Iterator[pa.RecordBatch]:
        """The rows of the table, in the order of image_id for each relation."""
        similar, dissimilar = self.lists
        return self.loaded.rows(similar.keys, dissimilar.keys, self._settings)

    def failures(self) -> Iterator[pa.RecordBatch]:
        return self.loaded.failures_in(self._settings)


def run(
    spark: Any,
    source: LocalSource,
    settings: NeighboursSettings,
    plan: Plan,
    state: Workspace,
    previous_run: PreviousRun | None,
    loaded: Loaded | None = None,
) -> Outputs:
    """Neighbours among the images of ``source``. ``state`` receives what the next run may need.

    ``spark``: a session, for the names of steps; it is not started. ``previous_run``: see `stage.run`. ``loaded``: what
    ``source`` holds, if it is in memory. Raises ``JobFailed`` for a GPU that fails.
    """
    with step(spark, "pack vectors"):
        loaded = load(source, settings, plan.cores) if loaded is None else loaded
        vectors, numbers = loaded.vectors, loaded.numbers
        is_new, known = _known(previous_run, loaded) if previous_run else (np.ones(len(vectors), np.bool_), None)
    with _named_device():
        backend = backends.on(plan.device)
        search = _search(loaded, settings, backend)
        comparison, choice = _compared(spark, search, vectors, is_new, known, settings, plan, backend)
        uncertain = int(comparison.uncertain.sum())
        if uncertain:
            pairs = uncertain * search.others
            with progress(spark, "compare at full precision", pairs, "pairs", 1, lambda: comparison.completed_share):
                comparison.complete()
    with step(spark, "keep the lists for the next run"):
        _save(comparison.search, vectors, comparison.lists, state)
        save_known(numbers, state)
    others = max(numbers.entries(settings.drop_duplicates) - 1, 0)
    rows = len(numbers) * (min(settings.similar, others) + min(settings.dissimilar, others))
    return Outputs(loaded, comparison.lists, int((~is_new).sum()), uncertain, choice, rows, settings)


def _search(loaded: Loaded, settings: NeighboursSettings, backend: Backend) -> Search:
    """What is looked for, in the most precise of the precisions of ``backend``."""
    return Search(
        settings.metric,
        backend.screens[-1].name,
        loaded.dimensions,
        scoring.scale_of(loaded.largest, loaded.dimensions, METRICS[settings.metric]),
        settings.similar,
        settings.dissimilar,
        max(0, len(loaded.vectors) - 1),
        backend.kind,
    )


def _compared(
    spark: Any,
    search: Search,
    vectors: Part,
    is_new: NDArray[np.bool_],
    known: Pair | None,
    settings: NeighboursSettings,
    plan: Plan,
    backend: Backend,
) -> tuple[AllPairs, Choice]:
    """All pairs with their exact distances, and the precision by which candidates were found.

    Another precision follows where one leaves too many vectors unproven.
    """
    threads, block_rows = (plan.cores, plan.block_rows) if backend.kind == CPU else (1, None)

    def in_precision(screen: str) -> AllPairs:
        return AllPairs(replace(search, screen=screen), vectors, threads, block_rows, is_new, known, backend)

    comparison = in_precision(search.screen)
    choice = _choice(spark, comparison, settings, plan, backend)
    screens = list(dict.fromkeys([choice.screen, search.screen])) if settings.screen == AUTO else [choice.screen]
    for screen in screens:
        if screen != comparison.search.screen:
            comparison = in_precision(screen)
        uncertain = _compared_by(spark, comparison)
        if uncertain <= MAX_UNCERTAIN_SHARE * is_new.sum() or screen == screens[-1]:
            break
        plain, detail = screening.once_more(screen, uncertain, len(vectors), search.screen)
        current().tell("note", plain)
        current().tell("note", detail, detail=True)
    return comparison, replace(choice, screen=screen)


def _choice(spark: Any, comparison: AllPairs, settings: NeighboursSettings, plan: Plan, backend: Backend) -> Choice:
    """The precision that is taken first. ``comparison``: in the most precise one."""
    if backend.kind == CPU:
        return _tried(spark, comparison, plan) if settings.screen == AUTO else Choice(settings.screen, _ASKED_FOR)
    if settings.screen == AUTO:
        return Choice(backend.screens[0].name, _FASTEST)
    return Choice(_OF_A_GPU.get(settings.screen, settings.screen), _ASKED_FOR)


@contextmanager
def _named_device() -> Iterator[None]:
    """Turns what a GPU fails with, which names it, into a line that also says what to do."""
    try:
        yield
    except DeviceFailed as error:
        raise JobFailed(f"{error}; --set neighbours.device=cpu compares on the processor") from None


_ASKED_FOR = "neighbours.screen asks for it"
_FASTEST = "it is the fastest one of a GPU"
_OF_A_GPU = {"float32": "tf32"}
"""What tensor cores multiply in place of a precision that they lack."""
_SHORT = "the work is too short for another one"
_WORTH_TRYING = 10.0
"""Seconds of comparing. torch, which multiplies bfloat16, takes some seconds to import."""
_IMPORT_SECONDS = 3.0


def _tried(spark: Any, comparison: AllPairs, plan: Plan) -> Choice:
    """The precision in which all takes least time. ``comparison``: in float32."""
    pairs, vectors = comparison.pairs, comparison.vectors
    seconds = pairs / max(plan.rate.pairs, 1) / plan.cores
    if seconds < _WORTH_TRYING:
        return Choice(FLOAT32.name, _SHORT)
    if not calibration.multiplies_bfloat16():
        return Choice(FLOAT32.name, "this processor multiplies nothing faster")
    with step(spark, "try precisions"):
        rows = np.linspace(0, len(vectors) - 1, min(screening.QUERIES, len(vectors))).astype(np.int64)
        shares = screening.unproven(
            comparison.search,
            vectors[rows],
            comparison.strips(),
            lambda reranker: reranker.add(vectors),
            len(vectors),
            len(vectors),
        )
        by_screen = {FLOAT32.name: seconds}
        if shares[BFLOAT16.name] <= MAX_UNCERTAIN_SHARE:
            speedup = calibration.speedup(vectors.vectors.values, comparison.search.metric, BFLOAT16)
            by_screen[BFLOAT16.name] = seconds / speedup + _IMPORT_SECONDS
        brute_force_seconds = 2 * seconds * len(vectors) ** 2 / max(1, pairs)
        return screening.chosen(shares, by_screen, brute_force_seconds)


def _compared_by(spark: Any, comparison: AllPairs) -> int:
    pairs = comparison.pairs
    with progress(
        spark,
        f"compare in {comparison.search.screen}",
        pairs,
        "pairs",
        1,
        lambda: comparison.pairs_done / max(1, pairs),
    ):
        comparison.compare()
    with step(spark, "exact distances"):
        return comparison.rerank()


def _known(previous_run: PreviousRun, loaded: Loaded) -> tuple[NDArray[np.bool_], Pair | None]:
    """For each vector whether it is new since ``previous_run``, and the lists of those that are not."""
    vectors = loaded.vectors
    is_new = np.ones(len(vectors), dtype=np.bool_)
    now, then = loaded.numbers.kept(previous_run.known)
    if not len(now):
        return is_new, None
    numbers = np.full(int(then.max()) + 1, -1, dtype=np.int64)
    numbers[then] = now
    vector, lists = previous_run.lists(numbers, len(now))
    position = np.full(len(loaded.numbers), -1, dtype=np.int64)
    position[vectors.index] = np.arange(len(vectors))
    places = position[vector]
    is_new[places] = False
    similar, dissimilar = (_placed(of_relation, places, len(vectors)) for of_relation in lists)
    return is_new, (similar, dissimilar)


def _placed(lists: Lists, places: Indices, rows: int) -> Lists:
    placed = Lists.empty(rows, lists.keys.shape[1])
    placed.keys[places], placed.lower_bound[places] = lists.keys, lists.lower_bound
    return placed


def _save(search: Search, vectors: Part, lists: Pair, state: Workspace) -> None:
    bytes_each = 8 * max(1, sum(of_relation.keys.shape[1] for of_relation in lists))
    step_rows = max(1, _STATE_BYTES // bytes_each)

    def rows() -> Iterator[pa.Table]:
        for start in range(0, len(vectors), step_rows):
            chunk = slice(start, start + step_rows)
            near, far = (Lists(of_relation.keys[chunk], of_relation.lower_bound[chunk]) for of_relation in lists)
            yield settled_rows(search, -1, vectors[chunk], (near, far))

    state.store_file(SETTLED, SETTLED_LISTS, rows())
