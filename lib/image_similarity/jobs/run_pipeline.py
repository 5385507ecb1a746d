"""images -> manifest -> embeddings -> tags, neighbours -> groups -> gallery, map, in one Spark application."""

import argparse
import hashlib
import heapq
import importlib.util
import shlex
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.jobs import (
    build_manifest,
    command_line,
    embed_images,
    find_neighbours,
    group_images,
    render_gallery,
    render_map,
    tag_images,
)
from image_similarity.jobs.job import Application, work_on
from image_similarity.pages import captions
from image_similarity.reporting import aligned, note, printable, say
from image_similarity.runtime import progress
from image_similarity.settings import Settings
from image_similarity.storage import uris
from image_similarity.warehouse.schemas import SIMILAR
from image_similarity.warehouse.snapshot import Snapshot

EXAMPLES = 6
NEIGHBOURS_SHOWN = 3
LONGEST_TITLE = 50
NO_DUCKDB = f"DuckDB is not installed yet: {shlex.quote(sys.executable)} -m pip install 'duckdb>=1.4,<3'"
"""Below the query: DuckDB is an extra, which no job needs."""
LABEL = "label"
"""The attribute that is shown behind an image's name in the examples, if the manifest has it and no title."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    build_manifest.add_arguments(parser)
    embed_images.add_fingerprints(parser)
    find_neighbours.add_options(parser)
    embed_images.add_switches(parser)
    render_gallery.add_gallery(parser, required=False)


declare = embed_images.declare


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` for what is seen before Spark is started: images, fingerprints and weights that are not
    there.
    """
    build_manifest.check_early(arguments, settings)
    embed_images.check_fingerprints(arguments, settings)
    if arguments.gallery:
        render_gallery.check_place(arguments, arguments.images)


def run(application: Application) -> None:
    names = list(dict.fromkeys(application.arguments.fingerprints or [application.settings.neighbours.fingerprint]))
    _prefer(application, names[0])
    embed_images.check(application)  # before the manifest is published
    gallery = None
    if application.arguments.gallery:
        gallery = render_gallery.check(application, uris.absolute(application.arguments.images))
    if application.arguments.dry_run:
        say(f"run_pipeline on {application.arguments.images}:", *_steps(application, names), event="plan")
        return
    if not uris.is_local(application.arguments.images):  # others were checked before Spark was started
        build_manifest.check(application.arguments, application.settings)  # before weights are loaded, or downloaded
    began = time.monotonic()
    embed_images.prepare_fingerprints(application)
    build_manifest.run(application)
    if gallery:
        gallery.begin()  # fails before hours of work if the folder cannot be written
    embed_images.run(application)
    for name in names:
        if application.settings.tags.enabled:
            tag_images.run(application, name, where_possible=True)
        elif application.warehouse.current().runs("tags", name):
            note(f"images are not tagged (tags.enabled); the published tags by {name} stay as they are")
        find_neighbours.run(application, name)
        for kind in group_images.KINDS if _groups(application) else ():
            group_images.run(application, name, kind)
    if gallery:
        _show(application)
    _summarise(application, names, time.monotonic() - began)


def _steps(application: Application, names: list[str]) -> Iterator[str]:
    """The plan."""
    gallery = application.arguments.gallery
    yield "list the images"
    yield f"embed them as {', '.join(names)}"
    if application.settings.tags.enabled:
        yield "tag them, where the fingerprint has a classifier"
    yield "compare all pairs"
    if _groups(application):
        yield f"group images: {' and '.join(group_images.KINDS)}"
    if gallery:
        yield f"render the gallery {uris.absolute(gallery) if uris.is_local(gallery) else gallery}"
    if gallery and _has_map(application):
        yield "render its map"
    yield f"write all tables to {application.warehouse.uri}"


def _show(application: Application) -> None:
    """Renders the gallery, and its map."""
    render_gallery.render(application)
    if _has_map(application):
        render_map.render(application, where_possible=True)
    render_gallery.note_on_map(application)


def _groups(application: Application) -> bool:
    """Whether images are grouped: by their similar neighbours."""
    return application.settings.groups.enabled and application.settings.neighbours.similar > 0


def _has_map(application: Application) -> bool:
    """Whether the gallery gets a map: of similar neighbours."""
    return application.settings.map.enabled and application.settings.neighbours.similar > 0


def _prefer(application: Application, fingerprint: str) -> None:
    """Take ``fingerprint`` for the one of the settings: the gallery shows it first."""
    neighbours = application.settings.neighbours.model_copy(update={"fingerprint": fingerprint})
    application.settings = application.settings.model_copy(update={"neighbours": neighbours})


