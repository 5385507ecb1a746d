"""One Spark application, and the runs of jobs in it.

A run begins with the current pointer. It ends with one publication and its record.
"""

import argparse
import importlib.metadata
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from image_similarity import __version__, reporting
from image_similarity.errors import JobFailed, TooManyFailures, counted
from image_similarity.reporting import note, printable, say
from image_similarity.runtime import progress
from image_similarity.runtime.session import spark_errors, started
from image_similarity.settings import Settings
from image_similarity.storage import uris
from image_similarity.warehouse import compaction, leases, retention
from image_similarity.warehouse.records import PUBLISHED, Record, new_run_id
from image_similarity.warehouse.schemas import RUNS
from image_similarity.warehouse.snapshot import Pointer, Removed, Slots
from image_similarity.warehouse.warehouse import Warehouse
from image_similarity.warehouse.workspace import SCRATCH, STATE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from image_similarity.stages.embeddings.prepare import PreparedFingerprint


class PlanOnly(Exception):
    """Raised by `Job.plan` under ``--dry-run``: the plan is printed, and the job ends."""


@dataclass(frozen=True)
class Finished:
    """A run that was published."""

    name: str
    slot: str
    seconds: float
    counts: Mapping[str, Any]
    used: Mapping[str, Any]


@dataclass(frozen=True)
class Failures:
    """The failures of one run by reason: their number, and an example."""

    counts: dict[str, int]
    examples: dict[str, str]

    @classmethod
    def by_reason(cls, rows: Iterable[tuple[str, int, str]]) -> "Failures":
        """From rows of reason, number, and example: the id or address of one."""
        counts, examples = {}, {}
        for reason, count, example in rows:
            counts[reason] = count
            # The query of an address may contain a signature that gives access: it must not be logged.
            examples[reason] = printable(re.sub(r"^(https?://[^?]*)\?.*", r"\1?...", example))
        return cls(counts, examples)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def lines(self) -> list[str]:
        return [
            f"failed: {count:,} {reason}, for example {self.examples[reason]}" for reason, count in self.counts.items()
        ]

    @property
    def fields(self) -> dict[str, Any]:
        """reason -> count and example, for machines."""
        return {reason: {"count": count, "example": self.examples[reason]} for reason, count in self.counts.items()}


