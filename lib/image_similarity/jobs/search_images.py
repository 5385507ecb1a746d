"""pictures from outside, or vectors, against the collection: which of its images look most like each, and which of them
are there already.
"""

# What computes is imported where it is used: help, and what is wrong in the arguments, should not wait for it.

import argparse
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from image_similarity.errors import WrongInput, counted, listed
from image_similarity.jobs import (
    command_line,
    early,
    embed_images,
    published_searches,
    search_report,
    search_request,
    search_runners,
    searched_collection,
)
from image_similarity.jobs.command_line import setting
from image_similarity.jobs.job import Application, Job
from image_similarity.jobs.search_request import Request
from image_similarity.jobs.search_runners import Runner
from image_similarity.jobs.searched_collection import Collection
from image_similarity.pages import captions
from image_similarity.runtime import processes
from image_similarity.settings import Settings
from image_similarity.stages.search import queries as asked
from image_similarity.storage import uris
from image_similarity.warehouse.schemas import SCHEMAS

if TYPE_CHECKING:
    from image_similarity.jobs.job import Failures
    from image_similarity.jobs.query_embedding import Embedded, Pictures
    from image_similarity.stages.search.answers import Answers
    from image_similarity.stages.search.judging import Judge
    from image_similarity.stages.search.results import Results

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
    request = search_request.of(arguments, settings)
    if arguments.weights is not None and request.images is None:
        raise WrongInput("--weights with --embeddings: vectors are compared as they are, without weights")
    search_report.check(arguments, request)
    compared = search_runners.compared_as(settings, request.fingerprint, request.metric)
    search_runners.check(compared, arguments.warehouse, request.own_vectors)
    published = early.to_read(arguments.warehouse)
    if published:
        searched_collection.check(published, request)
    if request.images is not None:
        _check_pictures(arguments.warehouse, request.images, settings)
    if request.own_vectors is not None:
        searched_collection.check_vectors(published, request.own_vectors, request.fingerprint, settings)


def _check_forget(arguments: argparse.Namespace) -> None:
    others = ("images", "embeddings", "queries", "weights", "report", "gallery")
    if given := [f"--{name}" for name in others if getattr(arguments, name) is not None]:
        raise WrongInput(f"--forget {arguments.forget} searches for nothing: give it without {listed(given)}")
    early.to_read(arguments.warehouse)


def _check_pictures(warehouse: str, pictures: str, settings: Settings) -> None:
    from image_similarity.jobs import query_embedding

    query_embedding.check(settings, warehouse, pictures)
    if uris.is_local(pictures):
        from image_similarity.stages.manifest import images

        with suppress(images.NoImages):  # nothing has come in today
            images.check(uris.absolute(pictures), settings.manifest, settings.embeddings.read_seconds)


# -- the run -----------------------------------------------------------------------------------------------------------


def run(application: Application) -> None:
    if (name := application.arguments.forget) is not None:
        published_searches.withdraw(application.job(NAME, name), name)
        return
    request = search_request.of(application.arguments, application.settings)
    job = application.job(NAME, request.slot)
    earlier = job.already_published()
    if earlier is not None:
        published_searches.check_same(earlier, request)
        search_report.render(job, request, earlier.run_id)  # the run before may have failed when it rendered
        return
    with job.step("plan"):
        from image_similarity.stages.search import judging

        collection = searched_collection.of(job, request)
        judge = judging.judge(job.base_snapshot, request.fingerprint, request.metric, collection.key)
    published_searches.note_replaced(job, request)
    job.plan(*_plan(job, request, judge))
    try:
        _Searching(job, request, collection, judge).search()
    finally:
        processes.release()
    search_report.render(job, request, job.run_id)


def _plan(job: Job, request: Request, judge: "Judge | None") -> Iterator[str]:
    what = f"the pictures {request.images}" if request.images is not None else f"the vectors {request.own_vectors}"
    yield f"search for {what} ({request.queries}) in the collection by {request.fingerprint}, {request.metric} distance"
    if judge is not None:
        scaled = f"{judge.limits.scaled:g} of the local scale"
        yield f"verdicts: by the limit of the near-duplicates of run {judge.run}, {scaled}"
    else:
        yield f"verdicts: for the same files only, since {_why_unjudged(job, request)}"
    yield f"keep {request.similar} similar and {counted(request.dissimilar, 'dissimilar image')} of each"
    yield f"write matches and failures to {job.warehouse.uri}"
    if job.arguments.report is not None:
        yield f"write pictures and pages to {job.arguments.report}, then replace its index.html"


