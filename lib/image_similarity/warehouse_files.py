"""The few file operations that publishing needs: read, replace, delete, and one writer at a time.

`LocalFiles` for a warehouse on this machine's file system, `image_similarity.object_files` for object stores, `HadoopFiles` for any
other, through the JVM and so with Spark's own credentials. All raise ``OSError`` when something cannot be done.
"""

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from image_similarity import storage
from image_similarity.object_files import LOCK_SECONDS
from image_similarity.object_files import SCHEMES as OBJECT_STORES
from image_similarity.object_files import ObjectFiles

Change = Callable[[bytes | None], bytes]


class Files(Protocol):
    def read(self, path: str) -> bytes | None:
        """The content of ``path``; None if there is no such file."""

    def entries(self, path: str) -> list[str]:
        """The names of what is in the folder ``path``; none if there is no such folder. ``NotADirectoryError`` for a file."""

    def write(self, path: str, content: bytes) -> None:
        """Replace ``path``, and create its folders; readers see the old content or the new, never a part."""

    def delete(self, path: str) -> None:
        """Remove a file or a folder with all that is in it; nothing happens if there is none."""

    def size(self, path: str) -> int:
        """Bytes of a file, or of all files in a folder; 0 if there is none."""

    def modified(self, path: str) -> float | None:
        """When the file was written, in seconds by the store's own clock; None if there is no such file."""

    def update(self, path: str, change: Change) -> None:
        """Replace what ``path`` holds by what ``change`` makes of it (None: there is no file), and lose nobody else's update.

        ``change`` may be called several times, the last time with what is really replaced; what it raises ends the update.
        """

    def locked(self, path: str) -> Any:
        """A context in which no other publisher is, by means of the file ``path``."""


def files_of(spark: SparkSession, uri: str) -> Files:
    """The operations for what is at ``uri``, as `storage.absolute` or `storage.for_spark` gives it."""
    if storage.is_local(uri):
        return LocalFiles()
    if storage.scheme_of(uri) in OBJECT_STORES:
        return ObjectFiles(uri)
    return HadoopFiles(spark)


class UpdatesUnderLock:
    """`Files.update` where a lock is what keeps others out."""

    def update(self: Any, path: str, change: Change) -> None:
        with self.locked(f"{storage.parent(path)}/_lock"):
            self.write(path, change(self.read(path)))


class LocalFiles(UpdatesUnderLock):
    """Paths are local paths."""

    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None

    def entries(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except FileNotFoundError:
            return []

    def write(self, path: str, content: bytes) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)  # where the disk is full, every byte counts
            raise

    def delete(self, path: str) -> None:
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    def size(self, path: str) -> int:
        if os.path.isfile(path):
            return os.path.getsize(path)
        return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)

    def modified(self, path: str) -> float | None:
        try:
            return os.stat(path).st_mtime
        except FileNotFoundError:
            return None

    @contextmanager
    def locked(self, path: str) -> Iterator[None]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it when the process dies
            yield


class HadoopFiles(UpdatesUnderLock):
    """Paths are URIs of any file system that this Spark knows."""

    def __init__(self, spark: SparkSession):
        self._jvm: Any = spark._jvm
        self._configuration = spark._jsc.hadoopConfiguration()

    def _open(self, path: str) -> tuple[Any, Any]:
        jpath = self._jvm.org.apache.hadoop.fs.Path(path)
        return jpath.getFileSystem(self._configuration), jpath

    def read(self, path: str) -> bytes | None:
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            if not filesystem.exists(jpath):
                return None
            stream = filesystem.open(jpath)
            try:
                return bytes(stream.readAllBytes())
            finally:
                stream.close()

    def entries(self, path: str) -> list[str]:
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            if not filesystem.exists(jpath):
                return []
            if filesystem.getFileStatus(jpath).isFile():
                raise NotADirectoryError(path)
            return [str(status.getPath().getName()) for status in filesystem.listStatus(jpath)]

    def write(self, path: str, content: bytes) -> None:
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            temporary = self._jvm.org.apache.hadoop.fs.Path(f"{path}.{secrets.token_hex(4)}.tmp")
            self._put(filesystem, temporary, content)
            self._rename_over(temporary, jpath)

    def _put(self, filesystem: Any, jpath: Any, content: bytes) -> None:
        stream = filesystem.create(jpath, True)
        stream.write(bytearray(content))
        stream.close()

    def _rename_over(self, source: Any, target: Any) -> None:
        rename = self._jvm.org.apache.hadoop.fs.Options.Rename
        options = self._jvm.java.lang.reflect.Array.newInstance(rename.OVERWRITE.getClass(), 1)
        options[0] = rename.OVERWRITE
        context = self._jvm.org.apache.hadoop.fs.FileContext.getFileContext(target.toUri(), self._configuration)
        context.rename(source, target, options)

    def delete(self, path: str) -> None:
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            filesystem.delete(jpath, True)

    @contextmanager
    def locked(self, path: str) -> Iterator[None]:
        deadline = time.monotonic() + 2 * LOCK_SECONDS
        while not self._create_new(path):
            if time.monotonic() > deadline:
                raise OSError(f"another job has held {path} for {2 * LOCK_SECONDS} s")
            written = self.modified(path)
            if written is not None and time.time() - written > LOCK_SECONDS:
                self.delete(path)
            time.sleep(0.2)
        try:
            yield
        finally:
            self.delete(path)

    def _create_new(self, path: str) -> bool:
        """Create an empty file; False if there is one, also one that another publisher creates at this moment."""
        filesystem, jpath = self._open(path)
        try:
            return bool(filesystem.createNewFile(jpath))
        except Py4JJavaError as error:
            if "FileAlreadyExists" in error.java_exception.getClass().getName():
                return False
            raise OSError(str(error.java_exception).splitlines()[0]) from error

    def size(self, path: str) -> int:
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            return int(filesystem.getContentSummary(jpath).getLength()) if filesystem.exists(jpath) else 0

    def modified(self, path: str) -> float | None:
        filesystem, jpath = self._open(path)
        try:
            return float(filesystem.getFileStatus(jpath).getModificationTime()) / 1000
        except Py4JJavaError as error:
            if "FileNotFound" in error.java_exception.getClass().getName():
                return None
            raise OSError(str(error.java_exception).splitlines()[0]) from error


@contextmanager
def _java_errors_as_oserror() -> Iterator[None]:
    try:
        yield
    except Py4JJavaError as error:
        raise OSError(str(error.java_exception).splitlines()[0]) from error
