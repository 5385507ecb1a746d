"""What benchmarks measure beside seconds."""

import math
import os
import threading
from pathlib import Path

import numpy as np


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
        return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # gone meanwhile
        return 0


def exponent(rows: list[int], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(rows), np.log(seconds), 1)[0]) if len(rows) > 1 else math.nan
