"""The questions of the documentation: SQL and Python as they stand on the page, and one answer to each."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image, ImageFilter

import image_similarity as ims
from conftest import ROOT
from image_similarity.jobs import run_pipeline
from image_similarity.jobs.command_line import main
from warehouses import Made, random_vectors

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from image_similarity.collection import Collection

PAGE = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
PAIRS = re.findall(r"^```sql\n(.*?)^```\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LABELS = ("disc", "glass", "tree")


def draw(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((240, 180), Image.Resampling.BICUBIC)
    picture.filter(ImageFilter.GaussianBlur(seed % 3)).save(file)


def listed(folder: Path) -> Path:
    """The list of the pictures in ``folder``, with their attributes."""
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.png"))
    rows = [f"{file},No. {number},{file.parts[0]}" for number, file in enumerate(files)]
    (folder / "list.csv").write_text("\n".join(["uri,title,label", *rows]))
    return folder / "list.csv"


@pytest.fixture(scope="module")
def collection(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> "Collection":
    """Two nights of a small collection with a copy, by two fingerprints. One picture fails."""
    folder = tmp_path_factory.mktemp("questions")
    images, warehouse = folder / "images", folder / "it's a [warehouse]"
    for number in range(15):
        draw(images / LABELS[number % 3] / f"{LABELS[number % 3]}-{number:02}.png", number)
    draw(images / "disc" / "disc-01.png", 40)
    with Image.open(images / "disc" / "disc-01.png") as picture:
        picture.resize((200, 150)).save(images / "tree" / "tree-copy.png")
    tiny = 'fingerprints.vgg16-fc2={network="squeezenet1_1",weights="untrained",layer="features.3",pooling="average"}'
    common = ["--warehouse", warehouse, "--set", tiny, "--set", 'fingerprints.colours={kind="colour-histogram"}']
    common += ["--fingerprint", "vgg16-fc2", "--fingerprint", "colours", "-k", 6, "--dissimilar", 2]
    common += ["--set", "embeddings.max_failed_fraction=0.5"]

    def night(label: str) -> None:
        arguments = [*common, "--images", listed(images), "--run-id", label]
        assert main(run_pipeline, [str(argument) for argument in arguments], session=spark) == 0

    night("night 1")
    (images / "disc" / "broken.png").write_bytes(b"no picture")
    (images / "tree" / "tree-05.png").unlink()
    draw(images / "glass" / "glass-new.png", 50)
    draw(images / "glass" / "glass-04.png", 51)
    night("night 2")
    return ims.open(warehouse)


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def answer_of(program: str, names: dict[str, Any]) -> Any:
    """The value of the last expression of ``program``."""
    *before, last = ast.parse(program).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(before, []), "page", "exec"), names)
    return eval(compile(ast.Expression(last.value), "page", "eval"), names)


def rows(answer: Any) -> Iterator[tuple[Any, ...]]:
    """A table, series or list as rows of plain values."""
    if isinstance(answer, pa.Table):
        answer = list(zip(*(column.to_pylist() for column in answer.columns)))
    if isinstance(answer, pd.Series):
        answer = answer.reset_index()
    if isinstance(answer, pd.DataFrame):
        answer = answer.itertuples(index=False, name=None)
    for row in answer:
        yield tuple(value.tolist() if isinstance(value, np.ndarray) else value for value in row)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(abs(one - other) < 2e-6) if isinstance(one, float) else bool(one == other)


def test_there_are_ten_questions() -> None:
    assert len(re.findall("^## ", PAGE, re.MULTILINE)) == 10 and len(PAIRS) == 13
    assert PAGE.count("```sql") == PAGE.count("```python") == len(PAIRS)


@pytest.mark.parametrize(("sql", "program"), PAIRS, ids=[sql.split("\n")[0][:60] for sql, _ in PAIRS])
def test_sql_and_python_give_one_answer(collection: "Collection", sql: str, program: str) -> None:
    ids, vectors = collection.embeddings()
    vector = vectors[3] + np.float32(0.01)
    db = collection.duckdb()
    by_sql = list(rows(db.execute(sql, {"vector": vector} if "$vector" in sql else None).fetchall()))
    by_python = list(rows(answer_of(program, {"collection": collection, "pc": pc, "np": np, "vector": vector})))
    assert len(by_sql) == len(by_python) > 0
    for one, other in zip(by_sql, by_python):
        assert len(one) == len(other) and all(map(same, one, other)), (one, other)


def test_they_hold_for_another_fingerprint_and_for_images_without_a_label(tmp_path: Path) -> None:
    made = Made(str(tmp_path / "w"))
    made.manifest(dict.fromkeys("abcd", "1"), attributes=[])
    made.embeddings(dict(zip("abcd", "ABCD")), random_vectors("ABCD"), "squeeze")
    made.neighbours({"a": "bcd", "b": "acd", "c": "abd", "d": "abc"}, "squeeze/cosine")
    collection = ims.open(made.uri)
    vector = collection.embeddings().vectors[0]
    for subject, count in (("neighbour_label", 1), ("list(list_cosine_distance", 4), ("$vector", 4)):
        [(sql, program)] = [(sql, program) for sql, program in PAIRS if subject in sql]
        found = collection.duckdb().execute(sql, {"vector": vector} if "$vector" in sql else None).fetchall()
        names = {"collection": collection, "pc": pc, "np": np, "vector": vector}
        assert len(found) == len(list(rows(answer_of(program, names)))) == count


def test_views_are_the_tables_of_a_collection(collection: "Collection") -> None:
    db = collection.duckdb()
    images, fingerprints = collection.images(), collection.fingerprints()
    columns = ["image_id", "uri", "size_bytes", "width", "height", "content_sha256", "reason", "detail"]
    by_sql = db.sql(f"SELECT {', '.join(columns)} FROM images ORDER BY image_id").fetchall()
    assert by_sql == list(rows(images.select(columns))) and len(by_sql) == len(images) > 10
    by_sql = db.sql(f"SELECT {', '.join(fingerprints.column_names)} FROM fingerprints").fetchall()
    assert by_sql == list(rows(fingerprints)) and len(by_sql) == 2
    assert db.sql("SELECT count(*) FROM similar_images").fetchall() == [
        (len(collection.neighbours(relation="similar")),)
    ]


def test_the_answers_are_right(collection: "Collection") -> None:
    """Not only the same: of what is known of this collection."""
    db = collection.duckdb()
    pair = ("disc/disc-01.png", "tree/tree-copy.png")
    nearest = "SELECT neighbour_id FROM similar_images WHERE image_id = ? AND rank = 1"
    assert db.execute(nearest, [pair[0]]).fetchall() == [(pair[1],)]
    assert {name for (name,) in db.sql("SELECT image_id FROM near_duplicates").fetchall()} == set(pair)
    changes = dict(db.sql("SELECT image_id, change FROM neighbour_changes('night 1', 'night 2')").fetchall())
    named = ("tree/tree-05.png", "glass/glass-new.png", "glass/glass-04.png")
    assert [changes[name] for name in named] == ["gone", "appeared", "changed"]
    assert db.sql("SELECT fingerprint, is_default FROM fingerprints").fetchall() == [
        ("vgg16-fc2", True),
        ("colours", False),
    ]
    nights = db.sql(
        "SELECT label, fingerprint, count(*) FROM neighbours_history() GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    embedded = len(collection.images()) - 1
    assert nights == [(f"night {number}", name, embedded * 8) for number in (1, 2) for name in ("colours", "vgg16-fc2")]
