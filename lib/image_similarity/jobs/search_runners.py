"""What compares queries with a collection: this process, or Spark's tasks. Both give the same answers."""

# What compares vectors is imported where it is used: what is wrong in the arguments should not wait for it.

from dataclasses import dataclass
from typing import TYPE_CHECKING

from image_similarity.errors import WrongInput
from image_similarity.jobs.job import Job
from image_similarity.settings import NeighboursSettings, Settings
from image_similarity.storage import uris

if TYPE_CHECKING:
    from image_similarity.stages.neighbours.local_source import LocalFiles
    from image_similarity.stages.neighbours.sources import Source
    from image_similarity.stages.search.answers import Answers

PROCESS, SPARK = "process", "spark"


@dataclass(frozen=True)
class Side:
    """The vectors of one side: of queries, or of a collection."""

    vectors: "LocalFiles | Source"
    """On this machine; or what Spark reads."""
    inputs: dict[str, list[str]]
    """What is read, for the record of the run."""
    remote: str | None = None
    """The place that is not on this machine's disks; None if all is."""
    compared_sha256: str | None = None
    """What the collection's vectors must still be, see `Numbers.sha256`; None if that is not known."""


@dataclass(frozen=True)
class Runner:
    """What compares, once it is chosen. ``name``: `PROCESS` or `SPARK`; ``because``: why that."""

    name: str
    because: str
    lines: tuple[str, ...]
    """Lines for the plan of the job."""
    inputs: dict[str, list[str]]
    """What is read of the collection: table -> runs, or the address of vectors of one's own."""

    def run(self, job: Job) -> "Answers":
        """Compares the queries with the collection.

        Raises ``WrongInput`` where a collection of vectors of one's own is no longer what was compared, and
        ``JobFailed`` where images and stored vectors do not match.
        """
        raise NotImplementedError


def compared_as(settings: Settings, fingerprint: str, metric: str) -> NeighboursSettings:
    """How queries are compared: ``[neighbours]``, with what ``[search]`` says."""
    search = settings.search
    changed = {"fingerprint": fingerprint, "metric": metric, "method": "exact", "drop_duplicates": False}
    changed |= {"similar": search.similar, "dissimilar": search.dissimilar, "runner": search.runner}
    return settings.neighbours.model_copy(update=changed)


def published(job: Job, fingerprint: str, metric: str) -> Side:
    """The collection: the published images of ``fingerprint`` and their vectors. Where neighbours of that name were
    found among vectors of one's own (find_neighbours --embeddings), these vectors.

    Raises ``WrongInput`` if nothing of that fingerprint is published.
    """
    raise NotImplementedError


def own(job: Job, uri: str) -> Side:
    """Queries that are vectors of one's own: Parquet with image_id and embedding.

    Raises ``WrongInput`` as find_neighbours --embeddings does.
    """
    raise NotImplementedError


def check(settings: NeighboursSettings, *places: str | None) -> None:
    """Raises ``WrongInput`` where this process is asked for what needs Spark: a warehouse, or vectors, elsewhere."""
    remote = next((uri for uri in places if uri is not None and not uris.is_local(uri)), None)
    if settings.runner == PROCESS and remote:
        raise WrongInput(f"search.runner = process, but {remote} is not on this machine: choose spark")


def chosen(job: Job, settings: NeighboursSettings, queries: Side, collection: Side) -> Runner:
    """What compares ``queries`` with ``collection``, see `compared_as`: this process if it can, and Spark otherwise.

    Queries of pictures: a `Side` of `local_source.from_files` (on this machine) or of `sources.Source`, whose images
    are the queries. Raises ``WrongInput`` where the vectors of both have other lengths, and as `check` does.
    """
    raise NotImplementedError
