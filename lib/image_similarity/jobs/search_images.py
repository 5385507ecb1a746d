"""pictures from outside, or vectors, against the collection: which of its images look most like each, and which of them
are there already.
"""

# What computes is imported where it is used: help, and what is wrong in the arguments, should not wait for it.

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from image_similarity.errors import WrongInput, did_you_mean, listed
from image_similarity.jobs import command_line, early, embed_images, search_report, search_runners
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.job import Application, Job
from image_similarity.jobs.search_runners import Runner, Side
from image_similarity.pages import captions
from image_similarity.pages.site import open_site
from image_similarity.redaction import redacted
from image_similarity.reporting import note
from image_similarity.runtime import processes
from image_similarity.settings import Settings
from image_similarity.stages.search import queries as asked
from image_similarity.storage import uris
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import NEAR_DUPLICATES, SCHEMAS
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from image_similarity.jobs.job import Failures
    from image_similarity.jobs.query_embedding import Embedded, Pictures
    from image_similarity.stages.search.answers import Answers
    from image_similarity.stages.search.judging import Judge
    from image_similarity.stages.search.matches import Judged, Lists
    from image_similarity.stages.search.queries import Queries

NAME = "search_images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", metavar="URI", help="a folder, a glob, or a list with a `uri` column")
    parser.add_argument(
        "--embeddings", metavar="URI", help="Parquet of your own with image_id and embedding, in place of pictures"
    )
    parser.add_argument("--fingerprint", metavar="NAME", **setting("neighbours.fingerprint", is_text=True))
    parser.add_argument(
        "--metric", metavar="cosine|correlation|euclidean", **setting("neighbours.metric", is_text=True)
    )
    parser.add_argument("-k", metavar="N", help="similar images of each query", **setting("search.similar"))
    parser.add_argument("--dissimilar", metavar="N", help="dissimilar images of each", **setting("search.dissimilar"))
    parser.add_argument(
        "--queries", metavar="NAME", help="what the queries are called in tables (default: the name of folder or list)"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="the fingerprint's weights, where those that were used are not there any more"
    )
    parser.add_argument(
        "--report", metavar="URI", help="a folder for pages that show the answers: new, empty, or an earlier report"
    )
    parser.add_argument(
        "--gallery", metavar="URI", help="a gallery of the collection, whose pages and pictures the report uses"
    )
    parser.add_argument(
        "--forget", metavar="NAME", help="in place of a search: unpublish the searches whose queries are called so"
    )


# -- what is asked -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What the arguments ask for."""

    queries: str
    """Their name."""
    fingerprint: str
    metric: str
    similar: int
    dissimilar: int
    images: str | None
    own_vectors: str | None

    @property
    def slot(self) -> str:
        return asked.slot_of(self.queries, self.fingerprint, self.metric)

    @property
    def near_duplicates(self) -> str:
        """The slot of the groups whose limits judge."""
        return f"{self.fingerprint}/{self.metric}/{NEAR_DUPLICATES}"


def _asked(arguments: argparse.Namespace, settings: Settings) -> Asked:
    """Raises ``WrongInput`` unless pictures or vectors are given, and for a name of queries that cannot be one."""
    if (arguments.images is None) == (arguments.embeddings is None):
        given = "both are given" if arguments.images is not None else "neither is given"
        raise WrongInput(f"--images or --embeddings says what is searched for: {given}")
    name = asked.chosen_name(arguments.queries, arguments.images or arguments.embeddings)
    chosen = settings.neighbours
    return Asked(
        name,
        chosen.fingerprint,
        chosen.metric,
        settings.search.similar,
        settings.search.dissimilar,
        arguments.images,
        arguments.embeddings,
    )


