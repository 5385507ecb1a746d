"""neighbours -> recall: how many of the true similar neighbours a published table has, measured on a sample."""

import argparse
import json
import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from image_similarity import cli
from image_similarity.application import PUBLISHED, Application, Job
from image_similarity.cli import setting
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours import audit, sources
from image_similarity.stages.neighbours.sources import Source

TOO_LOW = "recall too low"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fingerprint", metavar="NAME", **setting("neighbours.fingerprint", is_text=True))
    parser.add_argument("--metric", metavar="cosine|correlation|euclidean", **setting("neighbours.metric", is_text=True))
    parser.add_argument("--sample", metavar="N", help="images that are asked about", **setting("approximate.audit_queries"))


def run(application: Application) -> None:
    asked, how = application.settings.neighbours, application.settings.approximate
    job = application.job("audit_neighbours", f"{asked.fingerprint}/{asked.metric}")
    if job.already_published():
        return
    with job.step("plan"):
        audited, source, settings = _audited(job)
    audit.check(source.count, how)
    job.plan(
        f"compare up to {how.audit_queries:,} of {source.count:,} images of run {audited} ({job.slot}) with all, exactly",
        f"recall@{settings.similar} must be {how.recall_target} or more, its interval begin at "
        f"{how.recall_target - how.recall_slack:.4g} or above",
        f"write the result to runs in {job.warehouse.uri}",
    )
    with job.warehouse.scratch(job.run_id) as scratch, job.step("compare with the table"):
        recall = audit.run(job.session, source, job.warehouse.read("neighbours", [audited]), settings, how, scratch)
    is_good = recall.reaches(how.recall_target, how.recall_slack)
    job.publish(
        replace={},
        inputs={"neighbours": [audited]},
        counts={"queries": recall.queries, "k": settings.similar, "recall": [recall.estimate, recall.lower, recall.upper]},
        used={"approximate": how.model_dump()},
        recall=recall.estimate,
        status=PUBLISHED if is_good else TOO_LOW,  # which a scheduler's second try does not take for done
    )
    job.say(f"audit_neighbours {job.slot}: recall@{settings.similar} of run {audited} is {recall}; {job.seconds:.1f} s")
    if not is_good:
        raise JobFailed(f"recall@{settings.similar} is {recall}, below approximate.recall_target = {how.recall_target}")


def _audited(job: Job) -> tuple[str, Source, NeighboursSettings]:
    """The published run of this slot, what it was made from, and its settings."""
    runs = job.seen.runs("neighbours", job.slot)
    if not runs:
        published = ", ".join(sorted(job.seen.tables.get("neighbours", {}))) or "none"
        raise WrongInput(f"no neighbours {job.slot!r} in {job.warehouse.uri} (published: {published}): run find_neighbours first")
    record = job.warehouse.read("runs", job.seen.runs("runs")).where(F.col("run_id") == runs[0]).first()
    if record is None:
        raise JobFailed(f"run {runs[0]} of neighbours {job.slot} is not in runs: run find_neighbours again")
    inputs = json.loads(record["inputs"])
    settings = NeighboursSettings(**json.loads(record["settings"])["neighbours"])
    if not settings.similar:
        raise WrongInput(f"run {runs[0]} of neighbours {job.slot} has no similar neighbours")
    if "vectors" in inputs:
        return runs[0], sources.of_runs(job.warehouse, inputs), settings
    return runs[0], sources.of_parquet(job.warehouse, inputs["embeddings"][0]), settings


def main(argv: list[str] | None = None, session: SparkSession | None = None) -> int:
    parser = cli.parser(__doc__ or "")
    add_arguments(parser)
    return cli.main(parser, run, __file__, argv, session)


if __name__ == "__main__":
    sys.exit(main())
