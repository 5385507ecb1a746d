"""all tables -> gallery: render pages that show the results, readable from disk or from any static server."""

import argparse
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed, WrongInput, did_you_mean, listed
from image_similarity.imaging.decoding import UNREADABLE_REASONS
from image_similarity.jobs import command_line, early
from image_similarity.jobs.job import Application, Job
from image_similarity.knn.distances import Values
from image_similarity.pages.captions import clean
from image_similarity.pages.site import Site, open_site
from image_similarity.reporting import note, say
from image_similarity.runtime.session import cause_of, spark_errors
from image_similarity.settings import Settings
from image_similarity.stages.gallery import (
    addresses,
    by_spark,
    distances,
    groups,
    groups_by_spark,
    in_process,
    maps,
    measures,
    run_page,
    staleness,
    tags,
    words,
)
from image_similarity.stages.gallery import render as stage
from image_similarity.stages.gallery.distances import Compared
from image_similarity.stages.gallery.layout import Layout
from image_similarity.stages.gallery.pages import Tab, Tagged
from image_similarity.stages.gallery.render import About, Outputs
from image_similarity.stages.neighbours import usable
from image_similarity.storage import tables, uris
from image_similarity.storage.fetch import FETCH_REASONS
from image_similarity.warehouse import current_tags, retention
from image_similarity.warehouse.defaults import DEFAULT_FINGERPRINT, DEFAULT_METRIC
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import ALIKE, IDENTICAL, NEAR_DUPLICATES
from image_similarity.warehouse.snapshot import Snapshot
from image_similarity.warehouse.workspace import Workspace

_OF_QUALITY = ["image_id", "content_sha256", *measures.STORED]

Records = Mapping[str, Record]
"""run_id -> record."""


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
        _by_fingerprint(published, arguments.fingerprints or [])


def check_place(arguments: argparse.Namespace, images: str) -> None:
    """`check`, before Spark is started, where the gallery is on this machine. ``images``: empty if not known."""
    early.check_folder("--gallery", arguments.gallery, arguments.dry_run)
    if uris.is_local(arguments.gallery):
        place = uris.absolute(images) if images else ""
        open_site(None, "gallery", arguments.gallery).check_place(place, uris.absolute(arguments.warehouse))


def run(application: Application) -> None:
    render(application, application.arguments.fingerprints or [])
    note_on_map(application)
    say(f"gallery: {index_of(application)}")


def render(application: Application, fingerprints: Sequence[str] = ()) -> None:
    """Render the gallery of ``fingerprints`` (none: all that have neighbours)."""
    job = application.job("render_gallery", _site(application).uri)
    if job.already_published():
        return
    slots = _slots(job, fingerprints)
    with job.step("plan"):
        runs = _runs(job, list(slots))
        records = job.base_snapshot.runs
    site = check(application, _images_of(job, records))
    job.plan(
        f"show the neighbours by {', '.join(slots.values())} of the images in {job.warehouse.uri}",
        f"write pictures and pages to {site.uri}, and replace its index.html last",
    )
    site.begin()
    with job.warehouse.scratch(job.run_id) as scratch:
        try:
            with job.step("lay out pages"):
                about = _about(job, slots, records)
                layout = _lay_out(job, list(slots), about, site, scratch)
                outputs = stage.run(job.session, layout, about, job.settings, site, job.run_id)
        except BaseException:
            site.files.delete(site.folder(job.run_id))  # it is not published, so no visitor uses it
            raise
        with site.locked():
            site.claim(job.run_id)
            taken_over = _put_in_place(job, site, layout, outputs)
            used = {"gallery": job.settings.gallery.model_dump(), "slots": list(slots)}
            job.publish(replace={}, inputs=runs, counts=outputs.counts, used=used)
            _tidy_up(job, site, layout, taken_over)
    _summarise(job, outputs.counts)
    for run in about.runs:
        for line in run["notes"]:
            note(line)


def note_on_map(application: Application) -> None:
    """Says so where the map shows an earlier rendering than the pages. It stays good: its rendering is kept."""
    site = _site(application)
    if (shown := site.map()) and shown.rendering != site.renderings[0]:
        note(f"the map of {site.uri} is of an earlier rendering: run render_map")


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
        job.say(f"  {retired:,} pages have left the gallery; their addresses say so")
    return earlier


