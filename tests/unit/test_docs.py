"""What the documentation promises is there: links, paths, commands, flags, settings, reasons, columns."""

import io
import json
import re
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pytest
from pydantic import BaseModel

import image_similarity as ims
from image_similarity.command import catalogue, running
from image_similarity.jobs import command_line
from image_similarity.pages import captions
from image_similarity.settings import Settings
from image_similarity.settings.fingerprints import keys_of, kinds
from image_similarity.stages.downloads import stage as downloads
from image_similarity.stages.embeddings import outcomes as embeddings
from image_similarity.stages.neighbours import usable
from image_similarity.storage import fetch
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import Pointer
from image_similarity.warehouse.views import views_sql
from tools import settings_page
from warehouses import Made

EMBED_REASONS, PERMANENT = embeddings.FAILURE_REASONS, embeddings.PERMANENT_REASONS
DOWNLOAD_REASONS, FETCH_REASONS, VECTOR_REASONS = (
    downloads.FAILURE_REASONS,
    fetch.FETCH_REASONS,
    usable.FAILURE_REASONS,
)
COLUMNS = {table: schema.names for table, schema in SCHEMAS.items()}


ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES.append(ROOT / "notebooks" / "README.md")


def _texts(notebook: Path) -> str:
    """What a notebook says between its code."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
TEXTS |= {f"notebooks/{book.name}": _texts(book) for book in sorted((ROOT / "notebooks").glob("*.ipynb"))}
LINKING = {**TEXTS, "CHANGELOG.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")}
ALL = "\n".join(TEXTS.values())
JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("*.py"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")


def test_a_newcomer_reads_150_lines() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", LINKING)
def test_every_link_leads_somewhere(page: str) -> None:
    broken = []
    for link in LINK.findall(FENCED.sub("", LINKING[page])):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / unquote(path) if path else ROOT / page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


@cache
def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", LINK.sub("", heading).lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index_and_begins_with_a_heading() -> None:
    index = TEXTS["docs/README.md"]
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(LINK.findall(index))
    assert [page for page, text in LINKING.items() if not text.startswith("# ")] == []


def test_every_path_exists() -> None:
    texts = [
        *LINKING.values(),
        *(file.read_text(encoding="utf-8") for file in (ROOT / "conf").rglob("*") if file.is_file()),
    ]
    paths = {
        path
        for text in texts
        for path in re.findall(r"(?<![\w/.-])(?:lib|conf|tests|jobs|docs|tools|notebooks|\.ci)/[\w./-]*\w/?", text)
    }
    assert len(paths) > 30 and [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_folder_of_the_library_is_on_the_map() -> None:
    told = set(re.findall(r"^\| `(\w+)/` \|", TEXTS["CONTRIBUTING.md"], re.MULTILINE))
    there = {folder.name for folder in (ROOT / "lib" / "image_similarity").iterdir() if folder.is_dir()} - {
        "__pycache__"
    }
    assert told == there


def test_every_module_that_is_started_exists() -> None:
    modules = set(re.findall(r"-m (image_similarity(?:\.\w++)*+)", ALL))
    files = {module: ROOT / "lib" / module.replace(".", "/") for module in modules}
    assert (
        files
        and [module for module, file in files.items() if not (file.is_dir() or file.with_suffix(".py").exists())] == []
    )


def test_every_job_and_target_exists() -> None:
    assert set(re.findall(r"jobs/(\w+)\.py", ALL)) == set(JOBS)
    assert set(re.findall(r"\| \[`(\w+)`\]", TEXTS["README.md"])) == set(JOBS)
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    told = set(re.findall(r"(?:^    |`)make ([a-z][a-z-]*)", ALL, re.MULTILINE))
    assert len(told) > 5 and told <= targets


@pytest.mark.parametrize("job", JOBS)
def test_every_flag_of_a_command_is_the_jobs(job: str) -> None:
    told = {flag for command in _commands(job) for flag in FLAG.findall(command)}
    assert "--warehouse" in _flags(job) and told <= _flags(job)


def _start(job: str, argv: list[str]) -> int:
    return command_line.main(import_module(f"image_similarity.jobs.{job}"), argv)


@cache
def _help(job: str) -> str:
    with redirect_stdout(io.StringIO()) as told, pytest.raises(SystemExit):
        _start(job, ["--help"])
    return told.getvalue()


def _flags(job: str) -> set[str]:
    return set(FLAG.findall(_help(job)))


def _commands(job: str) -> list[str]:
    """What the pages write behind the job's name in commands: to the end of the line, or of the code, and continued
    lines.
    """
    joined = re.sub(r"\\\n\s*", " ", ALL)
    joined = re.sub(r"\n {40,}", " ", joined)  # as the list of all jobs continues
    return re.findall(rf"(?<!benchmarks/)\b{job}\.py ([^\n`]*)", joined)


@pytest.mark.parametrize("command", catalogue.COMMANDS)
def test_every_flag_of_a_subcommand_is_its_own(command: str) -> None:
    joined = re.sub(r"\\\n\s*", " ", ALL)
    told = re.findall(rf"\bimage-similarity {command} ([^\n`|]*)", joined)
    assert {flag for words in told for flag in FLAG.findall(words)} <= _flags_of(command)


def _flags_of(command: str) -> set[str]:
    if command in catalogue.JOBS:
        return _flags(catalogue.module_of(command))
    module = import_module("image_similarity." + {"search": "command.search", "serve": "serve.main"}[command])
    with redirect_stdout(io.StringIO()) as told, pytest.raises(SystemExit):
        running.run(command, module, ["--help"])
    return set(FLAG.findall(told.getvalue()))


def test_the_arguments_of_search_are_told_as_in_the_code() -> None:
    page = TEXTS["docs/command.md"]
    rows = page[page.index("| argument |") : page.index("## As a page")]
    told = re.findall(r"^\| (`.*?) \| ", rows, re.MULTILINE)
    assert set(FLAG.findall(" ".join(told))) == _flags_of("search") - {"-h", "--help"}


def test_the_help_of_the_command_is_printed_as_it_is() -> None:
    from image_similarity.command.main import _help

    assert "".join(f"    {line}".rstrip() + "\n" for line in _help().splitlines()) in TEXTS["docs/command.md"]


def _typed(text: str) -> list[str]:
    """The commands of a page that start a script or module of ours with arguments: lines of code, and code in
    sentences.
    """
    joined = re.sub(r"\\\n\s*", " ", FENCED.sub("", text))
    lines = re.findall(r"^ {4,}(.*)$", joined, re.MULTILINE)
    sentences = "\n".join(line for line in joined.splitlines() if not line.startswith("    "))
    spans = (re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", sentences))
    started = r"\.py +[^\s#|]|-m image_similarity\b|\bimage-similarity [a-z][a-z_-]* (?:[^\n#|]* )?-"
    return [code for code in (*lines, *spans) if re.search(started, code)]


def _is_runnable(command: str) -> bool:
    """Whether ``command`` can be typed as it is: in the project's folder, or by spark-submit from ``dist/``."""
    if started := re.search(r"(?:^|[\s(])\.venv/bin/python (?:-m image_similarity\b|(\S+\.py)\b)", command):
        return started[1] is None or (ROOT / started[1]).is_file()
    if installed := re.search(r"(?:^|[\s(/])\.venv/bin/image-similarity ([a-z_-]+)", command):
        return installed[1] in catalogue.COMMANDS
    submitted = re.match(r"spark-submit (?:.* )?(?:local:///opt/image-similarity/)?(jobs/\w+\.py) ", command)
    return submitted is not None and (ROOT / submitted[1]).is_file()


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_runs_as_it_is_printed(page: str) -> None:
    assert [command for command in _typed(TEXTS[page]) if not _is_runnable(command)] == []


