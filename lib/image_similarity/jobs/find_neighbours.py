"""embeddings -> neighbours: for each image the most similar and the most dissimilar others."""

import argparse
from typing import Any

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.jobs import command_line
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.job import Application, Failures, Job
from image_similarity.runtime.session import is_local_mode
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours import audit, sources, stage
from image_similarity.stages.neighbours import plan as planning
from image_similarity.stages.neighbours.approximate import Found
from image_similarity.stages.neighbours.plan import APPROXIMATE
from image_similarity.stages.neighbours.previous import Before
from image_similarity.stages.neighbours.sources import Source
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

EXTERNAL = "external"
LISTS = "lists"
LISTS_VERSION = 3
RELATIONS = (SIMILAR, DISSIMILAR)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that run_pipeline takes, too."""
    parser.add_argument("--fingerprint", metavar="NAME", **setting("neighbours.fingerprint", is_text=True))
    parser.add_argument("--method", metavar="exact|approximate|auto", **setting("neighbours.method", is_text=True))
    parser.add_argument(
        "--metric", metavar="cosine|correlation|euclidean", **setting("neighbours.metric", is_text=True)
    )
    parser.add_argument("-k", metavar="N", help="similar neighbours of each image", **setting("neighbours.similar"))
    parser.add_argument(
        "--dissimilar", metavar="N", help="dissimilar images of each", **setting("neighbours.dissimilar")
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument(
        "--embeddings",
        metavar="URI",
        help="Parquet of your own with image_id and embedding (the fingerprint is then 'external')",
    )


def run(application: Application) -> None:
    own = getattr(application.arguments, "embeddings", None)
    settings, how = application.settings.neighbours, application.settings.approximate
    if own and not any(given.startswith("neighbours.fingerprint=") for given in application.arguments.overrides):
        settings = settings.model_copy(update={"fingerprint": EXTERNAL})
    if own and settings.fingerprint in application.settings.fingerprints:
        raise WrongInput(
            f"--embeddings with --fingerprint {settings.fingerprint}, which is made here: choose another name"
        )
    job = application.job("find_neighbours", f"{settings.fingerprint}/{settings.metric}")
    if job.already_published():
        return
    with job.step("plan"):
        source, inputs = _given(job, own) if own else _published(job, settings.fingerprint)
        plan = planning.make(job.session, source.vectors, source.count, settings, how)
    if plan.method == APPROXIMATE:
        audit.check(source.count, how)
    job.plan(
        f"{plan.method} neighbours of {settings.fingerprint} ({inputs['embeddings'][0]}) by {settings.metric} distance",
        *plan.lines,
        f"keep {settings.similar} similar and {settings.dissimilar} dissimilar neighbours of each image",
        f"write neighbours to {job.warehouse.uri}",
    )
    planning.check(plan, job.warehouse, is_local_mode(job.session))
    with job.step("read the lists of the run before"):
        before = _before(job, settings, plan.method)
    with job.warehouse.scratch(job.run_id) as scratch, job.warehouse.state(job.slot, job.run_id) as state:
        with job.step("find neighbours"):
            outputs = stage.run(job.session, source, settings, how, plan, scratch, state, before[0] if before else None)
        with job.step("write tables"):
            counts, failures = _write(job, outputs)
        if before and counts["kept"]:
            inputs["neighbours"] = [before[1]]
        job.publish(
            replace={"neighbours": {job.slot: job.run_id}, "failures": {f"neighbours/{job.slot}": job.run_id}},
            inputs=inputs,
            counts=counts,
            used=_used(settings, how, outputs),
            recall=outputs.found.recall.estimate if outputs.found and outputs.found.good_enough else None,
        )
    # Those of the run before stay, since another job may just be reading them.
    job.warehouse.forget_state(job.slot, min([*job.base_snapshot.run_ids("neighbours", job.slot), job.run_id]))
    told = (
        f"find_neighbours {job.slot}: {counts['rows']:,} rows for {counts['images']:,} images of "
        f"{counts['dimensions']:,} values "
        f"in {job.seconds:.1f} s"
        + _about_recall(outputs.found)
        + (f"; {counts['brute_force']:,} compared in full" if counts["brute_force"] else "")
        + (f"; {failures.total:,} failed" if failures.counts else "")
    )
    job.say(told, *failures.lines, failures=failures.fields)


def _about_recall(found: Found | None) -> str:
    if found is None:
        return ""
    if not found.good_enough:
        return f"; recall {found.recall} of approximate lists: exact ones took their place"
    borders = "" if found.across_borders is None else f", {found.across_borders:.4f} across borders of parts"
    return f"; recall {found.recall}{borders}"


def _used(settings: NeighboursSettings, how: ApproximateSettings, outputs: stage.Outputs) -> dict[str, Any]:
    """For ``runs.settings``: what was asked, and how long the exact lists are that the next run may use."""
    exactly = {relation: getattr(settings, relation) for relation in RELATIONS}
    used: dict[str, Any] = {"neighbours": settings.model_dump()}
    if outputs.found is not None:
        used["approximate"] = how.model_dump()
        exactly[SIMILAR] = 0 if outputs.found.good_enough else exactly[SIMILAR]
    return {**used, LISTS: {"version": LISTS_VERSION, **exactly}}


def _given(job: Job, embeddings: str) -> tuple[Source, dict[str, list[str]]]:
    """Somebody's own embeddings, and what is told of them."""
    return sources.from_parquet(job.warehouse, embeddings), {"embeddings": [embeddings]}