def _tidy_up(job: Job, site: Site, layout: Layout, taken_over: list[str]) -> None:
    """Removes renderings and pictures that are no longer shown. A failure is only noted: the next run tries again."""
    try:
        site.remove_others(job.run_id, taken_over)
        removed = layout.remove_unused(site.kept(job.run_id))
        if removed:
            job.say(f"  {removed:,} pictures removed that no page shows any more")
    except spark_errors(OSError) as error:
        note(f"what is not used any more could not be removed from {site.uri}: {cause_of(error)}")


def check(application: Application, images: str) -> Site:
    """The gallery's site. Raises ``WrongInput`` if its folder is unusable, or lies in ``images`` or the warehouse."""
    site = _site(application)
    site.check_place(images, application.warehouse.uri)
    return site


def _site(application: Application) -> Site:
    return open_site(application.session, "gallery", application.arguments.gallery)


def _by_fingerprint(snapshot: Snapshot, fingerprints: Sequence[str]) -> dict[str, list[str]]:
    """The published slots of ``neighbours`` by fingerprint. ``WrongInput`` if ``fingerprints`` are not among them."""
    published = snapshot.slots("neighbours")
    if not published:
        raise WrongInput(f"no neighbours are published in {snapshot.uri}: run find_neighbours first")
    by_fingerprint: dict[str, list[str]] = {}
    for slot in sorted(published):
        by_fingerprint.setdefault(slot.partition("/")[0], []).append(slot)
    unknown = [name for name in fingerprints if name not in by_fingerprint]
    if unknown:
        known = sorted(by_fingerprint)
        raise WrongInput(
            f"no neighbours by {', '.join(map(repr, unknown))} in {snapshot.uri} (published: {listed(known)})"
            + did_you_mean(unknown[0], known, "name one by --fingerprint, or run find_neighbours first")
        )
    return by_fingerprint


def _slots(job: Job, fingerprints: Sequence[str]) -> dict[str, str]:
    """The slots of ``neighbours`` to show, each with its label.

    ``fingerprints`` come in their order; without them, first those of the settings, then the default. So do metrics.
    """
    by_fingerprint = _by_fingerprint(job.base_snapshot, fingerprints)
    settings = job.settings.neighbours
    names = dict.fromkeys(fingerprints) or _first(by_fingerprint, settings.fingerprint, DEFAULT_FINGERPRINT)
    shown = {}
    for name in names:
        metrics = [slot.partition("/")[2] for slot in by_fingerprint[name]]
        for slot in (f"{name}/{metric}" for metric in _first(metrics, settings.metric, DEFAULT_METRIC)):
            is_plain = by_fingerprint[name] == [f"{name}/{DEFAULT_METRIC}"]
            shown[slot] = name if is_plain else slot.replace("/", ", ")
    return shown


def _first(names: Iterable[str], *preferred: str) -> list[str]:
    """``names`` in their order, with those that are ``preferred`` in front."""
    known = sorted(names)
    return list(dict.fromkeys([*(name for name in preferred if name in known), *known]))


def _images_of(job: Job, records: Records) -> str:
    """The images that build_manifest was given; empty if that run is not known."""
    return next(
        (str(records[run].settings["images"]) for run in job.base_snapshot.run_ids("manifest", "") if run in records),
        "",
    )


def _runs(job: Job, slots: list[str]) -> dict[str, list[str]]:
    """table -> runs read. ``WrongInput`` if there is no manifest."""
    snapshot = job.base_snapshot
    if not snapshot.run_ids("manifest", ""):
        raise WrongInput(f"no manifest in {job.warehouse.uri}, to tell where the pictures are: run build_manifest")
    fingerprints = _fingerprints(slots)
    failures = [*fingerprints, *(f"neighbours/{slot}" for slot in slots)]
    return {
        "manifest": snapshot.run_ids("manifest", ""),
        "neighbours": [run for slot in slots for run in snapshot.run_ids("neighbours", slot)],
        "embeddings": [run for name in fingerprints for run in snapshot.run_ids("embeddings", name)],
        "failures": [run for name in failures for run in snapshot.run_ids("failures", name)],
        "quality": snapshot.run_ids("quality", ""),
        "groups": list(_groups(snapshot, slots)[1]),
        "tags": snapshot.run_ids("tags", name) if (name := _tagger(snapshot, fingerprints)) else [],
    }


