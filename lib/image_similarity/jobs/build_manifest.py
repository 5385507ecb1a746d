"""images -> manifest: lists the images of a folder, a glob, or a CSV, JSON or Parquet file with a `uri` column."""

import argparse
import sys

from image_similarity.errors import WrongInput, counted
from image_similarity.jobs import command_line
from image_similarity.jobs.job import Application, Job
from image_similarity.runtime.session import is_local_mode
from image_similarity.settings import Settings
from image_similarity.stages.manifest import images, in_process
from image_similarity.storage import uris

PROCESS = "process"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", required=True, metavar="URI", help="a folder, a glob, or a list with a `uri` column"
    )
    parser.add_argument(
        "--sample",
        type=command_line.at_least(1),
        metavar="N",
        help="take N images, chosen by a hash of image_id and seed",
    )
    parser.add_argument("--seed", type=command_line.whole, default=0, metavar="S", help="of the sample (default: 0)")


def check(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` if there are no images where the arguments say, as far as that is seen at once."""
    images.check(uris.absolute(arguments.images), settings.manifest, settings.embeddings.read_seconds)


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """`check`, before Spark is started, where the images are on this machine."""
    if settings.manifest.runner == PROCESS and (because := _needs_spark(arguments, arguments.warehouse)):
        raise WrongInput(f"manifest.runner = {PROCESS}, but {because}: choose spark")
    if uris.is_local(arguments.images):
        check(arguments, settings)


def run(application: Application) -> None:
    job = application.job("build_manifest")
    if job.already_published():
        return
    arguments = job.arguments
    sample = f"a sample of {arguments.sample:,} (seed {arguments.seed}) of " if arguments.sample else ""
    job.plan(f"list {sample}{arguments.images}", f"write manifest to {job.warehouse.uri}")
    count, skipped = _in_process(job) or _by_spark(job)
    used = {"images": uris.absolute(arguments.images), "sample": arguments.sample, "seed": arguments.seed}
    job.publish(
        replace={"manifest": {"": job.run_id}},
        inputs={},
        counts={"images": count, "skipped": skipped},
        used={**used, "manifest": job.settings.manifest.model_dump()},
    )
    note = f"; skipped: {images.describe_skipped(skipped)}" if skipped else ""
    job.say(f"build_manifest: {counted(count, 'image')} in {job.seconds:.1f} s{note}")


def _needs_spark(arguments: argparse.Namespace, warehouse: str) -> str | None:
    """Why this process cannot make the manifest itself; None if it can."""
    if remote := next((uri for uri in (warehouse, arguments.images) if not uris.is_local(uri)), None):
        return f"{remote} is not on this machine"
    return "a sample is drawn by Spark" if arguments.sample else None


def _in_process(job: Job) -> tuple[int, dict[str, int]] | None:
    """Writes the manifest by this process: the number of images, and of files that were skipped by reason.

    None if Spark has to do it.
    """
    settings, runner = job.settings, job.settings.manifest.runner
    asked = runner == PROCESS or (runner == "auto" and is_local_mode(job.session))
    reason = _needs_spark(job.arguments, job.warehouse.uri)
    if reason and runner == PROCESS:  # early checks are left out where a label may be published already
        raise WrongInput(f"manifest.runner = {PROCESS}, but {reason}: choose spark")
    if not asked or reason:
        return None
    with job.step("list images"):
        read_seconds = settings.embeddings.read_seconds
        most = sys.maxsize if runner == PROCESS else in_process.MOST_IMAGES
        listed = in_process.run(job.arguments.images, settings.manifest, read_seconds, most)
    if listed is None:
        if runner == PROCESS:
            raise WrongInput(f"manifest.runner = {PROCESS}, but the list names files elsewhere: choose spark")
        return None
    with job.step("write tables"):
        return job.warehouse.write_here("manifest", job.run_id, listed.rows), listed.skipped


def _by_spark(job: Job) -> tuple[int, dict[str, int]]:
    """As `_in_process`, by Spark."""
    from image_similarity.stages.manifest import by_spark

    arguments, settings = job.arguments, job.settings
    with job.warehouse.scratch(job.run_id) as scratch:
        with job.step("list images"):
            listed = by_spark.run(
                *(job.session, arguments.images, settings.manifest, scratch),
                *(arguments.sample, arguments.seed, settings.http, settings.embeddings.read_seconds),
            )
        with job.step("write tables"):
            job.warehouse.write("manifest", job.run_id, listed.rows)
            return job.warehouse.read("manifest", [job.run_id]).count(), listed.skipped


if __name__ == "__main__":
    command_line.start("build_manifest")
