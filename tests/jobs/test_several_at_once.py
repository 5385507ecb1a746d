"""Jobs at once on one warehouse, each a process: of two on one slot one is published and the other refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from processes import ask

IMAGES = 300
METRICS = ["cosine", "cosine", "euclidean"]
PROGRAM = f"""
import sys, time
from pathlib import Path
from image_similarity.jobs import find_neighbours
from image_similarity.jobs.command_line import main
from image_similarity.jobs.job import Job

publish = Job.publish

def publish_together(*arguments, **options):
    "None of them has published when the last of them is about to."
    about_to, name = Path(sys.argv[1]), sys.argv[2]
    (about_to / name).touch()
    deadline = time.monotonic() + 120
    while len(list(about_to.iterdir())) < {len(METRICS)} and time.monotonic() < deadline:
        time.sleep(0.01)
    return publish(*arguments, **options)

Job.publish = publish_together
sys.exit(main(find_neighbours, sys.argv[3:]))
"""


def test_of_two_on_one_slot_one_is_published(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(IMAGES, 16)).astype(np.float32)
    table = {"image_id": [f"{i:05d}" for i in range(IMAGES)], "embedding": list(vectors)}
    pq.write_table(pa.table(table), tmp_path / "own.parquet")
    (tmp_path / "about to").mkdir()
    common = ["--warehouse", tmp_path / "w", "--embeddings", tmp_path / "own.parquet", "--metric"]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, (tmp_path / "about to", number, *common, metric))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, metric in enumerate(METRICS)
    ]
    told = [process.communicate()[0] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes[:2]) == [0, 1] and codes[2] == 0, told
    assert "another job published neighbours external/cosine while this one ran" in told[codes.index(1)]
    assert ask(tmp_path / "w", "SELECT count(*) FROM runs") == [(2,)]
    assert len(list((tmp_path / "w" / "neighbours").glob("run_id=*"))) == 2, "the other's table is gone"
    assert ask(tmp_path / "w", "SELECT metric, count(*) FROM neighbours GROUP BY 1 ORDER BY 1") == [
        ("cosine", IMAGES * 24),
        ("euclidean", IMAGES * 24),
    ]
