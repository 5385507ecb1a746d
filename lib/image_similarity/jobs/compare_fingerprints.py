"""neighbours -> comparisons: how far fingerprints agree, how well each finds images with the same label, and a
report.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import WrongInput, counted, did_you_mean, listed
from image_similarity.jobs import command_line, early
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.job import Application, Job
from image_similarity.pages.captions import clean
from image_similarity.pages.site import Site, open_site
from image_similarity.reporting import aligned, note
from image_similarity.settings import Settings as AllSettings
from image_similarity.stages.comparison import plot, stage
from image_similarity.stages.comparison.measures import (
    AVERAGE_PRECISION,
    OVERLAP,
    PRECISION,
    Comparison,
    Labelled,
    Measured,
)
from image_similarity.stages.comparison.stage import Inputs, Outputs
from image_similarity.warehouse import provenance
from image_similarity.warehouse.parquet import spark_schema
from image_similarity.warehouse.snapshot import Snapshot

DEFAULT_LABEL = "label"
DEFAULT_EXAMPLES = 10

Settings = Mapping[str, Mapping[str, Any]]
"""run_id -> the value of ``runs.settings``"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report", required=True, metavar="URI", help="the folder of the page: new, empty, or an earlier report"
    )
    parser.add_argument(
        "--fingerprint",
        action="append",
        dest="fingerprints",
        metavar="NAME",
        help="repeatable (default: all that have neighbours)",
    )
    parser.add_argument(
        "--metric", metavar="cosine|correlation|euclidean", **setting("neighbours.metric", is_text=True)
    )
    parser.add_argument(
        "-k",
        type=command_line.at_least(1),
        metavar="N",
        help="neighbours that are compared (default: all that each has)",
    )
    parser.add_argument(
        "--label", metavar="ATTRIBUTE", help=f"what belongs together has the same (default: {DEFAULT_LABEL})"
    )
    parser.add_argument(
        "--pairs",
        type=command_line.at_least(0),
        default=DEFAULT_EXAMPLES,
        metavar="N",
        help=f"images shown of each two fingerprints (default: {DEFAULT_EXAMPLES})",
    )


def check_early(arguments: argparse.Namespace, settings: AllSettings) -> None:
    """Raises ``WrongInput`` for a folder that cannot be a report's, and where nothing is published to compare."""
    early.check_site("report", arguments.report, arguments)
    published = early.to_read(arguments.warehouse)
    if published and not published.slots("neighbours"):
        raise WrongInput(f"no neighbours are published in {published.uri}: run find_neighbours first")
    if published:
        _k(arguments, _lengths(arguments, published, settings.neighbours.metric))


def run(application: Application) -> None:
    plot.check_installed()
    job = application.job("compare_fingerprints", application.settings.neighbours.metric)
    if job.already_published():
        return
    with job.step("plan"):
        used = _settings_of_runs(job)
        comparison, site = _comparison(job), open_site(job.session, "report", job.arguments.report)
    site.check_place(provenance.images_folder(job.base_snapshot), job.warehouse.uri)
    job.plan(
        f"compare the {counted(comparison.k, 'nearest other')} by {', '.join(comparison.fingerprints)} "
        f"({comparison.metric} distance)",
        *([f"and how many of them have the same {clean(comparison.label)}"] if comparison.label else []),
        f"write comparisons to {job.warehouse.uri}",
        f"write pictures and pages to {site.uri}, then replace its index.html",
    )
    site.begin()
    runs = _runs(job, comparison)
    with job.warehouse.scratch(job.run_id) as scratch:
        try:
            inputs, examples = _inputs(job, runs, _untrained(job, comparison, used)), job.arguments.pairs
            with job.step("measure"):
                outputs = stage.run(job.session, inputs, comparison, examples, job.settings, site, job.run_id, scratch)
            with job.step("write tables"):
                job.warehouse.write("comparisons", job.run_id, _rows(job.session, outputs.measured))
        except BaseException:
            site.files.delete(site.folder(job.run_id))  # it was not published, so nobody reads it
            raise
    _publish(job, comparison, site, runs, outputs)
    _summarise(job, comparison, outputs)
    job.say(f"report: {site.index}")
    job.say(f"table: comparisons ({comparison.metric}) in {job.warehouse.uri}")


