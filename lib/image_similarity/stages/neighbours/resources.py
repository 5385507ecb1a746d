"""The memory and disk that comparing takes, and whether this machine has them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from image_similarity.storage import disk_space


@dataclass(frozen=True)
class Disk:
    """Bytes that comparing writes."""

    warehouse: int
    shuffles: int = 0
    """In Spark's own folders (spark.local.dir)."""

    @property
    def total(self) -> int:
        return self.warehouse + self.shuffles

    def __add__(self, other: "Disk") -> "Disk":
        return Disk(self.warehouse + other.warehouse, self.shuffles + other.shuffles)


def check_disk(disk: Disk, warehouse: str, shuffled_in: Sequence[str]) -> None:
    """Raise ``JobFailed`` where the disks have less than ``disk`` free.

    ``warehouse``: its folder. ``shuffled_in``: Spark's own folders on this machine; empty if they are elsewhere or not
    known.
    """
    needs = [disk_space.Need("--warehouse", warehouse, disk.warehouse)]
    for folder in shuffled_in:
        needs.append(disk_space.Need("spark.local.dir", folder, disk.shuffles // len(shuffled_in)))
    disk_space.check("comparing", needs)


def available_memory() -> int | None:
    """Bytes that this process may still take: of the machine, and of its container (cgroup v2), if it is in one."""
    try:
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            available = [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")]
    except OSError:
        available = []
    with suppress(OSError, ValueError, KeyError):  # "max" is no number, and there is no limit then
        container = Path("/sys/fs/cgroup")
        limit = int((container / "memory.max").read_text(encoding="ascii"))
        used = int((container / "memory.current").read_text(encoding="ascii"))
        lines = (container / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = int(dict(line.split() for line in lines)["inactive_file"])  # is given up where memory is short
        available.append(limit - used + cached)
    return min(available, default=None)
