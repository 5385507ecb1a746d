"""embeddings -> neighbours: for each image the most similar and the most dissimilar others."""

# What compares vectors is imported where it is used: help, and what is wrong in the arguments, should not wait for it.

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from image_similarity.command import typed
from image_similarity.errors import WrongInput, counted
from image_similarity.jobs import command_line, early, neighbour_runners
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.job import Application, Job
from image_similarity.jobs.neighbour_runners import Result
from image_similarity.reporting import say
from image_similarity.runtime.session import is_local_mode, scratch_folders
from image_similarity.settings import ApproximateSettings, NeighboursSettings, Settings
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR
from image_similarity.warehouse.snapshot import Snapshot
from image_similarity.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from image_similarity.stages.neighbours.plan import Plan
    from image_similarity.stages.neighbours.previous import PreviousRun
    from image_similarity.stages.neighbours.quality import Approximation

EXTERNAL = "external"
COMPARED = "compared_sha256"
"""In ``runs.settings``: what is known of the ids and vectors that were compared, see `Numbers.sha256`."""
LISTS = "lists"
LISTS_VERSION = 4
RELATIONS = (SIMILAR, DISSIMILAR)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that run_pipeline also takes."""
    parser.add_argument("--method", metavar="exact|approximate|auto", **setting("neighbours.method", is_text=True))
    parser.add_argument(
        "--metric", metavar="cosine|correlation|euclidean", **setting("neighbours.metric", is_text=True)
    )
    parser.add_argument("-k", metavar="N", help="similar neighbours of each image", **setting("neighbours.similar"))
    parser.add_argument(
        "--dissimilar", metavar="N", help="dissimilar images of each", **setting("neighbours.dissimilar")
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fingerprint", metavar="NAME", **setting("neighbours.fingerprint", is_text=True))
    add_options(parser)
    parser.add_argument(
        "--embeddings",
        metavar="URI",
        help="Parquet of your own with image_id and embedding (the fingerprint is then 'external')",
    )


def fingerprint_tables(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Where none is named, the only fingerprint of which these are published is meant."""
    return () if arguments.embeddings else ("embeddings",)


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises for what is seen before Spark is started: ``WrongInput`` for vectors that are not there, settings that
    contradict, and a runner that cannot do what is asked for; ``JobFailed`` for a full disk.
    """
    compared = _settings(arguments, settings, arguments.embeddings)
    neighbour_runners.check(compared, arguments.warehouse, arguments.embeddings)
    if arguments.embeddings is not None:
        from image_similarity.stages.neighbours import own_vectors

        own_vectors.check(arguments.embeddings, settings.embeddings.read_seconds)
    elif published := early.to_read(arguments.warehouse):
        early.runs_of(published, "embeddings", compared.fingerprint, "embed_images")
        _check_size(published, compared, settings.approximate, arguments)


def _check_size(
    published: Snapshot, settings: NeighboursSettings, approximate: ApproximateSettings, arguments: argparse.Namespace
) -> None:
    """Raises as `planning.make` and `planning.check` will, as far as the files of tables on this machine tell."""
    vectors = early.vectors_of(published, settings.fingerprint)
    if vectors is None:
        return
    from image_similarity.stages.neighbours import plan as planning
    from image_similarity.stages.neighbours import resources

    if settings.method == planning.APPROXIMATE and settings.similar:
        from image_similarity.stages.neighbours import quality

        quality.check(vectors.images, approximate)
    continues = settings.incremental and bool(published.run_ids("neighbours", _slot(settings)))
    least = planning.least_disk(vectors.images, vectors.dimensions, settings, continues)
    if not arguments.dry_run:
        resources.check_disk(least, published.uri, arguments.scratch_folders)


def run(application: Application, fingerprint: str | None = None) -> None:
    """``fingerprint``: another one than the settings name."""
    from image_similarity.stages.neighbours import plan as planning

    own_embeddings = getattr(application.arguments, "embeddings", None)
    settings = _settings(application.arguments, application.settings, own_embeddings, fingerprint)
    approximate = application.settings.approximate
    job = application.job("find_neighbours", _slot(settings))
    if job.already_published():
        return
    with job.step("plan"):
        runner = neighbour_runners.chosen(job, settings, approximate, own_embeddings)
    plan, inputs = runner.plan, runner.inputs
    job.plan(
        f"{plan.method} neighbours of {settings.fingerprint} ({inputs['embeddings'][0]}) by {settings.metric} distance",
        *plan.lines,
        f"keep {settings.similar} similar and {counted(settings.dissimilar, 'dissimilar neighbour')} of each image"
        + _all_others(settings, plan.rows),
        f"write neighbours to {job.warehouse.uri}",
    )
    with job.step("read the lists of the run before"):
        previous = _previous_run(job, settings, plan.method)
    if previous:
        used = settings.model_copy(update={"runner": plan.runner})
        plan = replace(plan, disk=planning.least_disk(plan.rows, plan.dimensions, used, continues=True))
    is_spark_here = plan.runner == planning.SPARK and is_local_mode(job.session)
    planning.check(plan, job.warehouse, is_spark_here, scratch_folders(job.session) if is_spark_here else ())
    with job.warehouse.state(job.slot, job.run_id) as state:
        result = runner.run(job, settings, state, previous[0] if previous else None)
        if previous and result.counts["kept"]:
            inputs["neighbours"] = [previous[1]]
        job.warehouse.sync_state(job.slot, job.run_id)
        job.publish(
            replace={"neighbours": {job.slot: job.run_id}, "failures": {f"neighbours/{job.slot}": job.run_id}},
            inputs=inputs,
            counts=result.counts,
            used=_used(settings, approximate, plan, result),
            recall=result.approximate.recall.estimate
            if result.approximate and result.approximate.good_enough
            else None,
        )
    # The lists of the previous run stay, since another job may be reading them.
    job.forget_state(job.slot, min([*job.base_snapshot.run_ids("neighbours", job.slot), job.run_id]))
    _summarise(job, result)
    if own_embeddings is None and fingerprint is None:  # run_pipeline, which names one, says it in the end
        say_how_to_search(application.warehouse, settings.fingerprint, settings.metric)


def say_how_to_search(warehouse: Warehouse, fingerprint: str, metric: str) -> None:
    """Says what to type to ask about a picture, where that is possible."""
    command = typed.search(warehouse.snapshot(), fingerprint, metric)
    if command is not None:
        say(f"search: {command}")


def _slot(settings: NeighboursSettings) -> str:
    return f"{settings.fingerprint}/{settings.metric}"


def _settings(
    arguments: argparse.Namespace, given: Settings, own_embeddings: str | None, fingerprint: str | None = None
) -> NeighboursSettings:
    """The settings with the fingerprint that is compared. ``WrongInput`` for vectors of one's own under a name of ours.

    ``fingerprint``: wins over all. ``own_embeddings``: named `EXTERNAL` unless the command line says otherwise.
    """
    settings = given.neighbours
    overrides = [*arguments.overrides, *(one.override for one in arguments.settings_by_flag)]
    if own_embeddings and not any(override.startswith("neighbours.fingerprint=") for override in overrides):
        fingerprint = EXTERNAL
    if fingerprint is not None:
        settings = settings.model_copy(update={"fingerprint": fingerprint})
    if own_embeddings and settings.fingerprint in given.fingerprints:
        raise WrongInput(
            f"--embeddings with --fingerprint {settings.fingerprint}, which is made here: choose another name"
        )
    return settings


def _summarise(job: Job, result: Result) -> None:
    counts, failures = result.counts, result.failures
    message = (
        f"find_neighbours {job.slot}: {counted(counts['rows'], 'row')} for {counted(counts['images'], 'image')} of "
        f"{counted(counts['dimensions'], 'value')} in {job.seconds:.1f} s"
        + _about_recall(result.approximate)
        + (f"; {counted(counts['brute_force'], 'vector')} compared at full precision" if counts["brute_force"] else "")
        + (f"; {failures.total:,} failed" if failures.counts else "")
    )
    job.say(message, *failures.lines, failures=failures.fields)


def _all_others(settings: NeighboursSettings, images: int) -> str:
    """A remark on lists that cannot be as long as was asked for."""
    others = max(images - 1, 0)
    if max(settings.similar, settings.dissimilar) <= others:
        return ""
    return f" (there {'is' if others == 1 else 'are'} {counted(others, 'other')})"


def _about_recall(result: "Approximation | None") -> str:
    if result is None:
        return ""
    if not result.good_enough:
        return f"; recall {result.recall} of approximate lists: exact ones took their place"
    borders = "" if result.across_borders is None else f", {result.across_borders:.4f} across borders of partitions"
    return f"; recall {result.recall}{borders}"


def _used(
    settings: NeighboursSettings, approximate: ApproximateSettings, plan: "Plan", result: Result
) -> dict[str, Any]:
    """The value of ``runs.settings``: the settings, what they resolved to, and the lengths of the exact lists that the
    next run may use.
    """
    list_lengths = {relation: getattr(settings, relation) for relation in RELATIONS}
    used: dict[str, Any] = {"neighbours": settings.model_dump(), COMPARED: result.numbers.sha256}
    used["runner"] = {"chosen": plan.runner, "because": plan.because}
    used["device"] = plan.device
    if result.changed_mind is not None:
        used["method"] = {"chosen": "exact", "because": result.changed_mind}
    if result.screen is not None:
        used["screen"] = {"chosen": result.screen.screen, "because": result.screen.because}
    if result.approximate is not None:
        used["approximate"] = approximate.model_dump()
        if result.approximate.good_enough:
            list_lengths[SIMILAR] = 0
        else:
            used.setdefault("method", {"chosen": "exact", "because": f"recall {result.approximate.recall} is too low"})
    return {**used, LISTS: {"version": LISTS_VERSION, **list_lengths}}


def _previous_run(job: Job, settings: NeighboursSettings, method: str) -> "tuple[PreviousRun, str] | None":
    """The state of this slot's published run, and the run's id; None if the state cannot be used."""
    from image_similarity.stages.neighbours.plan import APPROXIMATE
    from image_similarity.stages.neighbours.previous import PreviousRun

    runs = job.base_snapshot.run_ids("neighbours", job.slot)
    if not settings.incremental or len(runs) != 1:
        return None
    record = job.base_snapshot.runs.get(runs[0])
    stored = record.settings.get(LISTS, {}) if record is not None else {}
    # The previous lists must be at least as long as the present ones. The metric is the same: it is part of the slot.
    needed = {SIMILAR: 0 if method == APPROXIMATE else settings.similar, DISSIMILAR: settings.dissimilar}
    if not stored:
        return None
    if stored.get("version") != LISTS_VERSION:
        message = f"the lists of run {runs[0]} were made by another version: comparing all pairs once"
        job.say(f"find_neighbours {job.slot}: {message}", event="note")
        return None
    if any(stored[relation] < needed[relation] for relation in RELATIONS):
        return None
    if not any(needed.values()) and stored[SIMILAR] < settings.similar:  # exact search may still become necessary
        return None
    previous = PreviousRun.read(job.warehouse.state_of(job.slot, runs[0]), stored[SIMILAR])
    if previous is None:
        message = f"the lists of run {runs[0]} are gone from the warehouse or damaged: comparing all pairs"
        job.say(f"find_neighbours {job.slot}: {message}", event="note")
    return (previous, runs[0]) if previous else None


if __name__ == "__main__":
    command_line.start("find_neighbours")
