"""The DAGs as Airflow's own parser sees them, and what it says where the settings are wrong."""

import ast
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduling import ROOT, Airflow

DAG_FILE = ROOT / "jobs" / "dags" / "image_similarity.py"
JOBS = [
    *("build_manifest", "embed_images", "find_neighbours", "audit_neighbours", "group_images", "render_gallery"),
    "render_map",
]
TAGGING = "tag_images"
GROUPING = ["group_images_near-duplicates", "group_images_similar"]
CHAIN = [*JOBS[:4], *GROUPING, *JOBS[5:]]
"""The tasks of a collection, one after the other. `TAGGING` is beside them."""
GOOD = """
retries = 3
[spark]
connection = "spark_default"
conf = { "spark.cores.max" = "8" }
python = "/opt/python"
[jobs.embed_images]
properties = "conf/spark/local.conf"
pool = "gpus"
conf = { "spark.cores.max" = "2" }
[collections.art]
images = "/images/{{ ds }}"
warehouse = "/tables/art #1/"
gallery = "s3a://pages/art/"
schedule = "0 3 * * *"
start = 2026-02-03
set = ["neighbours.similar=5"]
"""
SEVERAL = (
    GOOD
    + """
keep_runs = 7
fingerprints = ["vgg16-fc2", "hog"]
[collections.photos]
images = "s3://bucket/photos"
warehouse = "s3://bucket/tables"
start = 2026-02-03T04:00:00+02:00
groups = false
tags = false
"""
)
INCOMING = (
    SEVERAL.replace("keep_runs = 7", 'incoming = "/inbox/{{ ds }}"\nincoming_report = "s3a://pages/inbox"')
    + 'incoming = "s3://bucket/inbox"\n'
)
FAULTS = {
    "an unknown key": (
        GOOD.replace("schedule =", "shedule ="),
        "collections.art.shedule is unknown; known are images, warehouse, start, gallery, schedule, keep_runs, "
        "settings, set, "
        "fingerprints, tags, groups, map, incoming, incoming_report",
    ),
    "a missing key": (
        GOOD.replace('images = "/images/{{ ds }}"', ""),
        "collections.art.images is missing: add a string",
    ),
    "a missing table": (GOOD[: GOOD.index("[collections")], "no collection: add a table [collections.NAME]"),
    "no connection": (GOOD.replace('connection = "spark_default"', ""), "spark.connection is missing: add a string"),
    "a wrong type": (
        GOOD.replace("2026-02-03", '"2026-02-03"'),
        "collections.art.start must be a date, as 2026-01-31, without quotes, not '2026-02-03'",
    ),
    "no number": (GOOD.replace("retries = 3", "retries = true"), "retries must be a whole number, 0 or more, not True"),
    "groups of some": (
        GOOD.replace("schedule =", 'groups = "some"\nschedule ='),
        "collections.art.groups must be true or false, not 'some'",
    ),
    "no table": ('spark = "local"\n' + GOOD[GOOD.index("[jobs") :], "spark must be a table, [spark]"),
    "no tables": (
        "jobs = 1\n" + GOOD[: GOOD.index("[jobs")] + GOOD[GOOD.index("[coll") :],
        "jobs must be tables, [jobs.NAME]",
    ),
    "a job that is none": (
        GOOD.replace("jobs.embed_images", "jobs.embed"),
        f"jobs.embed is no job; jobs are {', '.join([*JOBS[:2], TAGGING, *JOBS[2:], 'search_images'])}",
    ),
    "a place that depends on the machine": (
        GOOD.replace('"/images/{{ ds }}"', '"images"'),
        "collections.art.images must be an absolute path or a URI, not 'images'",
    ),
    "a warehouse of each day": (
        GOOD.replace("/tables/art #1/", "/tables/{{ ds }}"),
        "collections.art.warehouse must be the same in all runs, without a template",
    ),
    "too few runs to keep": (
        GOOD.replace("[collections.art]", "[collections.art]\nkeep_runs = 1"),
        "collections.art.keep_runs must be 2 or more, for those who are reading the run before; 0 keeps all",
    ),
    "the same warehouse twice": (
        SEVERAL.replace('"s3://bucket/tables"', '"/tables/../tables/art #1"'),
        "collections art and photos both write to /tables/../tables/art #1: give each one a place of its own",
    ),
    "a report of nothing": (
        GOOD.replace("schedule =", 'incoming_report = "/r"\nschedule ='),
        "collections.art.incoming_report without incoming: name the folder that is searched for",
    ),
    "a report of each day": (
        GOOD.replace("schedule =", 'incoming = "/i"\nincoming_report = "/{{ ds }}"\nschedule ='),
        "collections.art.incoming_report must be the same in all runs, without a template",
    ),
    "a name that is no name": (
        GOOD.replace("[collections.art]", '[collections."my art"]'),
        "collections.my art: a name has letters, digits, - and _ only",
    ),
    "a dist of nothing": (
        'dist = "/nowhere"\n' + GOOD,
        "/nowhere/image_similarity.zip does not exist: run make package, and set dist to the folder that it wrote",
    ),
    "no TOML": ("[spark", "is not TOML: Expected ']' at the end of a table declaration (at end of document)"),
}