def _summarise(application: Application, names: list[str], seconds: float) -> None:
    finished, neighbours = application.finished, application.settings.neighbours
    work_on(application.session, "run_pipeline")
    by_job: Counter[str] = Counter()
    for run in finished:
        by_job[run.name] += round(run.seconds, 3)  # type: ignore[assignment]
    say("")
    say(f"run_pipeline: done in {seconds:.1f} s", seconds=round(seconds, 3), jobs=dict(by_job))
    if finished:  # empty if everything was published under this label before
        rows = [(name, f"{spent:.1f} s") for name, spent in by_job.items()]
        say(aligned([*rows, *_totals(application, names[0])]))
    for run in finished:
        if run.used.get("trained") is False:
            warning = f"{run.used['weights']}: the network has seen no picture, so its idea of similarity is crude"
            say(f"  weights: {warning}", event="note")
    slots = [f"{name}/{neighbours.metric}" for name in names]
    if neighbours.similar:
        for slot in slots:
            _show_examples(application, slot)
    if application.warehouse.local_root:
        query = _example_query(application.warehouse.uri, slots[0], not neighbours.similar)
        say(f"query: {query}", *([] if importlib.util.find_spec("duckdb") else [NO_DUCKDB]))
    find_neighbours.say_how_to_search(application.warehouse, names[0], neighbours.metric)
    say(f"warehouse: {application.warehouse.uri}")
    if application.arguments.gallery:
        _say_pages(application)


def _say_pages(application: Application) -> None:
    """Where the map is, and the gallery."""
    if _has_map(application) and (page := render_map.page_of(application)):
        say(f"map: {page}")
    index = render_gallery.index_of(application)
    say(f"gallery: {index}")
    if uris.is_local(index):
        say(f"open it: {Path(uris.local_path(index)).as_uri()}")


def _totals(application: Application, fingerprint: str) -> Iterator[tuple[str, str]]:
    finished = application.finished
    yield from (("images", f"{run.counts['images']:,}") for run in finished if run.name == "build_manifest")
    failures: Counter[str] = sum((Counter(run.counts.get("failures", {})) for run in finished), Counter())
    yield "failed", ", ".join(f"{count:,} {reason}" for reason, count in failures.items()) or "none"
    for counts in [run.counts for run in finished if run.name == "embed_images" and "measured" in run.counts][:1]:
        yield "quality", embed_images.quality_described(counts)
    for run in finished:
        if run.name == "tag_images" and run.slot == fingerprint and run.counts["images"]:
            yield "tags", tag_images.described(run.counts)
        if run.name == "group_images" and run.slot.startswith(f"{fingerprint}/"):
            yield "groups", group_images.described(run.counts, run.slot.rpartition("/")[2])
        if run.name == "render_map":
            yield "map", render_map.described(run.counts)
    if copies := _copies(application, fingerprint):
        yield "copies", f"{copies:,} with the same bytes as another image: the view exact_duplicates lists them"


_MOST_READ_HERE = 5_000_000
"""Rows of a table. Spark reads larger ones: their ids would fill the memory of this process."""


def _is_read_here(application: Application, table: str, slot: str) -> bool:
    """Whether this process reads a table itself, without Spark, which may not be started."""
    warehouse = application.warehouse
    return warehouse.local_root is not None and (
        int(warehouse.snapshot().dataset(table, slot).count_rows()) <= _MOST_READ_HERE
    )


def _copies(application: Application, fingerprint: str) -> int:
    """The number of images that have the same bytes as another one, which counts as the original."""
    if _is_read_here(application, "embeddings", fingerprint):
        contents = application.warehouse.snapshot().table("embeddings", fingerprint, ["content_sha256"])[0]
        return len(contents) - int(pc.count_distinct(contents).as_py())
    from pyspark.sql import functions as F

    runs = application.warehouse.current().runs("embeddings", fingerprint)
    rows = application.warehouse.read("embeddings", runs).select("content_sha256")
    with progress.described(application.session, "count copies"):
        images, distinct = rows.agg(F.count("*"), F.count_distinct("content_sha256")).collect()[0]
    return int(images - distinct)


def _show_examples(application: Application, slot: str) -> None:
    """Shows a few images, chosen by a hash of their id, each with its nearest neighbours."""
    if _is_read_here(application, "neighbours", slot):
        rows = _examples_here(application.warehouse.snapshot(), slot)
    else:
        rows = _examples_by_spark(application, slot)
    if rows:
        say(f"some images and their nearest others ({slot} distances):")
        say(aligned(_example_rows(rows, application.settings.gallery.title_attributes)))


