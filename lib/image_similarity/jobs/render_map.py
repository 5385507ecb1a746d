"""neighbours, gallery -> map: the whole collection on one wall, similar beside similar, as a page of the gallery."""

# What computes is imported where it is used: help, and what is wrong in the arguments, should not wait for it.

import argparse
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from image_similarity.errors import JobFailed, WrongInput, counted
from image_similarity.jobs import command_line, early, group_sources
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.group_sources import Inputs
from image_similarity.jobs.job import Application, Finished, Job
from image_similarity.pages import maps
from image_similarity.pages.site import Site, check_rendered, open_site
from image_similarity.reporting import note, say
from image_similarity.runtime.session import cause_of, spark_errors
from image_similarity.settings import Settings
from image_similarity.storage import uris
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from image_similarity.knn.distances import Indices, Values
    from image_similarity.mapping.regions import Label
    from image_similarity.neighbour_graph import Graph
    from image_similarity.stages.map.arrangement import Arrangement, Cells, Earlier, NoEarlier
    from image_similarity.stages.map.measures import Quality, VectorsOf
    from image_similarity.stages.map.page import MapFacts
    from image_similarity.stages.map.shown import Shown
    from image_similarity.stages.map.source import Source
    from image_similarity.stages.map.tiles import Counts
    from image_similarity.warehouse.records import Record
    from image_similarity.warehouse.workspace import Workspace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gallery", required=True, metavar="URI", help="the folder of a gallery that render_gallery has rendered"
    )
    parser.add_argument("--fingerprint", metavar="NAME", **setting("neighbours.fingerprint", is_text=True))
    parser.add_argument(
        "--metric", metavar="cosine|correlation|euclidean", **setting("neighbours.metric", is_text=True)
    )


