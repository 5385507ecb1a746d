"""The views of a published state in DuckDB, wherever its warehouse lies now."""

from typing import TYPE_CHECKING

from image_similarity.collection import reading
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.warehouse.schemas import SCHEMAS
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
        with reading.named_errors(snapshot):
            _check_there(snapshot)
        raise JobFailed(f"{snapshot.uri}: DuckDB cannot read it: {' '.join(str(error).split())}") from None
    return db


def _check_there(snapshot: Snapshot) -> None:
    """Raises ``FileNotFoundError`` if files of a published run are gone."""
    anew = Snapshot(snapshot.uri, snapshot.pointer, snapshot.files)  # it has listed no files yet
    for table in SCHEMAS:
        anew.dataset(table)
