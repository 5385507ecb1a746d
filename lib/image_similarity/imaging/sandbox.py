"""Decoding in child processes: for files that may crash or hang a decoder, and for more pictures a second than the
threads of one Python process decode.

A child receives files and decodes them. Its memory is limited, and it is killed when one file takes too long. Its
answers are read as numbers and JSON, never as pickled objects. The same child decodes all files until one ends it.
"""

import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from queue import LifoQueue
from typing import Any

import numpy as np

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, framing, quality, thumbnails, thumbprint
from image_similarity.imaging.framing import Framed, Framing
from image_similarity.imaging.thumbnails import Thumbnails

_REQUEST = struct.Struct(">IQ")  # bytes of what is asked for, in JSON, and of the file
_ANSWER = struct.Struct(">I")  # bytes of an answer's header, in JSON
_LONGEST_DETAIL = 4096
_READY, _GO = b"ready", b"go"
_MOST_TOLD, _MOST_RECEIVED, _MOST_TURNS = 2**16, 2**27, 64
"""Bytes of a header and of another part of an answer, and turns for one file: a child that is taken over may claim
anything."""
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""What Python may need to start. The child gets no other variables: a decoder that is taken over finds no secrets."""

_SECONDS_OF_GRACE = 2.0
_SECONDS_TO_START = 300.0
"""The child imports numpy and Pillow, perhaps from a slow drive. That is no time of the file that waits for it."""

Shrink = Callable[[bytes], Thumbnails]


class IsolatedDecoders:
    """Decoding in child processes, which can be called from any thread. ``processes`` files are decoded at a time.

    ``memory_bytes``: largest address space of a child; ``seconds``: longest time for one file, without its wait for
    others and for the start of its child. Together children decode ``max_pixels`` at a time, and those that this
    process decodes itself count, see `decoding.open_upright`. Children are started when they are needed. They end with
    the context, when this is closed, or with this process. Raises ``RuntimeError`` if a child does not start: that is
    no file's fault.
    """

    def __init__(self, processes: int, max_pixels: int, memory_bytes: int, seconds: float):
        self.processes = processes
        self._children = [_Child(max_pixels, memory_bytes, seconds) for _ in range(processes)]
        self._idle: LifoQueue[_Child] = LifoQueue()  # the one that was used last, so that no more start than must
        for child in self._children:
            self._idle.put(child)

    def __enter__(self) -> "IsolatedDecoders":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def framed(self, content: bytes, framings: Sequence[Framing], measured: bool = False) -> Framed:
        """As `framing.framed`; `Unreadable` with ``decoder_crashed`` if the child died or took too long."""
        with self._one() as child:
            return child.framed(content, tuple(framings), measured)

    def thumbnails(self, content: bytes) -> Thumbnails:
        """As `thumbnails.thumbnails`; `Unreadable` with ``decoder_crashed`` if the child died or took too long."""
        with self._one() as child:
            return child.thumbnails(content)

    def close(self) -> None:
        """Waits for files that are being decoded, and ends the children."""
        with ExitStack() as all_of_them:
            for _ in self._children:
                all_of_them.enter_context(self._one()).end()

    @contextmanager
    def _one(self) -> Iterator["_Child"]:
        child = self._idle.get()
        try:
            yield child
        finally:
            self._idle.put(child)


@contextmanager
def thumbnailer(
    isolated: bool, max_pixels: int, memory_bytes: int, seconds: float
) -> Iterator[Callable[..., Thumbnails]]:
    """`thumbnails.thumbnails`, in this process or, if ``isolated``, in a child that ends with the context.

    See `IsolatedDecoders`.
    """
    if not isolated:
        yield partial(thumbnails.thumbnails, max_pixels=max_pixels)
        return
    with IsolatedDecoders(1, max_pixels, memory_bytes, seconds) as decoders:
        yield decoders.thumbnails


class _Child:
    """A process that decodes one file at a time. It is started for the first of them, and after one that ended it."""

    def __init__(self, max_pixels: int, memory_bytes: int, seconds: float):
        self._max_pixels, self._memory_bytes, self._seconds = max_pixels, memory_bytes, seconds
        self._process: "subprocess.Popen[bytes] | None" = None
        self._connection: "_Connection | None" = None

    def framed(self, content: bytes, framings: tuple[Framing, ...], measured: bool) -> Framed:
        shapes: list[tuple[int, ...]] = [(each.crop, each.crop, 3) for each in framings]
        shapes += [(thumbprint.SIDE, thumbprint.SIDE)] * len(framings)
        answer = self._ask(_in_json(framings, measured), content, list(map(math.prod, shapes)))
        parts = [np.frombuffer(part, np.uint8).reshape(shape) for part, shape in zip(answer.parts, shapes)]
        squares, thumbprints = parts[: len(framings)], parts[len(framings) :]
        return Framed(answer.width, answer.height, squares, thumbprints, *answer.about)

    def thumbnails(self, content: bytes) -> Thumbnails:
        answer = self._ask(_in_json(None, False), content, None)
        small, *large = map(bytes, answer.parts)
        return Thumbnails(answer.width, answer.height, small, large[0] if large else None, *answer.about)

    def end(self) -> str:
        """Says how the process ended, if there was one."""
        if self._connection is not None:
            self._connection.close()
        if self._process is None:
            return ""
        self._process.kill()
        return _exit_detail(self._process.wait())

    def _ask(self, what: bytes, content: bytes, sizes: list[int] | None) -> "_Answer":
        """The child's answer about ``content``, with parts of ``sizes`` bytes; it tells them itself if they are None.
        Raises `Unreadable`. A child that fails, or talks nonsense, is ended: it may be taken over.
        """
        connection = self._started()
        try:
            connection.restart_clock(self._seconds)
            connection.send(_REQUEST.pack(len(what), len(content)) + what)
            connection.send(content)
            answer = self._answer(connection, sizes)
        except Exception:
            raise Unreadable("decoder_crashed", self.end()) from None
        except BaseException:
            self.end()
            raise
        if isinstance(answer, _Answer):
            return answer
        raise Unreadable(*answer)

    def _answer(self, connection: "_Connection", sizes: list[int] | None) -> "_Answer | tuple[str, str]":
        """The answer, or reason and detail of `Unreadable`."""
        header = self._header(connection)
        if "reason" in header:
            return str(header["reason"]), str(header["detail"])
        width, height = int(header["width"]), int(header["height"])
        about: tuple[Any, ...]
        if sizes is None:
            sizes, about = header["bytes"][:2], _original(header["original"])
            if not sizes:
                raise ValueError("no thumbnail")
        else:
            about = _about(header)
        if not (0 < width < 2**31 and 0 < height < 2**31):
            raise ValueError("no picture")
        return _Answer(width, height, [connection.receive(size) for size in sizes], about)

    def _header(self, connection: "_Connection") -> dict[str, Any]:
        """The header of the answer. Before it the child asks for turns, each of which gives back the one before."""
        with ExitStack() as turn:
            for _ in range(_MOST_TURNS):
                header = connection.receive_json()
                if "turn" not in header:
                    return header
                turn.close()
                turn.enter_context(decoding.turns.taken(max(0, int(header["turn"])), self._max_pixels))
                connection.restart_clock(self._seconds)
                connection.send(_GO)
        raise ValueError("too many turns")

    def _started(self) -> "_Connection":
        if self._connection is None or self._process is None or self._process.poll() is not None:
            self.end()
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
            environment |= {"OPENBLAS_NUM_THREADS": "1"}  # numpy would keep one for each core, and nobody uses them
            command = [sys.executable, "-m", "image_similarity.imaging.sandbox"]
            command += [str(self._max_pixels), str(self._memory_bytes), str(self._seconds)]
            ours, theirs = socket.socketpair()
            with theirs:
                silent = subprocess.DEVNULL
                self._process = subprocess.Popen(
                    command, stdin=theirs.fileno(), stdout=silent, stderr=silent, env=environment
                )
            self._connection = _Connection(ours)
            self._wait_until_ready(self._connection)
        return self._connection

    def _wait_until_ready(self, connection: "_Connection") -> None:
        try:
            connection.restart_clock(_SECONDS_TO_START)
            is_ready = connection.receive(len(_READY)) == _READY
        except (OSError, EOFError):
            is_ready = False
        if not is_ready:
            raise RuntimeError(f"no process to decode images in: {self.end()} before the first of them")


@dataclass(frozen=True)
class _Answer:
    width: int
    height: int
    parts: list[bytearray]
    about: tuple[Any, ...]
    """With thumbnails: width, height and format of the original. Else format and measures, see `Framed`."""


def _original(of: Any) -> tuple[int, int, str]:
    """What a child says of the original. Raises ``ValueError`` for nonsense."""
    width, height, of_format = int(of[0]), int(of[1]), of[2]
    if not (0 < width < 2**31 and 0 < height < 2**31 and of_format in decoding.FORMATS):
        raise ValueError("no original")
    return width, height, str(of_format)


def _about(header: dict[str, Any]) -> tuple[str, tuple[float, ...] | None]:
    """What a child says of a picture: its format and measures. Raises ``ValueError`` for nonsense."""
    of_format, measures = header["format"], header["measures"]
    if of_format not in decoding.FORMATS:
        raise ValueError("no format")
    if measures is None:
        return str(of_format), None
    numbers = tuple(map(float, measures))
    if len(numbers) != len(quality.MEASURES) or not all(map(math.isfinite, numbers)):
        raise ValueError("no measures")
    return str(of_format), numbers


class _Connection:
    """One end of a pair of sockets. All calls raise ``TimeoutError`` once the clock has run out, ``OSError`` or
    ``EOFError`` if the other end is gone, and ``ValueError`` if it claims too much.
    """

    def __init__(self, end: socket.socket):
        self._end, self._until = end, 0.0

    def restart_clock(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def send(self, content: bytes) -> None:
        self._limit()
        self._end.sendall(content)

    def receive(self, size: int) -> bytearray:
        if size > _MOST_RECEIVED:
            raise ValueError(f"{size} bytes")
        content = bytearray(size)
        rest = memoryview(content)
        while rest:
            self._limit()
            count = self._end.recv_into(rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return content

    def receive_json(self) -> dict[str, Any]:
        (size,) = _ANSWER.unpack(self.receive(_ANSWER.size))
        if size > _MOST_TOLD:
            raise ValueError(f"{size} bytes")
        content: dict[str, Any] = json.loads(self.receive(size))
        return content

    def close(self) -> None:
        self._end.close()

    def _limit(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._end.settimeout(left)


@cache
def _in_json(framings: tuple[Framing, ...] | None, measured: bool) -> bytes:
    if framings is None:
        return json.dumps(None).encode()
    return json.dumps({"framings": [asdict(each) for each in framings], "measured": measured}).encode()


def _exit_detail(code: int) -> str:
    return (
        f"the decoding process was ended by signal {-code}"
        if code < 0
        else f"the decoding process ended with code {code}"
    )


# -- the child ---------------------------------------------------------------------------------------------------------


def main(max_pixels: int, memory_bytes: int, seconds: float) -> None:
    """The child process: answers requests until nobody is there who could make them.

    A file that takes longer than ``seconds`` ends it. Who asks ends it first, unless they were killed meanwhile.
    """
    _limit_memory(memory_bytes)
    seconds += _SECONDS_OF_GRACE
    with socket.socket(fileno=os.dup(0)) as end, end.makefile("rwb") as stream:

        @contextmanager
        def taken(pixels: int, limit: int) -> Iterator[None]:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _write(stream, {"turn": pixels})
            _exactly(stream, len(_GO))
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield

        decoding.prepare_process(max_pixels, taken)
        stream.write(_READY)
        stream.flush()
        while request := stream.read(_REQUEST.size):
            size, length = _REQUEST.unpack(request)
            what, content = json.loads(_exactly(stream, size)), _exactly(stream, length)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                header, parts = _answer(what, content, max_pixels)
            except Unreadable as error:
                header, parts = {"reason": error.reason, "detail": error.detail[:_LONGEST_DETAIL]}, []
            signal.setitimer(signal.ITIMER_REAL, 0)
            _write(stream, header, *parts)


def _answer(what: Any, content: bytes, max_pixels: int) -> tuple[dict[str, Any], Sequence[bytes | memoryview]]:
    """The header of an answer, and the bytes that follow it. ``what``: see `_in_json`; None for thumbnails."""
    if what is None:
        made = thumbnails.thumbnails(content, max_pixels)
        parts = [made.small] if made.large is None else [made.small, made.large]
        original = [made.pixel_width, made.pixel_height, made.format]
        sizes = [len(part) for part in parts]
        return {"width": made.width, "height": made.height, "bytes": sizes, "original": original}, parts
    framings = [Framing(**each) for each in what["framings"]]
    framed = framing.framed(content, framings, max_pixels, measured=what["measured"])
    pixels = [part.data.cast("B") for part in (*framed.squares, *framed.thumbprints)]
    about = {"format": framed.format, "measures": framed.measures}
    return {"width": framed.width, "height": framed.height, **about}, pixels


def _write(stream: Any, header: dict[str, Any], *parts: bytes | memoryview) -> None:
    content = json.dumps(header).encode()
    stream.write(_ANSWER.pack(len(content)) + content)
    for part in parts:
        stream.write(part)
    stream.flush()


def _exactly(stream: Any, length: int) -> bytes:
    content: bytes = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _limit_memory(memory_bytes: int) -> None:
    import resource  # some systems lack this module, others lack the limit

    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
