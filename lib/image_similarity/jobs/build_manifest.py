"""images -> manifest: lists the images of a folder, a glob, or a CSV, JSON or Parquet file with a `uri` column."""

import argparse

from image_similarity.jobs import command_line
from image_similarity.jobs.job import Application
from image_similarity.settings import Settings
from image_similarity.stages import manifest
from image_similarity.storage import uris


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
    manifest.check(uris.absolute(arguments.images), settings.manifest, settings.embeddings.read_seconds)


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """`check`, before Spark is started, where the images are on this machine."""
    if uris.is_local(arguments.images):
        check(arguments, settings)


def run(application: Application) -> None:
    job = application.job("build_manifest")
    if job.already_published():
        return
    arguments = job.arguments
    sample = f"a sample of {arguments.sample:,} (seed {arguments.seed}) of " if arguments.sample else ""
    job.plan(f"list {sample}{arguments.images}", f"write manifest to {job.warehouse.uri}")
    settings = job.settings
    with job.warehouse.scratch(job.run_id) as scratch:
        with job.step("list images"):
            listed = manifest.run(
                *(job.session, arguments.images, settings.manifest, scratch),
                *(arguments.sample, arguments.seed, settings.http, settings.embeddings.read_seconds),
            )
        with job.step("write tables"):
            job.warehouse.write("manifest", job.run_id, listed.rows)
            images = job.warehouse.read("manifest", [job.run_id]).count()
    used = {"images": uris.absolute(arguments.images), "sample": arguments.sample, "seed": arguments.seed}
    job.publish(
        replace={"manifest": {"": job.run_id}},
        inputs={},
        counts={"images": images, "skipped": listed.skipped},
        used={**used, "manifest": settings.manifest.model_dump()},
    )
    skipped = f"; skipped: {manifest.describe_skipped(listed.skipped)}" if listed.skipped else ""
    job.say(f"build_manifest: {images:,} images in {job.seconds:.1f} s{skipped}")


if __name__ == "__main__":
    command_line.start("build_manifest")