def _groups(snapshot: Snapshot, slots: Sequence[str]) -> tuple[int, dict[str, list[str]]]:
    """The number of the first of ``slots`` by which there are groups; run -> its kinds that are current.

    Groups by other slots are not shown: an image would be in several groups of a kind.
    """
    for number, slot in enumerate(slots):
        kinds: dict[str, list[str]] = {}
        for kind in (IDENTICAL, NEAR_DUPLICATES, ALIKE):
            for run in snapshot.run_ids("groups", f"{slot}/{kind}"):
                kinds.setdefault(run, []).append(kind)
        if kinds:
            return number, kinds
    return 0, {}


def _tagger(snapshot: Snapshot, fingerprints: Iterable[str]) -> str | None:
    """The first of ``fingerprints`` by which images are tagged; None if there is none. Tags by others are not shown."""
    return next((name for name in fingerprints if snapshot.run_ids("tags", name)), None)


def _fingerprints(slots: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(slot.partition("/")[0] for slot in slots))


def _lay_out(job: Job, slots: list[str], about: About, site: Site, scratch: Workspace) -> Layout:
    """The collection, laid out by this process if it fits into memory, and by Spark otherwise."""
    if job.warehouse.local_root is not None and _fits(job.base_snapshot, slots):
        with job.step("read tables"):
            tables = _tables(job, slots)
        return in_process.lay_out(job.session, tables, about.tabs, job.settings, site, job.run_id, scratch)
    inputs = _inputs(job, slots)
    return by_spark.lay_out(job.session, inputs, about.tabs, job.settings, site, job.run_id, job.warehouse, scratch)


def _fits(snapshot: Snapshot, slots: list[str]) -> bool:
    """Whether the collection fits into memory, by the ends of its files."""
    neighbours: int = sum(snapshot.dataset("neighbours", slot).count_rows() for slot in slots)
    images: int = snapshot.dataset("manifest").count_rows()
    return images <= in_process.MOST_IMAGES and neighbours <= in_process.MOST_NEIGHBOURS


def _tables(job: Job, slots: list[str]) -> in_process.Tables:
    snapshot, fingerprints = job.base_snapshot, _fingerprints(slots)
    columns = ["image_id", "relation", "rank", "neighbour_id", "distance"]
    neighbours = [snapshot.table("neighbours", slot, columns) for slot in slots]
    contents: dict[str, str | None] = {}
    for table in neighbours:
        contents |= dict.fromkeys(table.filter(pc.equal(table["rank"], 1))["image_id"].to_pylist())
    for name in fingerprints:
        embedded = snapshot.table("embeddings", name, ["image_id", "content_sha256"])
        for image_id, content in zip(*(column.to_pylist() for column in embedded.columns)):
            contents[image_id] = max(contents.get(image_id) or "", content or "") or None
    failures = [snapshot.table("failures", name) for name in (*fingerprints, *(f"neighbours/{slot}" for slot in slots))]
    compared = {
        slot.partition("/")[0]: (runs, keys[0])
        for slot in slots
        if (runs := _compared_runs(job, slot)) and len(keys := _keys(snapshot, runs)) == 1
    }
    return in_process.Tables(
        manifest=snapshot.table("manifest", "", ["image_id", "uri", "source_version", "size_bytes", "attributes"]),
        contents=contents,
        neighbours=neighbours,
        failures=pa.concat_tables(failures),
        quality=snapshot.table("quality", "", _OF_QUALITY) if snapshot.run_ids("quality", "") else None,
        vectors={name: partial(_vectors, snapshot, key) for name, (_, key) in compared.items()},
        drawn_from={
            name: snapshot.of_runs("embeddings", runs, ["content_sha256"])["content_sha256"].to_pylist()
            for name, (runs, _) in compared.items()
        },
        groups=_group_tables(snapshot, slots),
        **_tag_tables(snapshot, _tagger(snapshot, fingerprints)),
    )


def _group_tables(snapshot: Snapshot, slots: list[str]) -> groups.GroupTables | None:
    tab, grouped = _groups(snapshot, slots)
    if not grouped:
        return None

    def of_kinds(name: str, columns: list[str]) -> pa.Table:
        tables = [(snapshot.of_runs(name, [run], columns), kinds) for run, kinds in grouped.items()]
        return pa.concat_tables([table.filter(pc.is_in(table["kind"], pa.array(kinds))) for table, kinds in tables])

    return groups.GroupTables(tab, of_kinds("groups", groups.COLUMNS), of_kinds("group_summary", groups.SUMMARY))


