"""The schemas of all tables, and the views that make them pleasant to query.

A table is Parquet below ``<warehouse>/<table>/run_id=<run>/``; which runs are current is told by ``_current.json`` (see
`image_similarity.warehouse`). A *slot* divides a table into parts that are published apart: a fingerprint, or
``<fingerprint>/<metric>``, a metric alone, a catalogue, or the empty string.
"""

from collections.abc import Callable, Iterable, Mapping

from pyspark.sql.types import (
    ArrayType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)


def _schema(*columns: tuple[str, object]) -> StructType:
    return StructType([StructField(name, kind, nullable=True) for name, kind in columns])  # type: ignore[arg-type]


_STRING, _LONG, _INT, _FLOAT, _DOUBLE = StringType(), LongType(), IntegerType(), FloatType(), DoubleType()
_TIME = TimestampType()

SCHEMAS: Mapping[str, StructType] = {
    "manifest": _schema(
        ("image_id", _STRING),
        ("uri", _STRING),
        ("size_bytes", _LONG),
        ("modified_at", _TIME),
        ("source_version", _STRING),
        ("attributes", MapType(_STRING, _STRING)),
    ),
    "downloads": _schema(
        ("image_id", _STRING),
        ("address", _STRING),
        ("uri", _STRING),
        ("outcome", _STRING),
        ("size_bytes", _LONG),
        ("content_sha256", _STRING),
        ("etag", _STRING),
        ("last_modified", _STRING),
        ("attributes", MapType(_STRING, _STRING)),
    ),
    "vectors": _schema(
        ("content_sha256", _STRING),
        ("fingerprint_key", _STRING),
        ("width", _INT),
        ("height", _INT),
        ("embedding", ArrayType(_FLOAT)),
    ),
    "embeddings": _schema(
        ("image_id", _STRING),
        ("fingerprint", _STRING),
        ("fingerprint_key", _STRING),
        ("content_sha256", _STRING),
        ("source_version", _STRING),
    ),
    "failures": _schema(
        ("image_id", _STRING),
        ("uri", _STRING),
        ("fingerprint", _STRING),
        ("reason", _STRING),
        ("detail", _STRING),
        ("source_version", _STRING),
    ),
    "projections": _schema(
        ("fingerprint", _STRING),
        ("fingerprint_key", _STRING),
        ("base_key", _STRING),
        ("sample", _INT),
        ("seed", _LONG),
        ("component", _INT),
        ("explained_variance", _DOUBLE),
        ("weights", ArrayType(_FLOAT)),
    ),
    "neighbours": _schema(
        ("image_id", _STRING),
        ("fingerprint", _STRING),
        ("relation", _STRING),
        ("rank", _INT),
        ("neighbour_id", _STRING),
        ("distance", _FLOAT),
        ("metric", _STRING),
        ("method", _STRING),
    ),
    "comparisons": _schema(
        ("fingerprint", _STRING),
        ("other", _STRING),
        ("metric", _STRING),
        ("measure", _STRING),
        ("k", _INT),
        ("value", _DOUBLE),
        ("standard_error", _DOUBLE),
        ("chance", _DOUBLE),
        ("images", _LONG),
    ),
    "runs": _schema(
        ("run_id", _STRING),
        ("label", _STRING),
        ("job", _STRING),
        ("slot", _STRING),
        ("status", _STRING),
        ("inputs", _STRING),
        ("outputs", _STRING),
        ("settings", _STRING),
        ("counts", _STRING),
        ("versions", _STRING),
        ("seconds", _DOUBLE),
        ("stages", _STRING),
        ("recall", _DOUBLE),
        ("started_at", _TIME),
        ("finished_at", _TIME),
    ),
}

_GROWN = ("runs",)
"""Tables that got columns after the first version: what was written before lacks them, and they are null there."""

SIMILAR, DISSIMILAR = "similar", "dissimilar"

_SQL_TYPES = {
    StringType(): "VARCHAR",
    LongType(): "BIGINT",
    IntegerType(): "INTEGER",
    FloatType(): "FLOAT",
    DoubleType(): "DOUBLE",
    TimestampType(): "TIMESTAMP WITH TIME ZONE",
    ArrayType(FloatType()): "FLOAT[]",
    MapType(StringType(), StringType()): "MAP(VARCHAR, VARCHAR)",
}

_EMBEDDINGS_VIEW = """\
CREATE OR REPLACE VIEW embeddings AS
SELECT e.image_id, e.fingerprint, e.fingerprint_key, e.content_sha256, e.source_version, v.width, v.height, v.embedding
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
    """DuckDB statements that make one view of each table as it is published now.

    ``files_of``: table -> folders of its current runs (a table without runs becomes an empty view); ``to_reader`` turns such a
    folder into what DuckDB opens.
    """
    selects = {table: _select(table, [to_reader(folder) for folder in files_of.get(table, [])]) for table in SCHEMAS}
    snapshot = selects.pop("embeddings")
    views = [f"CREATE OR REPLACE VIEW {table} AS\n{select};\n" for table, select in selects.items()]
    views += [_EMBEDDINGS_VIEW.format(snapshot=snapshot), _EXACT_DUPLICATES_VIEW.format(snapshot=snapshot)]
    return "-- The tables as they are published now. Read into DuckDB: .read 'views.sql'\n" + "\n".join(views)


def _select(table: str, folders: list[str]) -> str:
    columns = SCHEMAS[table].fields
    if not folders:
        nothing = ", ".join(f"NULL::{_SQL_TYPES[column.dataType]} AS {column.name}" for column in columns)
        return f"SELECT {nothing} WHERE false"
    names = ", ".join(column.name for column in columns)
    files = ", ".join(_sql_string(f"{_escape_glob(folder)}/*.parquet") for folder in folders)
    if table in _GROWN:
        nothing = _select(table, [])
        return f"SELECT {names}\nFROM ({nothing} UNION ALL BY NAME\nFROM read_parquet([{files}], union_by_name = true))"
    return f"SELECT {names}\nFROM read_parquet([{files}], hive_partitioning = false)"


def _escape_glob(path: str) -> str:
    """``path`` for DuckDB, which takes every path for a pattern."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)


def _sql_string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
