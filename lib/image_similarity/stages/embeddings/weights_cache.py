"""Local copies of files at addresses: fetched once, and again when the file at the address has changed.

A file whose sha256 is declared cannot change, so nobody is asked. For any other file the server says size and version,
which are stored beside the copy.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from image_similarity.errors import Unreadable
from image_similarity.settings import HttpSettings
from image_similarity.storage import blobs, http_client, timeouts, uris
from image_similarity.storage.http_client import Status

SECONDS_FOR_A_FILE = 3600.0
_LONGEST_NAME = 100


def copy_of(address: str, cache: Path, http: HttpSettings, pinned: bool) -> tuple[Path, tuple[str, ...]]:
    """The local copy of the file at ``address``, and notes for people, one line each.

    ``pinned``: the caller checks the content, so a copy is taken as it is. Raises ``OSError``, ``ValueError`` or
    `Unreadable` if there is no copy and the address cannot be read.
    """
    readable = address.partition("?")[0].rpartition("/")[2][-_LONGEST_NAME:]  # a signature may be long, and is secret
    file = cache / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}-{readable}"
    if pinned and file.exists():
        return file, ()
    options = _options(http)
    if not file.exists():
        _fetch(address, file, options, None if pinned else _version(address, options))
        return file, ()
    now, then = _version(address, options), _stored_version(file)
    about = f"the copy of {_day(file)} is used (weights_sha256 pins a file)"
    if now is None or now == Status(None, None, None):
        return file, (f"weights {address}: whether they have changed could not be asked; {about}",)
    if now == then:
        return file, ()
    try:
        _fetch(address, file, options, now)
    except (OSError, Unreadable) as error:
        return file, (f"weights {address}: they have changed, but cannot be fetched ({error}); {about}",)
    return file, (f"weights {address}: they have changed since they were fetched, and were fetched again",)


def download(file: Path, fetch: Callable[[Path], None], seconds: float) -> None:
    """``fetch(path)``, then its file in the place of ``file``. Raises ``TimeoutError`` after ``seconds``.

    An abandoned download, or one at the end of a process, leaves nothing behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix="download-", ignore_cleanup_errors=True) as folder:
        downloaded = Path(folder) / file.name
        timeouts.within(seconds, fetch, downloaded)
        os.replace(downloaded, file)


def forget(file: Path) -> None:
    """Removes a copy that is not what was expected: the next run fetches it again."""
    file.unlink(missing_ok=True)
    _version_file(file).unlink(missing_ok=True)


def _fetch(address: str, file: Path, options: HttpSettings, version: Status | None) -> None:
    # The version was asked before the file: if the file changes in between, the next run sees it and fetches again.
    _version_file(file).unlink(missing_ok=True)
    if uris.scheme_of(address) in http_client.SCHEMES:
        download(file, lambda target: http_client.download(address, target, options), options.total_seconds)
    else:
        download(file, lambda target: blobs.download(address, target), options.total_seconds)
    if version is not None:
        with blobs.appearing_when_complete(_version_file(file)) as out:
            out.write(json.dumps(asdict(version)).encode())


def _options(http: HttpSettings) -> HttpSettings:
    """Settings name the address, so it may be in the operator's own network. Its file is large."""
    seconds = max(http.total_seconds, SECONDS_FOR_A_FILE)
    return http.model_copy(update={"private_addresses": True, "total_seconds": seconds})


def _version(address: str, options: HttpSettings) -> Status | None:
    """What the store says of the file without sending it; None if it does not answer."""
    if uris.scheme_of(address) in http_client.SCHEMES:
        return http_client.status(address, options.model_copy(update={"retries": 0}))
    try:
        found = timeouts.within(options.connect_seconds + options.read_seconds, blobs.status, address)
    except TimeoutError:
        return None
    return None if found is None else Status(found.size_bytes, None, str(found.modified_ns))


def _stored_version(file: Path) -> Status | None:
    try:
        return Status(**json.loads(_version_file(file).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _version_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.version")


def _day(file: Path) -> str:
    return f"{datetime.fromtimestamp(file.stat().st_mtime, timezone.utc):%Y-%m-%d}"