def _examples_here(published: Snapshot, slot: str) -> list[dict[str, Any]]:
    """image_id, rank, neighbour_id, distance, attributes and neighbour_attributes of the nearest of a few images."""
    import pyarrow.dataset as ds

    is_near = (ds.field("relation") == SIMILAR) & (ds.field("rank") <= NEIGHBOURS_SHOWN)
    columns = ["image_id", "rank", "neighbour_id", "distance"]
    near = published.dataset("neighbours", slot).to_table(columns=columns, filter=is_near)
    ids = near.filter(pc.equal(near["rank"], 1))["image_id"].to_pylist()
    chosen = heapq.nsmallest(EXAMPLES, ids, key=lambda image_id: hashlib.sha256(image_id.encode()).hexdigest())
    rows = near.filter(pc.is_in(near["image_id"], pa.array(chosen, pa.string()))).to_pylist()
    shown = pa.array({row[column] for row in rows for column in ("image_id", "neighbour_id")}, pa.string())
    images = published.dataset("manifest").to_table(
        columns=["image_id", "attributes"], filter=ds.field("image_id").isin(shown)
    )
    of = {image["image_id"]: dict(image["attributes"] or ()) for image in images.to_pylist()}
    return [
        {**row, "attributes": of[row["image_id"]], "neighbour_attributes": of[row["neighbour_id"]]}
        for row in sorted(rows, key=lambda row: (row["image_id"], row["rank"]))
        if row["image_id"] in of and row["neighbour_id"] in of
    ]


def _examples_by_spark(application: Application, slot: str) -> list[Any]:
    """The same rows as `_examples_here`, of a warehouse that is not on this machine, or is large."""
    from pyspark.sql import functions as F

    pointer, warehouse = application.warehouse.current(), application.warehouse
    images = warehouse.read("manifest", pointer.runs("manifest", ""))
    attributes = images.select("image_id", "attributes")
    of_neighbours = attributes.toDF("neighbour_id", "neighbour_attributes")
    nearest = warehouse.read("neighbours", pointer.runs("neighbours", slot)).where(F.col("relation") == SIMILAR)
    nearest = nearest.where(F.col("rank") <= NEIGHBOURS_SHOWN)
    examples = nearest.where("rank = 1").orderBy(F.sha2("image_id", 256)).limit(EXAMPLES).select("image_id")
    shown = nearest.join(F.broadcast(examples), "image_id").join(attributes, "image_id")
    shown = shown.join(of_neighbours, "neighbour_id").orderBy("image_id", "rank")
    with progress.described(application.session, "show examples"):
        return shown.collect()


def _example_rows(neighbours: list[Any], titles: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for row in neighbours:
        image = _name(row["image_id"], row["attributes"], titles) if row["rank"] == 1 else ""
        yield image, f"{row['distance']:.4f}", _name(row["neighbour_id"], row["neighbour_attributes"], titles)


def _name(image_id: str, attributes: Mapping[str, str] | None, titles: tuple[str, ...]) -> str:
    """An image by its title and id, or by its id and label."""
    name, known = printable(image_id), attributes or {}
    if title := captions.first_of(known, titles):
        return f"{printable(textwrap.shorten(title, LONGEST_TITLE, placeholder='...'))} ({name})"
    label = captions.first_of(known, (LABEL,))
    return f"{name} ({printable(label)})" if label else name


def _example_query(warehouse: str, slot: str, is_farthest: bool) -> str:
    """A shell command that shows the closest pairs of ``slot`` by DuckDB, each once; or the farthest ones."""
    fingerprint, _, metric = slot.partition("/")
    view = "dissimilar_images" if is_farthest else "similar_images"
    query = (
        "SELECT DISTINCT least(image_id, neighbour_id) AS image_id, greatest(image_id, neighbour_id) AS neighbour_id, "
        f"distance FROM {view}('{fingerprint}', '{metric}') "
        f"ORDER BY distance{' DESC' if is_farthest else ''}, image_id LIMIT 10"
    )
    program = (
        f"import duckdb; db = duckdb.connect(); db.execute(open({_quoted(warehouse + '/views.sql')}).read()); "
        f'db.sql("{query}").show()'
    )
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


def _quoted(text: str) -> str:
    """``text`` as a Python string, in double quotes if possible, because the shell uses single ones."""
    return repr(text) if '"' in text or "\\" in text else f'"{text}"'


if __name__ == "__main__":
    command_line.start("run_pipeline")
