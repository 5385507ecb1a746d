"""The operations of `image_similarity.storage.files` on Hadoop's file systems, through the JVM of a Spark session.

HDFS renames in one step, as `image_similarity.storage.renames` needs it. Other file systems need not: where Hadoop's
connector puts one together from several requests, only one job at a time may publish.
"""

import errno
import io
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from image_similarity.storage import renames
from image_similarity.storage.files import Change

_ERRNO = {
    "FileNotFoundException": errno.ENOENT,
    "FileAlreadyExistsException": errno.EEXIST,
    "ParentNotDirectoryException": errno.ENOTDIR,
    "AccessControlException": errno.EACCES,
}
"""Java's exceptions for which Python has one of its own."""

_READ_AHEAD = 1 << 16


class HadoopFiles:
    """Paths are URIs of any file system that the Spark session knows."""

    def __init__(self, spark: SparkSession):
        self._jvm: Any = spark._jvm
        self._configuration = spark._jsc.hadoopConfiguration()

    def _open(self, path: str) -> tuple[Any, Any]:
        jpath = self._jvm.org.apache.hadoop.fs.Path(path)
        return jpath.getFileSystem(self._configuration), jpath

    def read(self, path: str) -> bytes | None:
        try:
            with _java_errors_as_oserror():
                filesystem, jpath = self._open(path)
                stream = filesystem.open(jpath)
                try:
                    return bytes(stream.readAllBytes())
                finally:
                    stream.close()
        except FileNotFoundError:
            return None

    def entries(self, path: str) -> list[str]:
        try:
            with _java_errors_as_oserror():
                filesystem, jpath = self._open(path)
                if filesystem.getFileStatus(jpath).isFile():
                    raise NotADirectoryError(path)
                return [str(status.getPath().getName()) for status in filesystem.listStatus(jpath)]
        except FileNotFoundError:
            return []

    def write(self, path: str, content: bytes) -> None:
        temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            self.create(temporary, content)
            if not self.rename(temporary, path, overwrite=True):
                raise OSError(f"{temporary} was just written, and is gone")
        except BaseException:
            with suppress(OSError):
                self.delete(temporary)
            raise

    def create(self, path: str, content: bytes) -> None:
        """Write a new file, and create its folders. It is safe from a loss of power, if the file system can do so."""
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            stream = filesystem.create(jpath, True)
            try:
                stream.write(bytearray(content))
                if stream.hasCapability("hsync"):
                    stream.hsync()
            finally:
                stream.close()

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

    def rename(self, source: str, target: str, overwrite: bool = False) -> bool:
        """See `renames.Renames`. (``FileSystem.rename`` would move a folder into another one that exists.)"""
        fs = self._jvm.org.apache.hadoop.fs
        options = self._jvm.java.lang.reflect.Array.newInstance(fs.Options.Rename.NONE.getClass(), 1)
        options[0] = fs.Options.Rename.OVERWRITE if overwrite else fs.Options.Rename.NONE
        try:
            with _java_errors_as_oserror():
                target_path = fs.Path(target)
                context = fs.FileContext.getFileContext(target_path.toUri(), self._configuration)
                context.rename(fs.Path(source), target_path, options)
        except (FileNotFoundError, FileExistsError):
            return False
        return True

    def sync(self, path: str) -> None:
        """Nothing is done: a file of HDFS is on several machines when it is closed.

        Whether it is on their disks then, or in their memory for some seconds more, is a setting of HDFS
        (``dfs.datanode.synconclose``).
        """

    def delete(self, path: str) -> None:
        with _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            filesystem.delete(jpath, True)

    def delete_empty(self, path: str) -> None:
        with suppress(OSError), _java_errors_as_oserror():
            filesystem, jpath = self._open(path)
            filesystem.delete(jpath, False)  # fails where something is in it

    def update(self, path: str, change: Change) -> None:
        renames.update(self, path, change)

    def locked(self, path: str) -> AbstractContextManager[None]:
        return renames.locked(self, path)

    def size(self, path: str) -> int:
        try:
            with _java_errors_as_oserror():
                filesystem, jpath = self._open(path)
                return int(filesystem.getContentSummary(jpath).getLength())
        except FileNotFoundError:
            return 0

    def modified(self, path: str) -> float | None:
        try:
            with _java_errors_as_oserror():
                filesystem, jpath = self._open(path)
                return float(filesystem.getFileStatus(jpath).getModificationTime()) / 1000
        except FileNotFoundError:
            return None


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
        name = str(error.java_exception.getClass().getSimpleName())
        message = str(error.java_exception).splitlines()[0]
        raise (OSError(_ERRNO[name], message) if name in _ERRNO else OSError(message)) from error
