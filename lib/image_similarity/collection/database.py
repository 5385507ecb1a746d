"""The views of a published state in DuckDB, wherever its warehouse lies now."""

from typing import TYPE_CHECKING

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.warehouse.snapshot import Snapshot
from image_similarity.warehouse.views import views_sql

if TYPE_CHECKING:
    import duckdb


def connected(snapshot: Snapshot, connection: "duckdb.DuckDBPyConnection | None" = None) -> "duckdb.DuckDBPyConnection":
    """See `Collection.duckdb`."""
    try:
        import duckdb  # an extra, which no job needs
    except ImportError:
        raise WrongInput("DuckDB is not installed: python -m pip install 'duckdb>=1.4,<3'") from None
    db = duckdb.connect() if connection is None else connection
    try:
        db.execute("RESET VARIABLE warehouse")  # said of another one
        db.execute(views_sql(snapshot.uri, snapshot.pointer))
    except duckdb.Error as error:
        raise JobFailed(f"{snapshot.uri}: DuckDB cannot read it: {error}") from None
    return db
