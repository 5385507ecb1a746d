"""The collection that search_images searches: whether a search fits what is published, and the vectors of a run."""

# What reads vectors is imported where it is used: what is wrong in the arguments should not wait for it.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from image_similarity.errors import WrongInput, counted, did_you_mean, listed
from image_similarity.jobs import early, search_runners
from image_similarity.jobs.job import Job
from image_similarity.jobs.search_request import Request
from image_similarity.jobs.search_runners import Side
from image_similarity.settings import Settings
from image_similarity.storage import uris
from image_similarity.warehouse.snapshot import Snapshot

# -- checks ------------------------------------------------------------------------------------------------------------


def check(published: Snapshot, request: Request) -> None:
    """Raises ``WrongInput``, with near names, where the collection has no such vectors."""
    if published.run_ids("embeddings", request.fingerprint):
        return
    own = sorted({slot.partition("/")[0] for slot in published.slots("neighbours")})
    if request.fingerprint in own:  # compared by find_neighbours --embeddings
        if request.images is not None:
            raise WrongInput(
                f"{request.fingerprint} are vectors of your own: nothing here turns a picture into such a vector; give "
                "--embeddings in place of --images"
            )
        return
    names = sorted({*published.slots("embeddings"), *own})
    if not names:
        raise WrongInput(f"nothing is published in {published.uri} to search in: run embed_images first")
    raise WrongInput(
        f"no fingerprint {request.fingerprint!r} is published in {published.uri} (published: {listed(names)})"
        + did_you_mean(request.fingerprint, names, "name one by --fingerprint, or run embed_images first")
    )


def check_vectors(published: Snapshot | None, own: str, fingerprint: str, settings: Settings) -> None:
    """Raises ``WrongInput`` for vectors ``own`` that cannot be read, or have another length than the collection's."""
    from image_similarity.stages.neighbours import local_source, own_vectors

    read_seconds = settings.embeddings.read_seconds
    own_vectors.check(own, read_seconds)
    if published and uris.is_local(own):
        _check_lengths(own, local_source.from_parquet(own, read_seconds).dimensions, fingerprint, published)


def _check_lengths(own: str, length: int, fingerprint: str, published: Snapshot) -> None:
    """Raises ``WrongInput`` where vectors of ``length`` values cannot be compared with those of ``fingerprint``."""
    dimensions = _dimensions(published, fingerprint)
    if length and dimensions and length != dimensions:
        raise WrongInput(
            f"--embeddings {own}: vectors of {counted(length, 'value')}, but those of {fingerprint} have {dimensions:,}"
        )


def _dimensions(published: Snapshot, fingerprint: str) -> int | None:
    """The length of the collection's vectors; None if it is not known."""
    if known := early.vectors_of(published, fingerprint):
        return known.dimensions
    return next((int(counts["dimensions"]) for counts in _compared(published, fingerprint)), None)


def images(published: Snapshot, fingerprint: str) -> dict[str, int]:
    """``images``: those of the collection that have a vector; empty if it is not known."""
    if known := early.vectors_of(published, fingerprint):
        return {"images": known.images}
    return next(({"images": int(counts["images"])} for counts in _compared(published, fingerprint)), {})


def _compared(published: Snapshot, fingerprint: str) -> Iterator[Mapping[str, Any]]:
    """The counts of the published neighbours by ``fingerprint``: of vectors of one's own nothing else is recorded."""
    for slot, runs in published.slots("neighbours").items():
        if slot.startswith(f"{fingerprint}/"):
            yield from (published.runs[run].counts for run in runs if run in published.runs)


# -- vectors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collection:
    """The vectors that are searched."""

    side: Side
    key: str | None
    """The ``fingerprint_key``; None for vectors of one's own."""


def of(job: Job, request: Request) -> Collection:
    """Raises ``WrongInput`` as `check` does, and where no image has a vector."""
    published, name = job.base_snapshot, request.fingerprint
    check(published, request)
    side = search_runners.published(job, name, request.metric)
    if "vectors" not in side.inputs:
        return Collection(side, None)
    rows = published.dataset("embeddings", name).head(1, columns=["fingerprint_key"]).to_pylist()
    if not rows:
        raise WrongInput(f"no image of the collection has a vector by {name}: there is nothing to search")
    return Collection(side, rows[0]["fingerprint_key"])
