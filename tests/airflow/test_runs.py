"""Whole runs of a DAG: the first day, whose tasks fail at first, submitted to a real standalone cluster; the second,
submitted to Spark's local mode, which is sooner there.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image

import standalone
from scheduling import Airflow
from standalone import Cluster
from tools import samples

JOBS = [
    *("build_manifest", "embed_images", "find_neighbours", "audit_neighbours", "group_images", "render_gallery"),
    "render_map",
]
TASKS = [*JOBS[:4], "group_images_near-duplicates", "group_images_similar", *JOBS[5:]]
TAGGING = "tag_images"
"""It is beside the others, in whatever order Airflow takes it."""
SUBMITTED = [*JOBS[:4], "group_images", "group_images", *JOBS[5:]]
FIRST, MORE = 12, 5
LOCAL = "local[2]"
SETTINGS = """
retries = 2
retry_seconds = 0
[spark]
connection = "loopback"
python = {python}
[spark.conf]
{conf}
[collections.pictures]
images = "{folder}/pictures"
warehouse = "{folder}/tables"
gallery = "{folder}/pages"
schedule = "@daily"
start = 2026-01-01
set = ['fingerprints.tiny={{network="squeezenet1_1",weights="untrained",layer="features.3",pooling="average"}}',
       "neighbours.fingerprint=tiny"]
[collections.misconfigured]
images = "{folder}/pictures"
warehouse = "{folder}/other-tables"
start = 2026-01-01
set = ["neighbours.similar=many"]
"""
SUBMIT = """#!/bin/sh
# The real spark-submit, with two accidents: the first embed_images fails before it has begun, the first find_neighbours
# after it has published. What is submitted is noted.
job=$(printf '%s\\n' "$@" | sed -n 's#.*/jobs/\\(.*\\)\\.py$#\\1#p')
echo "$job" >> {folder}/submitted
accident() {{ [ "$job" = "$1" ] && [ ! -e "{folder}/$1.failed" ] && touch "{folder}/$1.failed"; }}
if accident embed_images; then exit 1; fi
{real} "$@"
code=$?
if accident find_neighbours; then exit 1; fi
exit $code
"""


@dataclass(frozen=True)
class Day:
    """One run: its id, what Airflow said, with the tasks' logs, and the jobs that were submitted."""

    run_id: str
    log: str
    code: int
    submitted: list[str]

    @property
    def in_a_row(self) -> list[str]:
        """The jobs of which each is submitted after the one before."""
        return [job for job in self.submitted if job != TAGGING]

    def said(self, line: str) -> int:
        """How many lines of tasks' logs begin as ``line``, a regular expression."""
        return len(re.findall(rf"\] {line}", self.log))