def fingerprint_tables(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Where none is named, the only fingerprint of which these are published is meant."""
    return ("embeddings", "neighbours")


def check_early(arguments: argparse.Namespace, settings: Settings) -> None:
    """Raises ``WrongInput`` for what is seen before Spark is started: a fingerprint that is not published, pictures or
    vectors that are not there or have another length, and a report's folder that is something else.
    """
    if arguments.forget is not None:
        _check_forget(arguments)
        return
    wanted = _asked(arguments, settings)
    _check_flags(arguments, wanted)
    search_runners.check(
        search_runners.compared_as(settings, wanted.fingerprint, wanted.metric), arguments.warehouse, wanted.own_vectors
    )
    published = early.to_read(arguments.warehouse)
    if published:
        _check_published(published, wanted)
    if wanted.images is not None:
        from image_similarity.jobs import query_embedding

        query_embedding.check(settings, arguments.warehouse, wanted.images)
    if wanted.images is not None and uris.is_local(wanted.images):
        from image_similarity.stages.manifest import images

        with suppress(images.NoImages):  # nothing has come in today
            images.check(uris.absolute(wanted.images), settings.manifest, settings.embeddings.read_seconds)
    if wanted.own_vectors is not None:
        _check_vectors(published, wanted, settings)


def _check_forget(arguments: argparse.Namespace) -> None:
    others = ("images", "embeddings", "queries", "weights", "report", "gallery")
    if given := [f"--{name}" for name in others if getattr(arguments, name) is not None]:
        raise WrongInput(f"--forget {arguments.forget} searches for nothing: give it without {listed(given)}")
    early.to_read(arguments.warehouse)


def _check_flags(arguments: argparse.Namespace, wanted: Asked) -> None:
    if arguments.weights is not None and wanted.images is None:
        raise WrongInput("--weights with --embeddings: vectors are compared as they are, without weights")
    if arguments.report is None:
        if arguments.gallery is not None:
            raise WrongInput("--gallery without --report: it is the report that links to a gallery")
        return
    early.check_folder("--report", arguments.report, arguments.dry_run)
    if uris.is_local(arguments.report):
        images = uris.absolute(wanted.images) if wanted.images is not None else ""
        open_site(None, "report", arguments.report).check_place(images, uris.absolute(arguments.warehouse))
    if arguments.gallery is not None:
        _check_gallery(arguments.gallery)


def _check_gallery(gallery: str) -> None:
    """Raises ``WrongInput`` where no gallery is, on this machine."""
    if not uris.is_local(gallery):
        return
    from image_similarity.pages import site
    from image_similarity.storage.filesystems import files_of

    early.check_folder("--gallery", gallery, dry_run=True)
    path = uris.absolute(gallery)
    if site.kind_at(files_of(path), path) != "gallery":
        raise WrongInput(f"--gallery {gallery}: no gallery is there: run render_gallery first")


def _check_published(published: Snapshot, wanted: Asked) -> None:
    """Raises ``WrongInput``, with near names, where the collection has no such vectors."""
    if published.run_ids("embeddings", wanted.fingerprint):
        return
    own = sorted({slot.partition("/")[0] for slot in published.slots("neighbours")})
    if wanted.fingerprint in own:  # compared by find_neighbours --embeddings
        if wanted.images is not None:
            raise WrongInput(
                f"{wanted.fingerprint} are vectors of your own: nothing here turns a picture into such a vector; give "
                "--embeddings in place of --images"
            )
        return
    names = sorted({*published.slots("embeddings"), *own})
    if not names:
        raise WrongInput(f"nothing is published in {published.uri} to search in: run embed_images first")
    raise WrongInput(
        f"no fingerprint {wanted.fingerprint!r} is published in {published.uri} (published: {listed(names)})"
        + did_you_mean(wanted.fingerprint, names, "name one by --fingerprint, or run embed_images first")
    )


def _check_vectors(published: Snapshot | None, wanted: Asked, settings: Settings) -> None:
    """Raises ``WrongInput`` for vectors that cannot be read, or have another length than the collection's."""
    from image_similarity.stages.neighbours import local_source, own_vectors

    own, read_seconds = str(wanted.own_vectors), settings.embeddings.read_seconds
    own_vectors.check(own, read_seconds)
    if published and uris.is_local(own):
        check_lengths(own, local_source.from_parquet(own, read_seconds).dimensions, wanted.fingerprint, published)


def check_lengths(own: str, length: int, fingerprint: str, published: Snapshot) -> None:
    """Raises ``WrongInput`` where vectors of ``length`` values cannot be compared with those of ``fingerprint``."""
    dimensions = _dimensions(published, fingerprint)
    if length and dimensions and length != dimensions:
        raise WrongInput(
            f"--embeddings {own}: vectors of {length:,} values, but those of {fingerprint} have {dimensions:,}"
        )


def _dimensions(published: Snapshot, fingerprint: str) -> int | None:
    """The length of the collection's vectors; None if it is not known."""
    if known := early.vectors_of(published, fingerprint):
        return known.dimensions
    return next((int(counts["dimensions"]) for counts in _compared(published, fingerprint)), None)


def _images(published: Snapshot, fingerprint: str) -> dict[str, int]:
    """``images``: those of the collection that have a vector; empty if it is not known."""
    if known := early.vectors_of(published, fingerprint):
        return {"images": known.images}
    return next(({"images": int(counts["images"])} for counts in _compared(published, fingerprint)), {})


def _compared(published: Snapshot, fingerprint: str) -> Iterator[Mapping[str, Any]]:
    """The counts of the published neighbours by ``fingerprint``: of vectors of one's own nothing else is recorded."""
    for slot, runs in published.slots("neighbours").items():
        if slot.startswith(f"{fingerprint}/"):
            yield from (published.runs[run].counts for run in runs if run in published.runs)


# -- the run -----------------------------------------------------------------------------------------------------------


def run(application: Application) -> None:
    if application.arguments.forget is not None:
        _forget(application, application.arguments.forget)
        return
    wanted = _asked(application.arguments, application.settings)
    job = application.job(NAME, wanted.slot)
    earlier = job.already_published()
    if earlier is not None:
        _check_same_search(earlier, wanted)
        search_report.render(job, wanted, earlier.run_id)  # the run before may have failed when it rendered
        return
    with job.step("plan"):
        _check_published(job.base_snapshot, wanted)
        collection = _collection(job, wanted)
        judge = _judge(job, wanted, collection.key)
    _note_replaced(job, wanted)
    job.plan(*_plan(job, wanted, collection, judge))
    try:
        _Searching(job, wanted, collection, judge).search()
    finally:
        processes.release()
    search_report.render(job, wanted, job.run_id)


def _check_same_search(earlier: Record, wanted: Asked) -> None:
    """Raises ``WrongInput`` where the label is that of a search for something else, which would be left undone."""
    before, now = _place(earlier), _searched_for(wanted)
    if before not in (None, now):
        raise WrongInput(
            f"--run-id {earlier.label}: that search of {wanted.queries} was for {before}, not for {now}: give another "
            "--run-id, or another name by --queries"
        )


def _note_replaced(job: Job, wanted: Asked) -> None:
    """Says so where the name is that of queries from another place, whose answers these replace."""
    runs = [job.base_snapshot.runs.get(run) for run in job.base_snapshot.run_ids("matches", job.slot)]
    before, now = {_place(run) for run in runs if run is not None} - {None}, _searched_for(wanted)
    if before and before != {now}:
        note(
            f"{wanted.queries} are the queries from {listed(sorted(map(str, before)))}, too: the answers to {now} take "
            "their place; --queries gives these another name"
        )


def _searched_for(wanted: Asked) -> str:
    """The place of the queries, as records have it."""
    return redacted(uris.absolute(str(wanted.images if wanted.images is not None else wanted.own_vectors)))


def _place(run: Record) -> str | None:
    searched: Mapping[str, str | None] = run.settings.get("search", {})
    return searched.get("images") or searched.get("embeddings")


@dataclass(frozen=True)
class _Collection:
    """The vectors that are searched."""

    side: Side
    key: str | None
    """The ``fingerprint_key``; None for vectors of one's own."""


def _collection(job: Job, wanted: Asked) -> _Collection:
    side = search_runners.published(job, wanted.fingerprint, wanted.metric)
    if "vectors" not in side.inputs:
        return _Collection(side, None)
    rows = job.base_snapshot.dataset("embeddings", wanted.fingerprint).head(1, columns=["fingerprint_key"]).to_pylist()
    if not rows:
        raise WrongInput(f"no image of the collection has a vector by {wanted.fingerprint}: there is nothing to search")
    return _Collection(side, rows[0]["fingerprint_key"])


def _judge(job: Job, wanted: Asked, key: str | None) -> "Judge | None":
    from image_similarity.stages.search import judging

    return judging.judge(job.base_snapshot, wanted.fingerprint, wanted.metric, key)


def _why_unjudged(job: Job, wanted: Asked) -> str:
    from image_similarity.stages.search import judging

    return judging.why_none(job.base_snapshot, wanted.fingerprint, wanted.metric)


def _plan(job: Job, wanted: Asked, collection: _Collection, judge: "Judge | None") -> Iterator[str]:
    what = f"the pictures {wanted.images}" if wanted.images is not None else f"the vectors {wanted.own_vectors}"
    yield f"search for {what} ({wanted.queries}) in the collection by {wanted.fingerprint}, {wanted.metric} distance"
    if judge is not None:
        scaled = f"{judge.limits.scaled:g} of the local scale"
        yield f"verdicts: by the limit of the near-duplicates of run {judge.run}, {scaled}"
    else:
        yield f"verdicts: for the same files only, since {_why_unjudged(job, wanted)}"
    yield f"keep {wanted.similar} similar and {wanted.dissimilar} dissimilar images of each"
    yield f"write matches and failures to {job.warehouse.uri}"
    if job.arguments.report is not None:
        yield f"write pictures and pages to {job.arguments.report}, then replace its index.html"


@dataclass(frozen=True)
class _Searching:
    """One search."""

    job: Job
    wanted: Asked
    collection: _Collection
    judge: "Judge | None"

    def search(self) -> None:
        from image_similarity.jobs import query_embedding

        own = self.wanted.own_vectors
        pictures = self._pictures() if own is None else None
        embedded = pictures.embedded() if pictures is not None else query_embedding.own(self.job, str(own))
        if embedded is None:
            counts = {"queries": 0, **_images(self.job.base_snapshot, self.wanted.fingerprint)}
            self._finish(_nothing(self.wanted), SCHEMAS["failures"].empty_table(), counts, {})
            return
        runner, answers = self._answers(embedded)
        queries = embedded.queries or asked.of_vectors(_ids(answers))
        with self.job.step("judge"):
            answered = self._searched(queries, embedded, answers)
        unusable = asked.unusable(answers.failures, queries, self.wanted.fingerprint)
        failures = pa.concat_tables([queries.failures, unusable])
        query_embedding.check_failures(self.job, failures, queries.count)
        counts = {
            "queries": queries.count,
            **embedded.counts,
            "images": answers.compared,
            "dimensions": answers.dimensions,
            "brute_force": answers.brute_force,
        }
        used = {
            "runner": {"chosen": runner.name, "because": runner.because},
            "screen": {"chosen": answers.screen.screen, "because": answers.screen.because},
        }
        self._finish(answered, failures, counts, used)
        if pictures is not None:
            pictures.forget(min([*self.job.base_snapshot.run_ids("matches", self.job.slot), self.job.run_id]))

    # -- reading -------------------------------------------------------------------------------------------------------

    def _pictures(self) -> "Pictures":
        from image_similarity.jobs.query_embedding import Pictures
        from image_similarity.stages.embeddings import published

        job, wanted = self.job, self.wanted
        given = job.arguments.weights
        name = wanted.fingerprint
        weights = {name: given.removeprefix(f"{name}=")} if given is not None else None  # NAME=FILE, as serve takes it
        with job.step("prepare the fingerprint"):
            folder = embed_images.folder_for_workers()
            prepared = published.prepare_published(
                job.base_snapshot, wanted.fingerprint, folder, job.settings.http, weights
            )
        for line in prepared.notes:
            job.say(f"{wanted.fingerprint}: {line}", event="note")
        return Pictures(job, str(wanted.images), wanted.fingerprint, prepared, wanted.queries)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _answers(self, embedded: "Embedded") -> "tuple[Runner, Answers]":
        """The answers, of which there are more than are asked for where they are needed to judge."""
        from image_similarity.grouping.verdicts import LEAST_ANSWERS

        job, wanted = self.job, self.wanted
        settings = search_runners.compared_as(job.settings, wanted.fingerprint, wanted.metric)
        if self.judge is not None:
            settings = settings.model_copy(update={"similar": max(wanted.similar, LEAST_ANSWERS)})
        runner = search_runners.chosen(job, settings, embedded.side, self.collection.side)
        job.say(*runner.lines, event="plan")
        return runner, runner.run(job)

    def _searched(self, queries: "Queries", embedded: "Embedded", answers: "Answers") -> "_Searched":
        import pyarrow.compute as pc

        from image_similarity.stages.search import judging, matches

        published, key = self.job.base_snapshot, self.collection.key
        names = queries.rows["query_id"].combine_chunks()
        rows = queries.rows.take(pc.index_in(answers.queries.cast(pa.string()), value_set=names))
        similar, dissimilar = (
            matches.Lists.of(of.row, of.rank, of.neighbour, of.distance, len(rows))
            for of in (answers.similar, answers.dissimilar)
        )
        contents = rows["content"].combine_chunks()
        copies = matches.copies(published, self.wanted.fingerprint, key, contents)
        ids = pa.concat_arrays([answers.images, copies.cast(pa.large_string())]).unique()  # places stay what they are
        images = matches.known(published, self.wanted.fingerprint, key, ids)
        similar = matches.with_copies(similar, ids, images, contents)
        judged = matches.judged(
            self.judge,
            similar,
            dissimilar,
            ids,
            images,
            contents,
            judging.thumbprints(published, key if self.judge is not None else None, contents, embedded.files),
        )
        return _Searched(rows, ids, similar, dissimilar, judged, self.wanted)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _finish(self, answered: "_Searched", failures: pa.Table, counts: dict[str, Any], used: dict[str, Any]) -> None:
        """Writes and publishes the tables, and says what was found."""
        from image_similarity.jobs import query_embedding

        by_reason = query_embedding.failures_in(failures)
        with self.job.step("write tables"):
            rows = self._write(answered, failures)
        counts = {**counts, "verdicts": answered.by_verdict, "rows": rows, "failures": by_reason.counts}
        self._publish(counts, used)
        because = None if self.judge is not None else _why_unjudged(self.job, self.wanted)
        _summarise(self.job, counts, because, by_reason)

    def _write(self, answered: "_Searched", failures: pa.Table) -> int:
        from image_similarity.jobs import query_embedding

        job, schema = self.job, SCHEMAS["matches"]
        query_embedding.write_failures(job, failures)
        if job.warehouse.local_root is not None:
            return job.warehouse.write_here("matches", job.run_id, answered.table())
        with job.warehouse.scratch(job.run_id) as scratch:
            frame = scratch.store("matches-rows", schema, answered.table())
            job.warehouse.write("matches", job.run_id, frame)
            return job.warehouse.count("matches", job.run_id)

    def _publish(self, counts: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        job, wanted = self.job, self.wanted
        inputs = dict(self.collection.side.inputs)
        if self.judge is not None:
            inputs["groups"] = [self.judge.run]
            inputs["neighbours"] = job.base_snapshot.run_ids("neighbours", f"{wanted.fingerprint}/{wanted.metric}")
        searched = {
            "queries": wanted.queries,
            "images": uris.absolute(wanted.images) if wanted.images is not None else None,
            "embeddings": uris.absolute(wanted.own_vectors) if wanted.own_vectors is not None else None,
            "fingerprint": wanted.fingerprint,
            "metric": wanted.metric,
            "similar": wanted.similar,
            "dissimilar": wanted.dissimilar,
        }
        used: dict[str, Any] = {"search": searched, "fingerprint_key": self.collection.key, **more}
        if self.judge is not None:
            used["limit"] = {"scaled": self.judge.limits.scaled, "strict": self.judge.limits.strict}
        job.publish(
            replace={"matches": {job.slot: job.run_id}, "failures": {asked.failures_slot(job.slot): job.run_id}},
            inputs=inputs,
            counts=counts,
            used=used,
        )


@dataclass(frozen=True)
class _Searched:
    """The answers to all queries ``rows``, judged. Lists name images by their places in ``ids``."""

    rows: pa.Table
    ids: pa.Array
    similar: "Lists"
    dissimilar: "Lists"
    judged: "Judged"
    wanted: Asked

    @property
    def by_verdict(self) -> dict[str, int]:
        """The best verdict on each query, whose row is in the table -> their number."""
        from image_similarity.stages.search.matches import VERDICTS

        counted = Counter(self.judged.of_queries.tolist())
        return {verdict: counted[verdict] for verdict in VERDICTS}

    def table(self) -> Iterator[pa.RecordBatch]:
        """The rows of ``matches``: as many as are asked for of each query, and the one with its best verdict."""
        from image_similarity.stages.search.matches import Table

        named = Table(self.wanted.queries, self.wanted.fingerprint, self.wanted.metric)
        similar = self.similar.only(self.judged.listed(self.wanted.similar))
        return named.rows(self.rows, self.ids, similar, self.dissimilar, self.judged)


def _nothing(wanted: Asked) -> _Searched:
    """No query, and so no answer."""
    import numpy as np

    from image_similarity.stages.search.matches import Judged, Lists

    none, nobody = Lists(np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)), np.empty((0, 0), object)
    ids = pa.array([], pa.large_string())
    return _Searched(asked.ROWS.empty_table(), ids, none, none, Judged(nobody, nobody, nobody.astype(bool)), wanted)


def _ids(answers: "Answers") -> pa.Array:
    """Of all queries, those that could not be compared, too."""
    import pyarrow.compute as pc

    failed = answers.failures["image_id"].cast(pa.large_string()).combine_chunks()
    ids = pa.concat_arrays([answers.queries.cast(pa.large_string()), failed])
    return ids.take(pc.sort_indices(ids))


# -- messages ----------------------------------------------------------------------------------------------------------


def _summarise(job: Job, counts: Mapping[str, Any], unjudged: str | None, failures: "Failures") -> None:
    images = f" in {counts['images']:,} images" if "images" in counts else ""
    message = f"search_images {job.slot}: {counts['queries']:,} queries{images}"
    parts = [described(counts["verdicts"], unjudged)]
    parts += [f"{failures.total:,} failed"] if failures.total else []
    job.say(f"{message} in {job.seconds:.1f} s: {'; '.join(parts)}", *failures.lines, failures=failures.fields)


def described(verdicts: Mapping[str, int], unjudged: str | None) -> str:
    """``2 are there already, 1 are near to one that is there, 7 are new``. ``unjudged``: why there are no limits; then
    only the first is known.
    """
    if unjudged is not None:
        there = captions.VERDICTS["yes"].of_queries
        return f"{verdicts['yes']:,} {there} as the same file; the others are not judged: {unjudged}"
    return ", ".join(f"{verdicts[verdict]:,} {words.of_queries}" for verdict, words in captions.VERDICTS.items())


# -- forgetting --------------------------------------------------------------------------------------------------------


def _forget(application: Application, name: str) -> None:
    """Unpublishes the searches of the queries ``name``, by whatever fingerprint and metric."""
    job = application.job(NAME, name)
    if job.already_published() is not None:
        return
    published = job.base_snapshot
    slots = [slot for slot in published.slots("matches") if asked.queries_of(slot) == name]
    if not slots:
        names = sorted({asked.queries_of(slot) for slot in published.slots("matches")})
        raise WrongInput(
            f"--forget {name}: no search of that name is published in {published.uri}"
            + (f" (published: {listed(names)})" if names else "")
            + did_you_mean(name, names)
        )
    job.plan(
        *(f"unpublish the search {slot} of run {', '.join(published.run_ids('matches', slot))}" for slot in slots),
        "remove the vectors of these queries, which are in no table",
    )
    beside = {asked.failures_slot(slot) for slot in slots} & published.slots("failures").keys()
    job.publish(
        replace={},
        inputs={},
        counts={"forgotten": len(slots)},
        used={"forget": name},
        remove={"matches": slots, "failures": sorted(beside)},
    )
    keys = {run.settings.get("fingerprint_key") for run in published.runs.values() if run.slot in slots}
    for key in sorted(str(key) for key in keys if key is not None):
        job.forget_state(asked.state_slot(name, key))
    job.say(
        f"search_images: {len(slots):,} searches of {name} are not published any more; clean_warehouse --keep-runs "
        "removes their tables, and restore_runs makes one current again until then"
    )


if __name__ == "__main__":
    command_line.start("search_images")
