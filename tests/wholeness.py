"""Whether what a warehouse publishes is whole runs, after jobs were killed."""

import json
import os
from pathlib import Path
from typing import Any

from crawler import crawl
from processes import ask

PUBLISHED = ("_current.json", "views.sql")

COMPARED = {
    "manifest": "image_id, uri, size_bytes, source_version",
    "embeddings": "image_id, fingerprint_key, content_sha256, source_version, width, height, embedding",
    "vectors": "content_sha256, fingerprint_key, embedding",
    "failures": "*",
    "neighbours": "*",
}
"""What must be the same after it all as without it."""


def published(warehouse: Path) -> Any:
    """The pointer, and every file of every run that it names, with its size and time."""
    pointer = json.loads((warehouse / "_current.json").read_text())
    runs = [(table, run) for table, slots in pointer["tables"].items() for runs in slots.values() for run in runs]
    files = [file for table, run in runs for file in (warehouse / table / f"run_id={run}").rglob("*") if file.is_file()]
    assert all(list((warehouse / table / f"run_id={run}").glob("*.parquet")) for table, run in runs)
    return pointer, sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def check_whole(warehouse: Path, gallery: Path) -> None:
    """What is published is whole runs: the rows that their jobs counted, all images accounted for, no dead link."""
    if not (warehouse / "_current.json").exists():
        return
    published(warehouse)
    pointer = json.loads((warehouse / "_current.json").read_text())["tables"]
    counts = {run: json.loads(counted) for run, counted in ask(warehouse, "SELECT run_id, counts FROM runs")}
    for table, column in (("manifest", "images"), ("neighbours", "rows")):
        for (run,) in pointer.get(table, {}).values():
            assert ask(warehouse, f"SELECT count(*) FROM {table}") == [(counts[run][column],)]
    for (run,) in pointer.get("embeddings", {}).values():
        outcomes = "SELECT count(*) FROM (SELECT image_id FROM embeddings UNION ALL SELECT image_id FROM failures)"
        assert ask(warehouse, outcomes) == [(counts[run]["images"],)]
        assert ask(warehouse, "SELECT count(*) FROM embeddings WHERE embedding IS NULL") == [(0,)]
    if (gallery / "index.html").exists():
        assert crawl(gallery).dead == []


def long_ago(warehouse: Path) -> None:
    """As if those that were killed had been so long enough ago to be known for dead."""
    for lease in (warehouse / "_running").iterdir():
        os.utime(lease, (0, 0))


def jobs_of(warehouse: Path) -> list[str]:
    if not (warehouse / "views.sql").exists():
        return []
    return [job for (job,) in ask(warehouse, "SELECT job FROM runs ORDER BY run_id")]