def test_commands_that_do_not_run_are_seen() -> None:
    good = [
        ".venv/bin/python jobs/run_pipeline.py --images URI",
        "make && .venv/bin/python -m image_similarity.jobs.run_pipeline",
        "spark-submit --master yarn jobs/run_pipeline.py --images URI",
        "spark-submit local:///opt/image-similarity/jobs/run_pipeline.py --images URI",
        ".venv/bin/image-similarity find-neighbours --warehouse URI",
    ]
    bad = [
        "run_pipeline.py --images URI",
        "jobs/run_pipeline.py --images URI",
        "python jobs/run_pipeline.py --images URI",
        ".venv/bin/python jobs/run_pipelines.py --images URI",
        "python -m image_similarity.jobs.run_pipeline",
        "spark-submit run_pipeline.py --images URI",
        ".venv/bin/image-similarity find_neighbors --warehouse URI",
        "image-similarity search FILE --warehouse URI",
    ]
    for code in ("    {}", "Type `{}`.", "- Type\n\n      {}"):
        commands = [code.format(command) for command in (*good, *bad)]
        assert [[_is_runnable(typed) for typed in _typed(text)] for text in commands] == [[True]] * len(good) + [
            [False]
        ] * len(bad)
    assert _typed("`clean_warehouse.py` does it.\n\n    spark-submit --master yarn \\\n        jobs/a.py b") == [
        "spark-submit --master yarn  jobs/a.py b"
    ]
    assert len([command for text in TEXTS.values() for command in _typed(text)]) > 30
    assert any("jobs/run_pipeline.py --images" in command for command in _typed(TEXTS["README.md"]))


