"""Reads published states, and turns what goes wrong into one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.pages import site
from image_similarity.redaction import redacted
from image_similarity.storage import http_client, uris
from image_similarity.warehouse import places
from image_similarity.warehouse.snapshot import POINTER, Pointer, RecordsGone, Snapshot, open_snapshot


def newest(uri: str) -> Snapshot:
    """What is published at ``uri`` now. Raises as `image_similarity.open` does."""
    shown = redacted(uri)
    if uris.scheme_of(uri) in http_client.SCHEMES:
        raise WrongInput(f"{shown}: a warehouse is not read from a web address; name a folder or a store")
    if (fault := places.fault_of_folder(uri) or places.fault_of_missing(uri)) is not None:
        raise WrongInput(f"{shown}: {fault}")
    try:
        snapshot = open_snapshot(uri)
        if not snapshot.pointer.version:
            raise WrongInput(f"{shown}: {_why_empty(snapshot)}")
    except FileNotFoundError as error:  # a bucket
        raise WrongInput(f"{shown}: {_one_line(error)}") from None
    except OSError as error:
        raise JobFailed(f"{shown}: cannot be read: {_one_line(error)}") from None
    return snapshot


def _why_empty(snapshot: Snapshot) -> str:
    """Why nothing is published at the place of ``snapshot``. Raises ``OSError`` if it cannot be read."""
    kind = site.kind_at(snapshot.files, snapshot.uri)
    if uris.is_local(snapshot.uri):
        if kind is not None:
            return f"this is a {kind}: name its warehouse{places.near_warehouses(snapshot.uri)}"
        return places.fault_of_content(snapshot.uri) or f"nothing is published here yet{_ADVICE}"
    if kind is not None:
        return f"this is a {kind}: name its warehouse"
    advice = places.near_in_store(snapshot.files, snapshot.uri) or _ADVICE
    return f"there is no warehouse (no {POINTER}){advice}"


_ADVICE = ": run a job first, run_pipeline for one"


@contextmanager
def named_errors(snapshot: Snapshot) -> Iterator[None]:
    """Turns what goes wrong while tables of ``snapshot`` are read into ``JobFailed``."""
    try:
        yield
    except (FileNotFoundError, RecordsGone) as error:
        now = _pointer_now(snapshot)
        if not now.version:
            raise JobFailed(
                f"{snapshot.uri}: nothing is published here any more: was the warehouse moved or removed?"
            ) from None
        if now != snapshot.pointer:
            raise JobFailed(
                f"{snapshot.uri}: version {snapshot.pointer.version} was cleaned meanwhile: refresh() reads the newest",
                outdated=True,
            ) from None
        if isinstance(error, RecordsGone):
            raise
        raise JobFailed(
            f"{snapshot.uri}: published files are gone ({_one_line(error)}): put back a copy, or run the job again"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise JobFailed(f"{snapshot.uri}: cannot be read: {_one_line(error)}") from None


def _pointer_now(snapshot: Snapshot) -> Pointer:
    """What is published now; where that cannot be read, what was published."""
    try:
        return open_snapshot(snapshot.uri, snapshot.files).pointer
    except (OSError, JobFailed):
        return snapshot.pointer


def _one_line(error: BaseException) -> str:
    return redacted(" ".join(str(error).split()))
