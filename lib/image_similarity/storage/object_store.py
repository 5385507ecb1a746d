"""The operations of `image_similarity.storage.files` on an object store.

Object stores guarantee that an object appears whole or not at all. A *conditional put* replaces an object only if it is
unchanged since it was read (S3: If-Match and If-None-Match; Google's store: generation). So an update needs no lock: it
reads, changes, puts if unchanged, and repeats this otherwise. obstore accesses the store with the credentials of the
driver's environment. It does not know the credentials of Hadoop's connector, through which Spark writes tables.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from image_similarity.errors import WrongInput
from image_similarity.storage import blobs, locks, uris
from image_similarity.storage.files import Change

_NOT_FOUND = "404 Not Found"
"""In the message of an error: obstore has no class for a bucket that is not there."""


class ObjectFiles:
    """Paths are URIs in one bucket. ``WrongInput`` if that of ``uri`` cannot be one."""

    def __init__(self, uri: str):
        self._scheme = uris.scheme_of(uri)
        try:
            self._bucket, _ = uris.bucket_and_key(uri)
        except ValueError as error:
            raise WrongInput(str(error)) from None
        self._store = _store(self._scheme, self._bucket)

    def read(self, path: str) -> bytes | None:
        content, _ = self._get(path)
        return content

    def entries(self, path: str) -> list[str]:
        folder = f"{self._key(path)}/" if self._key(path) else ""  # a whole bucket may be the folder
        with _errors_as_oserror(path):
            try:
                listing = self._store.list_with_delimiter(folder or None)
            except BaseError as error:
                if _NOT_FOUND not in str(error):
                    raise
                # Of a folder without objects a store lists none.
                raise FileNotFoundError(f"there is no bucket {self._bucket}") from error
            names = [*listing["common_prefixes"], *(str(entry["path"]) for entry in listing["objects"])]
            if not names and folder and self._exists(path):
                raise NotADirectoryError(path)
        # Other programs mark a folder by an object with the folder's name. It is no entry.
        return [name.removeprefix(folder) for name in (name.rstrip("/") for name in names) if f"{name}/" != folder]

    def write(self, path: str, content: bytes) -> None:
        with _errors_as_oserror(path):
            self._store.put(self._key(path), content)

    def sync(self, path: str) -> None:
        pass  # what is closed is safe in the store

    def delete(self, path: str) -> None:
        with _errors_as_oserror(path):
            for batch in self._store.list(f"{self._key(path)}/"):
                self._store.delete([entry["path"] for entry in batch])
            if self._exists(path):
                self._store.delete(self._key(path))

    def delete_empty(self, path: str) -> None:
        pass  # a store has no folders

    def size(self, path: str) -> int:
        with _errors_as_oserror(path):
            if self._exists(path):
                return int(self._store.head(self._key(path))["size"])
            return sum(int(entry["size"]) for batch in self._store.list(f"{self._key(path)}/") for entry in batch)

    def modified(self, path: str) -> float | None:
        with _errors_as_oserror(path):
            try:
                written: datetime = self._store.head(self._key(path))["last_modified"]
            except FileNotFoundError:
                return None
        return written.timestamp()

    def update(self, path: str, change: Change) -> None:
        deadline = time.monotonic() + locks.GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            content, version = self._get(path)
            changed = change(content)
            if changed == content or self._put_if(path, changed, version):
                return
            locks.pause()
        raise OSError(
            f"{path} could not be replaced for {locks.GIVE_UP_SECONDS:.0f} s: does the store know conditional puts?"
        )

    @contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """The lock names its holder, who writes it anew every few seconds. An empty one is free."""
        owner, patience = secrets.token_hex(8).encode(), locks.Patience()
        while not self._acquire(path, owner, patience):
            locks.pause()

        def renew() -> None:
            self._replace_own(path, owner, _sign_of_life(owner))

        try:
            with locks.beating(renew, locks.BEAT_SECONDS, f"lock {path}"):
                yield
        except BaseException:
            with suppress(OSError):  # others wait for a minute then
                self._replace_own(path, owner, b"")
            raise
        if not self._replace_own(path, owner, b""):
            raise OSError(f"{path}: {locks.LOST}")

    def _acquire(self, path: str, owner: bytes, patience: locks.Patience) -> bool:
        """Write the lock ``path`` if it is free, or if its holder is dead. Whether ``owner`` has it now."""
        content, version = self._get(path)
        if content and content.startswith(owner):
            return True  # the answer to the last attempt was lost
        if content and not patience.ends(content):
            return False
        return bool(self._put_if(path, _sign_of_life(owner), version))

    def _replace_own(self, path: str, owner: bytes, content: bytes) -> bool:
        """Replace the lock ``path`` if ``owner`` still has it. Whether it had."""
        latest, version = self._get(path)
        if not latest or not latest.startswith(owner):
            return False
        self._put_if(path, content, version)
        return True

    def _get(self, path: str) -> "tuple[bytes | None, Any]":
        """The content of ``path`` and its version; None, None if there is no such object."""
        with _errors_as_oserror(path):
            try:
                result = self._store.get(self._key(path))
            except FileNotFoundError:
                return None, None
            return bytes(result.bytes()), _version(result.meta)

    def _put_if(self, path: str, content: bytes, version: Any) -> Any:
        """Write ``content`` if the object is still ``version`` (None: there is none). The new version, or None if the
        object was changed.
        """
        with _errors_as_oserror(path):
            try:
                result = self._store.put(self._key(path), content, mode=version or "create")
            except (AlreadyExistsError, PreconditionError):
                return None
            return _version(result)

    def _exists(self, path: str) -> bool:
        try:
            self._store.head(self._key(path))
        except FileNotFoundError:
            return False
        return True

    def _key(self, path: str) -> str:
        return path.partition("://")[2].partition("/")[2].rstrip("/")


def _sign_of_life(owner: bytes) -> bytes:
    """Another content each time, since a store may name a version by its content alone. The time is for people."""
    return owner + f" {secrets.token_hex(4)} {datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}".encode()


def _version(meta: Any) -> "dict[str, str]":
    """The name of one version, for `put`: ETag and, if the store has it, version."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


def _store(scheme: str, bucket: str) -> Any:
    options: Any = {"timeout": f"{blobs.HTTP_TIMEOUT_SECONDS}s"}
    if scheme == "gs":
        return obstore.store.GCSStore(bucket, client_options=options)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    store_options: Any = {}
    if endpoint:
        store_options["endpoint"] = endpoint
        options["allow_http"] = endpoint.startswith("http://")
    return obstore.store.S3Store(bucket, client_options=options, **store_options)


@contextmanager
def _errors_as_oserror(path: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f"{path}: {str(error).splitlines()[0]}") from error
