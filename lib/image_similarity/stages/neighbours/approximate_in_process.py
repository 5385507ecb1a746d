"""Approximate neighbours by this process, without Spark: of a collection on this machine that fits into its memory.

1. A sample of vectors is compared with all. Its true neighbours tell how many partitions must be probed to reach the
   recall that is asked for (`probing`), before anything else is compared. They also tell where all pairs would take
   less time.
2. Every vector is compared with so many partitions. Candidates get exact distances.
3. Another sample, of images, is compared with all. What it says is the recall of the run. While it is too low, more
   partitions are probed, and a new sample is taken.

Rows and counts are those of the Spark stage. The lists may differ from its: both depend on which pairs are compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from image_similarity.errors import JobFailed, counted
from image_similarity.knn import all_pairs, engine, partitioning, queries, recall, scoring
from image_similarity.knn.candidates import NONE, Keys
from image_similarity.knn.distances import METRICS, Indices, Reals
from image_similarity.knn.engine import Search
from image_similarity.knn.probing import Probing
from image_similarity.knn.rerank import Scored
from image_similarity.knn.scoring import FLOAT32, Copies
from image_similarity.knn.screening import Choice
from image_similarity.knn.threads import in_threads
from image_similarity.reporting import current
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours import in_process, partitions
from image_similarity.stages.neighbours import plan as planning
from image_similarity.stages.neighbours.in_memory import Loaded, load
from image_similarity.stages.neighbours.local_source import LocalSource
from image_similarity.stages.neighbours.numbers import sampled
from image_similarity.stages.neighbours.plan import APPROXIMATE, AUTO, Plan, clock
from image_similarity.stages.neighbours.previous import PreviousRun
from image_similarity.stages.neighbours.quality import Approximation, Audit, too_low
from image_similarity.warehouse.workspace import Workspace

_ROWS_AT_ONCE = 4096
_STANDARD_ERRORS = 2.0
"""The sample must reach the recall target by so many standard errors. The audit, another sample, then seldom fails."""


@dataclass(frozen=True)
class Outputs:
    """Tables, in their schemas, and counts."""

    loaded: Loaded
    similar: Keys | None
    """(n, k): approximate lists of the distinct vectors; None where exact ones took their place."""
    exact: in_process.Outputs | None
    """What was compared exactly; None if nothing was."""
    approximate: Approximation | None
    changed_mind: str | None
    """Why all pairs were compared although the plan was approximate; None if it was carried out."""
    rows: int
    """The number of rows that ``neighbours`` has."""
    _settings: NeighboursSettings

    @property
    def kept(self) -> int:
        return self.exact.kept if self.exact else 0

    @property
    def brute_force(self) -> int:
        return self.exact.brute_force if self.exact else 0

    @property
    def screen(self) -> Choice | None:
        return self.exact.screen if self.exact else None

    def neighbours(self) -> Iterator[pa.RecordBatch]:
        """The rows of the table, in the order of image_id for each relation."""
        if self.similar is not None:
            nothing = np.empty((len(self.similar), 0), np.int64)
            yield from self.loaded.rows(self.similar, nothing, self._settings, APPROXIMATE)
        if self.exact is not None:
            yield from self.exact.neighbours()

    def failures(self) -> Iterator[pa.RecordBatch]:
        return self.loaded.failures_in(self._settings)


def run(
    spark: Any,
    source: LocalSource,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
    plan: Plan,
    state: Workspace,
    previous_run: PreviousRun | None,
) -> Outputs:
    """Neighbours among the images of ``source``, the similar ones approximately.

    Arguments as `in_process.run` has them. Raises ``JobFailed`` where recall is too low and ``approximate.fallback`` is
    fail.
    """
    with step(spark, "pack vectors"):
        loaded = load(source, settings, plan.cores)
    similar, approximation, changed_mind = None, None, None
    if len(loaded.vectors) > 1:
        with all_pairs.one_core(FLOAT32):
            similar, approximation, changed_mind = _similar(spark, loaded, settings, approximate, plan)
    if approximation is not None and not approximation.good_enough and approximate.fallback == "fail":
        raise JobFailed(too_low(approximation, approximate))
    exact_settings = settings if similar is None else settings.model_copy(update={"similar": 0})
    if previous_run is not None and previous_run.similar < exact_settings.similar:
        previous_run = None  # exact lists take the place of approximate ones, of which the previous run left none
    exact = None
    if exact_settings.similar or exact_settings.dissimilar:
        exact = in_process.run(spark, source, exact_settings, plan, state, previous_run, loaded)
    others = max(loaded.numbers.entries(settings.drop_duplicates) - 1, 0)
    rows = len(loaded.numbers) * (min(settings.similar, others) + min(settings.dissimilar, others))
    return Outputs(loaded, similar, exact, approximation, changed_mind, rows, settings)


def _similar(
    spark: Any, loaded: Loaded, settings: NeighboursSettings, approximate: ApproximateSettings, plan: Plan
) -> tuple[Keys | None, Approximation | None, str | None]:
    """Lists of similar neighbours if they are good enough, how they were found, and why they were not looked for."""
    with step(spark, "cut into partitions"):
        lists = _Lists.cut(loaded, settings, approximate, plan)
    most = min(partitions.max_nprobe(len(loaded.vectors), lists.probing.nlist, approximate), lists.probing.nlist)
    with step(spark, "try a sample"):
        ranks = lists.ranks_of_sample(approximate)
    is_everyone = len(ranks) == len(loaded.vectors)
    nprobe = needed_nprobe(ranks, approximate.recall_target, most, 0.0 if is_everyone else _STANDARD_ERRORS)
    if settings.method == AUTO and (because := _exact_is_faster(lists.probing, nprobe, most, plan)):
        current().tell("note", because)
        return None, None, because
    if nprobe is None:
        reached = recall.estimated((ranks < most).mean(axis=1), approximate.seed, len(loaded.vectors))
        if approximate.fallback != "fail":
            current().tell(
                "note", f"{counted(most, 'partition')} each would give a recall of {reached}: all pairs are compared"
            )
        return None, Approximation(reached, lists.probing.nlist, most, 0, False, None), None
    again = 0
    while True:
        _probe(spark, lists.probing, nprobe)
        with step(spark, "audit"):
            approximation = lists.audited(approximate, again)
        if approximation.good_enough or nprobe >= most:
            break
        nprobe, again = min(most, nprobe + max(1, nprobe // 2)), again + 1
    if not approximation.good_enough:
        return None, approximation, None
    with step(spark, "exact distances"):
        return lists.all(), approximation, None


def _probe(spark: Any, probing: Probing, nprobe: int) -> None:
    pairs = max(1, probing.pairs(nprobe))
    with progress(
        spark, f"probe {counted(nprobe, 'partition')}", pairs, "pairs", 1, lambda: probing.pairs_done / pairs
    ):
        probing.compare(nprobe)


def needed_nprobe(ranks: Any, target: float, most: int, standard_errors: float) -> int | None:
    """The least nprobe with which a sample has ``target`` of its true neighbours and ``standard_errors`` beyond; at
    most ``most``. None if ``most`` does not reach the target.

    ``ranks``: (s, k), see `Probing.ranks`.
    """
    for nprobe in range(1, most + 1):
        shares: Reals = (ranks < nprobe).mean(axis=1) if ranks.size else np.ones(1)
        if shares.mean() - standard_errors * shares.std() / len(shares) ** 0.5 >= target:
            return nprobe
    return most if shares.mean() >= target else None


def _exact_is_faster(probing: Probing, nprobe: int | None, most: int, plan: Plan) -> str | None:
    """A line that says so, if it is expected. ``nprobe``: as many as are needed; None if ``most`` are too few."""
    needed, seconds = nprobe or most, planning.probing_seconds(len(probing), probing.pairs(nprobe or most), plan)
    if nprobe is not None and seconds <= plan.exact_seconds:
        return None
    return (
        f"method auto: these vectors need {'' if nprobe else 'more than '}{needed:,} of "
        f"{counted(probing.nlist, 'partition')} each, which take about {clock(seconds)}, and exact "
        f"search about {clock(plan.exact_seconds)}: exact"
    )


@dataclass(frozen=True)
class _Lists:
    """The lists of similar neighbours while they are made."""

    loaded: Loaded
    search: Search
    probing: Probing
    place: Indices
    """The place in ``probing`` of each vector."""
    settings: NeighboursSettings
    threads: int

    @classmethod
    def cut(
        cls, loaded: Loaded, settings: NeighboursSettings, approximate: ApproximateSettings, plan: Plan
    ) -> "_Lists":
        vectors, metric = loaded.vectors, METRICS[settings.metric]
        common_scale = scoring.scale_of(loaded.largest, loaded.dimensions, metric)
        k = min(settings.similar, len(vectors) - 1)
        search = Search(settings.metric, FLOAT32.name, loaded.dimensions, common_scale, k, 0, len(vectors) - 1)
        nlist = partitions.nlist_for(len(vectors), loaded.dimensions, settings, approximate)

        def copied(rows: Indices) -> Copies:
            return scoring.copies(vectors.vectors[rows], metric, FLOAT32, common_scale)

        chosen = cls._sampled(loaded, partitions.sample_for(loaded.dimensions, nlist, settings), approximate.seed)
        centres = partitioning.centres(copied(chosen).low, nlist, metric.angular, approximate.seed)
        probing = Probing(copied, vectors.index, centres, search.list_lengths[0], plan.cores)
        place = np.empty(len(vectors), dtype=np.int64)
        place[probing.order] = np.arange(len(vectors))
        return cls(loaded, search, probing, place, settings, plan.cores)

    @staticmethod
    def _sampled(loaded: Loaded, size: int, seed: int) -> Indices:
        """Rows of ``size`` vectors, or of all, in the order of a hash of their values."""
        compared = loaded.numbers.compared
        numbers = compared[sampled(loaded.numbers.digest[compared], size, seed)]
        return _rows_of(loaded, numbers)

    def ranks_of_sample(self, approximate: ApproximateSettings) -> Any:
        """`Probing.ranks` of a sample and its true neighbours."""
        places = np.sort(self.place[self._sampled(self.loaded, approximate.audit_queries, approximate.seed + 1)])
        return self.probing.ranks(places, self.probing.nearest(places, self.search.similar))

    def audited(self, approximate: ApproximateSettings, again: int) -> Approximation:
        """How good the lists are, by a sample of images. ``again``: how many samples were taken before."""
        loaded = self.loaded
        audit = Audit.of(loaded.numbers, loaded.images, self.settings, approximate, again)
        rows = _rows_of(loaded, audit.vectors)
        search = replace(self.search, dissimilar=0)
        audit = audit.with_truth(queries.searched(search, loaded.vectors[rows], loaded.vectors, self.threads)[0])
        keys = self._exact(self.place[rows])
        estimate = audit.recall_of_lists(keys)
        home = np.full(len(loaded.numbers), -1, dtype=np.int32)
        home[loaded.vectors.index] = self.probing.homes()
        return Approximation(
            estimate,
            self.probing.nlist,
            self.probing.nprobe,
            0,
            estimate.reaches(approximate.recall_target, approximate.recall_slack),
            audit.across_borders(keys, home),
        )

    def all(self) -> Keys:
        """(n, k): the exact keys of the lists of all vectors."""
        keys = np.empty((len(self.place), self.search.similar), dtype=np.int64)

        def fill(start: int) -> None:
            places = np.arange(start, min(start + _ROWS_AT_ONCE, len(keys)))
            keys[self.probing.order[places]] = self._exact(places)

        in_threads(self.threads, fill, range(0, len(keys), _ROWS_AT_ONCE))
        return keys

    def _exact(self, places: Indices) -> Keys:
        """(m, k): the exact keys of the lists of the vectors at ``places``."""
        vectors, k = self.loaded.vectors, self.search.similar
        part = vectors[self.probing.order[places]]
        nothing, no_error = np.empty((len(part), 0), np.int64), np.zeros((len(part), 2), np.float32)
        scored = Scored(self.probing.keys(places), nothing, no_error, self.search.comparison)
        keys = engine.rerank_candidates(part, scored, lambda reranker: reranker.add(vectors))[0].keys[:, :k].copy()
        # Where the probed partitions are very small, a list may lack some.
        (short,) = np.nonzero(keys[:, -1] == NONE)
        for start in range(0, len(short), _SHORT_AT_ONCE):
            rows = short[start : start + _SHORT_AT_ONCE]
            everyone = (vectors[begin : begin + _ROWS_AT_ONCE] for begin in range(0, len(vectors), _ROWS_AT_ONCE))
            keys[rows] = engine.brute_force(self.search.measure, part[rows], everyone, k, 0)[0].keys
        return keys


_SHORT_AT_ONCE = 512


def _rows_of(loaded: Loaded, numbers: Indices) -> Indices:
    """The rows of the distinct vectors ``numbers`` in ``loaded.vectors``."""
    order = np.argsort(loaded.vectors.index)
    return order[np.searchsorted(loaded.vectors.index, numbers, sorter=order)]