def fingerprint_tables(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Where none is named, the only fingerprint of which these are published is meant."""
    return ("neighbours",)


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` for what is seen before Spark is started: neighbours that are not published, and a gallery
    that is not rendered, is that of another warehouse, or cannot be written.
    """
    from image_similarity.stages.map.files import TILES
    from image_similarity.stages.map.page import STATIC

    if published := early.to_read(arguments.warehouse):
        group_sources.of(published, _slot(settings), for_copies=False)
    if uris.is_local(arguments.gallery):
        check_rendered(None, "gallery", arguments.gallery, _render_gallery(arguments))
    early.check_folder("--gallery", arguments.gallery, arguments.dry_run, (maps.FOLDER, TILES, STATIC))
    if uris.is_local(arguments.gallery):
        _source(None, arguments, published)


def _slot(settings: Settings) -> str:
    return f"{settings.neighbours.fingerprint}/{settings.neighbours.metric}"


def _source(spark: "SparkSession | None", arguments: argparse.Namespace, published: Snapshot | None) -> "Source":
    """The gallery. ``published``: the warehouse; None if it cannot be read yet.

    Raises ``WrongInput``, with what to do, where there is none to make a map of, or it shows another warehouse.
    """
    from image_similarity.stages.map.source import source

    command = _render_gallery(arguments)
    check_rendered(spark, "gallery", arguments.gallery, command)
    rendered = source(open_site(spark, "gallery", arguments.gallery), command)
    if published is not None and rendered.rendering not in published.runs:
        raise WrongInput(
            f"--gallery {arguments.gallery}: it was not rendered from {published.uri}, which has no run "
            f"{rendered.rendering}: name the warehouse that it shows, or run {command} first, which replaces its pages"
        )
    return rendered


def _render_gallery(arguments: argparse.Namespace) -> str:
    """The command that renders the gallery, as it is typed."""
    return shlex.join(["render_gallery", "--warehouse", arguments.warehouse, "--gallery", arguments.gallery])


def run(application: Application) -> None:
    render(application)
    if page := page_of(application):
        say(f"map: {page}")


def page_of(application: Application) -> str | None:
    """The address of the map's page; None if the gallery has no map."""
    site = _site(application)
    return f"{site.uri}/{maps.PAGE}" if site.map() else None


def _site(application: Application) -> Site:
    return open_site(application.session, "gallery", application.arguments.gallery)


class NothingToDraw(WrongInput):
    """No image of the gallery can be on a map."""


def render(application: Application, where_possible: bool = False) -> None:
    """Make the map of the gallery by the fingerprint and metric of the settings.

    Raises `NothingToDraw` where no image can be on it; ``where_possible``, that is but noted.
    """
    job = application.job("render_map", _slot(application.settings))
    if job.already_published(lambda run: _made_the_map_of(_site(application), run)):
        return
    with job.step("plan"):
        inputs = group_sources.of(job.base_snapshot, job.slot, for_copies=False)
        inputs = replace(inputs, key=group_sources.key_of(job.base_snapshot, inputs))
        source = _source(job.session, job.arguments, job.base_snapshot)
    job.plan(*_plan(job, inputs, source))
    with job.warehouse.scratch(job.run_id) as scratch:
        making = _Making(job, inputs, source, scratch)
        try:
            making.run()
        except NothingToDraw as reason:
            if not where_possible:
                raise
            note(f"there is no map: {reason}")
        except BaseException as error:
            making.give_up(error)
            raise


def _made_the_map_of(site: Site, run: "Record") -> bool:
    """Whether the label of ``run`` is done: the same slot may be on the maps of several galleries."""
    return run.settings["gallery"]["uri"] == site.uri and site.map() is not None


def _plan(job: Job, inputs: Inputs, source: "Source") -> Iterator[str]:
    yield f"lay out the images of {source.site.uri} by the neighbours {job.slot} of run {inputs.run}"
    yield f"draw what has changed of the wall, and replace {source.site.uri}/{maps.PAGE} last"
    yield f"write layout to {job.warehouse.uri}"


@dataclass(frozen=True)
class _Making:
    """One run: its inputs, and what it makes of them."""

    job: Job
    inputs: Inputs
    source: "Source"
    scratch: "Workspace"

    @property
    def folder(self) -> str:
        """Of this map's own files in the gallery."""
        from image_similarity.stages.map import files

        return f"{self.source.site.uri}/{files.folder(self.job.run_id)}"

    def run(self) -> None:
        graph, shown, absent = self._read()
        arrangement = self._arranged(shown)
        with self.job.step("measure the map"):
            quality = self._quality(graph, shown, arrangement)
        with self.job.step("choose what stands for many"):
            pyramid = self._pyramid(shown, arrangement)
            labels = self._labels(shown, arrangement, len(pyramid) - 1)
        with self.job.step("write tables"):
            self._write(shown, arrangement)
        with self.job.step("draw the map"):
            drawn = self._draw(shown, pyramid, labels)
        with self.job.step("write places and the wall"):
            facts = self._facts(shown, arrangement, pyramid, quality)
        counts = {
            "images": len(shown),
            "nodes": len(shown.in_graph),
            **absent,
            "columns": arrangement.columns,
            "rows": arrangement.rows,
            "levels": len(pyramid),
            "new_layout": arrangement.why_new is not None,
            "placed": arrangement.placed,
            "moved": arrangement.moved,
            **quality.record,
            **asdict(drawn),
        }
        finished = self._publish(arrangement, facts, counts)
        _summarise(self.job, arrangement, finished)

    def give_up(self, error: BaseException) -> None:
        """After ``error``: removes the folder of this map, unless visitors use it.

        Raises ``JobFailed`` if the gallery was changed meanwhile. Whoever changed it has removed files that this run
        needs, so that ``error`` is but a consequence, and of any class.
        """
        if self.source.shows(self.job.run_id):
            return
        self.source.site.files.delete(self.folder)
        if isinstance(error, Exception):
            self.source.check_unchanged()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self) -> "tuple[Graph, Shown, dict[str, int]]":
        job = self.job
        with job.step("read neighbours"):
            from image_similarity import neighbour_graph
            from image_similarity.stages.map import shown

            images = group_sources.images_compared(job, self.inputs)
            names = neighbour_graph.Names(images.ids)
            graph = neighbour_graph.read(job.base_snapshot.dataset("neighbours", job.slot), images, names)
        with job.step("read the gallery"):
            cards = self.source.cards()
            on_map = shown.of(graph, names, cards)
            if not len(on_map):
                raise NothingToDraw(self._nothing(cards))
            return graph, on_map, shown.missing(names, cards, on_map, self._failed())

    def _nothing(self, cards: pa.Table) -> str:
        gallery, command = f"--gallery {self.job.arguments.gallery}", _render_gallery(self.job.arguments)
        if cards["picture"].null_count == len(cards):
            return (
                f"{gallery}: no image has a picture there, so there is nothing to draw: check where the images are, "
                f"and run {command} again"
            )
        return f"{gallery}: none of its images is among the neighbours {self.job.slot}: run {command} again"

    def _failed(self) -> pa.ChunkedArray:
        """The ids of images of which there is no vector, or none that can be compared."""
        slots = (self.inputs.settings.fingerprint, f"neighbours/{self.job.slot}")
        tables = [self.job.base_snapshot.table("failures", slot, ["image_id"]) for slot in slots]
        return pa.concat_tables(tables)["image_id"]

    # -- where images are ----------------------------------------------------------------------------------------------

    def _arranged(self, shown: "Shown") -> "Arrangement":
        job = self.job
        with job.step("load what lays out"):
            from image_similarity.stages.map import arrangement
        return arrangement.arranged(job.session, shown, self._earlier(), job.settings.map, self.inputs.known_by)

    def _earlier(self) -> "Earlier | NoEarlier":
        """The published layout of this slot; why not if there is none, or it has no record, or is damaged."""
        from image_similarity.stages.map import table
        from image_similarity.stages.map.arrangement import Earlier, NoEarlier

        published = self.job.base_snapshot
        runs = published.run_ids("layout", self.job.slot)
        record = published.runs.get(runs[0]) if len(runs) == 1 else None
        if record is None:
            return NoEarlier()
        rows = table.read(published, self.job.slot)
        if rows is None:
            return NoEarlier(f"the table layout of {runs[0]} is gone or damaged")
        return Earlier(runs[0], record.settings["arrangement"], rows)

    def _quality(self, graph: "Graph", shown: "Shown", arrangement: "Arrangement") -> "Quality":
        from image_similarity.stages.map import measures

        quality = measures.measured(shown, arrangement, self.inputs.settings.metric, self._vectors(graph))
        if quality.why_not:
            note(f"trustworthiness is not measured: {quality.why_not}")
        return quality

    def _vectors(self, graph: "Graph") -> "VectorsOf":
        """Reads vectors of nodes of ``graph``. They may be gone: the map needs them for nothing else."""
        job, key = self.job, self.inputs.key

        def of(node: "Indices") -> "Values":
            if self.inputs.own_vectors is None and (key is None or not job.base_snapshot.run_ids("vectors", key)):
                raise JobFailed("the vectors that were compared are not there any more")
            runner, _ = group_sources.runner(job, self.inputs, "auto")
            return group_sources.vectors_of(job, self.inputs, runner, self.scratch).of(graph.images, node)

        return of

    # -- what is seen of them ------------------------------------------------------------------------------------------

    def _pyramid(self, shown: "Shown", arrangement: "Arrangement") -> "list[Cells]":
        from image_similarity.mapping import pyramid

        return pyramid.representatives(arrangement.cell, arrangement.columns, arrangement.rows, shown.of_images[0])

    def _labels(self, shown: "Shown", arrangement: "Arrangement", deepest: int) -> "list[list[Label]]":
        """The names of regions, level by level."""
        from image_similarity.mapping import regions
        from image_similarity.neighbour_graph import Names
        from image_similarity.stages.map import terms

        job, inputs = self.job, self.inputs.settings
        find, group_by = Names(shown.ids).find, job.settings.gallery.group_by
        known = terms.read(job.base_snapshot, find, len(shown), inputs.fingerprint, inputs.metric, group_by)
        return regions.regions(arrangement.cell, arrangement.columns, arrangement.rows, known, deepest)

    def _draw(self, shown: "Shown", pyramid: "list[Cells]", labels: "list[list[Label]]") -> "Counts":
        """Writes the tiles that are not there, and the data of blocks."""
        from image_similarity.stages.map import tiles, wall

        job, site, earlier = self.job, self.source.site, self.source.earlier
        return tiles.draw(
            job.session,
            site,
            job.run_id,
            pyramid,
            shown.cards,
            labels,
            [earlier] if earlier else [],
            self.scratch,
            wall.level_of(pyramid),
        )

    def _facts(
        self, shown: "Shown", arrangement: "Arrangement", pyramid: "list[Cells]", quality: "Quality"
    ) -> "MapFacts":
        """Writes what the page needs beside blocks: where each image is, and the picture of the wall."""
        from image_similarity.stages.map import places, wall
        from image_similarity.stages.map.page import MapFacts

        job, site, settings = self.job, self.source.site, self.inputs.settings
        pages = shown.cards["page"].combine_chunks()
        places.write(job.session, site, job.run_id, pages, arrangement.cell, self.scratch)
        picture = wall.write(job.session, site, job.run_id, pyramid)
        return MapFacts(
            run=job.run_id,
            title=self.source.title(),
            columns=arrangement.columns,
            rows=arrangement.rows,
            levels=len(pyramid) - 1,
            images=len(shown),
            digits=places.digits(len(shown)),
            fingerprint=settings.fingerprint,
            metric=settings.metric,
            nearest=quality.nearest,
            kept_on_grid=quality.kept_on_grid,
            by_chance=quality.by_chance,
            wall=picture.path,
            wall_width=picture.width,
            wall_height=picture.height,
        )

    # -- publishing ----------------------------------------------------------------------------------------------------

    def _write(self, shown: "Shown", arrangement: "Arrangement") -> None:
        from image_similarity.stages.map import table

        warehouse, run = self.job.warehouse, self.job.run_id
        rows = table.rows(shown, arrangement, self.inputs.settings.fingerprint, self.inputs.settings.metric)
        if warehouse.local_root is not None:
            warehouse.write_here("layout", run, rows)
        else:
            warehouse.write("layout", run, self.scratch.store("layout-rows", table.SCHEMA, rows))

    def _publish(self, arrangement: "Arrangement", facts: "MapFacts", counts: dict[str, Any]) -> Finished:
        from image_similarity.stages.map import publication

        job, site = self.job, self.source.site
        earlier = {} if arrangement.why_new else {"layout": job.base_snapshot.run_ids("layout", job.slot)}
        with site.locked():
            self.source.check_unchanged()
            with job.step("put the map in place"):
                publication.put_in_place(self.source, facts)
            used = {
                "map": job.settings.map.model_dump(),
                "gallery": {"uri": site.uri, "rendering": self.source.rendering},
                "arrangement": arrangement.record,
            }
            inputs = {**self.inputs.runs, **earlier}
            try:
                replaced = {"layout": {job.slot: job.run_id}}
                finished = job.publish(replaced, inputs=inputs, counts=counts, used=used)
            except JobFailed as error:
                raise JobFailed(f"{site.uri}/{maps.PAGE} is new, but not the table layout: {error}") from error
            with job.step("remove what no map shows"):
                self._tidy_up()
        return finished

    def _tidy_up(self) -> None:
        """Removes maps and tiles that no visitor needs. A failure is only noted: the next run tries again."""
        from image_similarity.stages.map import tiles

        job, site, earlier = self.job, self.source.site, self.source.earlier
        try:
            removed = tiles.remove_unused(job.session, site, [job.run_id, *([earlier] if earlier else [])])
        except spark_errors(OSError) as error:
            note(f"what no map shows any more could not be removed from {site.uri}: {cause_of(error)}")
            return
        if removed:
            job.say(f"  {counted(removed, 'tile')} removed that no map shows any more")


