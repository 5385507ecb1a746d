"""What compares queries with a collection: this process, or Spark's tasks. Both give the same answers."""

# What compares vectors is imported where it is used: what is wrong in the arguments should not wait for it.

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from image_similarity.errors import WrongInput, counted
from image_similarity.jobs import early, neighbour_runners
from image_similarity.jobs.find_neighbours import COMPARED
from image_similarity.jobs.job import Job
from image_similarity.runtime.session import is_local_mode, local_cores
from image_similarity.settings import NeighboursSettings, Settings
from image_similarity.storage import disk_space, uris
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from image_similarity.stages.neighbours.local_source import LocalFiles, LocalSource
    from image_similarity.stages.neighbours.sources import Source
    from image_similarity.stages.search.answers import Answers
    from image_similarity.stages.search.by_spark import Cut
    from image_similarity.warehouse.workspace import Workspace

PROCESS, SPARK = "process", "spark"

_BYTES_PER_IMAGE, _BYTES_PER_THREAD, _PROCESS_BYTES = 400, 2**28, 300 * 2**20
_WORTH_A_CLUSTER = 10.0
"""Seconds that one machine takes."""


@dataclass(frozen=True)
class Side:
    """The vectors of one side: of queries, or of a collection."""

    vectors: "LocalFiles | Source"
    """Files on this machine; or frames that Spark reads."""
    inputs: dict[str, list[str]]
    """What is read, for the record of the run: table -> runs, or ``embeddings`` -> an address."""
    elsewhere: str | None = None
    """The place of ``vectors``, if it is not on this machine."""
    compared_sha256: str | None = None
    """What the collection's vectors must still be, see `Numbers.sha256`; None if that is not known."""
    compared_by: str | None = None
    """The metric that they were compared by. Those that have a distance by it may be others than by another metric."""

    @property
    def count(self) -> int:
        """How many images."""
        return self.vectors.count

    def dimensions(self) -> int:
        """The length of most of the first vectors; 0 if there are none."""
        from image_similarity.stages.neighbours.local_source import LocalFiles

        return self.vectors.dimensions if isinstance(self.vectors, LocalFiles) else self.vectors.dimensions()

    def opened(self, cores: int) -> "LocalSource | Source":
        from image_similarity.stages.neighbours.local_source import LocalFiles

        return self.vectors.open(cores) if isinstance(self.vectors, LocalFiles) else self.vectors


def compared_as(settings: Settings, fingerprint: str, metric: str) -> NeighboursSettings:
    """How queries are compared: as ``[neighbours]`` and ``[search]`` say."""
    search = settings.search
    changed = {"fingerprint": fingerprint, "metric": metric, "method": "exact", "drop_duplicates": False}
    changed |= {"similar": search.similar, "dissimilar": search.dissimilar, "runner": search.runner}
    return settings.neighbours.model_copy(update=changed)


# -- both sides --------------------------------------------------------------------------------------------------------


def published(job: Job, fingerprint: str, metric: str) -> Side:
    """The collection: the published images of ``fingerprint`` and their vectors. Where neighbours of that name were
    found among vectors of one's own (find_neighbours --embeddings), these vectors.

    Raises ``WrongInput`` if nothing of that fingerprint is published, or if such vectors are gone.
    """
    snapshot = job.base_snapshot
    if not snapshot.run_ids("embeddings", fingerprint) and (run := _of_own_vectors(snapshot, fingerprint, metric)):
        record = snapshot.runs[run]
        (uri,) = record.inputs["embeddings"]
        side, inputs = own(job, uri), {"neighbours": [run]}
        compared_by = record.slot.rpartition("/")[2]
        return Side(side.vectors, {**inputs, **side.inputs}, side.elsewhere, record.settings.get(COMPARED), compared_by)
    early.runs_of(snapshot, "embeddings", fingerprint, "embed_images")
    if uris.is_local(job.warehouse.uri):
        files = neighbour_runners.published_files(job, fingerprint)
        return Side(files, files.inputs)
    source, inputs = neighbour_runners.from_published(job, fingerprint)
    return Side(source, inputs, job.warehouse.uri)


def _of_own_vectors(snapshot: Snapshot, fingerprint: str, metric: str) -> str | None:
    """The run of neighbours of ``fingerprint`` among vectors of one's own: that of ``metric``, or of another one."""
    slots = {slot: runs for slot, runs in snapshot.slots("neighbours").items() if slot.startswith(f"{fingerprint}/")}
    runs = [*slots.get(f"{fingerprint}/{metric}", []), *(run for of_slot in slots.values() for run in of_slot)]
    return next((run for run in runs if run in snapshot.runs and "vectors" not in snapshot.runs[run].inputs), None)