def _tag_tables(snapshot: Snapshot, name: str | None) -> dict[str, Any]:
    """``tags`` and ``outdated_tags`` of the layout, by fingerprint ``name``."""
    if name is None:
        return {}
    current, others = current_tags.split(snapshot, name, ["image_id", *tags.GIVEN], tags.wanted(pc.field))
    return {"tags": current, "outdated_tags": pc.sum(others["accepted"], min_count=0).as_py()}


def _keys(snapshot: Snapshot, runs: list[str]) -> list[str]:
    """The fingerprint keys of runs of ``embeddings`` whose vectors are published."""
    keys: list[str] = snapshot.of_runs("embeddings", runs, ["fingerprint_key"])["fingerprint_key"].unique().to_pylist()
    return keys if all(snapshot.run_ids("vectors", key) for key in keys) else []


def _vectors(snapshot: Snapshot, key: str, contents: list[str]) -> Values:
    is_drawn = pc.field("content_sha256").isin(contents) & pc.field("embedding").is_valid()
    table = snapshot.dataset("vectors", key).to_table(["content_sha256", "embedding"], filter=is_drawn)
    return distances.as_values(zip(table["content_sha256"].to_pylist(), table["embedding"].to_pylist()))


def _inputs(job: Job, slots: list[str]) -> by_spark.Inputs:
    warehouse, snapshot, runs = job.warehouse, job.base_snapshot, _runs(job, slots)
    numbered = [
        warehouse.read("neighbours", snapshot.run_ids("neighbours", slot)).withColumn("tab", F.lit(number))
        for number, slot in enumerate(slots)
    ]
    neighbours = reduce(DataFrame.unionByName, numbered)
    compared = neighbours.where("rank = 1").select("image_id", F.lit(None).cast("string").alias("content_sha256"))
    embedded = warehouse.read("embeddings", runs["embeddings"]).select("image_id", "content_sha256")
    contents = compared.unionByName(embedded).groupBy("image_id").agg(F.max("content_sha256").alias("content_sha256"))
    return by_spark.Inputs(
        manifest=warehouse.read("manifest", runs["manifest"]),
        contents=contents,
        neighbours=neighbours.select("tab", "image_id", "relation", "rank", "neighbour_id", "distance"),
        failures=warehouse.read("failures", runs["failures"]),
        quality=warehouse.read("quality", runs["quality"]) if runs["quality"] else None,
        compared=_compared(job, slots),
        groups=_group_frames(job, slots),
        **_tag_frames(job, _tagger(snapshot, _fingerprints(slots))),
    )


def _group_frames(job: Job, slots: list[str]) -> groups_by_spark.GroupTables | None:
    tab, grouped = _groups(job.base_snapshot, slots)
    if not grouped:
        return None

    def of_kinds(name: str) -> DataFrame:
        tables = [job.warehouse.read(name, [run]).where(F.col("kind").isin(of)) for run, of in grouped.items()]
        return reduce(DataFrame.unionByName, tables)

    return groups_by_spark.GroupTables(tab, of_kinds("groups"), of_kinds("group_summary"))


def _tag_frames(job: Job, name: str | None) -> dict[str, Any]:
    """As `_tag_tables`. The rule is that of `current_tags.split`."""
    if name is None:
        return {}
    read, snapshot, of_what = job.warehouse.read, job.base_snapshot, current_tags.OF_WHAT
    rows = read("tags", snapshot.run_ids("tags", name)).where((F.col("fingerprint") == name) & tags.wanted(F.col))
    now = read("embeddings", snapshot.run_ids("embeddings", name)).select(*of_what)
    outdated = rows.where("accepted").join(now, of_what, "left_anti").count()
    current = rows.join(now, of_what, "left_semi").select("image_id", *tags.GIVEN)
    return {"tags": current, "outdated_tags": outdated}


def _compared(job: Job, slots: list[str]) -> dict[str, Compared]:
    """fingerprint -> the vectors that its neighbours were found among. Those whose tables are gone, or which the user
    brought, are left out.
    """
    snapshot, warehouse, result = job.base_snapshot, job.warehouse, {}
    for slot in slots:
        if runs := _compared_runs(job, slot):
            keys = _keys(snapshot, runs)
            if len(keys) == 1:
                stored = warehouse.read("vectors", snapshot.run_ids("vectors", keys[0]))
                result[slot.partition("/")[0]] = Compared(warehouse.read("embeddings", runs), stored)
    return result