@dataclass(frozen=True)
class Place:
    """The collection, its tables, and the Airflow that keeps them current."""

    folder: Path
    airflow: Airflow

    def draw(self, numbers: range) -> None:
        for number in numbers:
            family = ("sunset", "tartan")[number % 2]
            picture: Image.Image = samples.FAMILIES[family](np.random.default_rng(number), (160, 120 + number))
            picture.save(self.folder / "pictures" / f"{family} {number}.png")

    def day(self, dag: str, date: str, master: str) -> Day:
        """One run of ``dag`` to its end, by ``airflow dags test``, which tries again as the scheduler does."""
        (self.folder / "submitted").write_text("")
        connection = json.dumps({"conn_type": "spark", "host": master, "extra": {"deploy-mode": "client"}})
        test = ("airflow", "dags", "test", f"image_similarity_{dag}", date)
        done = self.airflow.run(*test, AIRFLOW_CONN_LOOPBACK=connection)
        run_id = self.airflow.rows("SELECT run_id FROM dag_run ORDER BY id")[-1][0]
        return Day(run_id, done.stdout, done.returncode, (self.folder / "submitted").read_text().split())

    def tables(self, query: str) -> list[tuple[Any, ...]]:
        db = duckdb.connect()
        db.execute((self.folder / "tables" / "views.sql").read_text())
        return db.sql(query).fetchall()

    def counts(self, job: str, run_id: str) -> dict[str, Any]:
        ((counted,),) = self.tables(f"SELECT counts FROM runs WHERE job = '{job}' AND label = '{run_id}'")
        counts: dict[str, Any] = json.loads(counted)
        return counts


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and one worker with two cores."""
    with standalone.cluster(tmp_path_factory.mktemp("cluster"), workers=1, cores=2) as made:
        yield made


@pytest.fixture(scope="module")
def place(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    (folder / "pictures").mkdir()
    python = standalone.python_without_library(tmp_path_factory.mktemp("machine") / "venv")
    settings = {**standalone.SMALL, **standalone.started_fast(airflow.dist)}
    conf = "\n".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in settings.items())
    (folder / "airflow.toml").write_text(SETTINGS.format(folder=folder, python=json.dumps(str(python)), conf=conf))
    submit = airflow.home / "bin" / "spark-submit"
    submit.write_text(SUBMIT.format(folder=folder, real=standalone.SPARK / "bin" / "spark-submit"))
    submit.chmod(0o755)
    environment = {"IMAGE_SIMILARITY_AIRFLOW": str(folder / "airflow.toml")}
    return Place(folder, Airflow(airflow.home, airflow.dist, {**airflow.environment, **environment}))


@pytest.fixture(scope="module")
def first(place: Place, cluster: Cluster) -> Day:
    place.draw(range(FIRST))
    return place.day("pictures", "2026-01-01", cluster.master)


@pytest.fixture(scope="module")
def second(place: Place, first: Day) -> Day:
    place.draw(range(FIRST, FIRST + MORE))
    return place.day("pictures", "2026-01-02", LOCAL)


def test_the_first_day_ends_well_though_two_tasks_fail_at_first(place: Place, first: Day) -> None:
    assert first.code == 0, first.log
    assert first.in_a_row == sorted([*SUBMITTED, "embed_images", "find_neighbours"], key=JOBS.index)
    assert first.submitted.count(TAGGING) == 1
    tries = place.airflow.rows(f"SELECT task_id, state, try_number FROM task_instance WHERE run_id = '{first.run_id}'")
    assert sorted(tries) == sorted(
        (task, "success", 2 if task in ("embed_images", "find_neighbours") else 1) for task in [*TASKS, TAGGING]
    )


def test_a_second_try_repeats_nothing_that_is_published(place: Place, first: Day) -> None:
    runs = place.tables("SELECT job, slot, label FROM runs WHERE job <> 'render_gallery'")
    slots = {
        "build_manifest": "",
        "embed_images": "tiny",
        "find_neighbours": "tiny/cosine",
        "audit_neighbours": "tiny/cosine",
        "render_map": "tiny/cosine",
    }
    kinds = {("group_images", f"tiny/cosine/{kind}", first.run_id) for kind in ("near-duplicates", "similar")}
    assert Counter(runs)[("find_neighbours", "tiny/cosine", first.run_id)] == 1
    assert {run for run in runs if run[2] == first.run_id} == kinds | {
        (job, slot, first.run_id) for job, slot in slots.items()
    }
    assert max(Counter(runs).values()) == 1
    assert first.said("find_neighbours tiny/cosine: already published under the label") == 1


def test_the_log_of_a_task_has_the_lines_of_its_job(first: Day) -> None:
    for line in (
        rf"build_manifest: {FIRST} images in ",
        rf"embed_images tiny: {FIRST} images in .*: {FIRST} embedded",
        r"tag_images tiny: no tags: fingerprint tiny has no classifier: its weights are untrained",
        rf"find_neighbours tiny/cosine: {FIRST * (FIRST - 1) * 2} rows for {FIRST} images",
        r"audit_neighbours tiny/cosine: recall@12 .* is 1\.0000",
        r"group_images tiny/cosine/near-duplicates: .* in [\d.]+ s",
        r"group_images tiny/cosine/similar: .* in [\d.]+ s",
        rf"render_gallery: {FIRST} images in ",
        rf"render_map tiny/cosine: {FIRST} images on ",
    ):
        assert first.said(line) == 1, line


def test_the_second_day_embeds_what_is_new(place: Place, first: Day, second: Day) -> None:
    assert second.code == 0, second.log
    assert second.in_a_row == SUBMITTED and second.submitted.count(TAGGING) == 1
    before, after = place.counts("embed_images", first.run_id), place.counts("embed_images", second.run_id)
    assert (before["embedded"], before["read"]) == (FIRST, FIRST)
    assert (after["embedded"], after["read"]) == (MORE, MORE)
    images = FIRST + MORE
    assert place.tables("SELECT count(DISTINCT image_id) FROM neighbours") == [(images,)]
    assert place.counts("render_gallery", second.run_id)["pictures_made"] == MORE
    assert (place.folder / "pages" / "index.html").is_file()


def test_each_day_updates_the_assets_that_others_wait_for(place: Place, first: Day, second: Day) -> None:
    updates = place.airflow.rows(
        "SELECT asset.name, event.source_task_id, event.source_run_id FROM asset_event event JOIN asset ON "
        "asset.id = asset_id"
    )
    published = [("manifest", TASKS[0]), ("embeddings", TASKS[1]), ("neighbours", TASKS[2]), ("groups", TASKS[4])]
    published += [("tags", TAGGING)]
    published += [("groups", TASKS[5]), ("gallery", TASKS[6]), ("layout", TASKS[7])]
    days = (first.run_id, second.run_id)
    assert Counter(updates) == Counter(
        (f"image_similarity/pictures/{table}", job, day) for day in days for table, job in published
    )


def test_wrong_settings_are_not_tried_again(place: Place) -> None:
    wrong = place.day("misconfigured", "2026-01-01", LOCAL)
    assert wrong.code != 0
    assert wrong.submitted == ["build_manifest"]
    assert "build_manifest: exit code 2, wrong arguments or settings; not tried again" in wrong.log
    states = place.airflow.rows(f"SELECT task_id, state, try_number FROM task_instance WHERE run_id = '{wrong.run_id}'")
    assert ("build_manifest", "failed", 1) in states
    assert {state for job, state, _ in states if job != "build_manifest"} == {"upstream_failed"}
