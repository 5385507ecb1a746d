"""The driver killed while it downloads: nothing is published, and running it again fetches only what is missing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import misbehaving
from image_similarity.jobs import download_images
from processes import ask

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 120
FILES, CONNECTIONS = 60, 2


def arguments(folder: Path) -> list[str]:
    places = ["--catalogue", folder / "list.csv", "--images", folder / "images", "--warehouse", folder / "w"]
    settings = ["--set", "http.private_addresses=true", "--set", f"http.connections_per_host={CONNECTIONS}"]
    return [*map(str, places), *settings]


def start(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "jobs" / "download_images.py"), *arguments(folder)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_killed_while_it_downloads(run: Any, tmp_path: Path) -> None:
    with misbehaving.serving() as server:
        server.files = {f"/{number}.png": misbehaving.picture(number) for number in range(FILES)}
        server.pause = 0.1
        lines = [f"{server.address}{path},{path[1:]}\n" for path in server.files]
        (tmp_path / "list.csv").write_text("url,image_id\n" + "".join(lines))
        process = start(tmp_path)
        deadline = time.monotonic() + WAIT_SECONDS
        while sum(server.asked.values()) < FILES // 3:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        there = {file.name: file.read_bytes() for file in (tmp_path / "images").glob("*.png")}
        assert FILES // 3 - CONNECTIONS <= len(there) < FILES
        assert all(content == server.files[f"/{name.removesuffix('.png')}"] for name, content in there.items()), (
            "all of them whole"
        )
        assert not (tmp_path / "w" / "_current.json").exists() and not (tmp_path / "images" / "images.parquet").exists()

        server.pause = 0.0
        assert run(download_images, *arguments(tmp_path)) == 0
        assert all(server.gets(f"/{name.removesuffix('.png')}") == 1 for name in there), (
            "what was there is not fetched twice"
        )
        assert sum(server.asked.values()) <= FILES + CONNECTIONS, "only what was on its way"
    assert pq.read_table(tmp_path / "images" / "images.parquet").num_rows == FILES
    outcomes = dict(ask(tmp_path / "w", "SELECT outcome, count(*) FROM downloads GROUP BY 1"))
    assert outcomes == {"present": len(there), "fetched": FILES - len(there)}
