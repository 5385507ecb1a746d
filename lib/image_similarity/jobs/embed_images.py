"""manifest -> embeddings and failures: embed each image once, by one or several fingerprints."""

import argparse
import atexit
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_similarity.errors import WrongInput, counted
from image_similarity.jobs import command_line, declaration, early, same_way
from image_similarity.jobs import embedding_runners as runners
from image_similarity.jobs.embedding_runners import BySpark, Embedding, InProcess
from image_similarity.jobs.job import Application, Job, work_on
from image_similarity.reporting import note
from image_similarity.runtime import processes, progress
from image_similarity.settings import ExportedSettings, NetworkSettings, PcaSettings, Settings
from image_similarity.stages.embeddings import checkpoints, outcomes, prepare
from image_similarity.stages.embeddings.outcomes import Retry
from image_similarity.stages.embeddings.prepare import PreparedFingerprint
from image_similarity.storage import disk_space
from image_similarity.warehouse import retention
from image_similarity.warehouse.schemas import CLASS_SCORES, QUALITY, VECTORS
from image_similarity.warehouse.snapshot import Snapshot
from image_similarity.warehouse.warehouse import Conflict
from image_similarity.warehouse.workspace import STATE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from image_similarity.stages.embeddings.projected import Fitted

EVERY_REASON = "every"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_switches(parser)
    add_fingerprints(parser)


def add_fingerprints(parser: argparse.ArgumentParser) -> None:
    """The fingerprints, which run_pipeline takes as well."""
    parser.add_argument(
        "--fingerprint",
        action="append",
        dest="fingerprints",
        metavar="NAME",
        help="repeatable (default: neighbours.fingerprint)",
    )
    declaration.add_arguments(parser)


declare = declaration.declare


def add_switches(parser: argparse.ArgumentParser) -> None:
    """The switches that run_pipeline takes as well."""
    parser.add_argument(
        "--replace-fingerprint", action="store_true", help="go on where the published vectors were made in another way"
    )
    parser.add_argument(
        "--retry-failed",
        action="append",
        nargs="?",
        const=EVERY_REASON,
        default=[],
        type=command_line.one_of([EVERY_REASON, *outcomes.FAILURE_REASONS]),
        metavar="REASON",
        help=(
            "try images again that failed for this reason (repeatable; without one: for any), though their files "
            "are the same"
        ),
    )


def run(application: Application) -> None:
    names = _names(application.arguments, application.settings)
    jobs = [application.job("embed_images", name) for name in names]
    jobs = [job for job in jobs if not job.already_published()]
    if not jobs:
        return
    if len(jobs) > 1:  # one pass over the images for all of them
        work_on(application.session, "embed_images")
    _plan(jobs)
    of_images = [job for job in jobs if not isinstance(_declared(job), PcaSettings)]
    if of_images:
        try:
            _embed(of_images)
        finally:
            processes.release()
    for job in jobs:
        if job not in of_images:
            _project(application.job("embed_images", job.slot))  # a new job, which sees what was just published


