"""all tables -> gallery: render pages that show the results, readable from disk or from any static server."""

import argparse
from collections.abc import Sequence
from typing import Any

from image_similarity.errors import JobFailed, counted
from image_similarity.imaging.decoding import UNREADABLE_REASONS
from image_similarity.jobs import command_line, early
from image_similarity.jobs.job import Application, Job
from image_similarity.pages.site import Site, open_site
from image_similarity.reporting import note, say
from image_similarity.runtime.session import cause_of, spark_errors
from image_similarity.settings import Settings
from image_similarity.stages.gallery import addresses, by_spark, frames, in_process, maps, sources, tables
from image_similarity.stages.gallery import render as stage
from image_similarity.stages.gallery.about import About
from image_similarity.stages.gallery.layout import Layout
from image_similarity.stages.gallery.render import Outputs
from image_similarity.stages.gallery.sources import Sources
from image_similarity.stages.neighbours.usable import FAILURE_REASONS
from image_similarity.storage.fetch import FETCH_REASONS
from image_similarity.warehouse import provenance
from image_similarity.warehouse.workspace import Workspace

REASONS = {**FAILURE_REASONS, **FETCH_REASONS, **UNREADABLE_REASONS}
"""Reason of a failure -> its meaning."""


def add_gallery(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--gallery", required=required, metavar="URI", help="the folder of pages: new, empty, or an earlier gallery"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_gallery(parser, required=True)
    parser.add_argument(
        "--fingerprint",
        action="append",
        dest="fingerprints",
        metavar="NAME",
        help="repeatable (default: all that have neighbours)",
    )


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` for a folder that cannot be a gallery's, and where nothing is published to show."""
    check_place(arguments, "")
    if published := early.to_read(arguments.warehouse):
        sources.by_fingerprint(published, arguments.fingerprints or [])


def check_place(arguments: argparse.Namespace, images: str) -> None:
    """`check`, before Spark is started, where the gallery is on this machine. ``images``: empty if not known."""
    early.check_site("gallery", arguments.gallery, arguments, images)


def run(application: Application) -> None:
    render(application, application.arguments.fingerprints or [])
    note_on_map(application)
    say(f"gallery: {index_of(application)}")


def render(application: Application, fingerprints: Sequence[str] = ()) -> None:
    """Render the gallery of ``fingerprints`` (none: all that have neighbours)."""
    job = application.job("render_gallery", _site(application).uri)
    if job.already_published():
        return
    labels = sources.labelled_slots(job.base_snapshot, fingerprints, job.settings.neighbours)
    shown = Sources(job.warehouse, job.base_snapshot, labels)
    with job.step("plan"):
        runs, images = shown.runs(), provenance.images_folder(job.base_snapshot)
    site = check(application, images)
    job.plan(
        f"show the neighbours by {', '.join(labels.values())} of the images in {job.warehouse.uri}",
        f"write pictures and pages to {site.uri}, and replace its index.html last",
    )
    site.begin()
    with job.warehouse.scratch(job.run_id) as scratch:
        try:
            with job.step("lay out pages"):
                about = About.of(shown, job.settings, REASONS)
                layout = _lay_out(job, shown, about, site, scratch)
                outputs = stage.run(job.session, layout, about, job.settings, site, job.run_id)
        except BaseException:
            site.files.delete(site.folder(job.run_id))  # it is not published, so no visitor uses it
            raise
        with site.locked():
            site.claim(job.run_id)
            taken_over = _put_in_place(job, site, layout, outputs)
            used = {"gallery": job.settings.gallery.model_dump(), "slots": shown.slots}
            job.publish(replace={}, inputs=runs, counts=outputs.counts, used=used)
            _tidy_up(job, site, layout, taken_over)
    _summarise(job, outputs.counts)
    for run in about.runs:
        for line in run["notes"]:
            note(line)


def _lay_out(job: Job, shown: Sources, about: About, site: Site, scratch: Workspace) -> Layout:
    """The collection, laid out by this process if it fits into memory, and by Spark otherwise."""
    settings, run = job.settings, job.run_id
    if job.warehouse.local_root is not None and _fits(shown):
        with job.step("read tables"):
            in_memory = tables.read(shown)
        return in_process.lay_out(job.session, in_memory, about.tabs, settings, site, run, scratch)
    inputs = frames.read(shown)
    return by_spark.lay_out(job.session, inputs, about.tabs, settings, site, run, job.warehouse, scratch)


def _fits(shown: Sources) -> bool:
    """Whether the collection fits into memory, by the ends of its files."""
    neighbours: int = sum(shown.snapshot.dataset("neighbours", slot).count_rows() for slot in shown.slots)
    images: int = shown.snapshot.dataset("manifest").count_rows()
    return images <= in_process.MOST_IMAGES and neighbours <= in_process.MOST_NEIGHBOURS


def _put_in_place(job: Job, site: Site, layout: Layout, outputs: Outputs) -> list[str]:
    """Puts all pages at their addresses. Returns the earlier renderings whose pages lead on to them now."""
    earlier = addresses.earlier_renderings(site)
    try:
        with job.step("put pages in place"):
            maps.leave_link(site.uri)
            addresses.place(job.session, layout.filled(), outputs.book, outputs.pages)
            site.write_index(outputs.index)
            retired = layout.retire(outputs.book, earlier)
    except spark_errors(OSError) as error:
        raise JobFailed(
            f"not all pages of {site.uri} could be replaced: {cause_of(error)}. It has pages of this rendering and of "
            "the one before, and its links are good: run render_gallery again"
        ) from error
    if retired:
        says = "its address says" if retired == 1 else "their addresses say"
        job.say(f"  {counted(retired, 'page has', 'pages have')} left the gallery; {says} so")
    return earlier


def _tidy_up(job: Job, site: Site, layout: Layout, taken_over: list[str]) -> None:
    """Removes renderings and pictures that are no longer shown. A failure is only noted: the next run tries again."""
    try:
        site.remove_others(job.run_id, taken_over)
        removed = layout.remove_unused(site.kept(job.run_id))
        if removed:
            job.say(f"  {counted(removed, 'picture')} removed that no page shows any more")
    except spark_errors(OSError) as error:
        note(f"what is not used any more could not be removed from {site.uri}: {cause_of(error)}")


def check(application: Application, images: str) -> Site:
    """The gallery's site. Raises ``WrongInput`` if its folder is unusable, or lies in ``images`` or the warehouse."""
    site = _site(application)
    site.check_place(images, application.warehouse.uri)
    return site


def _site(application: Application) -> Site:
    return open_site(application.session, "gallery", application.arguments.gallery)


def index_of(application: Application) -> str:
    """The address of the gallery's front page."""
    return _site(application).index


# -- messages ----------------------------------------------------------------------------------------------------------


def _summarise(job: Job, counts: dict[str, Any]) -> None:
    known = counts["pictures"] - counts["pictures_made"] - counts["pictures_absent"]
    written = counts["pages_new"] + counts["pages_changed"] + 1
    job.say(
        f"render_gallery: {counted(counts['images'], 'image')} in {job.seconds:.1f} s: "
        f"{counted(counts['pictures_made'], 'picture')} "
        "made, "
        f"{known:,} known, {counted(counts['pages'], 'page')} (the front page, {counts['images']:,} of images, "
        f"{counts['pages'] - counts['images'] - 1:,} of lists and others), {written:,} of them new or "
        "changed"
    )
    if counts["pictures_absent"]:
        say_so = "its page says so" if counts["pictures_absent"] == 1 else "their pages say so"
        note(f"{counted(counts['pictures_absent'], 'picture')} could not be read any more; {say_so}")
    for slot, gone in counts["neighbours_gone"].items():
        fingerprint, _, metric = slot.partition("/")
        note(
            f"{counted(gone, 'neighbour')} by {slot} {'is' if gone == 1 else 'are'} "
            "not shown, because an image is no longer in the manifest: "
            f"run find_neighbours --fingerprint {fingerprint} --metric {metric}"
        )
    if counts["groups_gone"]:
        note(
            f"{counted(counts['groups_gone'], 'row of groups is', 'rows of groups are')} "
            "not shown, because an image of their group is no longer in "
            "the manifest: run group_images again"
        )
    if counts["tags_gone"]:
        note(
            f"{counted(counts['tags_gone'], 'tag is', 'tags are')} not shown, because "
            f"{'its' if counts['tags_gone'] == 1 else 'their'} image is gone, or its file was replaced: "
            "run tag_images again"
        )


def note_on_map(application: Application) -> None:
    """Says so where the map shows an earlier rendering than the pages. It stays good: its rendering is kept."""
    site = _site(application)
    if (shown := site.map()) and shown.rendering != site.renderings[0]:
        note(f"the map of {site.uri} is of an earlier rendering: run render_map")


if __name__ == "__main__":
    command_line.start("render_gallery")
