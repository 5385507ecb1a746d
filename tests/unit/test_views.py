"""The views show the published rows, wherever the warehouse lies."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_similarity.errors import WrongInput
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.views import views_sql
from image_similarity.warehouse.warehouse import Warehouse

PLACES = ["plain", "label=cat/run_id=no", "a*b", "it's [1]?", "ümläut {x}", "two  spaces", "image_id=x"]


def test_a_backslash_is_refused(tmp_path: Path) -> None:
    """DuckDB takes it for a separator in every form of a path that was tried."""
    with pytest.raises(WrongInput, match="DuckDB takes a backslash for a slash"):
        Warehouse(None, str(tmp_path / "back\\slash"))  # type: ignore[arg-type]


def test_files_with_and_without_a_column_are_one_view(tmp_path: Path) -> None:
    """Whichever is listed first."""
    new = {"content_sha256": "b", "width": 3, "embedding": [1.0, 2.0], "thumbprint": bytes(range(256)) * 4}
    old_schema = pa.schema([field for field in SCHEMAS["vectors"] if field.name != "thumbprint"])
    rows = {"old": pa.Table.from_pylist([{**new, "content_sha256": "a"}], old_schema)}
    rows["new"] = pa.Table.from_pylist([new], SCHEMAS["vectors"])
    for run, table in rows.items():
        (tmp_path / run).mkdir()
        pq.write_table(table, tmp_path / run / "part-0.parquet")
    for runs in (["old", "new"], ["new", "old"]):
        db = duckdb.connect()
        db.execute(views_sql({"vectors": [str(tmp_path / run) for run in runs]}))
        columns = "content_sha256, width, embedding, thumbprint"
        assert db.sql(f"SELECT {columns} FROM vectors ORDER BY 1").fetchall() == [
            ("a", 3, [1.0, 2.0], None),
            ("b", 3, [1.0, 2.0], new["thumbprint"]),
        ]


@pytest.mark.parametrize("place", PLACES)
def test_wherever_the_warehouse_lies(tmp_path: Path, place: str) -> None:
    folders = {}
    for table in ("runs", "manifest", "vectors", "embeddings"):
        folder = tmp_path / place / table / "run_id=r1"
        folder.mkdir(parents=True)
        names = [
            name for name in SCHEMAS[table].names if name not in ("stages", "thumbprint")
        ]  # as older versions wrote them
        schema = pa.schema([SCHEMAS[table].field(name) for name in names])
        row = {name: "right" for name in names if SCHEMAS[table].field(name).type == pa.string()}
        pq.write_table(pa.Table.from_pylist([row], schema), folder / "part-0.parquet")
        folders[table] = [str(folder)]
    db = duckdb.connect()
    db.execute(views_sql(folders))
    assert db.sql("SELECT run_id, label, job, stages FROM runs").fetchall() == [("right", "right", "right", None)]
    assert db.sql("SELECT image_id, uri FROM manifest").fetchall() == [("right", "right")]
    assert db.sql("SELECT content_sha256, thumbprint FROM vectors").fetchall() == [("right", None)]
    assert db.sql("SELECT image_id, thumbprint FROM embeddings").fetchall() == [("right", None)]
    assert db.sql("SELECT count(*) FROM neighbours").fetchall() == [(0,)]
