"""neighbours, gallery -> map: the whole collection on one wall, similar beside similar, as a page of the gallery."""

# What computes is imported where it is used: help, and what is wrong in the arguments, should not wait for it.

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from image_similarity.errors import WrongInput
from image_similarity.jobs import command_line, early, group_sources
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.group_sources import Inputs
from image_similarity.jobs.job import Application, Job
from image_similarity.pages import maps
from image_similarity.pages.site import Site, open_site
from image_similarity.reporting import note, say
from image_similarity.runtime.session import cause_of, spark_errors
from image_similarity.settings import Settings
from image_similarity.storage import uris

if TYPE_CHECKING:
    from image_similarity.knn.distances import Indices, Values
    from image_similarity.mapping.regions import Label
    from image_similarity.neighbour_graph import Graph
    from image_similarity.stages.map.arrangement import Arrangement, Cells, Earlier
    from image_similarity.stages.map.measures import Quality, VectorsOf
    from image_similarity.stages.map.page import MapFacts
    from image_similarity.stages.map.shown import Shown
    from image_similarity.stages.map.source import Source
    from image_similarity.stages.map.tiles import Counts
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
    that is not rendered.
    """
    early.check_folder("--gallery", arguments.gallery, arguments.dry_run)
    if published := early.to_read(arguments.warehouse):
        group_sources.of(published, _slot(settings), for_copies=False)
    if uris.is_local(arguments.gallery):
        _source(open_site(None, "gallery", arguments.gallery), arguments)


def _slot(settings: Settings) -> str:
    return f"{settings.neighbours.fingerprint}/{settings.neighbours.metric}"


def _source(site: Site, arguments: argparse.Namespace) -> "Source":
    """Raises ``WrongInput``, with the command, where there is no gallery to make a map of."""
    from image_similarity.stages.map.source import source

    return source(site, f"render_gallery --warehouse {arguments.warehouse} --gallery {arguments.gallery}")


def run(application: Application) -> None:
    render(application)
    say(f"map: {page_of(application)}")


def page_of(application: Application) -> str:
    """The address of the map's page."""
    return f"{_site(application).uri}/{maps.PAGE}"


def _site(application: Application) -> Site:
    return open_site(application.session, "gallery", application.arguments.gallery)


class NothingToDraw(WrongInput):
    """No image of the gallery can be on a map."""


