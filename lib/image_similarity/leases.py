"""Which runs are at work: each keeps a small file below ``_running`` and writes it again every minute.

So that what a run has written and not published yet is told from what a run that died has left. Ages are taken by the store's own
clock: machines whose clocks differ agree on them.
"""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from image_similarity.errors import WrongInput
from image_similarity.warehouse import Warehouse

FOLDER = "_running"
RENEWED_SECONDS = 60.0
DEAD_SECONDS = 15 * 60.0
"""A run that has not written its file for so long has died, or its machine has."""


@contextmanager
def held(warehouse: Warehouse, run: str) -> Iterator[None]:
    """``run`` is at work while this context is open. Raises ``WrongInput`` if nothing can be written in the warehouse."""
    path = f"{warehouse.uri}/{FOLDER}/{run}"
    try:
        warehouse.files.write(path, b"")
    except OSError as error:
        raise WrongInput(f"the warehouse {warehouse.uri} cannot be written: {error}") from None
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEWED_SECONDS):
            try:
                warehouse.files.write(path, b"")
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


def alive(warehouse: Warehouse) -> set[str]:
    """The runs that are at work."""
    folder = f"{warehouse.uri}/{FOLDER}"
    probe = f"{folder}/probe-{secrets.token_hex(4)}"
    warehouse.files.write(probe, b"")
    now = warehouse.files.modified(probe)
    warehouse.files.delete(probe)
    written = {run: warehouse.files.modified(f"{folder}/{run}") for run in warehouse.files.entries(folder)}
    return {run for run, at in written.items() if at is not None and now is not None and now - at < DEAD_SECONDS}