def _compared_runs(job: Job, slot: str) -> list[str]:
    """The runs of ``embeddings`` that the neighbours of ``slot`` were found among; none if not all are there."""
    snapshot = job.base_snapshot
    records = [snapshot.runs[run] for run in snapshot.run_ids("neighbours", slot) if run in snapshot.runs]
    runs = [run for record in records if "vectors" in record.inputs for run in record.inputs["embeddings"]]
    return runs if all(retention.is_whole(job.warehouse, "embeddings", run) for run in runs) else []


# -- what the pages say about runs -------------------------------------------------------------------------------------


def _about(job: Job, slots: dict[str, str], records: Records) -> About:
    def section(title: str, runs: list[str], *notes: str) -> list[dict[str, Any]]:
        return [run_page.section(title, records[run], notes) for run in runs[:1] if run in records]

    snapshot = job.base_snapshot
    runs, untrained = section("The images", snapshot.run_ids("manifest", "")), []
    for name in dict.fromkeys(slot.partition("/")[0] for slot in slots):
        published = snapshot.run_ids("embeddings", name)
        runs += section(f"Fingerprint {name}", published, *_stale_embeddings(job, name, records))
        untrained += [name for run in published if run in records and records[run].settings.get("trained") is False]
    for slot, label in slots.items():
        published = snapshot.run_ids("neighbours", slot)
        runs += section(f"Neighbours by {label}", published, *_stale_neighbours(job, slot, records))
    tab, grouped = _groups(snapshot, list(slots))
    for run, kinds in grouped.items():
        slot, label = list(slots.items())[tab]
        title = f"Groups by {label}: {' and '.join(words.KINDS[kind] for kind in kinds)}"
        runs += section(title, [run], *_stale_groups(snapshot, slot, run, kinds))
    tagger = _tagger(snapshot, _fingerprints(slots))
    if tagger is not None:
        published = snapshot.run_ids("tags", tagger)
        runs += section(f"Tags by {tagger}", published, *_stale_tags(job, tagger, records))
    parted = [(slot.partition("/"), label) for slot, label in slots.items()]
    tabs = tuple(Tab(label, fingerprint, metric) for (fingerprint, _, metric), label in parted)
    images = _images_of(job, records)
    title, from_list = clean(job.settings.gallery.title or _collection(images)), tables.kind_of(images) is not None
    reasons = {**usable.FAILURE_REASONS, **FETCH_REASONS, **UNREADABLE_REASONS}
    tagged = tagger and _tagged(snapshot, tagger, records)
    return About(title, tabs, tuple(untrained), from_list, reasons, runs, tagged or None)


def _stale_embeddings(job: Job, name: str, records: Records) -> list[str]:
    """A line where images of the manifest are others than those that were embedded as ``name``; else none."""
    snapshot, warehouse = job.base_snapshot, job.warehouse
    published, manifest = snapshot.run_ids("embeddings", name), snapshot.run_ids("manifest", "")
    if not published or _were_read(published, "manifest", manifest, records):
        return []
    seen = warehouse.read("failures", snapshot.run_ids("failures", name)).select("image_id", "source_version")
    seen = seen.unionByName(warehouse.read("embeddings", published).select("image_id", "source_version"))
    changed = staleness.changed_images(seen, warehouse.read("manifest", manifest), ("source_version",))
    return _stale_line(
        changed, f"images are new, gone or changed since they were embedded as {name}", "embed_images", name
    )


def _stale_neighbours(job: Job, slot: str, records: Records) -> list[str]:
    """A line where the vectors that are published are others than those of the neighbours of ``slot``; else none."""
    (name, _, metric), snapshot = slot.partition("/"), job.base_snapshot
    published, embeddings = snapshot.run_ids("neighbours", slot), snapshot.run_ids("embeddings", name)
    if not embeddings or _were_read(published, "embeddings", embeddings, records):
        return []
    read = [run for of in published if of in records for run in records[of].inputs.get("embeddings", [])]
    if not all(retention.is_whole(job.warehouse, "embeddings", run) for run in read):
        return [
            f"{name} was embedded again since these neighbours were found: run find_neighbours --fingerprint {name}"
        ]
    before, now = job.warehouse.read("embeddings", read), job.warehouse.read("embeddings", embeddings)
    changed = staleness.changed_images(before, now, ("fingerprint_key", "content_sha256"))
    what = f"images have other vectors, or are new or gone, since the neighbours by {slot} were found"
    return _stale_line(changed, what, "find_neighbours", f"{name} --metric {metric}")