# -- messages ----------------------------------------------------------------------------------------------------------


def described(counts: Mapping[str, Any]) -> str:
    """``1,460 images on 44 x 38 cells, all at new places``; ``..., 3 of them new``; ``..., all where they were``."""
    columns, rows = counts["columns"], counts["rows"]
    cells = f"{columns:,} x {rows:,} cells" if columns * rows > 1 else "1 cell"
    where, is_one = f"{counted(counts['images'], 'image')} on {cells}", counts["images"] == 1
    if counts["new_layout"]:
        return f"{where}, {'at a new place' if is_one else 'all at new places'}"
    if not counts["placed"]:
        return f"{where}, {'where it was' if is_one else 'all where they were'}"
    return f"{where}, {counts['placed']:,} of them new"


def _summarise(job: Job, arrangement: "Arrangement", finished: Finished) -> None:
    counts = finished.counts
    lines = [f"render_map {job.slot}: {described(counts)}{_others(arrangement, counts)}, in {finished.seconds:.1f} s"]
    if counts["kept_on_grid"] is not None:
        nearest = "most similar one" if counts["nearest"] == 1 else f"{counts['nearest']} most similar"
        lines.append(
            f"of the {nearest} of an image, {_share(counts['kept_on_grid'])} are within the 24 "
            f"cells around it (on the layout {_share(counts['kept_on_layout'])}, by chance "
            f"{_share(counts['by_chance'])})"
        )
    if counts["trustworthy_grid"] is not None:
        lines.append(
            f"trustworthiness of the 10 around: {_share(counts['trustworthy_grid'])} "
            f"(layout {_share(counts['trustworthy_layout'])})"
        )
    lines.append(f"{counted(counts['tiles'], 'tile')}, {counts['drawn']:,} drawn now, {_size(counts['bytes'])}")
    job.say(*lines)
    for line in _left_out(counts):
        note(line)
    if counts["absent"]:
        cells, images = "an empty cell", "1 image whose small picture"
        if counts["absent"] > 1:
            cells, images = "empty cells", f"{counts['absent']:,} images whose small pictures"
        note(f"{cells} on the map: {images} cannot be read: run render_gallery again")


def _others(arrangement: "Arrangement", counts: Mapping[str, Any]) -> str:
    """What became of the images that are not new; or why all are at new places."""
    if arrangement.why_new:
        return f" ({arrangement.why_new})"
    if not counts["placed"]:
        return ""
    made_room = f", for which {arrangement.moved:,} made room" if arrangement.moved else ""
    kept = counts["images"] - counts["placed"] - arrangement.moved
    others = {0: "", 1: ", the other where it was"}.get(kept, ", the others where they were")
    return made_room + others


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _left_out(counts: Mapping[str, Any]) -> Iterator[str]:
    """A line for each kind of images that are not on the map."""
    kinds = {
        "without_picture": ("image", "without a picture"),
        "without_vector": ("image", "of the gallery, but not compared: run find_neighbours again"),
        "not_in_gallery": (
            "compared image",
            "not in the gallery: run render_gallery (find_neighbours, where files are gone)",
        ),
        "failed": ("image", "that could not be read or compared: the view failures says why"),
    }
    for name, (noun, what) in kinds.items():
        if counts[name]:
            yield f"not on the map: {counted(counts[name], noun)} {what}"


if __name__ == "__main__":
    command_line.start("render_map")