def check_fingerprints(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` for what is seen before Spark is started: fingerprints, networks, layers and local files of
    weights that do not exist, and settings other than those of the vectors that are published.
    """
    runners.check(settings, arguments.warehouse)
    published = early.snapshot(arguments.warehouse)
    if published:
        same_way.check_declared(published, _wanted(arguments, settings), settings)
    names = _names(arguments, settings)
    if not arguments.dry_run and runners.will_embed(published, settings, names):
        runners.prepare_workers(settings, names)
    for name in names:
        prepare.check(name, settings.fingerprint(name))
    prepare.check_together(settings, names)
    if published:
        for name in names:
            same_way.check_settings(arguments, published, name, settings.fingerprint(name))


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """As `check_fingerprints`, ``WrongInput`` where no manifest is published, and ``JobFailed`` for a full disk."""
    published = early.to_read(arguments.warehouse)
    check_fingerprints(arguments, settings)
    if published:
        _manifest_runs(published)
        if not arguments.dry_run:
            _check_disk(published, settings, _names(arguments, settings))


def _check_disk(published: Snapshot, settings: Settings, names: list[str]) -> str | None:
    """Raises ``JobFailed`` if the disk of a warehouse on this machine has no room for the first vectors of ``names``.

    Of vectors that are added to published ones it returns a note, or None: new files may be copies of known ones, which
    take no room.
    """
    resumes = any(Path(published.uri, STATE, retention.CHECKPOINTS).rglob("*.parquet"))
    new = {name: early.new_images(published, name) for name in names}
    first = later = 0
    for name in names:
        known, declared = early.vectors_of(published, name), settings.fingerprint(name)
        dimensions = known.dimensions if known else prepare.vector_length(declared)
        needed = checkpoints.least_bytes(declared.kind, new[name], dimensions or 0, resumes)
        if published.run_ids("embeddings", name):
            later += needed
        else:
            first += needed
    what = f"embedding {counted(max(new.values()), 'image')}"
    disk_space.check(what, [disk_space.Need("--warehouse", published.uri, first)])
    message = disk_space.lack(what, [disk_space.Need("--warehouse", published.uri, first + later)])
    return f"unless they are copies of known ones, {message}" if message else None


def check(application: Application) -> None:
    """Raises ``WrongInput`` for a GPU that no task can have."""
    declared = [application.settings.fingerprint(name) for name in _names(application.arguments, application.settings)]
    if any(isinstance(fingerprint, (NetworkSettings, ExportedSettings)) for fingerprint in declared):
        from image_similarity.runtime import devices

        devices.check(application.session, application.settings.embeddings)


def prepare_fingerprints(application: Application) -> None:
    """Prepare all that `run` will need, so that wrong weights end an application before anything is published."""
    with progress.step(application.session, "prepare fingerprints"):
        for name in _names(application.arguments, application.settings):
            if not isinstance(application.settings.fingerprint(name), PcaSettings):
                _check_unchanged(application, name, prepared(application, name))


def _check_unchanged(application: Application, name: str, prepared: PreparedFingerprint) -> None:
    """As `same_way.check_key` will, before anything is published. What a label has published is not looked at again."""
    published, label = application.warehouse.snapshot(), application.arguments.run_id
    record = same_way.record_of(published, name)
    if record is not None and (label is None or not early.has_label(published, label)):
        now = prepare.record(name, application.settings.fingerprint(name), prepared)
        same_way.check_key(application.arguments, published, name, record.settings.get("fingerprint_key"), now)


def prepared(application: Application, name: str) -> PreparedFingerprint:
    """The fingerprint ``name``, prepared once in an application. Raises as `prepare.prepare` does."""
    if name not in application.prepared:
        declared, http = application.settings.fingerprint(name), application.settings.http
        published = application.warehouse.snapshot()
        with same_way.naming_published(published, declared):
            application.prepared[name] = prepare.prepare(
                name, declared, folder_for_workers(), http, classifier=application.settings.tags.enabled
            )
    return application.prepared[name]


def _wanted(arguments: argparse.Namespace, settings: Settings) -> list[str]:
    return arguments.fingerprints or [settings.neighbours.fingerprint]


def _names(arguments: argparse.Namespace, settings: Settings) -> list[str]:
    return prepare.with_bases(settings, _wanted(arguments, settings))


def _declared(job: Job) -> Any:
    return job.settings.fingerprint(job.slot)


def _plan(jobs: list[Job]) -> None:
    check(jobs[0].application)
    manifest = _manifest_runs(jobs[0].base_snapshot)[0]
    lines = [
        f"embed the images of manifest {manifest} as {job.slot}: {prepare.described(_declared(job))}" for job in jobs
    ]
    jobs[0].plan(*lines, f"write embeddings, vectors and failures to {jobs[0].warehouse.uri}")
    if jobs[0].warehouse.local_root is not None:  # again: in a pipeline the manifest is new
        if message := _check_disk(jobs[0].base_snapshot, jobs[0].settings, [job.slot for job in jobs]):
            note(message)


def _manifest_runs(published: Snapshot) -> list[str]:
    return early.runs_of(published, "manifest", "", "build_manifest")


# -- fingerprints of images --------------------------------------------------------------------------------------------


def _embed(jobs: list[Job]) -> None:
    """Embeds the images in one pass for all ``jobs``. Each job is one fingerprint, and publishes its own slots."""
    first = jobs[0]
    runner = runners.chosen(first)
    with first.step("prepare fingerprints"):
        embeddings = [_embedding(job, runner) for job in jobs]
        _check_distinct(embeddings)
    reasons = first.arguments.retry_failed
    retry = Retry(EVERY_REASON in reasons, [reason for reason in reasons if reason != EVERY_REASON])
    for embedding, written in zip(embeddings, runner.run(embeddings, retry)):
        _publish(embedding, written)
        _summarise(embedding.job, written)


def _check_distinct(embeddings: list[Embedding]) -> None:
    slots: dict[str, str] = {}
    for embedding in embeddings:
        other = slots.setdefault(embedding.key, embedding.job.slot)
        if other != embedding.job.slot:
            raise WrongInput(prepare.alike(other, embedding.job.slot))


def _embedding(job: Job, runner: InProcess | BySpark) -> Embedding:
    made_ready = prepared(job.application, job.slot)
    for line in made_ready.notes:
        job.say(f"{job.slot}: {line}", event="note")
    inputs = {
        "manifest": _manifest_runs(job.base_snapshot),
        "embeddings": job.base_snapshot.run_ids("embeddings", job.slot),
        "vectors": job.base_snapshot.run_ids("vectors", made_ready.spec.key),
    }
    previous = runner.key_of(job, inputs["embeddings"])
    now = prepare.record(job.slot, _declared(job), made_ready)
    same_way.check_key(job.arguments, job.base_snapshot, job.slot, previous, now)
    return Embedding(job, made_ready, inputs, previous)


def folder_for_workers() -> Path:
    """A folder for files of weights. It is kept until this process ends, because executors may join late."""
    folder = Path(tempfile.mkdtemp(prefix="image-similarity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _publish(embedding: Embedding, written: runners.Written) -> None:
    """Publishes the slots of one fingerprint, and ``quality`` if it was measured.

    That another fingerprint's job has published ``quality`` since this one began is no reason to fail: the numbers stay
    in their checkpoints.
    """
    if not written.is_measured:
        _publish_slots(embedding, written.counts)
        return
    job = embedding.job
    try:
        _publish_slots(embedding, written.counts, with_quality=True)
        job.forget_state(runners.MEASUREMENTS)
    except Conflict as conflict:
        if conflict.table != QUALITY:
            raise
        _publish_slots(embedding, written.counts)
        job.warehouse.remove(QUALITY, job.run_id)
        note("another job published quality meanwhile: the next embed_images adds what this one has measured")


def _publish_slots(embedding: Embedding, counts: Mapping[str, Any], with_quality: bool = False) -> None:
    job = embedding.job
    used = prepare.record(job.slot, _declared(job), embedding.prepared)
    replace = {"embeddings": {job.slot: job.run_id}, "failures": {job.slot: job.run_id}}
    if with_quality:
        replace[QUALITY] = {"": job.run_id}
        used["quality"] = job.settings.quality.model_dump()
    append = {VECTORS: {embedding.key: job.run_id}} if counts["vectors_added"] else {}
    if embedding.scores_slot is not None and counts["classes_added"]:
        append[CLASS_SCORES] = {embedding.scores_slot: job.run_id}
    job.publish(
        replace=replace,
        append=append,
        inputs=embedding.inputs,
        counts=counts,
        used={**used, "embeddings": job.settings.embeddings.model_dump()},
    )
    job.forget_state(embedding.state)  # all checkpoints are in the vector store now


def parts(counts: Mapping[str, Any], failed: int, failed_before: int) -> list[str]:
    """What became of ``counts["images"]``, in parts that add up to them.

    ``failed``: all failures; ``failed_before``: those of them that stand from an earlier run. The rest of the images
    got the vector of a file with the same bytes.
    """
    unchanged = counts["not_read_again"] - failed_before
    copies = counts["images"] - failed - unchanged - counts["embedded"]
    parts = [f"{counts['embedded']:,} embedded", f"{unchanged:,} unchanged"]
    if counts["resumed"]:
        parts[-1] += f" ({counts['resumed']:,} of them resumed from a run that was not published)"
    parts += [f"{copies:,} with the same bytes as others"] if copies > 0 else []
    return [*parts, f"{failed:,} failed"]


def _summarise(job: Job, written: runners.Written) -> None:
    counts, failures = written.counts, written.failures
    totals = parts(counts, failures.total, written.failed_before)
    devices_used = ", ".join(f"{device} ({images:,})" for device, images in counts["devices"].items())
    details = [f"computed on: {devices_used}"] if devices_used else []
    details += _about_quality(job, counts) + _about_classes(counts)
    summary = (
        f"embed_images {job.slot}: {counted(counts['images'], 'image')} in {job.seconds:.1f} s: {', '.join(totals)}"
    )
    job.say(summary, *details, *failures.lines, failures=failures.fields)


def _again(images: int) -> str:
    return f"--set embeddings.recheck=always reads {'it' if images == 1 else 'them'} again"


def quality_described(counts: Mapping[str, Any]) -> str:
    """``608 images measured: 3 blurred, 1 dark``; where some lack numbers, ``500 of 608 images measured: ...``."""
    measured, lacking = counts["measured"], counts["not_measured"]
    if not measured and lacking:
        images, were = f"none of {lacking:,} images has numbers", "they were"
        if lacking == 1:
            images, were = "the only image has no numbers", "it was"
        return f"{images}: {were} embedded before quality was measured"
    images = counted(measured + lacking, "image")
    flags = ", ".join(f"{flagged:,} {name}" for name, flagged in counts["flags"].items()) or "none flagged"
    return f"{f'{measured:,} of ' if lacking else ''}{images} measured: {flags}"


def _about_quality(job: Job, counts: Mapping[str, Any]) -> list[str]:
    if "measured" not in counts:
        published = not job.settings.quality.enabled and job.base_snapshot.run_ids(QUALITY)
        return ["quality: not measured (quality.enabled); the published table stays as it is"] if published else []
    lines, lacking = [f"quality: {quality_described(counts)}"], counts["not_measured"]
    again = _again(lacking)
    if lacking and not counts["measured"]:
        return [f"{lines[0]}; {again}"]
    if lacking:
        lines.append(
            f"quality: {counted(lacking, 'image was', 'images were')} embedded before quality was measured; {again}"
        )
    return lines


def _about_classes(counts: Mapping[str, Any]) -> list[str]:
    lines = []
    if unclear := counts.get("logits_not_finite"):
        they_have = "it has" if unclear == 1 else "they have"
        images = counted(unclear, "image")
        lines.append(f"classes: of {images} the network's logits are not finite: {they_have} no tags")
    if lacking := counts.get("without_classes", 0) - (unclear or 0):
        images = counted(lacking, "image was", "images were")
        lines.append(f"classes: {images} embedded without this classifier; {_again(lacking)}")
    return lines


# -- fingerprints of vectors -------------------------------------------------------------------------------------------


def _project(job: Job) -> None:
    """Projects the published vectors of another fingerprint, and publishes the result."""
    from image_similarity.stages.embeddings import projected

    declared, warehouse = _declared(job), job.warehouse
    inputs = {
        "embeddings": job.base_snapshot.run_ids("embeddings", declared.base),
        "projections": job.base_snapshot.run_ids("projections", job.slot),
    }
    base = warehouse.read("embeddings", inputs["embeddings"])
    base_key = base.select("fingerprint_key").first()
    if base_key is None:
        raise WrongInput(f"fingerprint {job.slot}: its base {declared.base} has no vectors to project")
    inputs["vectors"] = job.base_snapshot.run_ids("vectors", base_key.fingerprint_key)
    contents = base.select("content_sha256").distinct()
    vectors = warehouse.read("vectors", inputs["vectors"]).join(contents, "content_sha256", "left_semi")
    with job.step("fit components"):
        previous = projected.published(
            warehouse.read("projections", inputs["projections"]), base_key.fingerprint_key, declared
        )
        fitted = previous or projected.fit(job.slot, vectors, base_key.fingerprint_key, declared)
    published = warehouse.read("embeddings", job.base_snapshot.run_ids("embeddings", job.slot))
    used = {
        "fingerprint": {job.slot: declared.model_dump()},
        "fingerprint_key": fitted.key,
        "base_key": fitted.base_key,
        **_weights_behind(job, inputs["embeddings"]),
    }
    same_way.check_key(job.arguments, job.base_snapshot, job.slot, runners.key_in(published), used)
    with job.step("project and write tables"):
        counts = _write_projected(job, base, vectors, fitted, is_new=previous is None)
    replace = {"embeddings": {job.slot: job.run_id}, "failures": {job.slot: job.run_id}}
    job.publish(
        replace=replace if previous else {**replace, "projections": {job.slot: job.run_id}},
        append={"vectors": {fitted.key: job.run_id}} if counts["vectors_added"] else None,
        inputs=inputs,
        counts=counts,
        used=used,
    )
    job.say(
        f"embed_images {job.slot}: {counted(counts['images'], 'image')} in {job.seconds:.1f} s: "
        f"{counted(counts['vectors_added'], 'vector')} projected; "
        f"{counted(declared.dimensions, 'component holds', 'components hold')} {fitted.explained:.1%} of the variance "
        f"of {declared.base}"
    )


def _weights_behind(job: Job, runs: list[str]) -> dict[str, Any]:
    """The recorded weights of the base. Pages warn of untrained weights, for projected fingerprints as well."""
    records = [job.base_snapshot.runs[run] for run in runs if run in job.base_snapshot.runs]
    settings = records[0].settings if records else {}
    return {name: settings[name] for name in ("weights", "trained") if name in settings}


def _write_projected(
    job: Job, base: "DataFrame", vectors: "DataFrame", fitted: "Fitted", is_new: bool
) -> dict[str, Any]:
    """Writes the tables of a projected fingerprint, and counts."""
    from image_similarity.stages.embeddings import projected

    warehouse, run, declared = job.warehouse, job.run_id, _declared(job)
    named = projected.renamed(base, job.slot, fitted.key)
    failures = warehouse.read("failures", job.base_snapshot.run_ids("failures", declared.base))
    images = base.count() + failures.count()
    inherited = runners.write_failures(job, projected.renamed(failures, job.slot), images)
    warehouse.write("embeddings", run, named)
    known = warehouse.read("vectors", job.base_snapshot.run_ids("vectors", fitted.key))
    new = vectors.join(known.select("content_sha256"), "content_sha256", "left_anti")
    added = new.select("content_sha256").count()
    if added:
        warehouse.write("vectors", run, projected.project(job.session, new, fitted))
    if is_new:
        warehouse.write("projections", run, projected.rows_of(job.session, job.slot, fitted, declared))
    return {
        "images": images,
        "vectors_added": added,
        "failures": inherited.counts,
        "explained_variance": fitted.explained,
    }


if __name__ == "__main__":
    command_line.start("embed_images")
