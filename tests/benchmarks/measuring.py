"""What benchmarks measure beside seconds."""

import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


class Peak:
    """The most memory that any Python worker of Spark has held, in bytes, while this context lasts; pages of files
    included. Or what this process has taken meanwhile, if that is more.
    """

    def __enter__(self) -> "Peak":
        self.bytes, self._before = 0, _own()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self.bytes = max(self.bytes, _own() - self._before)
            for process in Path("/proc").iterdir():
                if process.name.isdigit():
                    self.bytes = max(self.bytes, _resident(process))


def _own() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _resident(process: Path) -> int:
    try:
        if b"pyspark.daemon" not in (process / "cmdline").read_bytes():
            return 0
        return _resident_bytes(process)
    except OSError:  # gone meanwhile
        return 0


def _resident_bytes(process: Path) -> int:
    try:
        return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # gone meanwhile
        return 0


def exponent(rows: list[int], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(rows), np.log(seconds), 1)[0]) if len(rows) > 1 else math.nan


@dataclass(frozen=True)
class Measured:
    """A command that has ended: seconds, and the most bytes that its own process and any process below it had
    resident at once, pages of mapped files included.
    """

    seconds: float
    own: int
    largest_other: int
    output: str


def command(job: str, *arguments: str, echo: bool = False) -> Measured:
    """Runs ``jobs/<job>.py``. ``echo``: also shows what it prints.

    Raises ``SystemExit`` with the end of its output if it fails.
    """
    start = time.perf_counter()
    program = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    most: dict[int, int] = {}
    watcher = threading.Thread(target=_watch_tree, args=(process, most), daemon=True)
    watcher.start()
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if echo:
            print(line, end="", file=sys.stderr, flush=True)
    status = process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    if status:
        raise SystemExit(f"{job} failed with exit code {status}:\n{''.join(lines[-20:])}")
    own = most.pop(process.pid, 0)
    return Measured(seconds, own, max(most.values(), default=0), "".join(lines))


def _watch_tree(process: "subprocess.Popen[str]", most: dict[int, int]) -> None:
    while process.poll() is None:
        for pid in _tree(process.pid):
            most[pid] = max(most.get(pid, 0), _resident_bytes(Path("/proc") / str(pid)))
        time.sleep(0.1)


def _tree(root: int) -> list[int]:
    """``root`` and all processes below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):  # gone meanwhile
                continue
            children.setdefault(parent, []).append(int(folder.name))
    tree = [root]
    for pid in tree:
        tree.extend(children.get(pid, []))
    return tree
