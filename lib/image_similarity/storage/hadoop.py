"""The operations of `image_similarity.storage.files` on Hadoop's file systems, through the JVM of a Spark session."""

import io
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from image_similarity.storage.files import LOCK_SECONDS, UpdatesUnderLock

_READ_AHEAD = 1 << 16


class HadoopFiles(UpdatesUnderLock):
    """Paths are URIs of any file system that the Spark session knows."""

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

    def files_below(self, path: str) -> list[tuple[str, str]]:
        """Path below ``path``, and URI, of every file below the folder; ``("", path)`` if it is a file."""
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            status = filesystem.getFileStatus(jpath)
            if status.isFile():
                return [("", path)]
            root, found = status.getPath().toString().rstrip("/") + "/", []
            listed = filesystem.listFiles(jpath, True)
            while listed.hasNext():
                uri = str(listed.next().getPath().toString())
                found.append((uri.removeprefix(root), uri))
            return found

    def open_input_file(self, path: str) -> io.BufferedReader:
        """The file at ``path``, to be read in any order. Slow: every read goes through the JVM's gateway."""
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            length = int(filesystem.getFileStatus(jpath).getLen())
            return io.BufferedReader(_JavaFile(filesystem.open(jpath), length), _READ_AHEAD)

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

    def sync(self, path: str) -> None:
        pass  # HDFS keeps what was closed on several machines

    def delete(self, path: str) -> None:
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            filesystem.delete(jpath, True)

    def delete_empty(self, path: str) -> None:
        with suppress(OSError), _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            if filesystem.exists(jpath):
                filesystem.delete(jpath, False)  # fails where something is in it

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
        """Create an empty file. False if the file exists, also if another publisher creates it at the same moment."""
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


class _JavaFile(io.RawIOBase):
    """A stream of Hadoop as a file of Python."""

    def __init__(self, stream: Any, length: int):
        self._stream, self._length, self._position = stream, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        with _java_errors_as_oserror():
            self._stream.seek(self._position)
            content = bytes(self._stream.readNBytes(min(len(buffer), self._length - self._position)))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


@contextmanager
def _java_errors_as_oserror() -> Iterator[None]:
    try:
        yield
    except Py4JJavaError as error:
        raise OSError(str(error.java_exception).splitlines()[0]) from error
