"""Which runs are at work: each keeps a small file below ``_running`` and writes it again every minute.

So that what a run has written and not published yet is told from what a run that died has left, and what it may be
reading is known. Ages are taken by the store's own clock: machines whose clocks differ agree on them."""

import errno
import json
import re
import secrets
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from image_similarity.errors import WrongInput
from image_similarity.warehouse.schemas import RUNS, VECTORS
from image_similarity.warehouse.snapshot import Pointer
from image_similarity.warehouse.warehouse import Warehouse

FOLDER = "_running"
RENEWED_SECONDS = 60.0
DEAD_SECONDS = 15 * 60.0
"""A run that has not written its file for so long has died, or its machine has."""

_OF_ARGUMENTS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""Errors that trying again does not help. A disk that is full can be cleared, and a store may be back."""

_RUN = re.compile(r"r[^.]+")


@contextmanager
def held(warehouse: Warehouse, run: str, seen: Pointer, others: Collection[str] = ()) -> Iterator[None]:
    """``run`` is at work while this context is open, and may read what ``seen`` names, and the runs ``others``.

    Raises ``WrongInput`` where nothing can ever be written in the warehouse, ``OSError`` where nothing can be now.
    """
    path = f"{warehouse.uri}/{FOLDER}/{run}"
    current = {one for table in seen.tables if table not in (VECTORS, RUNS) for one in seen.runs(table)}
    content = json.dumps(sorted(current.union(others))).encode()
    try:
        warehouse.files.write(path, content)
    except OSError as error:
        if error.errno not in _OF_ARGUMENTS:
            raise
        raise WrongInput(f"the warehouse {warehouse.uri} cannot be written: {error}") from None
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEWED_SECONDS):
            try:
                warehouse.files.write(path, content)
            except OSError:
                pass  # the store may be back in a minute; if not, the run will fail of it where it matters

    renewing = threading.Thread(target=renew, name=f"lease of {run}", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        try:
            warehouse.files.delete(path)
        except OSError:
            pass  # it goes stale


def alive(warehouse: Warehouse) -> dict[str, set[str]]:
    """The runs that are at work, and which runs each may be reading. Raises ``OSError`` where that cannot be told."""
    folder = f"{warehouse.uri}/{FOLDER}"
    runs = [name for name in warehouse.files.entries(folder) if _RUN.fullmatch(name)]
    if not runs:
        return {}
    probe = f"{folder}/probe-{secrets.token_hex(4)}"
    warehouse.files.write(probe, b"")
    now = warehouse.files.modified(probe)
    warehouse.files.delete(probe)
    if now is None:
        raise OSError(f"{probe} was just written, and is gone")
    written = {run: warehouse.files.modified(f"{folder}/{run}") for run in runs}
    at_work = [run for run, at in written.items() if at is not None and now - at < DEAD_SECONDS]
    return {run: set(json.loads(warehouse.files.read(f"{folder}/{run}") or b"[]")) for run in at_work}