def render(application: Application, where_possible: bool = False) -> None:
    """Make the map of the gallery by the fingerprint and metric of the settings.

    Raises `NothingToDraw` where no image can be on it; ``where_possible``, that is but noted.
    """
    job = application.job("render_map", _slot(application.settings))
    if job.already_published():
        return
    with job.step("plan"):
        inputs = group_sources.of(job.base_snapshot, job.slot, for_copies=False)
        inputs = replace(inputs, key=group_sources.key_of(job.base_snapshot, inputs))
        source = _source(_site(application), job.arguments)
    job.plan(*_plan(job, inputs, source))
    with job.warehouse.scratch(job.run_id) as scratch:
        making = _Making(job, inputs, source, scratch)
        try:
            making.run()
        except NothingToDraw as reason:
            if not where_possible:
                raise
            note(f"there is no map: {reason}")
        except BaseException:
            if not source.shows(job.run_id):  # no visitor uses it
                source.site.files.delete(making.folder)
            raise


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
        return f"{self.source.site.uri}/{maps.FOLDER}/{self.job.run_id}"

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
            **quality.record,
            **asdict(drawn),
        }
        self._publish(arrangement, facts, counts)
        _summarise(self.job, arrangement, counts)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self) -> "tuple[Graph, Shown, dict[str, int]]":
        from image_similarity import neighbour_graph
        from image_similarity.stages.map import shown

        job = self.job
        with job.step("read neighbours"):
            images = group_sources.images_compared(job, self.inputs)
            names = neighbour_graph.Names(images.ids)
            graph = neighbour_graph.read(job.base_snapshot.dataset("neighbours", job.slot), images, names)
        with job.step("read the gallery"):
            cards = shown.read_cards(self.source.site.files, self.source.cards)
            on_map = shown.of(graph, names, cards)
        if not len(on_map):
            raise NothingToDraw(self._nothing(cards))
        return graph, on_map, shown.missing(cards, on_map)

    def _nothing(self, cards: pa.Table) -> str:
        gallery = f"--gallery {self.job.arguments.gallery}"
        if cards["picture"].null_count == len(cards):
            return (
                f"{gallery}: no image has a picture there, so there is nothing to draw: check where the images are, "
                f"and run render_gallery --warehouse {self.job.arguments.warehouse} {gallery} again"
            )
        return (
            f"{gallery}: none of its images is among the neighbours {self.job.slot}: is it the gallery of another "
            "warehouse, or older?"
        )

    # -- where images are ----------------------------------------------------------------------------------------------

    def _arranged(self, shown: "Shown") -> "Arrangement":
        from image_similarity.stages.map import arrangement

        job = self.job
        return arrangement.arranged(job.session, shown, self._earlier(), job.settings.map, self.inputs.key)

    def _earlier(self) -> "Earlier | None":
        """The published layout of this slot; None if there is none, or it has no record."""
        from image_similarity.stages.map import table
        from image_similarity.stages.map.arrangement import Earlier

        published = self.job.base_snapshot
        runs = published.run_ids("layout", self.job.slot)
        record = published.runs.get(runs[0]) if len(runs) == 1 else None
        if record is None:
            return None
        return Earlier(runs[0], record.settings["arrangement"], published.table("layout", self.job.slot, table.READ))

    def _quality(self, graph: "Graph", shown: "Shown", arrangement: "Arrangement") -> "Quality":
        from image_similarity.stages.map import measures

        return measures.measured(shown, arrangement, self.inputs.settings.metric, self._vectors(graph))

    def _vectors(self, graph: "Graph") -> "VectorsOf | None":
        """Reads vectors of nodes of ``graph``; None where they are not there any more."""
        job, key = self.job, self.inputs.key
        if self.inputs.own_vectors is None and (key is None or not job.base_snapshot.run_ids("vectors", key)):
            return None
        runner, _ = group_sources.runner(job, self.inputs, "auto")
        source = group_sources.vectors_of(job, self.inputs, runner, self.scratch)

        def of(node: "Indices") -> "Values":
            return source.of(graph.images, node)

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
        return regions.regions(arrangement.cell, known, deepest)

    def _draw(self, shown: "Shown", pyramid: "list[Cells]", labels: "list[list[Label]]") -> "Counts":
        """Writes the tiles that are not there, and the data of blocks."""
        from image_similarity.stages.map import tiles

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

    def _publish(self, arrangement: "Arrangement", facts: "MapFacts", counts: dict[str, Any]) -> None:
        from image_similarity.stages.map import publication

        job, site = self.job, self.source.site
        earlier = {} if arrangement.why_new else {"layout": job.base_snapshot.run_ids("layout", job.slot)}
        shell = self.source.shell()
        with site.locked():
            self.source.check_unchanged()
            with job.step("put the map in place"):
                publication.put_in_place(self.source, shell, facts)
            job.publish(
                replace={"layout": {job.slot: job.run_id}},
                inputs={**self.inputs.runs, **earlier},
                counts=counts,
                used={
                    "map": job.settings.map.model_dump(),
                    "gallery": {"uri": site.uri, "rendering": self.source.rendering},
                    "arrangement": arrangement.record,
                },
            )
            self._tidy_up()

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
            job.say(f"  {removed:,} tiles removed that no map shows any more")


# -- messages ----------------------------------------------------------------------------------------------------------


def described(counts: Mapping[str, Any]) -> str:
    """``1,460 images on 44 x 38 cells, at new places``."""
    where = f"{counts['images']:,} images on {counts['columns']:,} x {counts['rows']:,} cells"
    if counts["new_layout"]:
        return f"{where}, all at new places"
    return f"{where}, {counts['placed']:,} of them new"


def _summarise(job: Job, arrangement: "Arrangement", counts: Mapping[str, Any]) -> None:
    why = f" ({arrangement.why_new})" if arrangement.why_new else ", the others where they were"
    lines = [f"render_map {job.slot}: {described(counts)}{why}, in {job.seconds:.1f} s"]
    if counts["kept_on_grid"] is not None:
        lines.append(
            f"of the 10 most similar of an image, {_share(counts['kept_on_grid'])} are within the 24 cells around it "
            f"(on the layout {_share(counts['kept_on_layout'])}, by chance {_share(counts['by_chance'])})"
        )
    if counts["trustworthy_grid"] is not None:
        lines.append(
            f"trustworthiness of the 10 around: {_share(counts['trustworthy_grid'])} "
            f"(layout {_share(counts['trustworthy_layout'])})"
        )
    else:
        lines.append("trustworthiness is not measured: the vectors are not there, or too few")
    lines.append(
        f"{counts['tiles']:,} tiles, {counts['drawn']:,} of them drawn now, {counts['bytes'] / 2**20:,.1f} MiB"
    )
    job.say(*lines)
    for count, reason in _absent(counts):
        note(f"{count:,} images of the gallery are not on the map: {reason}")
    if counts["absent"]:
        reason = "their small picture cannot be read: run render_gallery again"
        note(f"{counts['absent']:,} images have an empty cell on the map: {reason}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _absent(counts: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    reasons = {
        "without_picture": "they have no picture",
        "without_vector": "they were not compared: run find_neighbours again",
    }
    yield from ((counts[name], reason) for name, reason in reasons.items() if counts[name])


if __name__ == "__main__":
    command_line.start("render_map")
