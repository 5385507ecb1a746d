"""Bytes at a URI, without Spark. Executors read images, blocks and weights through this module.

A location without a scheme is a literal path. ``file://`` and ``http(s)://`` are percent-encoded. Keys of object stores
are literal. ``s3a`` is ``s3``. pyarrow's file systems serve all schemes except HTTP, with their own credentials
(environment, profile or instance role).
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import pyarrow.fs as pafs

from image_similarity.storage import uris
from image_similarity.storage.uris import is_local, join, local_path, parent, scheme_of

HTTP_TIMEOUT_SECONDS = 20

_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileStatus:
    """Name, size and modification time of a file that was not opened."""

    uri: str
    """Literal path or URI, as `read` takes it."""
    path: str
    """Path below the listed root, with ``/`` between its parts."""
    size_bytes: int | None
    modified_ns: int | None
    """Nanoseconds since 1970, UTC; None if it is unknown, or after 2262, which 64 bits do not hold."""


@lru_cache(maxsize=None)
def _remote_filesystem(scheme: str, authority: str) -> Any:
    """The file system of a store: one for each store and process. Spark's workers fork before any read, so no file
    system is used across a fork.
    """
    if scheme == "s3":
        return pafs.S3FileSystem(
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            connect_timeout=HTTP_TIMEOUT_SECONDS,
            request_timeout=HTTP_TIMEOUT_SECONDS,
        )
    if scheme == "gs":
        return pafs.GcsFileSystem()
    return pafs.FileSystem.from_uri(f"{scheme}://{authority}/")[0]


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The pyarrow file system of ``uri``, and the path in it. ``ValueError`` if none serves the scheme."""
    scheme = scheme_of(uri)
    if scheme == "file":
        return pafs.LocalFileSystem(), local_path(uri)
    if scheme in ("s3", "gs"):
        bucket, key = uris.bucket_and_key(uri)
        return _remote_filesystem(scheme, ""), f"{bucket}/{key}"
    authority, _, key = uri.partition("://")[2].partition("/")
    if scheme in ("hdfs", "viewfs"):
        return _remote_filesystem(scheme, authority), f"/{key}"
    raise ValueError(f"no file system for {scheme}://")


def read(uri: str, max_bytes: int | None = None) -> bytes:
    """The whole content of the file at ``uri``.

    At most ``max_bytes`` + 1 bytes are read, so that the caller can see that a file is too long. Raises ``OSError``
    (``FileNotFoundError``, ``PermissionError``, ...), or ``ValueError`` if no file system serves the scheme.
    """
    limit = -1 if max_bytes is None else max_bytes + 1
    if is_local(uri):
        with open(local_path(uri), "rb", opener=_open_regular) as file:
            return file.read(limit)
    filesystem, path = filesystem_of(uri)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read(None if max_bytes is None else limit))