def _stale_groups(snapshot: Snapshot, slot: str, run: str, kinds: list[str]) -> list[str]:
    """A line where the groups of ``run`` were made of other neighbours than those that are published; else none."""
    if _were_read([run], "neighbours", snapshot.run_ids("neighbours", slot), snapshot.runs):
        return []
    return [f"neighbours by {slot} were found again since these groups were made: {_group_again(slot, kinds)}"]


def _stale_tags(job: Job, name: str, records: Records) -> list[str]:
    """A line where images have other vectors by ``name`` than those that the tags were given to; else none."""
    snapshot = job.base_snapshot
    published, embeddings = snapshot.run_ids("tags", name), snapshot.run_ids("embeddings", name)
    if _were_read(published, "embeddings", embeddings, records):
        return []
    read = [run for of in published if of in records for run in records[of].inputs.get("embeddings", [])]
    if not all(retention.is_whole(job.warehouse, "embeddings", run) for run in read):
        return [f"images were embedded as {name} since these tags were given: run tag_images --fingerprint {name}"]
    before, now = job.warehouse.read("embeddings", read), job.warehouse.read("embeddings", embeddings)
    changed = staleness.changed_images(before, now, ("fingerprint_key", "content_sha256"))
    return _stale_line(changed, f"images are others, new or gone since they were tagged by {name}", "tag_images", name)


def _tagged(snapshot: Snapshot, name: str, records: Records) -> Tagged:
    """What gave the tags by fingerprint ``name``."""
    given = [records[run].settings for run in snapshot.run_ids("tags", name) if run in records]
    embedded = [dict(run_page.facts(records[run])) for run in snapshot.run_ids("embeddings", name) if run in records]
    network = [embedded[0][fact] for fact in ("network", "weights") if fact in embedded[0]] if embedded else []
    threshold = given[0].get("tags", {}).get("threshold") if given else None
    return Tagged(name, ", ".join(network), threshold)


def _group_again(slot: str, kinds: Sequence[str]) -> str:
    fingerprint, _, metric = slot.partition("/")
    commands = [f"--kind {kind}" for kind in (NEAR_DUPLICATES, ALIKE) if kind in kinds]
    return f"run group_images --fingerprint {fingerprint} --metric {metric} {' and '.join(commands)}".rstrip()


def _were_read(runs: list[str], table: str, now: list[str], records: Records) -> bool:
    """Whether all of ``runs`` read just those runs of ``table`` that are published ``now``, or none are."""
    return not now or all(records[run].inputs.get(table) == now for run in runs if run in records)


def _stale_line(images: int, what: str, job: str, fingerprint: str) -> list[str]:
    return [f"{images:,} {what}: run {job} --fingerprint {fingerprint}"] if images else []


def _collection(images: str) -> str:
    """A name for the collection: the name of its folder, or of the folder that contains its list."""
    location = uris.absolute(images).rstrip("/")
    name = posixpath.basename(location)
    if posixpath.splitext(name)[1] or any(character in name for character in "*?["):
        name = posixpath.basename(posixpath.dirname(location))
    return name or "Images"


def _summarise(job: Job, counts: dict[str, Any]) -> None:
    known = counts["pictures"] - counts["pictures_made"] - counts["pictures_absent"]
    written = counts["pages_new"] + counts["pages_changed"] + 1
    job.say(
        f"render_gallery: {counts['images']:,} images in {job.seconds:.1f} s: {counts['pictures_made']:,} pictures "
        "made, "
        f"{known:,} known, {counts['pages']:,} pages (the front page, {counts['images']:,} of images, "
        f"{counts['pages'] - counts['images'] - 1:,} of lists and others), {written:,} of them new or "
        "changed"
    )
    if counts["pictures_absent"]:
        note(f"{counts['pictures_absent']:,} pictures could not be read any more; their pages say so")
    for slot, gone in counts["neighbours_gone"].items():
        fingerprint, _, metric = slot.partition("/")
        note(
            f"{gone:,} neighbours by {slot} are not shown, because an image is no longer in the manifest: "
            f"run find_neighbours --fingerprint {fingerprint} --metric {metric}"
        )
    if counts["groups_gone"]:
        note(
            f"{counts['groups_gone']:,} rows of groups are not shown, because an image of their group is no longer in "
            "the manifest: run group_images again"
        )
    if counts["tags_gone"]:
        note(
            f"{counts['tags_gone']:,} tags are not shown, because their image is gone, or its file was replaced: "
            "run tag_images again"
        )


def index_of(application: Application) -> str:
    """The address of the gallery's front page."""
    return _site(application).index


if __name__ == "__main__":
    command_line.start("render_gallery")
