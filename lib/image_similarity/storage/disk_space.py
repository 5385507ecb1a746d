"""Free space on the disks of this machine, and what is said where there is too little of it."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from image_similarity.errors import JobFailed


@dataclass(frozen=True)
class Need:
    """Bytes that will be written below a folder."""

    place: str
    """For people: the flag or setting that names the folder."""
    folder: str
    """Absolute. It need not be there yet."""
    size: int


def check(what: str, needs: Sequence[Need]) -> None:
    """Raises ``JobFailed`` where a disk has less free than ``needs``: see `lack`."""
    if (message := lack(what, needs)) is not None:
        raise JobFailed(message)


def lack(what: str, needs: Sequence[Need]) -> str | None:
    """The message where a disk has less free than ``needs``, else None. Those on the same disk count together.

    ``what`` needs it, for the message. Disks that say nothing of their size are passed over.
    """
    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        if need.size and (disk := _disk_of(need.folder)) is not None:
            by_disk.setdefault(disk, []).append(need)
    for together in by_disk.values():
        folder, needed = existing(together[0].folder), sum(need.size for need in together)
        free = _free(folder)
        if free is not None and free < needed:
            places = dict.fromkeys(f"{need.place} {need.folder}" for need in together)
            others = dict.fromkeys(need.place for need in together)
            return (
                f"{what} needs about {shown(needed)} of disk for {' and '.join(places)}, but {folder} has "
                f"{shown(free)} free: free some, or use another {' or '.join(others)}"
            )
    return None


def existing(folder: str) -> str:
    """``folder`` (absolute), or the nearest one above it that is there."""
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


def shown(size: int) -> str:
    """``size`` in bytes as text: ``1.50 GiB``, or ``0.3 MiB`` where that is less than a tenth of a GiB."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:,.1f} MiB"


def _disk_of(folder: str) -> int | None:
    try:
        return os.stat(existing(folder)).st_dev
    except OSError:  # whoever writes there says why it cannot be done
        return None


def _free(folder: str) -> int | None:
    """Free bytes; None if they are not known: some file systems, as buckets mounted as folders, claim to have none."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None