def own(job: Job, uri: str) -> Side:
    """Vectors of one's own: Parquet with image_id and embedding. Raises ``WrongInput`` as find_neighbours does."""
    if uris.is_local(uri):
        from image_similarity.stages.neighbours import local_source

        files = local_source.from_parquet(uri, job.settings.embeddings.read_seconds)
        return Side(files, files.inputs)
    source, inputs = neighbour_runners.from_parquet(job, uri)
    return Side(source, inputs, uri)


# -- the choice --------------------------------------------------------------------------------------------------------


class Runner(Protocol):
    """What compares, once it is chosen."""

    name: str
    """`PROCESS` or `SPARK`."""
    because: str
    """Why that."""
    lines: tuple[str, ...]
    """Lines for the plan of the job."""
    inputs: dict[str, list[str]]
    """What is read of the collection, see `Side`."""

    def run(self, job: Job) -> "Answers":
        """Compares the queries with the collection. By Spark, the scratch folder of the run is removed afterwards.

        Raises ``WrongInput`` where no vector of the collection can be compared, or where vectors of one's own are no
        longer those that find_neighbours compared; ``JobFailed`` where images and stored vectors do not match, or a
        disk is too full.
        """
        ...


def check(settings: NeighboursSettings, *places: str | None) -> None:
    """Raises ``WrongInput`` where this process is asked for what needs Spark: the warehouse or vectors elsewhere.

    ``places``: URIs of warehouse, queries and vectors; None for what is on this machine.
    """
    remote = _remote(*places)
    if settings.runner == PROCESS and remote:
        raise WrongInput(f"search.runner = process, but {remote} is not on this machine: choose spark")


def _remote(*places: str | None) -> str | None:
    return next((uri for uri in places if uri is not None and not uris.is_local(uri)), None)


def check_lengths(queries: int, collection: int) -> None:
    """Raises ``WrongInput`` if the vectors of queries have another length than those of the collection."""
    if queries and collection and queries != collection:
        raise WrongInput(
            f"vectors of {counted(queries, 'value')} cannot be compared with the collection's, which have "
            f"{collection:,}: they are of another fingerprint"
        )


def chosen(job: Job, settings: NeighboursSettings, queries: Side, collection: Side) -> Runner:
    """What compares ``queries`` with ``collection``, see `compared_as`: this process if it can, and Spark otherwise.

    Queries that are pictures: a `Side` of `local_source.from_files`, or of a `sources.Source`, whose images are the
    queries. Raises ``WrongInput`` as `check` and `check_lengths` do, and ``JobFailed`` where this process is asked for,
    and lacks the memory.
    """
    places = job.warehouse.uri, queries.elsewhere, collection.elsewhere
    check(settings, *places)
    dimensions = collection.dimensions()
    check_lengths(queries.dimensions(), dimensions)
    work = _Work(queries, collection, dimensions, settings)
    because = _why_spark(job, work, _remote(*places))
    if because is not None:
        return BySpark(because, work)
    asked_for = settings.runner == PROCESS
    return InProcess("search.runner asks for it" if asked_for else work.takes(local_cores(job.session)), work)


@dataclass(frozen=True)
class _Work:
    """What is compared, and how."""

    queries: Side
    collection: Side
    dimensions: int
    settings: NeighboursSettings

    @property
    def as_compared(self) -> NeighboursSettings | None:
        """By the metric that find_neighbours compared the collection by, where it is another one."""
        by = self.collection.compared_by
        if self.collection.compared_sha256 is None or by in (None, self.settings.metric):
            return None
        return self.settings.model_copy(update={"metric": by})

    def lines(self, where: str, because: str) -> tuple[str, ...]:
        vectors = f"{counted(self.collection.count, 'image')} of {counted(self.dimensions, 'value')}"
        return f"compare {counted(self.queries.count, 'query')} with {vectors}", f"{where}: {because}"

    def bytes_here(self, cores: int) -> int:
        """Memory of this process while it compares: the vectors, as they are read and joined, and lists."""
        settings = self.settings
        lists = 64 * (settings.similar + settings.dissimilar)
        images = (self.queries.count + self.collection.count) * (8 * self.dimensions + _BYTES_PER_IMAGE)
        return _PROCESS_BYTES + cores * _BYTES_PER_THREAD + images + self.queries.count * lists

    def takes(self, cores: int) -> str:
        return f"vectors and lists take {disk_space.shown(self.bytes_here(cores))} of memory"


def _why_spark(job: Job, work: _Work, remote: str | None) -> str | None:
    """Why Spark compares; None if this process does."""
    from image_similarity.stages.neighbours import plan as planning
    from image_similarity.stages.search import in_process

    settings, cores = work.settings, local_cores(job.session)
    if settings.runner == SPARK:
        return "search.runner asks for it"
    if remote:
        return f"{remote} is not on this machine"
    fault = planning.beyond_memory(work.bytes_here(cores), work.takes(cores), settings, "search.runner")
    if fault is not None or settings.runner == PROCESS:
        return fault
    seconds = in_process.seconds_of(work.queries.count * work.collection.count, work.dimensions, cores)
    if not is_local_mode(job.session) and seconds > _WORTH_A_CLUSTER:
        return f"a cluster is there, and one machine takes {planning.clock(seconds)}"
    return None


