"""SQL views of the published tables, for DuckDB."""

from collections.abc import Callable, Iterable, Mapping

import pyarrow as pa

from image_similarity.warehouse.schemas import SCHEMAS

_EXTENDED = ("runs", "vectors")
"""Tables that gained columns after their first version. The columns are null where older files lack them."""

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.bool_(): "BOOLEAN",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.binary(): "BLOB",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.list_(pa.float32()): "FLOAT[]",
    pa.map_(pa.string(), pa.string()): "MAP(VARCHAR, VARCHAR)",
}

_EMBEDDINGS_VIEW = """\
CREATE OR REPLACE VIEW embeddings AS
SELECT e.image_id, e.fingerprint, e.fingerprint_key, e.content_sha256, e.source_version,
       v.width, v.height, v.embedding, v.thumbprint
FROM ({snapshot}) AS e JOIN vectors AS v USING (content_sha256, fingerprint_key);
"""

_EXACT_DUPLICATES_VIEW = """\
CREATE OR REPLACE VIEW exact_duplicates AS
SELECT content_sha256, image_id, count(*) OVER (PARTITION BY content_sha256) AS copies
FROM (SELECT DISTINCT content_sha256, image_id FROM ({snapshot}) AS e)
QUALIFY copies > 1
ORDER BY content_sha256, image_id;
"""


def views_sql(files_of: Mapping[str, Iterable[str]], to_reader: Callable[[str], str] = str) -> str:
    """DuckDB statements that define one view of each table as it is published now.

    ``files_of``: table -> folders of its current runs; a table without runs becomes an empty view. ``to_reader``: turns
    such a folder into a path that DuckDB can open.
    """
    selects = {table: _select(table, [to_reader(folder) for folder in files_of.get(table, [])]) for table in SCHEMAS}
    snapshot = selects.pop("embeddings")
    views = [f"CREATE OR REPLACE VIEW {table} AS\n{select};\n" for table, select in selects.items()]
    views += [_EMBEDDINGS_VIEW.format(snapshot=snapshot), _EXACT_DUPLICATES_VIEW.format(snapshot=snapshot)]
    return "-- The tables as they are published now. Read into DuckDB: .read 'views.sql'\n" + "\n".join(views)


def _select(table: str, folders: list[str]) -> str:
    columns = list(SCHEMAS[table])
    if not folders:
        nulls = ", ".join(f"NULL::{_SQL_TYPES[column.type]} AS {column.name}" for column in columns)
        return f"SELECT {nulls} WHERE false"
    names = ", ".join(column.name for column in columns)
    files = ", ".join(_sql_string(f"{_escape_glob(folder)}/*.parquet") for folder in folders)
    # Folders above the warehouse, such as label=cat, are no columns.
    if table in _EXTENDED:
        nulls, options = _select(table, []), "union_by_name = true, hive_partitioning = false"
        return f"SELECT {names}\nFROM ({nulls} UNION ALL BY NAME\nFROM read_parquet([{files}], {options}))"
    return f"SELECT {names}\nFROM read_parquet([{files}], hive_partitioning = false)"


def _escape_glob(path: str) -> str:
    """``path`` with its special characters escaped, because DuckDB takes every path for a pattern."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)


def _sql_string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
