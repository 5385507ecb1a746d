"""neighbours -> groups: images that are the same picture again (near-duplicates), or that belong together (similar)."""

# What computes is imported where it is used: help, and what is wrong in the arguments, should not wait for it.

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.errors import WrongInput, counted
from image_similarity.jobs import command_line, early, group_sources
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.group_sources import PROCESS, Inputs
from image_similarity.jobs.job import Application, Job
from image_similarity.reporting import note
from image_similarity.runtime.session import local_cores
from image_similarity.settings import Settings
from image_similarity.storage import uris
from image_similarity.warehouse import provenance
from image_similarity.warehouse.schemas import ALIKE, IDENTICAL, NEAR_DUPLICATES

if TYPE_CHECKING:
    from image_similarity.knn.distances import Indices, Values
    from image_similarity.neighbour_graph import Graph, Names
    from image_similarity.stages.groups.confirm import Candidates, Confirmed, Pictures
    from image_similarity.stages.groups.limits import Calibrated, Chosen
    from image_similarity.stages.groups.near_duplicates import Links, Result
    from image_similarity.stages.groups.tables import Grouping
    from image_similarity.stages.groups.vectors import Source
    from image_similarity.warehouse.workspace import Workspace

KINDS = (NEAR_DUPLICATES, ALIKE)
TABLES = ("groups", "group_summary")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fingerprint", metavar="NAME", **setting("neighbours.fingerprint", is_text=True))
    parser.add_argument(
        "--metric", metavar="cosine|correlation|euclidean", **setting("neighbours.metric", is_text=True)
    )
    parser.add_argument(
        "--kind",
        type=command_line.one_of(KINDS),
        default=NEAR_DUPLICATES,
        metavar="|".join(KINDS),
        help="the same picture again, with identical files, or what belongs together (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", metavar="auto|D", help="how near near-duplicates are to each other", **setting("groups.limit")
    )
    parser.add_argument(
        "--recalibrate", action="store_true", help="choose the limit anew, though that of the run before still holds"
    )
    parser.add_argument(
        "--keep",
        metavar="largest|first",
        help="the image that stands for its group",
        **setting("groups.keep", is_text=True),
    )
    parser.add_argument(
        "--export", metavar="URI", help="a folder for lists to clean by: keep.csv, remove.csv and groups.parquet"
    )