def _unquoted(command: str) -> list[str]:
    """The words of ``command`` that a shell would expand, or refuse: with brackets or stars, and without quotes. Words
    in brackets may be left out.
    """
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "Q", command.partition(" #")[0])
    return re.findall(r"(?<!\S)[^\s\[$]+[\[{*]\S*", bare)


def test_commands_are_quoted_for_every_shell() -> None:
    wanted = {"--set a.b=[1,2]": ["a.b=[1,2]"], "--set 'a.b=[1,2]' [-k N]": [], "--images d/*.jpg": ["d/*.jpg"]}
    assert {command: _unquoted(command) for command in wanted} == wanted
    spans = [span for text in TEXTS.values() for span in re.findall(r"`(--?[a-z][^`]*)`", FENCED.sub("", text))]
    commands = [*spans, *(command for text in TEXTS.values() for command in _typed(text))]
    assert len(spans) > 30 and [word for command in commands for word in _unquoted(command)] == []


def test_the_sql_of_the_tables_page_runs() -> None:
    """On the views of an empty warehouse."""
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    connection.execute(views_sql("/w", Pointer()))
    queries = re.findall(r"^```sql\n(.*?)^```$", TEXTS["docs/tables.md"], re.MULTILINE | re.DOTALL)
    assert len(queries) > 3 and [connection.sql(query).fetchall() for query in queries] == [[]] * len(queries)


@pytest.mark.parametrize("page", ["tags", "quality", "odd-ones"])
def test_the_sql_of_other_pages_runs(page: str, tmp_path: Path) -> None:
    """On a small warehouse, and each query has rows."""
    pytest.importorskip("duckdb")
    blocks = re.findall(r"^```sql\n([^`]*)^```$|^((?:    .*\n)+)", TEXTS[f"docs/{page}.md"], re.MULTILINE)
    queries = [text for block in blocks for text in block if text.lstrip().startswith(("SELECT", "FROM"))]
    db = ims.open(_small_warehouse(tmp_path)).duckdb()
    assert queries and [query for query in queries if not db.sql(query).fetchall()] == []


