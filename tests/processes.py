"""Jobs as processes of their own, on small pictures drawn here; what they have published, as others read it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from PIL import Image

from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import open_snapshot

ROOT = Path(__file__).resolve().parents[1]
SMALL = '{network="squeezenet1_1",weights="untrained",layer="features",pooling="average"}'
COMMON = [
    "--set",
    f"fingerprints.small={SMALL}",
    "--set",
    "neighbours.fingerprint=small",
    "--set",
    "neighbours.block_rows=16",
]


def start(job: str, warehouse: Path, *arguments: object) -> "subprocess.Popen[str]":
    """A job that begins, in a process group of its own; output and errors are one stream."""
    command = [
        sys.executable,
        str(ROOT / "jobs" / f"{job}.py"),
        "--warehouse",
        str(warehouse),
        *map(str, arguments),
        *COMMON,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def name_of(job: Any) -> str:
    """The name of a job's module, which is that of its script."""
    return str(job.__name__.rpartition(".")[2])


def finish(job: str, warehouse: Path, *arguments: object, code: int = 0) -> str:
    """Run a job to its end, which must be ``code``; what it told."""
    process = start(job, warehouse, *arguments)
    told, _ = process.communicate()
    assert process.returncode == code, told
    return told


def kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL the driver, its JVM and its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def draw(folder: Path, seeds: range) -> None:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC).save(folder / f"{seed}.jpg")


def ask(warehouse: Path, query: str) -> list[Any]:
    """The answer of DuckDB, asked of the views."""
    db = duckdb.connect()
    db.execute((warehouse / "views.sql").read_text())
    return db.sql(query).fetchall()


def tables(warehouse: Path) -> dict[str, list[str]]:
    """All published rows, sorted; without what tells one run from another. Read without Spark."""
    published = open_snapshot(str(warehouse))
    return {name: sorted(map(repr, published.table(name).to_pylist())) for name in SCHEMAS if name != "runs"}