def _open_regular(path: str, flags: int) -> int:
    """An ``opener`` that takes regular files and folders only. To open a named pipe waits until somebody writes."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # Python has the right error for folders
        return descriptor
    os.close(descriptor)
    raise OSError(f"no regular file, but a pipe, a socket or a device: {path}")


def write(uri: str, content: bytes, content_type: str) -> None:
    """Write ``content`` to ``uri``, replace an existing file, and create folders. Readers see the old or the new
    content, never a part.

    Object stores keep ``content_type``, since browsers may open their files. Raises ``OSError``, or ``ValueError`` if
    no file system serves the scheme.
    """
    if is_local(uri):
        path = local_path(uri)
        partial = f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            file = open(partial, "wb")
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = open(partial, "wb")
        try:
            with file:
                file.write(content)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        return
    filesystem, path = filesystem_of(uri)
    if scheme_of(uri) in ("s3", "gs"):  # an object appears, whole, when its stream is closed
        with filesystem.open_output_stream(path, compression=None, metadata={"Content-Type": content_type}) as stream:
            stream.write(content)
        return
    partial = f"{path}.{secrets.token_hex(4)}.tmp"
    filesystem.create_dir(parent(path), recursive=True)
    with filesystem.open_output_stream(partial, compression=None) as stream:
        stream.write(content)
    filesystem.move(partial, path)


def delete(uri: str) -> None:
    """Remove the file at ``uri``, if there is one."""
    if is_local(uri):
        Path(local_path(uri)).unlink(missing_ok=True)
        return
    filesystem, path = filesystem_of(uri)
    try:
        filesystem.delete_file(path)
    except FileNotFoundError:
        pass


def open_input_file(uri: str) -> Any:
    """The file at ``uri`` as a random-access pyarrow file, for Parquet readers."""
    filesystem, path = filesystem_of(uri)
    return filesystem.open_input_file(path)


def open_stream(uri: str) -> Any:
    """The bytes of the file at ``uri`` from its beginning to its end, as a binary file.

    Raises ``OSError``, or ``ValueError`` if no file system serves the scheme.
    """
    if is_local(uri):
        return open(local_path(uri), "rb", opener=_open_regular)
    filesystem, path = filesystem_of(uri)
    return filesystem.open_input_stream(path, compression=None)


def create(uri: str) -> Any:
    """A pyarrow stream into the file at ``uri``, whose folders are created. Readers may see a part of the file."""
    filesystem, path = filesystem_of(uri)
    if scheme_of(uri) not in ("s3", "gs"):
        filesystem.create_dir(parent(path), recursive=True)
    return filesystem.open_output_stream(path, compression=None)


def download(uri: str, target: Path) -> None:
    """Copy the file at ``uri`` to ``target``, which appears only when it is complete. `http_client.download` serves
    HTTP.

    Raises ``OSError``, or ``ValueError`` if no file system serves the scheme.
    """
    filesystem, path = filesystem_of(uri)
    with appearing_when_complete(target) as out, filesystem.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(_CHUNK):
            out.write(chunk)


@contextmanager
def appearing_when_complete(target: Path) -> Iterator[IO[bytes]]:
    """A file to write. It replaces ``target`` at the end of the context, and is removed if the context fails."""
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        with open(partial, "wb") as out:
            yield out
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def exists(uri: str) -> bool:
    if is_local(uri):
        return os.path.exists(local_path(uri))
    filesystem, path = filesystem_of(uri)
    return bool(filesystem.get_file_info(path.rstrip("/")).type != pafs.FileType.NotFound)


def is_folder(uri: str) -> bool:
    if is_local(uri):
        return os.path.isdir(local_path(uri))
    filesystem, path = filesystem_of(uri)
    return bool(filesystem.get_file_info(path.rstrip("/")).type == pafs.FileType.Directory)


def status(uri: str) -> FileStatus | None:
    """Size and modification time of the file at ``uri``; None if they cannot be read, for whatever reason."""
    try:
        if is_local(uri):
            info = os.stat(local_path(uri))
            return FileStatus(uri, uri, info.st_size, _nanoseconds(info))
        filesystem, path = filesystem_of(uri)
        remote = filesystem.get_file_info(path)
        return FileStatus(uri, uri, remote.size, remote.mtime_ns) if remote.type == pafs.FileType.File else None
    except (OSError, ValueError):
        return None


def list_files(root: str) -> Iterator[FileStatus]:
    """Every file below the folder ``root``, each once.

    A folder that several links lead to is listed once: under its own name if that is below ``root``, else under the
    link that comes first by name. Files in hidden folders (with a leading dot) are left out. Raises ``OSError`` if a
    folder cannot be read.
    """
    return _list_local(local_path(root)) if is_local(root) else _list_remote(root)


def _list_local(root: str) -> Iterator[FileStatus]:
    seen: set[tuple[int, int]] = set()
    folders, links = [(root, "")], list[tuple[str, str]]()
    while folders or links:
        # What a link leads to may be met under its own name, later: links wait until all folders are done.
        folder, below = folders.pop() if folders else links.pop(0)
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in seen:
            continue
        seen.add((info.st_dev, info.st_ino))
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        for entry in entries:
            if not _is_folder(entry):
                yield _entry_status(entry, below)
            elif not entry.name.startswith("."):
                (links if entry.is_symlink() else folders).append((entry.path, f"{below}{entry.name}/"))
        links.sort(key=lambda link: link[1])


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entry_status(entry: "os.DirEntry[str]", below: str) -> FileStatus:
    path = f"{below}{entry.name}"
    try:
        info = entry.stat()
    except OSError:  # a link to nothing; the job that reads the image will report it
        return FileStatus(entry.path, path, None, None)
    return FileStatus(entry.path, path, info.st_size, _nanoseconds(info))


def _nanoseconds(info: os.stat_result) -> int | None:
    return info.st_mtime_ns if -(2**63) <= info.st_mtime_ns < 2**63 else None


def _list_remote(root: str) -> Iterator[FileStatus]:
    filesystem, path = filesystem_of(root)
    base = path.rstrip("/")
    for info in filesystem.get_file_info(pafs.FileSelector(base, recursive=True)):
        below = info.path.removeprefix(base).lstrip("/")
        in_hidden_folder = any(part.startswith(".") for part in below.split("/")[:-1])
        if info.type == pafs.FileType.File and not in_hidden_folder:
            yield FileStatus(join(root, below), below, info.size, info.mtime_ns)