def _publish(job: Job, comparison: Comparison, site: Site, runs: dict[str, list[str]], outputs: Outputs) -> None:
    used = {"comparison": {**asdict(comparison), "pairs": job.arguments.pairs}}
    with site.locked():
        site.claim(job.run_id)
        site.write_index(outputs.index)
        job.publish(replace={"comparisons": {job.slot: job.run_id}}, inputs=runs, counts=outputs.counts, used=used)
        try:
            site.remove_others(job.run_id)
        except OSError as error:  # not a failure: the next run tries again
            note(f"what is not used any more could not be removed from {site.uri}: {error}")


# -- the comparison ----------------------------------------------------------------------------------------------------


def _settings_of_runs(job: Job) -> Settings:
    """The settings of every published run."""
    return {run: record.settings for run, record in job.base_snapshot.runs.items()}


def _comparison(job: Job) -> Comparison:
    """The comparison that the arguments ask for. Raises ``WrongInput`` if there is nothing to compare."""
    lengths = _lengths(job.arguments, job.base_snapshot, job.slot)
    comparison = Comparison(tuple(lengths), job.slot, _k(job.arguments, lengths), _label(job))
    if len(lengths) == 1 and comparison.label is None:
        raise WrongInput(f"nothing to compare {', '.join(lengths)} with: no other {job.slot} neighbours, and no labels")
    return comparison


def _lengths(arguments: argparse.Namespace, snapshot: Snapshot, metric: str) -> dict[str, int]:
    """The length of the lists of each fingerprint that is compared, by ``metric``.

    Raises ``WrongInput`` if there is none, or if a requested fingerprint has no similar neighbours.
    """
    published, records = snapshot.slots("neighbours"), snapshot.runs
    lengths = {}
    for slot in sorted(published, key=lambda slot: slot.split("/")):
        fingerprint, _, slots_metric = slot.partition("/")
        list_lengths = [records[run].settings["neighbours"]["similar"] for run in published[slot] if run in records]
        if slots_metric == metric and list_lengths and min(list_lengths):
            lengths[fingerprint] = min(list_lengths)
    names = list(dict.fromkeys(arguments.fingerprints or lengths))
    unknown = [name for name in names if name not in lengths]
    if unknown or not names:
        suggestion = did_you_mean(unknown[0], lengths) if unknown else ""
        by_names = f" by {', '.join(map(repr, unknown))}" if unknown else ""
        raise WrongInput(
            f"no similar neighbours{by_names} with {metric} distance in {snapshot.uri} (published: "
            f"{listed(sorted(published))}){suggestion or ': run find_neighbours first'}"
        )
    return {name: lengths[name] for name in names}


def _k(arguments: argparse.Namespace, lengths: dict[str, int]) -> int:
    shortest, requested = min(lengths, key=lambda name: lengths[name]), arguments.k
    if requested is not None and requested > lengths[shortest]:
        raise WrongInput(
            f"-k {requested}: {shortest} has {counted(lengths[shortest], 'neighbour')} of each image: ask for less, or "
            "find_neighbours with more"
        )
    return requested or lengths[shortest]


def _label(job: Job) -> str | None:
    """The attribute that is the label; None if none is requested and no image has the default one.

    Raises ``WrongInput`` if no image has the requested attribute.
    """
    requested = job.arguments.label
    if requested is None and not job.base_snapshot.run_ids("manifest", ""):
        return None
    manifest = job.warehouse.read("manifest", job.base_snapshot.run_ids("manifest", ""))
    attribute = DEFAULT_LABEL if requested is None else requested
    if stage.labels_of(manifest, attribute).first() is not None:
        return str(attribute)
    if requested is None:
        return None
    names = manifest.select(F.explode(F.map_keys("attributes")).alias("name")).distinct().orderBy("name").collect()
    known = [clean(row.name) for row in names]
    raise WrongInput(
        f"--label {requested}: no image has that attribute (there are: {listed(known)}){did_you_mean(requested, known)}"
    )


