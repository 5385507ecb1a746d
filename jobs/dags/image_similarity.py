"""Airflow DAGs that keep collections of images current: one for each ``[collections.NAME]`` of ``conf/airflow.toml``.

    build_manifest >> embed_images >> find_neighbours >> audit_neighbours >> group_images >> render_gallery
                      embed_images >> tag_images                          >> group_images
    render_gallery >> render_map

``group_images`` has a task for each kind, near-duplicates and similar; tags are there before it labels groups. Where a
collection has a folder of ``incoming`` pictures, ``search_images`` is last: it says which of them the collection has
already.

Each task submits one job with Airflow's run id as ``--run-id``, so that a task that is tried again repeats nothing that
it has published. What it publishes is an Asset, ``image_similarity/<collection>/<table>``. This file imports Airflow
and nothing of the library: Airflow parses it again and again.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any
from urllib.parse import quote

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Asset, chain
from airflow.sdk.exceptions import AirflowException, AirflowFailException

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Path(os.environ.get("IMAGE_SIMILARITY_AIRFLOW") or ROOT / "conf" / "airflow.toml")
JOBS = (
    *("build_manifest", "embed_images", "tag_images", "find_neighbours", "audit_neighbours", "group_images"),
    *("render_gallery", "render_map"),
)
SEARCH = "search_images"
INCOMING = "incoming"
"""What its queries are called."""
KINDS = ("near-duplicates", "similar")
"""Of groups, each of which has a task."""
IN_VAIN = {2: "wrong arguments or settings", 3: "more images failed than max_failed_fraction allows"}
"""Exit codes of jobs that another try would only repeat."""
SECONDS_TO_END = 60
"""After a task is told to end, before its job is killed."""


class JobOperator(SparkSubmitOperator):
    """spark-submit of one of our jobs, which says by its exit code whether trying again may help.

    Spark hands on a job's exit code in client mode only; in cluster mode every failure counts as one that may pass.
    """

    def execute(self, context: Any) -> None:
        try:
            super().execute(context)
        except AirflowException as failure:
            # The exception's text has the code, too, amid the command and the job's own output: the process tells it
            # plainly.
            code = getattr(getattr(self._hook, "_submit_sp", None), "returncode", None)
            if code in IN_VAIN:
                raise AirflowFailException(
                    f"{self.task_id}: exit code {code}, {IN_VAIN[code]}; not tried again"
                ) from failure
            raise

    def on_kill(self) -> None:
        """Airflow ends this task: the job is asked to end, which removes what it has begun, before it is made to."""
        process = getattr(self._hook, "_submit_sp", None)
        if process is not None and process.poll() is None:
            process.terminate()
            with suppress(TimeoutExpired):
                process.wait(timeout=SECONDS_TO_END)
        super().on_kill()


# -- settings ----------------------------------------------------------------------------------------------------------


class WrongSettings(Exception):
    """Settings that have to be changed; every fault has its line."""


@dataclass(frozen=True)
class Spark:
    """``[spark]``: how every job is submitted."""

    connection: str
    properties: str = "conf/spark/cluster-cpu.conf"
    conf: dict[str, str] = field(default_factory=dict)
    python: str = ""
    driver_python: str = ""
    archives: str = ""


@dataclass(frozen=True)
class Job:
    """``[jobs.NAME]``: what is different for one job."""

    properties: str = ""
    conf: dict[str, str] = field(default_factory=dict)
    pool: str = "default_pool"


@dataclass(frozen=True)
class Collection:
    """``[collections.NAME]``: what is kept current, where its tables and pages are, and when."""

    images: str
    warehouse: str
    start: date
    gallery: str = ""
    schedule: str = ""
    keep_runs: int = 0
    settings: str = "conf/cluster.toml"
    set: list[str] = field(default_factory=list)
    fingerprints: list[str] = field(default_factory=list)
    tags: bool = True
    groups: bool = True
    map: bool = True
    incoming: str = ""
    incoming_report: str = ""


@dataclass(frozen=True)
class Settings:
    """The whole file."""

    spark: Spark
    collections: dict[str, Collection]
    jobs: dict[str, Job] = field(default_factory=dict)
    dist: str = str(ROOT)
    retries: int = 2
    retry_seconds: int = 300

    def path(self, path: str) -> str:
        """``path`` as it is if it is absolute or a URI, else below ``dist``."""
        return path if path.startswith("/") or "://" in path else f"{self.dist}/{path}"


TYPES: dict[Any, tuple[str, Any]] = {
    str: ("a string", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number, 0 or more", lambda value: type(value) is int and value >= 0),
    date: ("a date, as 2026-01-31, without quotes", lambda value: isinstance(value, date)),
    list[str]: (
        "a list of strings",
        lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    ),
    dict[str, str]: (
        "a table of strings",
        lambda value: isinstance(value, dict) and all(isinstance(one, str) for one in value.values()),
    ),
}


def load(file: Path) -> Settings:
    """The settings in ``file``. Raises ``WrongSettings`` with all that is wrong there."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongSettings(
            f"{file}: {error.strerror}; write one, as conf/airflow.toml, or set IMAGE_SIMILARITY_AIRFLOW"
        ) from None
    except ValueError as error:
        raise WrongSettings(f"{file} is not TOML: {error}") from None
    faults: list[str] = []
    tables = {"spark": _typed(Spark, values.get("spark", {}), "spark", faults)}
    for name, kind in (("jobs", Job), ("collections", Collection)):
        named = values.get(name, {})
        if not isinstance(named, dict):
            faults.append(f"{name} must be tables, [{name}.NAME]")
            named = {}
        tables[name] = {key: _typed(kind, one, f"{name}.{key}", faults) for key, one in named.items()}
    settings: Settings = _typed(Settings, {**values, **tables}, "", faults)
    if not faults:
        faults += _contradictions(settings)
    if faults:
        raise WrongSettings("\n".join(f"{file}: {fault}" for fault in faults))
    return settings


