"""Leases: each active run keeps a small file below ``_running``, and writes it again every minute.

A lease tells the unpublished output of live runs from the leftovers of dead ones. It also names the runs that its run
may read. Ages are measured by the store's own clock, so machines whose clocks differ agree on them.
"""

import errno
import json
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from image_similarity.errors import WrongInput
from image_similarity.storage.locks import beating
from image_similarity.warehouse.schemas import CLASS_SCORES, RUNS, VECTORS
from image_similarity.warehouse.snapshot import RUNNING, Pointer
from image_similarity.warehouse.warehouse import Warehouse

FOLDER = RUNNING
RENEWED_SECONDS = 60.0
DEAD_SECONDS = 15 * 60.0
"""A run whose lease is older than this is dead, or its machine is."""

_PERMANENT_ERRORS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)
"""Permanent errors: the warehouse itself cannot be used. Others are transient: a full disk can be cleared, say."""

_RUN = re.compile(r"r[^.]+")


@contextmanager
def held(warehouse: Warehouse, run: str, pointer: Pointer, others: Collection[str] = ()) -> Iterator[None]:
    """Holds the lease of ``run`` while this context is open. The run may read the runs of ``pointer``, and ``others``.

    Raises ``WrongInput`` if the warehouse cannot be written at all, and ``OSError`` for transient errors.
    """
    path = f"{warehouse.uri}/{FOLDER}/{run}"
    kept = (VECTORS, CLASS_SCORES, RUNS)  # never removed
    current = {run_id for table in pointer.tables if table not in kept for run_id in pointer.runs(table)}
    records = {f"{RUNS}/{folder}" for folder in pointer.runs(RUNS)}
    content = json.dumps(sorted(current.union(others, records))).encode()
    try:
        warehouse.files.write(path, content)
    except OSError as error:
        if error.errno not in _PERMANENT_ERRORS:
            raise
        raise WrongInput(f"the warehouse {warehouse.uri} cannot be written: {error}") from None
    try:
        with beating(lambda: warehouse.files.write(path, content), RENEWED_SECONDS, f"lease of {run}"):
            yield
    finally:
        try:
            warehouse.files.delete(path)
        except OSError:
            pass  # the lease expires


def active(warehouse: Warehouse) -> dict[str, set[str]]:
    """The active runs, and for each the runs that it may read, and its folders of records as ``runs/<id>``.

    Raises ``OSError`` if the leases cannot be read.
    """
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
    modified_by_run = {run: warehouse.files.modified(f"{folder}/{run}") for run in runs}
    active_runs = [
        run for run, modified in modified_by_run.items() if modified is not None and now - modified < DEAD_SECONDS
    ]
    return {run: _read_by(warehouse, f"{folder}/{run}") for run in active_runs}


def _read_by(warehouse: Warehouse, lease: str) -> set[str]:
    """The runs that ``lease`` names; none if its run has just ended. ``OSError`` if it is damaged: they are unknown."""
    content = warehouse.files.read(lease)
    try:
        return set(json.loads(content)) if content is not None else set()
    except (ValueError, TypeError):
        raise OSError(f"{lease} is damaged, so what its run may read is unknown: remove it if no job runs") from None