def fingerprint_tables(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Where none is named, the only fingerprint of which these are published is meant."""
    return ("neighbours",)


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` for what is seen before Spark is started: neighbours that are not published, flags that do
    not go with the kind, and a folder that the lists cannot be written to.
    """
    _check_flags(arguments)
    published = early.to_read(arguments.warehouse)
    if arguments.export is not None:
        from image_similarity.stages.groups import export

        early.check_folder("--export", arguments.export, arguments.dry_run)
        images = provenance.images_folder(published) if published else ""
        export.check_folder(arguments.export, uris.absolute(arguments.warehouse), images)
    if published:
        inputs = group_sources.of(published, _neighbours_slot(settings))
        group_sources.check_runner(settings.groups.runner, arguments.warehouse, inputs)


def _check_flags(arguments: argparse.Namespace) -> None:
    """Raises ``WrongInput`` for flags about near-duplicates where groups of another kind are asked for."""
    if arguments.kind == NEAR_DUPLICATES:
        return
    flags = [flag for flag in ("--recalibrate", "--export") if getattr(arguments, flag.strip("-"))]
    flags += [words for one in arguments.settings_by_flag if (words := one.words.split()[0]) in ("--limit", "--keep")]
    if flags:
        raise WrongInput(
            f"{' and '.join(flags)} with --kind {arguments.kind}: this is about near-duplicates; groups of this kind "
            "have no limit, and are no copies to choose among"
        )


def _neighbours_slot(settings: Settings, fingerprint: str | None = None) -> str:
    return f"{fingerprint or settings.neighbours.fingerprint}/{settings.neighbours.metric}"


def run(application: Application, fingerprint: str | None = None, kind: str | None = None) -> None:
    """``fingerprint``, ``kind``: others than the settings and arguments name."""
    kind = kind or application.arguments.kind
    slot = _neighbours_slot(application.settings, fingerprint)
    job = application.job("group_images", f"{slot}/{kind}")
    export = getattr(application.arguments, "export", None)
    if job.already_published():
        if export is not None:  # the run before may have failed when it wrote the lists
            _export(job, export)
        return
    with job.step("plan"):
        inputs = group_sources.check_current(job, group_sources.of(job.base_snapshot, slot))
        runner, because = group_sources.runner(job, inputs, job.settings.groups.runner)
    job.plan(*_plan(job, inputs, kind, runner, because, export))
    with job.warehouse.scratch(job.run_id) as scratch:
        made = _Making(job, inputs, kind, runner, because, scratch)
        made.near_duplicates() if kind == NEAR_DUPLICATES else made.similar()
    if export is not None:
        _export(job, export)


def _export(job: Job, folder: str) -> None:
    """Writes the lists to clean by, of the groups that are published now."""
    from image_similarity.stages.groups import export

    published = job.warehouse.snapshot()
    with job.step("write lists to clean by"):
        groups = published.table("groups", job.slot)
        written = export.write(folder, published, job.slot.partition("/")[0], groups, job.session)
    job.say(*written.lines(), event="export")


def _plan(job: Job, inputs: Inputs, kind: str, runner: str, because: str, export: str | None) -> Iterable[str]:
    yield f"{kind} of {counted(inputs.images, 'image')} by the neighbours {_slot(inputs)} of run {inputs.run}"
    if kind == NEAR_DUPLICATES:
        limit = job.settings.groups.limit
        yield "limit: " + (
            "that of the run before, or calibrated on the collection" if limit == "auto" else f"{limit:g}"
        )
    yield f"compare {'in this process, without Spark' if runner == PROCESS else 'by Spark'}: {because}"
    yield f"write groups and group_summary to {job.warehouse.uri}"
    if export is not None:
        yield f"write lists to clean by to {export}"


def _slot(inputs: Inputs) -> str:
    return f"{inputs.settings.fingerprint}/{inputs.settings.metric}"


@dataclass(frozen=True)
class _Making:
    """One run: its inputs, and what it makes of them."""

    job: Job
    inputs: Inputs
    kind: str
    runner: str
    because: str
    scratch: "Workspace"

    def near_duplicates(self) -> None:
        from image_similarity.grouping.near_duplicates import scales
        from image_similarity.stages.groups import confirm, digests, limits, near_duplicates

        job, metric = self.job, self.inputs.settings.metric
        graph, names = self._read()
        source = self._source()
        scale = scales(graph.distance)
        with job.step("read thumbprints"):
            pictures = self._pictures(graph)
            listed = confirm.candidates(graph, scale)
        with job.step("choose the limit"):
            chosen = self._limits(graph, names, scale, listed, pictures)
        for line in chosen.lines:
            job.say(f"group_images {job.slot}: {line}", event="note")
        with job.step("confirm by pictures"):
            pairs = confirm.confirmed(listed, chosen.limits, pictures)
        with job.step("look for copies beyond the lists"):
            most_bytes = job.settings.groups.process_bytes
            links = near_duplicates.links(
                graph,
                source,
                metric,
                chosen.limits,
                scale,
                pairs,
                pictures,
                self.inputs.dimensions,
                most_bytes,
                local_cores(job.session),
            )
        with job.step("group"):
            previous = self._previous()
            result = near_duplicates.run(
                graph,
                links,
                names,
                metric,
                chosen.limits,
                self._order,
                digests.State.read(previous[1]) if previous else None,
                self._block_rows(),
                partial(self._work, graph, source, chosen.limits),
            )
        with job.warehouse.state(self._state_slot, job.run_id) as state:
            with job.step("keep the groups for the next run"):
                result.state.save(state)
                limits.save(chosen.sketch, state)
                job.warehouse.sync_state(self._state_slot, job.run_id)
            counts = _counts_of_near_duplicates(result, links, pairs)
            taken_over = {"groups": [previous[0]]} if previous and result.worked_on < result.components else {}
            slots = (IDENTICAL, NEAR_DUPLICATES)
            groupings = [result.identical, result.near_duplicates]
            self._publish(graph, names, groupings, slots, taken_over, counts, chosen.record)
        job.forget_state(self._state_slot, min([*job.base_snapshot.run_ids("groups", job.slot), job.run_id]))
        _summarise(job, counts, f"; limit {chosen.limits.scaled:g} of the local scale")

    def similar(self) -> None:
        from image_similarity.stages.groups import similar

        job = self.job
        graph, names = self._read()
        with job.step("group"):
            result = similar.run(graph, self._source(), self.inputs.settings.metric, self._block_rows())
        counts = {
            **_counts(result.levels[0]),
            "levels": [_counts(level) for level in result.levels],
            "share_proven": round(result.share_proven, 4),
        }
        self._publish(graph, names, result.levels, (ALIKE,), {}, counts, {})
        _summarise(job, counts)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self) -> "tuple[Graph, Names]":
        from image_similarity import neighbour_graph

        with self.job.step("read neighbours"):
            images = group_sources.images_of(self.job, self.inputs)
            names = neighbour_graph.Names(images.ids)
            return neighbour_graph.read(
                self.job.base_snapshot.dataset("neighbours", _slot(self.inputs)), images, names
            ), names

    def _source(self) -> "Source":
        return group_sources.vectors_of(self.job, self.inputs, self.runner, self.scratch)

    def _order(self, ids: pa.Array) -> "Indices":
        """The order in which images would be kept, see `ranks.Order`."""
        from image_similarity.stages.groups import keep
        from image_similarity.stages.groups.facts import facts

        fingerprint = self.inputs.settings.fingerprint
        known = facts(self.job.base_snapshot, fingerprint, ids.cast(pa.string()))
        if changed := len(known) - int(pc.sum(known["unchanged"]).as_py() or 0):
            are, they_were = ("is", "it was") if changed == 1 else ("are", "they were")
            note(
                f"{counted(changed, 'image')} that may be in groups {are} gone or changed since {they_were} embedded: "
                f"run embed_images --fingerprint {fingerprint}, then find_neighbours"
            )
        return keep.order(self.job.settings.groups.keep, known)

    # -- limits --------------------------------------------------------------------------------------------------------

    def _pictures(self, graph: "Graph") -> "Pictures":
        from image_similarity.stages.groups import thumbprints
        from image_similarity.stages.groups.confirm import Pictures

        most_bytes = self.job.settings.groups.process_bytes
        read = thumbprints.read(self.job.base_snapshot, self.inputs.key, graph.images, most_bytes)
        missing = int((~read.is_there).sum())
        if missing and self.inputs.key is not None:
            note(
                f"{counted(missing, 'image was', 'images were')} embedded by an earlier version, which kept no "
                f"thumbprints: what is near to {'it' if missing == 1 else 'them'} is not confirmed by pictures "
                "(embed_images --set embeddings.recheck=always does, once)"
            )
        return Pictures(self.job.session, read, local_cores(self.job.session))

    def _limits(
        self, graph: "Graph", names: "Names", scale: "Values", listed: "Candidates", pictures: "Pictures"
    ) -> "Chosen":
        from image_similarity.jobs import calibration_copies
        from image_similarity.stages.groups import calibrate, digests, limits

        before = None
        if previous := self._previous():
            record = self.job.base_snapshot.runs.get(previous[0])
            before = limits.Before(previous[0], record.settings if record else {}, limits.read(previous[1]))
        hashes = digests.image_hashes(graph, names)

        def calibrated() -> "Calibrated | str":
            copies = calibration_copies.Copies(self.job, self.inputs, graph, scale, pictures.thumbprints, hashes)
            return calibrate.calibrated(listed, len(graph), hashes[graph.images.first], pictures, copies.recall)

        return limits.chosen(
            self.job.settings.groups,
            scale,
            limits.sketch_of(hashes),
            self.inputs.key,
            before,
            bool(getattr(self.job.arguments, "recalibrate", False)),
            calibrated if self.inputs.key is not None else None,
        )

    @property
    def _state_slot(self) -> str:
        return f"group_images/{_slot(self.inputs).replace('/', '-')}"

    def _previous(self) -> "tuple[str, Workspace] | None":
        """The published run of this slot, and what it left."""
        runs = self.job.base_snapshot.run_ids("groups", self.job.slot)
        return (runs[0], self.job.warehouse.state_of(self._state_slot, runs[0])) if len(runs) == 1 else None

    # -- working -------------------------------------------------------------------------------------------------------

    def _block_rows(self) -> int:
        settings = self.job.settings.groups
        most = settings.process_bytes if self.runner == PROCESS else settings.task_bytes
        return max(1, most // max(1, 4 * self.inputs.dimensions))

    def _work(self, graph: "Graph", source: Any, limits: Any, blocks: Any, make: Any) -> pa.Table:
        from image_similarity.stages.groups import by_spark, in_process

        metric = self.inputs.settings.metric
        if self.runner == PROCESS:
            return in_process.run(self.job.session, blocks, make, graph.images, source, metric, limits)
        return by_spark.run(blocks, make, graph.images, source, metric, limits)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _publish(
        self,
        graph: "Graph",
        names: "Names",
        groupings: "list[Grouping]",
        kinds: tuple[str, ...],
        inputs: dict[str, list[str]],
        counts: dict[str, Any],
        used: dict[str, Any],
    ) -> None:
        from image_similarity.stages.groups.labels import Words
        from image_similarity.stages.groups.tables import Rows

        job, settings = self.job, self.inputs.settings
        with job.step("label groups"):
            words = Words.read(job.base_snapshot, settings.fingerprint, names, len(graph.images))
            labels = [words.labelled(grouping) for grouping in groupings]
        rows = Rows(graph.images, settings.fingerprint, settings.metric, groupings, labels)
        with job.step("write tables"):
            for table in TABLES:
                self._write(table, rows)
        slots = {f"{_slot(self.inputs)}/{kind}": job.run_id for kind in kinds}
        job.publish(
            replace={table: slots for table in TABLES},
            inputs={**self.inputs.runs, **words.runs, **inputs},
            counts={**counts, "labelled": sum(label is not None for of_kind in labels for label in of_kind)},
            used={
                "groups": job.settings.groups.model_dump(),
                "runner": {"chosen": self.runner, "because": self.because},
                **used,
            },
        )

    def _write(self, table: str, rows: Any) -> None:
        warehouse, run = self.job.warehouse, self.job.run_id
        if warehouse.local_root is not None:
            warehouse.write_here(table, run, rows.of(table))
            return
        from image_similarity.warehouse.schemas import SCHEMAS

        warehouse.write(table, run, self.scratch.store(f"{table}-rows", SCHEMAS[table], rows.of(table)))


def _counts(grouping: "Grouping") -> dict[str, Any]:
    """Of the groups of one kind and level."""
    sizes = grouping.sizes
    return {"groups": len(sizes), "images": int(sizes.sum()), "largest": int(sizes.max(initial=0))}


def _counts_of_near_duplicates(result: "Result", links: "Links", pairs: "Confirmed") -> dict[str, Any]:
    return {
        **_counts(result.near_duplicates),
        "identical": _counts(result.identical),
        "share_proven": 1.0,
        "components": result.components,
        "components_worked_on": result.worked_on,
        "saturated": int(links.saturated.sum()) + links.skipped,
        "saturated_skipped": links.skipped,
        "refuted_by_pictures": len(pairs.refuted),
        "without_pictures": pairs.unconfirmed,
    }


def _summarise(job: Job, counts: dict[str, Any], more: str = "") -> None:
    lines = [f"group_images {job.slot}: {described(counts, job.slot.rpartition('/')[2])} in {job.seconds:.1f} s{more}"]
    if "identical" in counts:
        lines.append(f"  {described(counts['identical'], IDENTICAL)}")
    job.say(*lines)


def described(counts: Mapping[str, Any], kind: str) -> str:
    """``12 groups of near-duplicates, 31 images, the largest of 4``."""
    names = {IDENTICAL: "identical files", NEAR_DUPLICATES: "near-duplicates", ALIKE: "images that belong together"}
    groups, images = counts["groups"], counts["images"]
    if not groups:
        return f"no {names[kind]}"
    largest = f"the largest of {counts['largest']:,}"
    return f"{counted(groups, 'group')} of {names[kind]}, {counted(images, 'image')}, {largest}"


if __name__ == "__main__":
    command_line.start("group_images")
