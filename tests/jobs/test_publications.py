"""A reader that polls through DuckDB while a table is published again and again: it never fails, and never sees a
mix.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from image_similarity.jobs import build_manifest

PUBLICATIONS = 20
KEPT = "12"
"""Runs: a reader that has just read which are current has seconds to read them."""

READER = """
import json, sys, duckdb
from pathlib import Path
warehouse, ready, stop = map(Path, sys.argv[1:])
seen = []
while not stop.exists():
    db = duckdb.connect()
    db.execute((warehouse / "views.sql").read_text())
    images, last = db.execute("SELECT count(*), max(image_id) FROM manifest").fetchone()
    counted = db.execute("SELECT counts FROM runs ORDER BY run_id DESC LIMIT 1").fetchone()[0]
    seen.append((images, last, json.loads(counted)["images"]))
    ready.touch()
print(json.dumps(seen))
"""


def test_a_reader_sees_whole_runs(run: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    arguments = ["--warehouse", tmp_path / "w", "--images", tmp_path / "images", "--keep-runs", KEPT]

    def publish(images: int) -> None:
        (tmp_path / "images" / f"{images:02}.png").touch()  # one more each time: a mix would be seen
        assert run(build_manifest, *arguments) == 0

    publish(1)
    ready, stop = tmp_path / "ready", tmp_path / "stop"
    command = [sys.executable, "-c", READER, *map(str, (tmp_path / "w", ready, stop))]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not ready.exists() and reader.poll() is None:
            time.sleep(0.02)
        for images in range(2, PUBLICATIONS + 2):
            publish(images)
    finally:
        stop.touch()
        told, errors = reader.communicate()
    assert reader.returncode == 0, errors
    seen = json.loads(told)
    assert [looked for looked in seen if looked != [looked[0], f"{looked[0]:02}.png", looked[0]]] == []
    states = [looked[0] for looked in seen]
    # On a busy machine it is slower than those who publish, and sees only some of the runs.
    assert states == sorted(states) and len(set(states)) >= PUBLICATIONS // 4, (
        f"it saw of the runs {sorted(set(states))}"
    )
    assert len(list((tmp_path / "w" / "manifest").iterdir())) == int(KEPT), "and older ones were removed meanwhile"
