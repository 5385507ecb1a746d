"""neighbours -> recall: how many of the true similar neighbours a published table has, measured on a sample."""

import argparse

from image_similarity.errors import JobFailed, WrongInput, counted
from image_similarity.jobs import command_line, early
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.find_neighbours import COMPARED
from image_similarity.jobs.job import Application, Job
from image_similarity.reporting import note
from image_similarity.settings import NeighboursSettings, Settings, renamed
from image_similarity.stages.neighbours import audit, quality, sources
from image_similarity.stages.neighbours.sources import Source
from image_similarity.warehouse.records import PUBLISHED

TOO_LOW = "recall too low"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fingerprint", metavar="NAME", **setting("neighbours.fingerprint", is_text=True))
    parser.add_argument(
        "--metric", metavar="cosine|correlation|euclidean", **setting("neighbours.metric", is_text=True)
    )
    parser.add_argument(
        "--sample", metavar="N", help="images whose true neighbours are found", **setting("approximate.audit_queries")
    )


def _slot(requested: NeighboursSettings) -> str:
    return f"{requested.fingerprint}/{requested.metric}"


def fingerprint_tables(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Where none is named, the only fingerprint of which these are published is meant."""
    return ("neighbours",)


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` where nothing is published to audit, and for a sample that is too small."""
    if published := early.to_read(arguments.warehouse):
        runs = early.runs_of(published, "neighbours", _slot(settings.neighbours), "find_neighbours")
        record = published.runs.get(runs[0])
        if record is not None and "images" in record.counts:
            quality.check(record.counts["images"], settings.approximate)


def run(application: Application) -> None:
    requested, approximate = application.settings.neighbours, application.settings.approximate
    job = application.job("audit_neighbours", _slot(requested))
    if job.already_published():
        return
    with job.step("plan"):
        audited, source, settings = _audited(job)
        compared = job.base_snapshot.runs[audited].settings.get(COMPARED)
    quality.check(source.count, approximate)
    job.plan(
        f"compare up to {approximate.audit_queries:,} of {counted(source.count, 'image')} of run {audited} "
        f"({job.slot}) with all, exactly",
        f"recall@{settings.similar} must be {approximate.recall_target} or more, its interval begin at "
        f"{approximate.recall_target - approximate.recall_slack:.4g} or above",
        f"write the result to runs in {job.warehouse.uri}",
    )
    if compared is None:
        note(f"run {audited} does not record which vectors it compared: they are taken to be the same today")
    with job.warehouse.scratch(job.run_id) as scratch, job.step("compare with the table"):
        table = job.warehouse.read("neighbours", [audited])
        recall = audit.run(job.session, source, table, settings, approximate, scratch, compared)
    is_good = recall.reaches(approximate.recall_target, approximate.recall_slack)
    job.publish(
        replace={},
        inputs={"neighbours": [audited]},
        counts={
            "queries": recall.queries,
            "k": settings.similar,
            "recall": [recall.estimate, recall.lower, recall.upper],
        },
        used={"approximate": approximate.model_dump()},
        recall=recall.estimate,
        status=PUBLISHED if is_good else TOO_LOW,  # a scheduler's retry must not take a failed audit as done
    )
    job.say(f"audit_neighbours {job.slot}: recall@{settings.similar} of run {audited} is {recall}; {job.seconds:.1f} s")
    if not is_good:
        raise JobFailed(
            f"recall@{settings.similar} is {recall}, below approximate.recall_target = {approximate.recall_target}"
        )


def _audited(job: Job) -> tuple[str, Source, NeighboursSettings]:
    """The published run of this slot, its images and vectors, and its settings.

    Raises ``WrongInput`` if nothing is published there or the run has no similar neighbours, and ``JobFailed`` if the
    run has no record.
    """
    runs = early.runs_of(job.base_snapshot, "neighbours", job.slot, "find_neighbours")
    record = job.base_snapshot.runs.get(runs[0])
    if record is None:
        raise JobFailed(f"run {runs[0]} of neighbours {job.slot} is not in runs: run find_neighbours again")
    inputs, settings = record.inputs, NeighboursSettings(**renamed.section("neighbours", record.settings["neighbours"]))
    if not settings.similar:
        raise WrongInput(f"run {runs[0]} of neighbours {job.slot} has no similar neighbours")
    if "vectors" in inputs:
        return runs[0], sources.from_runs(job.warehouse, inputs), settings
    source = sources.from_parquet(job.session, inputs["embeddings"][0], job.settings.embeddings.read_seconds)
    return runs[0], source, settings


if __name__ == "__main__":
    command_line.start("audit_neighbours")