@dataclass(frozen=True)
class _Searching:
    """One search."""

    job: Job
    request: Request
    collection: Collection
    judge: "Judge | None"

    def search(self) -> None:
        from image_similarity.jobs import query_embedding
        from image_similarity.stages.search import results

        own = self.request.own_vectors
        pictures = self._pictures() if own is None else None
        embedded = pictures.embedded() if pictures is not None else query_embedding.own(self.job, str(own))
        if embedded is None:
            images = searched_collection.images(self.job.base_snapshot, self.request.fingerprint)
            counts = {"queries": 0, **images}
            self._finish(results.nothing(), SCHEMAS["failures"].empty_table(), counts, {})
            return
        runner, answers = self._answers(embedded)
        queries = embedded.queries or asked.of_vectors(answers.query_ids)
        with self.job.step("judge"):
            judged = results.judged(
                self.job.base_snapshot,
                self.request.fingerprint,
                self.collection.key,
                self.judge,
                queries,
                answers,
                embedded.files,
            )
        unusable = asked.unusable(answers.failures, queries, self.request.fingerprint)
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
        self._finish(judged, failures, counts, used)
        if pictures is not None:
            pictures.forget(min([*self.job.base_snapshot.run_ids("matches", self.job.slot), self.job.run_id]))

    # -- reading -------------------------------------------------------------------------------------------------------

    def _pictures(self) -> "Pictures":
        from image_similarity.jobs.query_embedding import Pictures
        from image_similarity.stages.embeddings import published

        job, request = self.job, self.request
        given = job.arguments.weights
        name = request.fingerprint
        weights = {name: given.removeprefix(f"{name}=")} if given is not None else None  # NAME=FILE, as serve takes it
        with job.step("prepare the fingerprint"):
            folder = embed_images.folder_for_workers()
            prepared = published.prepare_published(
                job.base_snapshot, request.fingerprint, folder, job.settings.http, weights
            )
        for line in prepared.notes:
            job.say(f"{request.fingerprint}: {line}", event="note")
        return Pictures(job, str(request.images), request.fingerprint, prepared, request.queries)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _answers(self, embedded: "Embedded") -> "tuple[Runner, Answers]":
        """The answers, of which there are more than are asked for where they are needed to judge."""
        from image_similarity.grouping.verdicts import LEAST_ANSWERS

        job, request = self.job, self.request
        settings = search_runners.compared_as(job.settings, request.fingerprint, request.metric)
        if self.judge is not None:
            settings = settings.model_copy(update={"similar": max(request.similar, LEAST_ANSWERS)})
        runner = search_runners.chosen(job, settings, embedded.side, self.collection.side)
        job.say(*runner.lines, event="plan")
        return runner, runner.run(job)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _finish(self, judged: "Results", failures: pa.Table, counts: dict[str, Any], used: dict[str, Any]) -> None:
        """Writes and publishes the tables, and says what was found."""
        from image_similarity.jobs import query_embedding

        by_reason = query_embedding.failures_in(failures)
        with self.job.step("write tables"):
            rows = self._write(judged, failures)
        counts = {**counts, "verdicts": judged.by_verdict, "rows": rows, "failures": by_reason.counts}
        self._publish(counts, used)
        because = None if self.judge is not None else _why_unjudged(self.job, self.request)
        _summarise(self.job, counts, because, by_reason)

    def _write(self, judged: "Results", failures: pa.Table) -> int:
        from image_similarity.jobs import query_embedding
        from image_similarity.stages.search.matches import Table

        job, request = self.job, self.request
        query_embedding.write_failures(job, failures)
        rows = judged.table(Table(request.queries, request.fingerprint, request.metric), request.similar)
        if job.warehouse.local_root is not None:
            return job.warehouse.write_here("matches", job.run_id, rows)
        with job.warehouse.scratch(job.run_id) as scratch:
            frame = scratch.store("matches-rows", SCHEMAS["matches"], rows)
            job.warehouse.write("matches", job.run_id, frame)
            return job.warehouse.count("matches", job.run_id)

    def _publish(self, counts: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        job, request = self.job, self.request
        inputs = dict(self.collection.side.inputs)
        if self.judge is not None:
            inputs["groups"] = [self.judge.run]
            inputs["neighbours"] = job.base_snapshot.run_ids("neighbours", f"{request.fingerprint}/{request.metric}")
        used: dict[str, Any] = {"search": request.record, "fingerprint_key": self.collection.key, **more}
        if self.judge is not None:
            used["limit"] = {"scaled": self.judge.limits.scaled, "strict": self.judge.limits.strict}
        job.publish(
            replace={"matches": {job.slot: job.run_id}, "failures": {asked.failures_slot(job.slot): job.run_id}},
            inputs=inputs,
            counts=counts,
            used=used,
        )


# -- messages ----------------------------------------------------------------------------------------------------------


def _why_unjudged(job: Job, request: Request) -> str:
    from image_similarity.stages.search import judging

    return judging.why_none(job.base_snapshot, request.fingerprint, request.metric)


def _summarise(job: Job, counts: Mapping[str, Any], unjudged: str | None, failures: "Failures") -> None:
    images = f" in {counted(counts['images'], 'image')}" if "images" in counts else ""
    message = f"search_images {job.slot}: {counted(counts['queries'], 'query')}{images}"
    parts = [described(counts["verdicts"], unjudged)]
    parts += [f"{failures.total:,} failed"] if failures.total else []
    job.say(f"{message} in {job.seconds:.1f} s: {'; '.join(parts)}", *failures.lines, failures=failures.fields)


def described(verdicts: Mapping[str, int], unjudged: str | None) -> str:
    """``2 are there already, 1 is near to one that is there, 7 are new``. ``unjudged``: why there are no limits; then
    only the first is known.
    """

    def said(verdict: str) -> str:
        words = captions.VERDICTS[verdict].in_a_sentence
        return counted(verdicts[verdict], f"is {words}", f"are {words}")

    if unjudged is not None:
        return f"{said('yes')} as the same file; the others are not judged: {unjudged}"
    return ", ".join(map(said, captions.VERDICTS))


if __name__ == "__main__":
    command_line.start("search_images")
