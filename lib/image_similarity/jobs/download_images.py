"""a catalogue of addresses -> files in storage, a list of them for build_manifest, and the outcome of each address."""

import argparse
import shlex
import sys
from typing import Any

from pyspark.sql import DataFrame

from image_similarity.errors import WrongInput, counted
from image_similarity.jobs import command_line, early
from image_similarity.jobs.job import Application, Failures, Job
from image_similarity.settings import Settings
from image_similarity.stages.downloads import catalogue as catalogues
from image_similarity.stages.downloads import stage
from image_similarity.stages.downloads.catalogue import Catalogue
from image_similarity.stages.downloads.stage import Inputs, Options, Outputs
from image_similarity.storage import blobs, tables, uris

ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--catalogue", required=True, metavar="FILE", help="CSV, JSON, JSON lines or Parquet with addresses"
    )
    parser.add_argument(
        "--images", required=True, metavar="URI", help="the folder that files are put into, one for each catalogue"
    )
    sizes = command_line.one_of(catalogues.SIZES)
    parser.add_argument(
        "--size", type=sizes, metavar="|".join(catalogues.SIZES), help="of the museum's three (default: web)"
    )
    parser.add_argument(
        "--sample", type=command_line.at_least(1), metavar="N", help="take N addresses, by a hash of image_id and seed"
    )
    parser.add_argument("--seed", type=command_line.whole, default=0, metavar="S", help="of the sample (default: 0)")
    parser.add_argument("--recheck", action="store_true", help="ask whether files that are there have changed")
    parser.add_argument(
        "--retry-failed",
        nargs="?",
        const=ALL,
        type=command_line.one_of([ALL, *stage.FAILURE_REASONS]),
        metavar="REASON",
        help="try again what failed before for this reason (default: any), although the failure is permanent",
    )


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` for a catalogue that is not there or names no addresses, and for a folder that cannot be
    written. ``JobFailed`` where its disk is full.
    """
    location = uris.absolute(arguments.catalogue)
    if uris.is_local(location) and not (blobs.exists(location) and tables.kind_of(location) == "json"):
        catalogues.check(location, settings.downloads.address_columns, arguments.size, settings.embeddings.read_seconds)
    early.check_folder("--images", arguments.images, arguments.dry_run)
    early.check_room(arguments, images=arguments.images)


def run(application: Application) -> None:
    slot = catalogues.slot_of(application.arguments.catalogue)
    job = application.job("download_images", slot)
    options = _options(job)
    if job.already_published():
        if not job.arguments.dry_run:
            _write_list(job, options)  # the run that published may have died before it wrote the list
        return
    with job.step("plan"):
        catalogue = _read(job)
        inputs = _inputs(job, catalogue)
        planned = stage.plan(job.session, inputs, options)
        _check_owner(job, planned, options)
        lines = _plan_lines(job, catalogue, planned, options)
    job.plan(*lines)
    _check_writable(options.folder)
    with job.warehouse.scratch(job.run_id) as scratch:
        with job.step("sort out what to fetch"):
            outputs = stage.run(job.session, planned, options, scratch)
        with job.step("write tables"):
            failures = _write(job, outputs, len(catalogue.entries))
    counts = {
        "addresses": len(catalogue.entries),
        "left_out": catalogue.left_out,
        **outputs.outcomes,
        "fetched_bytes": outputs.fetched_bytes,
        "not_rechecked": outputs.not_rechecked,
        "failures": failures.counts,
    }
    job.publish(
        replace={"downloads": {slot: job.run_id}, "failures": {_failures_slot(slot): job.run_id}},
        inputs={
            "downloads": job.base_snapshot.run_ids("downloads", slot),
            "failures": job.base_snapshot.run_ids("failures", _failures_slot(slot)),
        },
        counts=counts,
        used=_used(job),
    )
    _write_list(job, options)
    _summarise(job, counts, failures, options)


def _options(job: Job) -> Options:
    arguments, retried = job.arguments, job.arguments.retry_failed
    return Options(
        folder=uris.absolute(arguments.images).rstrip("/"),
        recheck=arguments.recheck,
        retried=tuple(stage.FAILURE_REASONS) if retried == ALL else (retried,) if retried else (),
        http=job.settings.http,
        max_bytes=job.settings.embeddings.max_bytes,
        fetch_bytes=job.settings.embeddings.fetch_bytes,
        read_seconds=job.settings.embeddings.read_seconds,
    )


def _read(job: Job) -> Catalogue:
    arguments = job.arguments
    location = uris.absolute(arguments.catalogue)
    return catalogues.read(
        location,
        job.settings.downloads.address_columns,
        arguments.size,
        arguments.sample,
        arguments.seed,
        job.settings.embeddings.read_seconds,
    )


def _inputs(job: Job, catalogue: Catalogue) -> Inputs:
    return Inputs(
        catalogue=job.session.createDataFrame(catalogue.table()),
        previous=job.warehouse.read("downloads", job.base_snapshot.run_ids("downloads", job.slot)),
        failures=job.warehouse.read("failures", job.base_snapshot.run_ids("failures", _failures_slot(job.slot))),
    )


def _check_owner(job: Job, planned: DataFrame, options: Options) -> None:
    """Raises ``WrongInput`` if a file in the folder is another catalogue's: it would be taken for an image of this."""
    runs = [run for slot, runs in job.base_snapshot.slots("downloads").items() if slot != job.slot for run in runs]
    foreign = stage.foreign_file(planned, job.warehouse.read("downloads", runs)) if runs else None
    if foreign is not None:
        raise WrongInput(
            f"--images {options.folder}: {foreign.file} is the file of {foreign.other_address}, of another catalogue: "
            "give each catalogue a folder of its own"
        )


def _failures_slot(slot: str) -> str:
    return f"downloads/{slot}"


def _plan_lines(job: Job, catalogue: Catalogue, planned: DataFrame, options: Options) -> list[str]:
    counts = {row.action: row["count"] for row in planned.groupBy("action").count().collect()}
    left_out = f" (left out: {_describe(catalogue.left_out)})" if catalogue.left_out else ""
    actions = [
        f"fetch {counts.get(stage.FETCH, 0):,}",
        f"ask again for {counts.get(stage.RECHECK, 0):,}",
        f"leave {counted(counts.get(stage.KEEP, 0), 'that is', 'that are')} there and {counts.get(stage.SKIP, 0):,} "
        "that failed for good",
    ]
    return [
        f"take {counted(len(catalogue.entries), 'address')} of {job.arguments.catalogue}{left_out}",
        ", ".join(actions),
        f"put files into {options.folder}, write downloads and failures to {job.warehouse.uri}",
    ]


def _check_writable(folder: str) -> None:
    """Raises ``WrongInput`` if no file can be written to ``folder``, before any is fetched."""
    probe = uris.join(folder, ".probe")
    try:
        blobs.write(probe, b"", "text/plain")
        blobs.delete(probe)
    except (OSError, ValueError) as error:
        raise WrongInput(f"--images {folder}: cannot be written: {error}") from None


def _write(job: Job, outputs: Outputs, addresses: int) -> Failures:
    """Writes the tables, and counts the failures by reason. Raises ``TooManyFailures`` above the allowed fraction."""
    warehouse, run = job.warehouse, job.run_id
    warehouse.write("failures", run, outputs.failures)
    failures = job.failures()
    note = f", and what was fetched stays in {job.arguments.images}"
    job.check_failures(failures, "address", addresses, "downloads", note)
    warehouse.write("downloads", run, outputs.downloads)
    return failures


def _used(job: Job) -> dict[str, Any]:
    arguments, settings = job.arguments, job.settings
    return {
        "catalogue": uris.absolute(arguments.catalogue),
        "images": uris.absolute(arguments.images),
        "size": arguments.size,
        "sample": arguments.sample,
        "seed": arguments.seed,
        "recheck": arguments.recheck,
        "retry_failed": arguments.retry_failed,
        "downloads": settings.downloads.model_dump(),
        "http": settings.http.model_dump(),
    }


def _write_list(job: Job, options: Options) -> None:
    """Writes the list of all published files beside them, last of all: every file that it names exists."""
    current = job.warehouse.current().runs("downloads", job.slot)
    content = stage.list_of(job.warehouse.read("downloads", current).toArrow())
    blobs.write(_list_uri(options), content, "application/vnd.apache.parquet")


def _list_uri(options: Options) -> str:
    return uris.join(options.folder, stage.LIST_NAME)


def _summarise(job: Job, counts: dict[str, Any], failures: Failures, options: Options) -> None:
    rate = counts["fetched_bytes"] / 1e6 / max(job.seconds, 1e-9)
    parts = [
        f"{counts[stage.FETCHED]:,} fetched ({counts['fetched_bytes'] / 1e6:,.1f} MB, {rate:,.1f} MB/s)",
        f"{counts[stage.PRESENT]:,} present",
        f"{counts[stage.UNCHANGED]:,} unchanged",
        f"{failures.total:,} failed",
    ]
    details = [
        f"{key.replace('_', ' ')}: {_describe(counts[key])}" for key in ("not_rechecked", "left_out") if counts[key]
    ]
    summary = (
        f"download_images {job.slot}: {counted(counts['addresses'], 'address')} in {job.seconds:.1f} s: "
        + ", ".join(parts)
    )
    job.say(summary, *failures.lines, *details, failures=failures.fields)
    pipeline = ["-m", "image_similarity.jobs.run_pipeline"]
    command = [sys.executable, *pipeline, "--images", _list_uri(options), "--warehouse", job.warehouse.uri]
    job.say(f"next: {shlex.join(command)}")


def _describe(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


if __name__ == "__main__":
    command_line.start("download_images")