@pytest.fixture(scope="module")
def parsed(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What becomes of each text above, all of them told to one process."""
    folder = tmp_path_factory.mktemp("settings")
    texts = {
        "good": GOOD,
        "several": SEVERAL,
        "incoming": INCOMING,
        **{name: text for name, (text, _) in FAULTS.items()},
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    described = airflow.described(*(folder / name for name in texts))
    return {**described, **dict(zip(texts, described["parsed"]))}


@pytest.fixture(scope="module")
def art(parsed: dict[str, Any]) -> Any:
    assert parsed["good"]["errors"] == []
    return parsed["good"]["dags"]["image_similarity_art"]


def test_a_collection_is_a_dag_with_one_run_at_a_time(art: Any, parsed: dict[str, Any]) -> None:
    assert list(parsed["good"]["dags"]) == ["image_similarity_art"]
    assert (art["max_active_runs"], art["catchup"]) == (1, False)
    assert (art["schedule"], art["start"]) == ("0 3 * * *", "2026-02-03 00:00:00+00:00")


def test_its_tasks_submit_the_jobs_one_after_the_other(art: Any, dist: Path) -> None:
    tasks = art["tasks"]
    after = dict(zip(CHAIN, [[], *([job] for job in CHAIN)]))
    after |= {TAGGING: ["embed_images"], GROUPING[0]: ["audit_neighbours", TAGGING]}
    assert {name: sorted(task["after"]) for name, task in tasks.items()} == after
    assert tasks[TAGGING]["application_args"][0] == "--where-possible"
    for name, task in tasks.items():
        job = "group_images" if name in GROUPING else name
        assert task["is_submission"] and task["application"] == str(dist / "jobs" / f"{job}.py")
        assert Path(task["application"]).is_file()
        assert task["py_files"] == str(dist / "image_similarity.zip")
        given = task["application_args"]
        assert (
            given[given.index("--run-id") + 1] == "{{ run_id }}"
            and given[given.index("--warehouse") + 1] == "/tables/art #1/"
        )
        assert given[-2:] == ["--set", "neighbours.similar=5"]
        assert task["retries"] == (0 if name == "audit_neighbours" else 3)
    assert tasks["build_manifest"]["application_args"][:2] == ["--images", "/images/{{ ds }}"]
    for name in ("render_gallery", "render_map"):
        assert tasks[name]["application_args"][:2] == ["--gallery", "s3a://pages/art/"]
    for name in GROUPING:
        assert tasks[name]["application_args"][:2] == ["--kind", name.rpartition("_")[2]]


def test_one_job_has_settings_of_its_own(art: Any, dist: Path) -> None:
    for name, task in art["tasks"].items():
        own = name == "embed_images"
        assert task["pool"] == ("gpus" if own else "default_pool")
        assert task["properties_file"] == str(dist / "conf" / "spark" / ("local.conf" if own else "cluster-cpu.conf"))
        assert task["conf"] == {"spark.pyspark.python": "/opt/python", "spark.cores.max": "2" if own else "8"}


def test_what_is_published_is_an_asset(art: Any) -> None:
    published = [task["publishes"] for task in art["tasks"].values() if task["publishes"]]
    assert {name: uri for assets in published for name, uri in assets.items()} == {
        "image_similarity/art/manifest": "file:///tables/art%20%231/manifest",
        "image_similarity/art/embeddings": "file:///tables/art%20%231/embeddings",
        "image_similarity/art/tags": "file:///tables/art%20%231/tags",
        "image_similarity/art/neighbours": "file:///tables/art%20%231/neighbours",
        "image_similarity/art/groups": "file:///tables/art%20%231/groups",
        "image_similarity/art/gallery": "s3://pages/art",
        "image_similarity/art/layout": "file:///tables/art%20%231/layout",
    }


def test_several_fingerprints_and_collections(parsed: dict[str, Any]) -> None:
    assert parsed["several"]["errors"] == []
    dags = parsed["several"]["dags"]
    tasks = dags["image_similarity_art"]["tasks"]
    flags = ["--fingerprint", "vgg16-fc2", "--fingerprint", "hog"]
    assert (
        tasks["embed_images"]["application_args"][:4] == flags
        and tasks["render_gallery"]["application_args"][2:6] == flags
    )
    assert tasks["embed_images"]["application_args"][-2:] == ["--keep-runs", "7"]
    assert tasks["render_gallery"]["after"] == [f"group_images_similar_{name}" for name in ("hog", "vgg16-fc2")]
    assert tasks["render_map"]["application_args"][2:4] == flags[:2], "a gallery has one map: by the first"
    for name in ("vgg16-fc2", "hog"):
        for job, before in (
            (f"find_neighbours_{name}", "embed_images"),
            (f"audit_neighbours_{name}", f"find_neighbours_{name}"),
            (f"tag_images_{name}", "embed_images"),
            (f"group_images_near-duplicates_{name}", f"audit_neighbours_{name} tag_images_{name}"),
            (f"group_images_similar_{name}", f"group_images_near-duplicates_{name}"),
        ):
            assert (
                tasks[job]["application_args"][:2] == ["--fingerprint", name]
                and sorted(tasks[job]["after"]) == before.split()
            )
    photos = dags["image_similarity_photos"]
    assert list(photos["tasks"]) == CHAIN[:4], "neither tags nor groups nor a gallery were asked for"
    assert (photos["schedule"], photos["start"]) == (None, "2026-02-03 02:00:00+00:00")


def test_what_came_in_is_searched_for_last(parsed: dict[str, Any], art: Any) -> None:
    assert parsed["incoming"]["errors"] == []
    dags = parsed["incoming"]["dags"]
    search = dags["image_similarity_art"]["tasks"]["search_images"]
    assert search["after"] == ["render_map"]
    assert search["application_args"][:10] == [
        *("--images", "/inbox/{{ ds }}", "--queries", "incoming", "--fingerprint", "vgg16-fc2"),
        *("--report", "s3a://pages/inbox", "--gallery", "s3a://pages/art/"),
    ]
    assert search["publishes"] == {"image_similarity/art/matches": "file:///tables/art%20%231/matches"}
    photos = dags["image_similarity_photos"]["tasks"]
    assert photos["search_images"]["after"] == ["audit_neighbours"], "neither groups nor a gallery were asked for"
    assert "search_images" not in art["tasks"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_import_error_that_says_it(fault: str, parsed: dict[str, Any]) -> None:
    (error,), dags = parsed[fault]["errors"], parsed[fault]["dags"]
    assert dags == {}
    last = error.splitlines()[-1]
    assert fault in last and last.endswith(FAULTS[fault][1])


def test_the_settings_that_are_shipped_serve_as_they_are(airflow: Airflow, dist: Path, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "linked.py").symlink_to(dist / "jobs" / "dags" / "image_similarity.py")
    done = airflow.run("airflow", "dags", "list", "--local", AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"))
    assert done.returncode == 0 and "image_similarity_pictures" in done.stdout, done.stdout


def test_parsing_imports_nothing_heavy(parsed: dict[str, Any]) -> None:
    imported = {name for node in ast.walk(ast.parse(DAG_FILE.read_text(encoding="utf-8"))) for name in _imports(node)}
    assert imported - sys.stdlib_module_names == {"airflow"}
    assert not {"pyspark", "pandas", "numpy", "torch", "pyarrow", "image_similarity"} & set(parsed["modules"])
    print(f"parsed in {parsed['several']['seconds']:.3f} s; new modules: {', '.join(parsed['new'])}")


def _imports(node: ast.AST) -> list[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return [name.partition(".")[0] for name in names]