def _published(job: Job, fingerprint: str) -> tuple[Source, dict[str, list[str]]]:
    """What is published as ``fingerprint``, and the runs read."""
    runs = job.base_snapshot.run_ids("embeddings", fingerprint)
    if not runs:
        published = ", ".join(sorted(job.base_snapshot.slots("embeddings"))) or "none"
        raise WrongInput(
            f"no embeddings {fingerprint!r} in {job.warehouse.uri} (published: {published}): run embed_images first"
        )
    keys = [
        row.fingerprint_key
        for row in job.warehouse.read("embeddings", runs).select("fingerprint_key").distinct().collect()
    ]
    if len(keys) > 1:
        raise JobFailed(f"the embeddings {fingerprint} mix the keys {', '.join(keys)}: run embed_images again")
    inputs = {"embeddings": runs, "vectors": [run for key in keys for run in job.base_snapshot.run_ids("vectors", key)]}
    return sources.from_runs(job.warehouse, inputs), inputs


def _before(job: Job, settings: NeighboursSettings, method: str) -> tuple[Before, str] | None:
    """What the published run of this slot left, and which run that is; None if it cannot serve."""
    runs = job.base_snapshot.run_ids("neighbours", job.slot)
    if not settings.incremental or len(runs) != 1:
        return None
    record = job.base_snapshot.runs.get(runs[0])
    left = record.settings.get(LISTS, {}) if record is not None else {}
    # Its lists must be at least as long as those of now; the slot is that of one metric.
    wanted = {SIMILAR: 0 if method == APPROXIMATE else settings.similar, DISSIMILAR: settings.dissimilar}
    if left.get("version") != LISTS_VERSION or any(left[relation] < wanted[relation] for relation in RELATIONS):
        return None
    if not any(wanted.values()):
        return None
    before = Before.read(job.warehouse.state_of(job.slot, runs[0]))
    if before is None:
        gone = f"the lists of run {runs[0]} are gone from the warehouse: comparing all pairs"
        job.say(f"find_neighbours {job.slot}: {gone}", event="note")
    return (before, runs[0]) if before else None


def _write(job: Job, outputs: stage.Outputs) -> tuple[dict[str, Any], Failures]:
    """Write the tables, check that every image has its rows, and count."""
    warehouse, run = job.warehouse, job.run_id
    warehouse.write("failures", run, outputs.failures)
    warehouse.write("neighbours", run, outputs.neighbours)
    failures = job.failures() if outputs.packed.unusable else Failures({}, {})
    rows = warehouse.read("neighbours", [run]).count()
    if rows != outputs.rows:
        raise JobFailed(f"{rows:,} rows of neighbours where there must be {outputs.rows:,}: nothing was published")
    found = outputs.found
    of_approximate: dict[str, Any] = {}
    if found is not None:
        interval = [found.recall.estimate, found.recall.lower, found.recall.upper]
        of_approximate = {"nlist": found.parts, "nprobe": found.visited, "rounds": found.rounds, "recall": interval}
        of_approximate["recall_across_borders"] = found.across_borders
    counts = {
        **of_approximate,
        "images": outputs.packed.usable,
        "vectors": outputs.packed.vectors,
        "dimensions": outputs.packed.dimensions,
        "brute_force": outputs.brute_force,
        "kept": len(outputs.packed.kept.vector),
        "rows": rows,
        "failures": failures.counts,
    }
    return counts, failures


if __name__ == "__main__":
    command_line.start("find_neighbours")
