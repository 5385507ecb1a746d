"""Searches that are published already: whether one is the same search, which are replaced, and which are withdrawn."""

from collections.abc import Mapping

from image_similarity.errors import WrongInput, counted, did_you_mean, listed
from image_similarity.jobs.job import Job
from image_similarity.jobs.search_request import Request
from image_similarity.reporting import note
from image_similarity.stages.search import queries
from image_similarity.warehouse.records import Record


def check_same(earlier: Record, request: Request) -> None:
    """Raises ``WrongInput`` where the label is that of a search for something else, which would be left undone."""
    before, now = _place(earlier), request.place
    if before not in (None, now):
        raise WrongInput(
            f"--run-id {earlier.label}: that search of {request.queries} was for {before}, not for {now}: give another "
            "--run-id, or another name by --queries"
        )


def note_replaced(job: Job, request: Request) -> None:
    """Says so where the name is that of queries from another place, whose answers these replace."""
    runs = [job.base_snapshot.runs.get(run) for run in job.base_snapshot.run_ids("matches", job.slot)]
    before, now = {_place(run) for run in runs if run is not None} - {None}, request.place
    if before and before != {now}:
        note(
            f"{request.queries} are the queries from {listed(sorted(map(str, before)))}, too: the answers to {now} "
            "take their place; --queries gives these another name"
        )


def _place(run: Record) -> str | None:
    searched: Mapping[str, str | None] = run.settings.get("search", {})
    return searched.get("images") or searched.get("embeddings")


def withdraw(job: Job, name: str) -> None:
    """Unpublishes the searches of the queries ``name``, by whatever fingerprint and metric."""
    if job.already_published() is not None:
        return
    published = job.base_snapshot
    slots = [slot for slot in published.slots("matches") if queries.queries_of(slot) == name]
    if not slots:
        names = sorted({queries.queries_of(slot) for slot in published.slots("matches")})
        raise WrongInput(
            f"--forget {name}: no search of that name is published in {published.uri}"
            + (f" (published: {listed(names)})" if names else "")
            + did_you_mean(name, names)
        )
    job.plan(
        *(f"unpublish the search {slot} of run {', '.join(published.run_ids('matches', slot))}" for slot in slots),
        "remove the vectors of these queries, which are in no table",
    )
    beside = {queries.failures_slot(slot) for slot in slots} & published.slots("failures").keys()
    job.publish(
        replace={},
        inputs={},
        counts={"forgotten": len(slots)},
        used={"forget": name},
        remove={"matches": slots, "failures": sorted(beside)},
    )
    keys = {run.settings.get("fingerprint_key") for run in published.runs.values() if run.slot in slots}
    for key in sorted(str(key) for key in keys if key is not None):
        job.forget_state(queries.state_slot(name, key))
    job.say(
        f"search_images: {counted(len(slots), 'search')} of {name} {'is' if len(slots) == 1 else 'are'}"
        " not published any more; clean_warehouse --keep-runs "
        "removes their tables, and restore_runs makes one current again until then"
    )