# -- the runners -------------------------------------------------------------------------------------------------------


class InProcess:
    """This process, see `stages.search.in_process`."""

    name = PROCESS

    def __init__(self, because: str, work: _Work):
        self.because, self._work, self.inputs = because, work, work.collection.inputs
        self.lines = work.lines("in this process, without Spark", because)

    def run(self, job: Job) -> "Answers":
        from image_similarity.stages.neighbours import in_memory
        from image_similarity.stages.search import in_process

        work, cores = self._work, local_cores(job.session)
        with job.step("read vectors"):
            if (as_compared := work.as_compared) is not None:
                _check_same(
                    work.collection,
                    in_memory.load(_local(work.collection, cores), as_compared, cores).numbers.sha256,
                    as_compared.metric,
                )
            collection = in_memory.load(_local(work.collection, cores), work.settings, cores)
            _check(work.collection, collection.numbers.sha256, len(collection.vectors), work.settings)
            queries = in_memory.load(_local(work.queries, cores), work.settings, cores, collection.dimensions)
        return in_process.run(job.session, queries, collection, work.settings, cores)


def _local(side: Side, cores: int) -> "LocalSource":
    from image_similarity.stages.neighbours.local_source import LocalSource

    opened = side.opened(cores)
    assert isinstance(opened, LocalSource), "this process is chosen only for files on this machine"
    return opened


class BySpark:
    """Spark's tasks, see `stages.search.by_spark`."""

    name = SPARK

    def __init__(self, because: str, work: _Work):
        self.because, self._work, self.inputs = because, work, work.collection.inputs
        self.lines = work.lines("by Spark", because)

    def run(self, job: Job) -> "Answers":
        from image_similarity.stages.neighbours import plan as planning
        from image_similarity.stages.neighbours.resources import Disk, check_disk
        from image_similarity.stages.search.by_spark import Cut

        work = self._work
        cores = planning.cores_of(job.session)
        cut = Cut.of(work.queries.count, work.collection.count, work.dimensions, cores, work.settings)
        if job.warehouse.local_root is not None:
            copies = 4 * work.dimensions * (work.queries.count + work.collection.count)
            check_disk(Disk(copies + cut.bytes_of_lists), job.warehouse.local_root, ())
        with job.warehouse.scratch(job.run_id) as scratch:
            return self._answers(job, cut, scratch)

    def _answers(self, job: Job, cut: "Cut", scratch: "Workspace") -> "Answers":
        from image_similarity.stages.neighbours import plan as planning
        from image_similarity.stages.neighbours.numbers import NOTHING_KNOWN, Images
        from image_similarity.stages.neighbours.vectors import pack
        from image_similarity.stages.search import by_spark

        work, settings, cores = self._work, self._work.settings, local_cores(job.session)
        with job.step("pack vectors"):
            rows = planning.block_rows(work.collection.count, work.dimensions, settings)
            source = work.collection.opened(cores)
            if (as_compared := work.as_compared) is not None:
                packed = pack(source, as_compared, rows, NOTHING_KNOWN, scratch, name="compared-")
                _check_same(work.collection, packed.numbers.sha256, as_compared.metric)
            collection = pack(source, settings, rows, NOTHING_KNOWN, scratch, name="collection-")
            _check(work.collection, collection.numbers.sha256, collection.vectors, settings)
            source, length = work.queries.opened(cores), collection.dimensions
            queries = pack(source, settings, cut.block_rows, NOTHING_KNOWN, scratch, length, "queries-")
        asked_images, images = (Images.load(packed.blocks.folder) for packed in (queries, collection))
        return by_spark.run(job.session, queries, asked_images, collection, images, cut, settings, scratch)


def _check(collection: Side, sha256: str, vectors: int, settings: NeighboursSettings) -> None:
    """Raises ``WrongInput`` where the collection has no ``vectors``, or others than were compared."""
    _check_same(collection, sha256, settings.metric)
    if not vectors:
        raise WrongInput(f"no vector of {settings.fingerprint} has a {settings.metric} distance")


def _check_same(collection: Side, sha256: str, metric: str) -> None:
    """Raises ``WrongInput`` if ``sha256``, of the vectors that have a distance by ``metric``, shows that others were
    compared.
    """
    if metric == collection.compared_by and collection.compared_sha256 not in (None, sha256):
        raise WrongInput(
            f"the vectors at {collection.inputs['embeddings'][0]} are no longer those that find_neighbours compared: "
            "they were changed or replaced since then; run find_neighbours again"
        )
