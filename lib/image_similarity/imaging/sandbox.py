"""Decoding in a child process, for files that may crash or hang a decoder.

The child receives files and decodes them. Its memory is limited, and it is killed when one file takes too long. Its
answers are read as numbers and JSON, never as pickled objects. The same child decodes all files until one ends it.
"""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, thumbnails
from image_similarity.imaging.decoding import Picture
from image_similarity.imaging.thumbnails import Thumbnails

_REQUEST = struct.Struct(">BQQ")  # what is asked for, bytes of the file, and `at_least` (0: None)
_PIXELS, _THUMBNAILS = 0, 1
_READY = b"ready\n"
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""What Python may need to start. The child gets no other variables: a decoder that is taken over finds no secrets."""

_SECONDS_TO_START = 300.0
"""The child imports numpy and Pillow, perhaps from a slow drive. That is no time of the file that waits for it."""

Shrink = Callable[[bytes], Thumbnails]
Answer = Picture | Thumbnails | tuple[str, str]


class IsolatedDecoder:
    """Decoding in a child process. It decodes one file at a time, and can be called from any thread.

    ``memory_bytes``: largest address space of the child; ``seconds``: longest time for one file, without its wait for
    others and for the start of the child. The child ends with the context of the decoder, or when it is closed. Raises
    ``RuntimeError`` if the child does not start: that is no file's fault.
    """

    def __init__(self, max_pixels: int, memory_bytes: int, seconds: float):
        self._arguments = [str(max_pixels), str(memory_bytes)]
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: "subprocess.Popen[bytes] | None" = None

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def decode(self, content: bytes, at_least: int | None = None) -> Picture:
        """As `decoding.decode`; `Unreadable` with ``decoder_crashed`` if the child died or took too long."""
        answer = self._ask(_PIXELS, content, at_least)
        assert isinstance(answer, Picture)
        return answer

    def thumbnails(self, content: bytes) -> Thumbnails:
        """As `thumbnails.thumbnails`; `Unreadable` with ``decoder_crashed`` if the child died or took too long."""
        answer = self._ask(_THUMBNAILS, content, None)
        assert isinstance(answer, Thumbnails)
        return answer

    def _ask(self, what: int, content: bytes, at_least: int | None) -> Picture | Thumbnails:
        with self._lock:
            child = self._running_child()
            try:
                with _killed_after(self._seconds, child):
                    answer = _request(child, what, content, at_least)
            except (OSError, EOFError):
                child.kill()
                raise Unreadable("decoder_crashed", _exit_detail(child.wait())) from None
        if isinstance(answer, tuple):
            raise Unreadable(*answer)
        return answer

    def close(self) -> None:
        with self._lock:
            if self._child is not None:
                self._child.kill()
                self._child.wait()

    def _running_child(self) -> "subprocess.Popen[bytes]":
        if self._child is None or self._child.poll() is not None:
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
            command = [sys.executable, "-m", "image_similarity.imaging.sandbox", *self._arguments]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
            _wait_until_ready(self._child)
        return self._child


def _wait_until_ready(child: "subprocess.Popen[bytes]") -> None:
    assert child.stdout is not None
    with _killed_after(_SECONDS_TO_START, child):
        is_ready = child.stdout.readline() == _READY
    if not is_ready:
        child.kill()
        raise RuntimeError(f"no process to decode images in: {_exit_detail(child.wait())} before the first of them")


@contextmanager
def _killed_after(seconds: float, child: "subprocess.Popen[bytes]") -> Iterator[None]:
    stop = threading.Timer(seconds, child.kill)
    stop.start()
    try:
        yield
    finally:
        stop.cancel()


@contextmanager
def thumbnailer(
    isolated: bool, max_pixels: int, memory_bytes: int, seconds: float
) -> Iterator[Callable[..., Thumbnails]]:
    """`thumbnails.thumbnails`, in this process or, if ``isolated``, in a child that ends with the context.

    See `IsolatedDecoder`.
    """
    if not isolated:
        yield partial(thumbnails.thumbnails, max_pixels=max_pixels)
        return
    with IsolatedDecoder(max_pixels, memory_bytes, seconds) as decoder:
        yield decoder.thumbnails


def _request(child: "subprocess.Popen[bytes]", what: int, content: bytes, at_least: int | None) -> Answer:
    """The child's answer, or reason and detail of `Unreadable`. ``OSError`` or ``EOFError`` if there is none."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(_REQUEST.pack(what, len(content), at_least or 0))
    child.stdin.write(content)
    child.stdin.flush()
    header = json.loads(child.stdout.readline() or "null")
    if header is None:
        raise EOFError
    if "reason" in header:
        return header["reason"], header["detail"]
    parts = [_exactly(child.stdout, length) for length in header["parts"]]
    if what == _THUMBNAILS:
        return Thumbnails(header["width"], header["height"], parts[0], parts[1] if len(parts) > 1 else None)
    pixels = np.frombuffer(parts[0], np.uint8).reshape(*header["shape"], 3)
    return Picture(pixels, header["width"], header["height"])


def _exactly(stream: BinaryIO | Any, length: int) -> bytes:
    content: bytes = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _exit_detail(code: int) -> str:
    return (
        f"the decoding process was ended by signal {-code}"
        if code < 0
        else f"the decoding process ended with code {code}"
    )


def main(max_pixels: int, memory_bytes: int) -> None:
    """The child process: answers requests until its standard input ends."""
    _limit_memory(memory_bytes)
    decoding.prepare_process(max_pixels)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(_READY)
    answers.flush()
    while header := requests.read(_REQUEST.size):
        what, length, at_least = _REQUEST.unpack(header)
        try:
            told, parts = _answer(what, _exactly(requests, length), max_pixels, at_least or None)
        except Unreadable as error:
            told, parts = {"reason": error.reason, "detail": error.detail}, []
        answers.write(json.dumps({**told, "parts": [len(part) for part in parts]}).encode() + b"\n")
        for part in parts:
            answers.write(part)
        answers.flush()


def _answer(
    what: int, content: bytes, max_pixels: int, at_least: int | None
) -> tuple[dict[str, Any], Sequence[bytes | memoryview]]:
    """The header of an answer, and the bytes that follow it."""
    if what == _THUMBNAILS:
        made = thumbnails.thumbnails(content, max_pixels)
        parts = [made.small] if made.large is None else [made.small, made.large]
        return {"width": made.width, "height": made.height}, parts
    picture = decoding.decode(content, max_pixels, at_least)
    told = {"shape": picture.pixels.shape[:2], "width": picture.width, "height": picture.height}
    return told, [picture.pixels.data.cast("B")]


def _limit_memory(memory_bytes: int) -> None:
    import resource  # some systems lack this module, others lack the limit

    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
