"""Queries: pictures or vectors from outside. They have a name together, and a name each; they enter no collection."""

import os
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.errors import WrongInput
from image_similarity.storage import uris
from image_similarity.warehouse import retention
from image_similarity.warehouse.schemas import SCHEMAS

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_GLOB = re.compile(r"[*?\[]")
FAILURES = "search"
"""The first part of the slots of ``failures`` that are queries': no failure there is an image's of the collection."""

ROWS = pa.schema([("query_id", pa.string()), ("query_uri", pa.string()), ("content", pa.string())])
"""Queries that have a vector, in the byte order of their ids. ``content``: the sha256 of the file's bytes; null for
vectors of one's own."""


@dataclass(frozen=True)
class Queries:
    """What was asked about, once it has vectors."""

    rows: pa.Table
    """`ROWS`"""
    failures: pa.Table
    """Those that could not be embedded, in the schema of ``failures``."""

    @property
    def count(self) -> int:
        return len(self.rows) + len(self.failures)


def name_of(location: str) -> str:
    """The name of the queries at ``location``: that of the folder or list, in lower case, with only letters, digits and
    ``-``. Of a glob it is the last folder without a pattern. Raises ``WrongInput`` where nothing is left: two such
    folders would have one name.
    """
    fixed = _GLOB.split(location, maxsplit=1)[0].rpartition("/")[0] if _GLOB.search(location) else location
    stem = os.path.splitext(fixed.rstrip("/").rpartition("/")[2])[0]
    if not (name := _plain(stem)):
        raise WrongInput(f"{location}: no name with letters a to z or digits can be made of it: give one by --queries")
    return name


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def check_name(name: str) -> str:
    """``name``, if it can be one. Raises ``WrongInput``: it is part of slots, and of folders."""
    if _NAME.fullmatch(name):
        return name
    raise WrongInput(
        f"--queries {name}: a name has lower-case letters, digits and single dashes between them"
        + (f"; try {plain}" if (plain := _plain(name)) else "")
    )


def chosen_name(given: str | None, location: str) -> str:
    """The name ``given``, or that of ``location``. Raises ``WrongInput`` as `check_name` does."""
    return check_name(given) if given is not None else name_of(uris.absolute(location))


def slot_of(queries: str, fingerprint: str, metric: str) -> str:
    """The slot of ``matches``."""
    return f"{queries}/{fingerprint}/{metric}"


def queries_of(slot: str) -> str:
    """The name of the queries of the slot ``slot`` of ``matches``."""
    return slot.partition("/")[0]


def state_slot(queries: str, key: str) -> str:
    """Where the vectors of queries by the fingerprint ``key`` are kept, see `Warehouse.state_of`. They do not depend on
    the metric.
    """
    return f"{retention.SEARCHES}/{queries}-{key}"


def failures_slot(slot: str) -> str:
    """The slot of ``failures`` beside the slot ``slot`` of ``matches``."""
    return f"{FAILURES}/{slot}"


def unusable(failed: pa.Table, queries: Queries, fingerprint: str) -> pa.Table:
    """Queries that could not be compared (image_id, reason, detail), in the schema of ``failures``."""
    ids = failed["image_id"].cast(pa.string()).combine_chunks()
    place = pc.index_in(ids, value_set=queries.rows["query_id"].combine_chunks())
    columns = {
        "image_id": ids,
        "uri": queries.rows["query_uri"].combine_chunks().take(place),
        "fingerprint": pa.repeat(pa.scalar(fingerprint, pa.string()), len(ids)),
        "reason": failed["reason"].cast(pa.string()),
        "detail": failed["detail"].cast(pa.string()),
        "source_version": pa.nulls(len(ids), pa.string()),
    }
    schema = SCHEMAS["failures"]
    return pa.table([columns[name] for name in schema.names], schema=schema)


def of_vectors(ids: pa.Array) -> Queries:
    """Queries that are vectors of one's own, by their ids (n,), in order. Nothing else is known of them."""
    nothing = pa.nulls(len(ids), pa.string())
    rows = pa.table([ids.cast(pa.string()), nothing, nothing], schema=ROWS)
    return Queries(rows, SCHEMAS["failures"].empty_table())