def test_the_map_is_exported_for_embedding_atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours are rows of the file, the nearest first; an image without any on the map has none."""
    pytest.importorskip("duckdb")
    made = Made(str(tmp_path / "w"))
    made.manifest(dict.fromkeys(("a.jpg", "b.jpg", "c.jpg", "d.jpg"), "1"))
    made.neighbours({"a.jpg": ["d.jpg", "c.jpg", "b.jpg"], "c.jpg": ["a.jpg"], "d.jpg": ["b.jpg"]})
    slot = {"fingerprint": "vgg16-fc2", "metric": "cosine"}
    rows = [{**slot, "image_id": name, "x": x, "y": -x} for name, x in (("d.jpg", 3.0), ("c.jpg", 2.0), ("a.jpg", 1.0))]
    layout = {"vgg16-fc2/cosine": pa.Table.from_pylist(rows, SCHEMAS["layout"])}
    made.publish("render_map", "vgg16-fc2/cosine", {"layout": layout})
    [query] = re.findall(r"^```sql\n(.*?)^```$", TEXTS["docs/map.md"], re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    db = ims.open(made.uri).duckdb()
    db.execute(query)
    exported = db.sql("SELECT image_id, title, x, y, neighbors.ids, neighbors.distances FROM 'map.parquet'").fetchall()
    assert exported == [
        ("a.jpg", "a", 1, -1, [2, 1], [0.125, 0.25]),
        ("c.jpg", "c", 2, -2, [0], [0.125]),
        ("d.jpg", "d", 3, -3, [], []),
    ]


def _small_warehouse(folder: Path) -> str:
    """An image that is blurred, tagged and likely mislabelled; the run that tagged was measured by labels."""
    made, names = Made(str(folder)), ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    rows = [
        {"image_id": name, "uri": name, "attributes": {"department": label}}
        for name, label in zip(names, ("prints", "maps", "maps", "prints"))
    ]
    made.publish("build_manifest", "", {"manifest": {"": pa.Table.from_pylist(rows, SCHEMAS["manifest"])}})
    made.neighbours({"a.jpg": ["b.jpg", "c.jpg"]})
    quality = [{"image_id": "a.jpg", "sharpness": 1.0, "flags": ["blurred"]}]
    made.publish("embed_images", "", {"quality": {"": pa.Table.from_pylist(quality, SCHEMAS["quality"])}})
    embedded = {"image_id": "a.jpg", "fingerprint": "vgg16-fc2", "fingerprint_key": "k1", "content_sha256": "c1"}
    embeddings = {"embeddings": {"vgg16-fc2": pa.Table.from_pylist([embedded], SCHEMAS["embeddings"])}}
    made.publish("embed_images", "vgg16-fc2", embeddings)
    of_tag = {"image_id": "a.jpg", "fingerprint": "vgg16-fc2", "class": "animal", "rank": 1, "accepted": True}
    of_tag["content_sha256"] = "c1"
    best_guess = {**of_tag, "image_id": "b.jpg", "class": "tabby", "accepted": False}
    tags = {"tags": {"vgg16-fc2": pa.Table.from_pylist([of_tag, best_guess], SCHEMAS["tags"])}}
    made.publish("tag_images", "vgg16-fc2", tags, counts={"calibration": {"tags_by_threshold": [[0.5, 0.1, 1.0]]}})
    return made.uri


def test_the_views_of_several_tables_are_told_with_their_columns() -> None:
    duckdb = pytest.importorskip("duckdb")
    db = duckdb.connect()
    db.execute(views_sql("/w", Pointer()))
    views = [view for (view,) in db.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()]
    columns = {view: [column[0] for column in db.sql(f"FROM {view}").description] for view in views}
    page = TEXTS["docs/tables.md"].partition("\n## Views")[2].partition("\n## ")[0]
    told = {
        view: named.split(", ")
        for names, named in re.findall(r"^\| (`.*?`) \| (.*?) \|", page, re.MULTILINE)
        for view in re.findall(r"`(\w+)`", names)
    }
    assert told == {view: columns[view] for view in views if view not in SCHEMAS} and len(told) == 10


def test_every_common_flag_is_told() -> None:
    jobs = TEXTS["docs/jobs.md"]
    told = jobs[jobs.index("Every job takes") : jobs.index("| exit code |")]
    common = set.intersection(*(_flags(job) for job in JOBS)) - {"-h", "--help"}
    assert len(common) > 5 and common == set(FLAG.findall(told))


def _sections() -> dict[str, type[BaseModel]]:
    """The sections of the settings whose keys do not depend on a name."""
    return {
        name: field.annotation for name, field in Settings.model_fields.items() if isinstance(field.annotation, type)
    }


def test_every_setting_exists() -> None:
    sections = _sections()
    told = set(
        re.findall(
            rf"(?<=[`\s\"(])({'|'.join(sections)})\.(?!csv|json|md|html|webp|parquet)([a-z_]+)\b(?![.(/])",
            FENCED.sub("", ALL),
        )
    )
    unknown = [f"{section}.{key}" for section, key in told if key not in sections[section].model_fields]
    assert len(told) > 15 and sorted(unknown) == []


def test_the_page_of_settings_is_as_in_the_code() -> None:
    """`.venv/bin/python tools/settings_page.py` writes it anew."""
    assert TEXTS["docs/settings.md"] == settings_page.page()
    sections = {name: set(section.model_fields) for name, section in _sections().items()}
    sections |= {f"fingerprints.NAME] of kind {kind}": set(keys_of(kind)) - {"kind"} for kind in kinds()}
    for name, keys in sections.items():
        rows = TEXTS["docs/settings.md"].partition(f"## [{name}")[2].partition("\n## ")[0]
        assert set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)) == keys
        assert re.search(r"\| *\|$", rows, re.MULTILINE) is None, "each says what it is for"


def test_flags_that_stand_for_a_setting_show_its_default() -> None:
    text = re.sub(r"\s+", " ", _help("find_neighbours"))
    assert "similar neighbours of each image (neighbours.similar; default: 12)" in text
    assert "(neighbours.metric; default: cosine)" in text


def test_every_key_of_approximate_is_as_in_the_code() -> None:
    fields = _sections()["approximate"].model_fields
    told = re.findall(r"^\| `(\w+)` \| (?:`\w+` )?\| ([\d,.]+) \|", TEXTS["docs/jobs.md"], re.MULTILINE)
    assert told and [key for key, _ in told if key not in fields] == []
    assert {key: float(default.replace(",", "")) for key, default in told} == {
        key: fields[key].default for key, _ in told
    }


def test_every_reason_is_explained_as_in_the_code() -> None:
    page = TEXTS["docs/operations.md"]
    told = set(re.findall(r"^\| `(\w+)` \| (embed_images|find_neighbours) \| (.+) \|$", page, re.MULTILINE))
    written = {(reason, "embed_images", meaning) for reason, meaning in EMBED_REASONS.items()}
    written |= {(reason, "find_neighbours", meaning) for reason, meaning in VECTOR_REASONS.items()}
    assert told == written
    assert DOWNLOAD_REASONS.items() < EMBED_REASONS.items()
    first, last = re.search(r"reading a file \(`(\w+)` to `(\w+)`\)", page).groups()  # type: ignore[union-attr]
    listed = re.findall(r"^\| `(\w+)` \| embed_images", page, re.MULTILINE)
    assert set(listed[listed.index(first) : listed.index(last) + 1]) == set(FETCH_REASONS)
    assert set(listed[listed.index("empty") :]) | {"too_many_bytes"} == set(PERMANENT)


def test_verdicts_have_their_words_as_in_the_code() -> None:
    rows = re.findall(r"^\| `(yes|near|no)` \|(.+)\|$", TEXTS["docs/searching.md"], re.MULTILINE)
    told = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    assert told == {
        name: [words.answer, words.of_image, words.of_query, words.meaning] for name, words in captions.VERDICTS.items()
    }


def test_every_table_has_its_columns_there() -> None:
    lines = TEXTS["docs/tables.md"].splitlines()
    for table, names in COLUMNS.items():
        row = next(line for line in lines if line.startswith(f"| `{table}` |"))
        columns = re.sub(r"\([^)]*\)", "", row.split("|")[2].split(";")[0])
        assert re.findall(r"[a-z_0-9]+", columns) == names