def _typed(kind: Any, values: Any, where: str, faults: list[str]) -> Any:
    """``values`` as a ``kind``; None if that cannot be, with the reasons added to ``faults``."""
    if not isinstance(values, dict):
        faults.append(f"{where} must be a table, [{where}]")
        return None
    place = f"{where}." if where else ""
    known = {one.name: one for one in fields(kind)}
    found = [f"{place}{key} is unknown; known are {', '.join(known)}" for key in values if key not in known]
    for name, one in known.items():
        wanted, fits = TYPES.get(one.type, ("a table", lambda value: True))
        if name in values and not fits(values[name]):
            found.append(f"{place}{name} must be {wanted}, not {values[name]!r}")
        if name not in values and one.default is MISSING and one.default_factory is MISSING:
            found.append(f"{place}{name} is missing: add {wanted}")
    faults += found
    return None if found else kind(**values)


def _contradictions(settings: Settings) -> Iterator[str]:
    """What is of the right type and cannot be."""
    if not settings.collections:
        yield "no collection: add a table [collections.NAME]"
    for name in settings.jobs.keys() - {*JOBS, SEARCH}:
        yield f"jobs.{name} is no job; jobs are {', '.join([*JOBS, SEARCH])}"
    if settings.path(settings.dist) != settings.dist:
        yield f"dist must be an absolute path or a URI, not {settings.dist!r}"
    for wanted in sorted(_files(settings)):
        if "://" not in wanted and not Path(wanted).is_file():
            yield f"{wanted} does not exist: run make package, and set dist to the folder that it wrote"
    owners: dict[str, str] = {}
    for name, collection in settings.collections.items():
        yield from _unusable(name, collection)
        for place in filter(None, (collection.warehouse, collection.gallery, collection.incoming_report)):
            other = owners.setdefault(_uri(place), name)
            if other != name:
                yield f"collections {other} and {name} both write to {place}: give each one a place of its own"


def _unusable(name: str, collection: Collection) -> Iterator[str]:
    """What Airflow takes for no name, and places that differ between machines or runs."""
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        yield f"collections.{name}: a name has letters, digits, - and _ only"
    if collection.keep_runs == 1:
        yield f"collections.{name}.keep_runs must be 2 or more, for those who are reading the run before; 0 keeps all"
    if collection.incoming_report and not collection.incoming:
        yield f"collections.{name}.incoming_report without incoming: name the folder that is searched for"
    for key in ("images", "warehouse", "gallery", "incoming", "incoming_report"):
        place = getattr(collection, key)
        if place and not (place.startswith("/") or "://" in place or "{{" in place):
            yield f"collections.{name}.{key} must be an absolute path or a URI, not {place!r}"
        if "{{" in place and key not in ("images", "incoming"):
            yield f"collections.{name}.{key} must be the same in all runs, without a template"


def _files(settings: Settings) -> set[str]:
    """What every task needs from ``dist``."""
    of_jobs = {job.properties for job in settings.jobs.values() if job.properties}
    of_collections = {collection.settings for collection in settings.collections.values()}
    names = {"image_similarity.zip", settings.spark.properties, *of_jobs, *of_collections}
    return {settings.path(name) for name in names}


# -- DAGs --------------------------------------------------------------------------------------------------------------


def _uri(place: str) -> str:
    """``place`` as Airflow names assets: the schemes that its providers know, and no slash at the end."""
    if "://" not in place:
        return "file://" + quote(os.path.normpath(place))
    scheme, _, rest = place.partition("://")
    return f"{'s3' if scheme == 's3a' else scheme}://{rest.rstrip('/')}"


