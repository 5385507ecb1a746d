"""The report of search_images: the published answers as pages."""

# What computes is imported where it is used: help, and what is wrong in the arguments, should not wait for it.

import argparse
from typing import TYPE_CHECKING

from image_similarity.errors import WrongInput, counted
from image_similarity.jobs import early
from image_similarity.jobs.job import Job
from image_similarity.jobs.search_request import Request
from image_similarity.pages.site import Site, kind_at, open_site
from image_similarity.reporting import note
from image_similarity.runtime.session import local_cores
from image_similarity.stages.search import queries
from image_similarity.storage import uris
from image_similarity.storage.filesystems import files_of
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from image_similarity.stages.search.report import About


def check(arguments: argparse.Namespace, request: Request) -> None:
    """Raises ``WrongInput`` for a folder that cannot be a report's, for a place that is no gallery, and for a gallery
    without a report.
    """
    if arguments.report is None:
        if arguments.gallery is not None:
            raise WrongInput("--gallery without --report: it is the report that links to a gallery")
        return
    early.check_site("report", arguments.report, arguments, request.images or "")
    if arguments.gallery is not None:
        _check_gallery(arguments.gallery)


def _check_gallery(gallery: str) -> None:
    """Raises ``WrongInput`` where no gallery is, on this machine."""
    if not uris.is_local(gallery):
        return
    early.check_folder("--gallery", gallery, dry_run=True)
    path = uris.absolute(gallery)
    if kind_at(files_of(path), path) != "gallery":
        raise WrongInput(f"--gallery {gallery}: no gallery is there: run render_gallery first")


def render(job: Job, request: Request, run: str) -> None:
    """Renders the answers of ``run``, where a report is asked for. Raises ``WrongInput`` if they are not published any
    more.
    """
    if job.arguments.report is None:
        return
    published = job.warehouse.snapshot()
    if (current := published.run_ids("matches", request.slot)) != [run]:
        raise WrongInput(
            f"no report of run {run}: the answers that are published as {request.slot} are those of "
            f"{', '.join(current) or 'no run'}. restore_runs --to {run} makes it current again; without its --run-id "
            "the search is made anew"
        )
    if job.arguments.dry_run:
        return
    from image_similarity.stages.search import report

    site = open_site(job.session, "report", job.arguments.report)
    site.check_place(uris.absolute(request.images) if request.images is not None else "", job.warehouse.uri)
    place = report.Place(site.uri, job.run_id, job.arguments.gallery)
    site.begin()
    try:
        with job.step("render the report"):
            tables = report.read(published, request.slot, queries.failures_slot(request.slot), request.fingerprint)
            about = _about(published, request)
            written = report.write(job.session, tables, about, place, job.settings, local_cores(job.session))
        with site.locked():
            site.claim(job.run_id)
            site.write_index(written.index)
            _remove_others(site, job.run_id)
    except BaseException:
        if job.run_id not in open_site(job.session, "report", job.arguments.report).renderings:
            site.files.delete(site.folder(job.run_id))  # nobody reads it
        raise
    job.say(
        f"report: {site.index} ({counted(written.pages, 'page')}, {counted(written.pictures, 'picture')})",
        event="report",
    )
    if written.absent:
        note(f"{counted(written.absent, 'picture')} of the report could not be read; its pages say so")
    if job.arguments.gallery is not None and place.link("any") is None:
        note(f"no link leads from {site.uri} to {job.arguments.gallery}: give the gallery by its web address")


def _remove_others(site: Site, rendering: str) -> None:
    try:
        site.remove_others(rendering)
    except OSError as error:  # not a failure: the next run tries again
        note(f"what is not used any more could not be removed from {site.uri}: {error}")


def _about(published: Snapshot, request: Request) -> "About":
    """What the pages say of the published search."""
    from image_similarity.stages.search.report import About

    record = published.runs[published.run_ids("matches", request.slot)[0]]
    embedded = [published.runs[run] for run in record.inputs.get("embeddings", []) if run in published.runs]
    return About(
        request.queries,
        request.fingerprint,
        request.metric,
        int(record.counts.get("images", 0)),
        "limit" in record.settings,
        any(run.settings.get("trained") is False for run in embedded),
        record.run_id,
    )