def _runs(job: Job, comparison: Comparison) -> dict[str, list[str]]:
    """The runs that are read, by table."""
    slots = [f"{name}/{comparison.metric}" for name in comparison.fingerprints]
    return {
        "manifest": job.base_snapshot.run_ids("manifest", ""),
        "neighbours": [run for slot in slots for run in job.base_snapshot.run_ids("neighbours", slot)],
    }


def _untrained(job: Job, comparison: Comparison, used: Settings) -> tuple[str, ...]:
    def is_untrained(fingerprint: str) -> bool:
        return any(
            used.get(run, {}).get("trained") is False for run in job.base_snapshot.run_ids("embeddings", fingerprint)
        )

    return tuple(filter(is_untrained, comparison.fingerprints))


def _inputs(job: Job, runs: dict[str, list[str]], untrained: tuple[str, ...]) -> Inputs:
    neighbours = [job.warehouse.read("neighbours", [run]) for run in runs["neighbours"]]
    return Inputs(
        job.warehouse.read("manifest", runs["manifest"]), reduce(DataFrame.unionByName, neighbours), untrained
    )


def _rows(session: SparkSession, measured: tuple[Measured, ...]) -> DataFrame:
    rows = session.createDataFrame([tuple(asdict(row).values()) for row in measured], spark_schema("comparisons"))
    return rows.coalesce(1)


# -- messages ----------------------------------------------------------------------------------------------------------


def _summarise(job: Job, comparison: Comparison, outputs: Outputs) -> None:
    counts = outputs.counts
    left_out = f"; {counts['left_out']:,} left out, which not all have neighbours of" if counts["left_out"] else ""
    images = f"{counted(counts['images'], 'image')}, {counted(comparison.k, 'nearest other')} of each"
    job.say(f"compare_fingerprints {comparison.metric}: {images}{left_out}; {job.seconds:.1f} s")
    if comparison.pairs:
        job.say(aligned(_matrix(comparison, outputs.measured)))
    if comparison.label:
        job.say(f"  {_label_counts(comparison, outputs.labelled)}")
    if outputs.labelled.measured:
        job.say(aligned(_labels(comparison, outputs.labelled.measured)))
    if counts["pictures_absent"]:
        job.say(f"  {counted(counts['pictures_absent'], 'picture')} could not be read: the report says why")


def _matrix(comparison: Comparison, measured: tuple[Measured, ...]) -> Iterator[tuple[str, ...]]:
    names = comparison.fingerprints
    overlaps = {frozenset((row.fingerprint, row.other)): row for row in measured if row.measure == OVERLAP}
    yield (f"{OVERLAP}@{comparison.k}", *names)
    for name in names:
        yield (name, *(f"{overlaps[frozenset((name, other))].value:.3f}" if other != name else "-" for other in names))
    chances = [row.chance for row in overlaps.values()]
    least, most = f"{min(chances):.3f}", f"{max(chances):.3f}"
    yield ("by chance", least if least == most else f"{least} to {most}", *[""] * (len(names) - 1))


def _label_counts(comparison: Comparison, labelled: Labelled) -> str:
    notes = [f"{counted(labelled.images, 'image')} with the same {clean(comparison.label or '')} as others"]
    notes += [counted(labelled.alone, "alone with its own", "alone with theirs")] if labelled.alone else []
    notes += [f"{labelled.unlabelled:,} without"] if labelled.unlabelled else []
    notes += [f"precision can be {labelled.best_precision:.3f} at most"] if labelled.measured else []
    return "; ".join(notes)


def _labels(comparison: Comparison, measured: tuple[Measured, ...]) -> Iterator[tuple[str, ...]]:
    measures = {(row.fingerprint, row.measure): row for row in measured}
    yield ("", f"{PRECISION}@{comparison.k}", "by chance", f"mAP@{comparison.k}", "by chance")
    for name in comparison.fingerprints:
        rows = [measures[name, measure] for measure in (PRECISION, AVERAGE_PRECISION)]
        yield (name, *(text for row in rows for text in (f"{row.value:.3f}", f"{row.chance:.3f}")))


if __name__ == "__main__":
    command_line.start("compare_fingerprints")
