"""Runs as typed records: what each run read, wrote, used and counted."""

import io
import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from image_similarity.redaction import redacted_values
from image_similarity.warehouse.schemas import RUNS, SCHEMAS

PUBLISHED = "published"

RUN_ID = re.compile(r"r\d{8}T\d{6}-[0-9a-f]{8}")
"""What `new_run_id` makes."""

_JSON = ("inputs", "outputs", "settings", "counts", "versions", "stages")


def new_run_id() -> str:
    """``r<UTC time>-<microseconds, random digits>``: sorts by time, never repeats, and cannot be read as a number."""
    now = datetime.now(timezone.utc)
    return f"r{now:%Y%m%dT%H%M%S}-{now.microsecond:05x}{secrets.randbelow(16**3):03x}"


@dataclass(frozen=True)
class Record:
    """A row of ``runs``, with its JSON parsed. Columns that older versions did not write are empty."""

    run_id: str
    label: str | None
    job: str
    slot: str
    status: str
    inputs: Mapping[str, list[str]]
    """table -> runs that this run read."""
    outputs: Mapping[str, Mapping[str, list[str]]]
    """``replaced``, ``appended`` and, of a run that unpublished others, ``removed``: each is table -> slots."""
    settings: Mapping[str, Any]
    """The settings of the run, and the values that they resolved to."""
    counts: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: float
    stages: Mapping[str, float]
    """step -> seconds, in the order of the steps."""
    recall: float | None
    started_at: datetime
    finished_at: datetime

    @property
    def replaced(self) -> Mapping[str, list[str]]:
        """table -> slots whose current run this run became."""
        return self.outputs.get("replaced", {})

    @property
    def removed(self) -> Mapping[str, list[str]]:
        """table -> slots that this run has unpublished."""
        return self.outputs.get("removed", {})

    def as_table(self) -> pa.Table:
        """This one row, in the schema of ``runs``; without passwords and queries of addresses. Numbers that are not
        finite are null: JSON has none, and one of them would make the views of all runs unreadable.
        """
        row: dict[str, Any] = {name: getattr(self, name) for name in SCHEMAS[RUNS].names}
        for name in _JSON:
            row[name] = json.dumps(_finite(redacted_values(row[name])), sort_keys=name != "stages", allow_nan=False)
        return pa.Table.from_pylist([row], schema=SCHEMAS[RUNS])

    def as_parquet(self) -> bytes:
        """`as_table` as a Parquet file."""
        return parquet_of(self.as_table())


def _finite(value: Any) -> Any:
    """``value`` of JSON, with None in the place of each number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parquet_of(records: pa.Table) -> bytes:
    """Rows of ``runs`` as a Parquet file."""
    content = io.BytesIO()
    pq.write_table(records, content)
    return content.getvalue()


def from_row(row: Mapping[str, Any]) -> Record:
    """The record of a row of ``runs``."""
    return Record(**{**row, **{name: json.loads(row[name] or "{}") for name in _JSON}})