def _dag(name: str, collection: Collection, settings: Settings) -> DAG:
    """The DAG of one collection."""
    start = collection.start
    at = start if isinstance(start, datetime) else datetime(start.year, start.month, start.day)
    dag = DAG(
        f"image_similarity_{name}",
        description=f"Similar images of {collection.images}",
        doc_md=__doc__,
        schedule=collection.schedule or None,
        start_date=at if at.tzinfo else at.replace(tzinfo=timezone.utc),
        catchup=False,  # a run lists what is there now: one for a day that has passed would find the same
        max_active_runs=1,  # two would publish to the same slots, and one of them would lose
        default_args={"retries": settings.retries, "retry_delay": timedelta(seconds=settings.retry_seconds)},
        tags=["image similarity"],
    )
    with dag:
        _tasks(name, collection, settings)
    return dag


def _tasks(name: str, collection: Collection, settings: Settings) -> None:
    """The tasks of one collection, each after the one whose tables it reads."""
    common = [
        "--warehouse",
        collection.warehouse,
        "--run-id",
        "{{ run_id }}",
        "--config",
        settings.path(collection.settings),
    ]
    common += [part for one in collection.set for part in ("--set", one)]
    common += ["--keep-runs", str(collection.keep_runs)] if collection.keep_runs else []
    names = ("manifest", "embeddings", "tags", "neighbours", "groups", "layout", "matches")
    tables = {table: f"{collection.warehouse}/{table}" for table in names}
    wanted = {
        "tags": collection.tags,
        "groups": collection.groups,
        "layout": bool(collection.gallery) and collection.map,
        "matches": bool(collection.incoming),
    }
    assets = {
        table: Asset(name=f"image_similarity/{name}/{table}", uri=_uri(place))
        for table, place in {**tables, "gallery": collection.gallery}.items()
        if place and wanted.get(table, True)
    }

    def task(job: str, *arguments: str, publishes: str = "", suffix: str = "", **how: Any) -> JobOperator:
        outlets = [assets[publishes]] if publishes else []
        return JobOperator(
            task_id=job + suffix,
            application=settings.path(f"jobs/{job}.py"),
            application_args=[*arguments, *common],
            outlets=outlets,
            **{**_submission(job, settings), **how},
        )

    flags = [["--fingerprint", one] for one in collection.fingerprints]
    all_flags = [part for flag in flags for part in flag]
    manifest = task("build_manifest", "--images", collection.images, publishes="manifest")
    embed = task("embed_images", *all_flags, publishes="embeddings")
    manifest >> embed
    galleries = []
    if collection.gallery:
        galleries = [task("render_gallery", "--gallery", collection.gallery, *all_flags, publishes="gallery")]
        if collection.map:  # by the first fingerprint, as the gallery begins with it
            first = flags[0] if flags else []
            galleries.append(task("render_map", "--gallery", collection.gallery, *first, publishes="layout"))
    search = [_search(task, collection, flags)] if collection.incoming else []
    for flag in flags or [[]]:
        suffix = f"_{flag[1]}" if len(flags) > 1 else ""
        find = task("find_neighbours", *flag, publishes="neighbours", suffix=suffix)
        # What it measures does not change by measuring again.
        audit = task("audit_neighbours", *flag, suffix=suffix, retries=0)
        grouped = [
            task("group_images", *flag, "--kind", kind, publishes="groups", suffix=f"_{kind}{suffix}")
            for kind in (KINDS if collection.groups else ())
        ]
        chain(embed, find, audit, *grouped, *galleries)
        if collection.tags:  # a fingerprint without classifier ends it well, with one line
            tag = task("tag_images", *flag, "--where-possible", publishes="tags", suffix=suffix)
            chain(embed, tag, *[*grouped, *galleries][:1])
        if flag in flags[:1] or not flags:  # by this one it searches
            chain((galleries or grouped or [audit])[-1], *search)


def _search(task: Callable[..., JobOperator], collection: Collection, flags: list[list[str]]) -> JobOperator:
    """The task that searches the collection for what came in, by the first of the fingerprints."""
    arguments = ["--images", collection.incoming, "--queries", INCOMING, *(flags[0] if flags else [])]
    if collection.incoming_report:
        arguments += ["--report", collection.incoming_report]
        arguments += ["--gallery", collection.gallery] if collection.gallery else []
    return task(SEARCH, *arguments, publishes="matches")


def _submission(job: str, settings: Settings) -> dict[str, Any]:
    """What does not depend on the collection."""
    spark, own = settings.spark, settings.jobs.get(job, Job())
    pythons = {"spark.pyspark.python": spark.python, "spark.pyspark.driver.python": spark.driver_python}
    return {
        "conn_id": spark.connection,
        "name": job,
        "py_files": settings.path("image_similarity.zip"),
        "properties_file": settings.path(own.properties or spark.properties),
        "archives": settings.path(spark.archives) if spark.archives else None,
        "conf": {**{key: value for key, value in pythons.items() if value}, **spark.conf, **own.conf},
        "pool": own.pool,
    }


_settings = load(SETTINGS)
for _name, _collection in _settings.collections.items():
    globals()[f"image_similarity_{_name}"] = _dag(_name, _collection, _settings)