@dataclass
class Application:
    """One Spark application: arguments, settings, session and warehouse. One or several jobs run in it."""

    arguments: argparse.Namespace
    settings: Settings
    session: "SparkSession"
    """It may be one that starts at its first use, see `runtime.session.lazy_session`."""
    warehouse: Warehouse
    finished: "list[Finished]" = field(default_factory=list)
    """The runs that this application has published so far."""
    prepared: "dict[str, PreparedFingerprint]" = field(default_factory=dict)
    """The fingerprints that this application has prepared so far, by their names."""
    _jobs: "list[Job]" = field(default_factory=list)
    _is_active: bool = False
    _made_warehouse: bool = False
    """Whether the folder of a local warehouse was not there before."""
    _leases: ExitStack = field(default_factory=ExitStack)

    def job(self, name: str, slot: str = "") -> "Job":
        job = Job(self, name, slot)
        self._jobs.append(job)
        if self._is_active:
            self._leases.enter_context(job.lease())
        return job

    def begin(self) -> None:
        """Takes the leases of this application's runs: from now on, until the end, cleaning spares what they write."""
        if not self._is_active:
            self._is_active = True
            self._made_warehouse = bool(self.warehouse.local_root) and not os.path.exists(self.warehouse.uri)
            for job in self._jobs:
                self._leases.enter_context(job.lease())

    def __enter__(self) -> "Application":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Removes unpublished tables after an error. After `TooManyFailures` ``failures`` stays: the error names it."""
        with self._leases:
            if error is not None and self._is_active:
                self._discard(["failures"] if isinstance(error, TooManyFailures) else [])
        if error is not None and self._is_active:
            self._remove_empty_folders()

    def _remove_empty_folders(self) -> None:
        """After an error nothing is left where nothing was. A folder that somebody made for the warehouse stays."""
        try:
            for folder in (leases.FOLDER, SCRATCH, STATE):
                self.warehouse.files.delete_empty(f"{self.warehouse.uri}/{folder}")
            if self._made_warehouse:
                self.warehouse.files.delete_empty(self.warehouse.uri)
        except OSError:
            pass  # the job's own error is reported instead

    def _discard(self, keep: list[str]) -> None:
        try:
            for job in self._jobs:
                if not self.warehouse.is_published(job.run_id):
                    self.warehouse.discard(job.run_id, keep)
        except spark_errors(OSError, JobFailed):
            pass  # the job's own error is reported instead; clean_warehouse removes the rest


@dataclass
class Job:
    """One run of one job on one slot. It begins with the current pointer and ends with one publication."""

    application: Application
    name: str
    slot: str
    run_id: str = field(default_factory=new_run_id)
    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    older: frozenset[str] = frozenset()
    """Runs that are no longer current, and that this run needs."""

    def __post_init__(self) -> None:
        self.arguments = self.application.arguments
        self.settings = self.application.settings
        self.session = self.application.session
        self.warehouse = self.application.warehouse
        self.base_snapshot = self.warehouse.snapshot()
        self._began = time.monotonic()
        self._about = {"job": self.name, "slot": self.slot, "run_id": self.run_id}
        work_on(self.session, **self._about)

    @property
    def seconds(self) -> float:
        return (datetime.now(timezone.utc) - self.started).total_seconds()

    def lease(self) -> AbstractContextManager[None]:
        """The lease of this run. While it is held, cleaning spares what the run writes and what it may read."""
        return leases.held(self.warehouse, self.run_id, self.base_snapshot.pointer, self.older)

    def already_published(self, is_it: Callable[[Record], bool] = lambda run: True) -> Record | None:
        """The run with this ``--run-id`` label that has published this job and slot, if there is one. Reports it.

        ``is_it``: whether a run did all that this one would do, where slot and label do not tell it.
        """
        label = self.arguments.run_id
        if label is None:
            return None
        with self.step("look for the label"):
            history = list(self.base_snapshot.runs.values())
        undone = retention.undone(history) | retention.unpublished(history)
        published = [run for run in history if run.status == PUBLISHED]
        same = [run for run in published if (run.label, run.job, run.slot) == (label, self.name, self.slot)]
        previous = next((run for run in same if run.run_id not in undone and is_it(run)), None)
        if previous is not None:
            message = (
                f"{self.name} {self.slot}".rstrip()
                + f": already published under the label {label!r} as {previous.run_id}"
            )
            self.say(message, event="already_published", run_id=previous.run_id)
        return previous

    def plan(self, *lines: str) -> None:
        """Reports the plan. Under ``--dry-run`` raises `PlanOnly`; otherwise takes the leases."""
        self.say(f"{self.name}:", *lines, event="plan")
        if self.arguments.dry_run:
            raise PlanOnly
        self.application.begin()

    def say(self, *lines: str, event: str = "summary", detail: bool = False, **fields: Any) -> None:
        """As `reporting.say`, about this run."""
        say(*lines, event=event, detail=detail, **{**self._about, **fields})

    def step(self, what: str) -> AbstractContextManager[None]:
        """A step of the work, see `progress.step`."""
        return progress.step(self.session, what)

    def failures(self) -> Failures:
        """The failures in the table that this run has written."""
        from pyspark.sql import functions as F

        example = F.min(F.coalesce("uri", "image_id")).alias("example")
        grouped = self.warehouse.read("failures", [self.run_id]).groupBy("reason")
        rows = grouped.agg(F.count("*").alias("images"), example).orderBy("reason").collect()
        return Failures.by_reason((row.reason, row.images, row.example) for row in rows)

    def check_failures(self, failures: Failures, unit: str, count: int, section: str, note: str = "") -> None:
        """Raises ``TooManyFailures`` if more of ``count`` items failed than the settings' ``section`` allows.

        ``unit``: what one item is, for the message. ``note``: added to it.
        """
        allowed = getattr(self.settings, section).max_failed_fraction
        if failures.total <= allowed * count:
            return
        reasons = ", ".join(f"{images:,} {reason}" for reason, images in failures.counts.items())
        # If all failed, there is nothing that could be published.
        enough = enough_for(failures.total, count) if failures.total < count else None
        advice = f" (--set {section}.max_failed_fraction={enough} lets such a run pass)" if enough else ""
        message = (
            f"{failures.total:,} of {counted(count, unit)} failed ({reasons}), more than {section}.max_failed_fraction "
            f"= {allowed} allows{advice}; {self.name} published nothing{note}. Each failure is a row in "
            f"{uris.for_readers(self.warehouse.folder('failures', self.run_id))}"
        )
        raise TooManyFailures("\n  ".join([message, *failures.lines]), failures=failures.fields)

    def publish(
        self,
        replace: Slots,
        append: Slots | None = None,
        *,
        inputs: Mapping[str, list[str]],
        counts: Mapping[str, Any],
        used: Mapping[str, Any],
        recall: float | None = None,
        status: str = PUBLISHED,
        remove: Removed | None = None,
    ) -> Finished:
        """Makes this run's tables current, with its record in ``runs``. Returns what it records.

        ``inputs``: table -> runs read. ``counts``: what was counted. ``used``: the settings, and what they resolved to.
        ``recall``: of approximate neighbours. ``status``: another value than `PUBLISHED` if the run does not count as
        done under its label. ``remove``: table -> slots that are unpublished.
        """
        seconds, stages = self.seconds, reporting.current().seconds_by_step(self._began)
        outputs = _outputs(replace, append or {}, remove or {})
        record = Record(
            run_id=self.run_id,
            label=self.arguments.run_id,
            job=self.name,
            slot=self.slot,
            status=status,
            inputs=inputs,
            outputs=outputs,
            settings=used,
            counts=counts,
            versions=_versions(self.session),
            seconds=seconds,
            stages=stages,
            recall=recall,
            started_at=self.started,
            finished_at=datetime.now(timezone.utc),
        )
        self._check_whole(replace, append or {})
        self.warehouse.write_record(record)
        appended = {table: dict(slots) for table, slots in (append or {}).items()}
        appended[RUNS] = {"": self.run_id}
        pointer = self.warehouse.publish(self.base_snapshot.pointer, replace, appended, remove)
        finished = Finished(self.name, self.slot, seconds, counts, used)
        self.application.finished.append(finished)
        message = f"{self.name} {self.slot}".rstrip() + f": published as {self.run_id} after {seconds:.1f} s"
        self.say(
            f"{message}: {reporting.longest(stages)}" if stages else message,
            event="published",
            detail=True,
            seconds=round(seconds, 3),
            stages=stages,
            counts=counts,
            outputs=outputs,
            recall=recall,
        )
        self._compact(pointer)
        if self.arguments.keep_runs:
            self._clean(self.arguments.keep_runs)
        return finished

    def _check_whole(self, *published: Slots) -> None:
        """Raises ``JobFailed`` if a table is gone or not whole; returns when all are safe on the disk.

        Cleaning took this run for dead (its machine slept, say), or removed a run that it needs.
        """
        folders = {(table, run) for slots in published for table, runs in slots.items() for run in runs.values()}
        for table, run in folders:
            if not retention.is_whole(self.warehouse, table, run):
                raise JobFailed(
                    f"what {run} wrote to {table} was removed meanwhile; nothing was published: run it again"
                )
            self.warehouse.files.sync(f"{self.warehouse.uri}/{table}/run_id={run}")

    def forget_state(self, slot: str, before: str | None = None) -> None:
        """Removes what runs left in the state ``slot``, see `Warehouse.forget_state`; what other runs write now stays.

        Called after publishing: the run has not failed, so that an error is only noted.
        """
        try:
            others = leases.active(self.warehouse).keys() - {self.run_id}
            self.warehouse.forget_state(slot, before, keep=others)
        except OSError as error:
            note(f"what earlier runs left could not be removed: {error}; the next run removes it")

    def _compact(self, pointer: Pointer) -> None:
        try:
            compaction.compact(self.warehouse, pointer)
        except Exception as error:  # whatever the error: the run is published and has not failed
            note(f"the records of runs could not be merged: {error}; the next publication tries again")

    def _clean(self, keep: int) -> None:
        try:
            retention.remove(self.warehouse, retention.removable(self.warehouse, keep))
        except Exception as error:  # whatever the error: the run is published and has not failed
            note(f"older runs could not be removed: {error}; clean_warehouse does it")


def enough_for(failed: int, count: int) -> float:
    """The smallest ``max_failed_fraction`` of two digits that allows ``failed`` of ``count``, which is less."""
    share = failed / count
    digits = 1 - math.floor(math.log10(share))
    step: float = 10.0**-digits
    enough = round(math.ceil(share / step) * step, digits)
    return enough if failed <= enough * count else round(enough + step, digits)


def _outputs(replace: Slots, append: Slots, remove: Removed) -> dict[str, dict[str, list[str]]]:
    """For ``runs.outputs``, see `Record.outputs`."""
    slots_by_action = {"replaced": replace, "appended": append, **({"removed": remove} if remove else {})}
    return {action: {table: sorted(runs) for table, runs in slots.items()} for action, slots in slots_by_action.items()}


def library_versions() -> dict[str, str]:
    """Of this program, and of the libraries that decide what vectors are."""
    # Read from the metadata of the installation, because importing the libraries takes seconds.
    names = ("torch", "torchvision", "numpy", "pyarrow", "pillow")
    return {"image_similarity": __version__, **{name: importlib.metadata.version(name) for name in names}}


def _versions(session: "SparkSession") -> dict[str, str]:
    """Of Python and the libraries; of Java, Spark and Hadoop only if Spark was started."""
    ours = {"python": platform.python_version(), **library_versions()}
    if started(session) is None:
        return ours
    java: Any = session._jvm
    return {
        **ours,
        "java": java.System.getProperty("java.version"),
        "spark": session.version,
        "hadoop": java.org.apache.hadoop.util.VersionInfo.getVersion(),  # its clients access s3a://, hdfs://, gs://
    }


def work_on(session: "SparkSession", job: str, **about: Any) -> None:
    """Makes ``job`` the subject of later messages and of Spark's work. ``about``: slot and run_id of a single run."""
    reporting.current().about = {"job": job, **about}
    progress.name_work(session, job)
