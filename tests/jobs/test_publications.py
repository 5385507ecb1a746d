"""A reader that polls through DuckDB while a table is published again and again: it never fails, and never sees a mix."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import find_neighbours

IMAGES, PUBLICATIONS = 60, 20

READER = """
import json, sys, duckdb
from pathlib import Path
warehouse, stop = Path(sys.argv[1]), Path(sys.argv[2])
seen = []
while not stop.exists():
    db = duckdb.connect()
    db.execute((warehouse / "views.sql").read_text())
    rows, images, k = db.execute("SELECT count(*), count(DISTINCT image_id), max(rank) FROM neighbours").fetchone()
    told = db.execute("SELECT settings FROM runs ORDER BY run_id DESC LIMIT 1").fetchone()[0]
    seen.append((rows, images, k, json.loads(told)["neighbours"]["similar"]))
print(json.dumps(seen))
"""


def test_a_reader_sees_whole_runs(run: Any, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(IMAGES, 8)).astype(np.float32)
    pq.write_table(pa.table({"image_id": [f"{i}" for i in range(IMAGES)], "embedding": list(vectors)}), tmp_path / "own.parquet")
    arguments = ["--warehouse", tmp_path / "w", "--embeddings", tmp_path / "own.parquet", "--dissimilar", "0", "--keep-runs", "3"]
    assert run(find_neighbours, *arguments, "-k", "1") == 0
    command = [sys.executable, "-c", READER, str(tmp_path / "w"), str(tmp_path / "stop")]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for k in range(2, PUBLICATIONS + 2):  # of a length of its own each time: a mix would be seen
        assert run(find_neighbours, *arguments, "-k", k) == 0
    (tmp_path / "stop").touch()
    told, errors = reader.communicate()
    assert reader.returncode == 0, errors
    seen = json.loads(told)
    assert [looked for looked in seen if looked != [IMAGES * looked[2], IMAGES, looked[2], looked[2]]] == []
    ks = [looked[2] for looked in seen]
    assert ks == sorted(ks) and len(set(ks)) > PUBLICATIONS // 2, f"it saw {len(seen)} states, and of the runs {sorted(set(ks))}"
