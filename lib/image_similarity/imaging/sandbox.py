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
from typing import Any, BinaryIO

import numpy as np

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding
from image_similarity.imaging.decoding import Picture

_REQUEST = struct.Struct(">QQ")  # bytes of the file, and `at_least` (0: None)


class IsolatedDecoder:
    """`decoding.decode` in a child process. It decodes one file at a time, and can be called from any thread.

    ``memory_bytes``: largest address space of the child; ``seconds``: longest time for one file.
    """

    def __init__(self, max_pixels: int, memory_bytes: int, seconds: float):
        self._arguments = [str(max_pixels), str(memory_bytes)]
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: "subprocess.Popen[bytes] | None" = None

    def decode(self, content: bytes, at_least: int | None = None) -> Picture:
        """As `decoding.decode`; `Unreadable` with ``decoder_crashed`` if the child died or took too long."""
        with self._lock:
            child = self._running_child()
            stop = threading.Timer(self._seconds, child.kill)
            stop.start()
            try:
                answer = _request(child, content, at_least)
            except (OSError, EOFError):
                child.kill()
                raise Unreadable("decoder_crashed", _exit_detail(child.wait())) from None
            finally:
                stop.cancel()
        if isinstance(answer, Picture):
            return answer
        raise Unreadable(*answer)

    def close(self) -> None:
        with self._lock:
            if self._child is not None:
                self._child.kill()
                self._child.wait()

    def _running_child(self) -> "subprocess.Popen[bytes]":
        if self._child is None or self._child.poll() is not None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [sys.executable, "-m", "image_similarity.imaging.sandbox", *self._arguments]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        return self._child


def _request(child: "subprocess.Popen[bytes]", content: bytes, at_least: int | None) -> Picture | tuple[str, str]:
    """The child's answer: a picture, or reason and detail of `Unreadable`. ``OSError`` or ``EOFError`` if there is
    none.
    """
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(_REQUEST.pack(len(content), at_least or 0))
    child.stdin.write(content)
    child.stdin.flush()
    header = json.loads(child.stdout.readline() or "null")
    if header is None:
        raise EOFError
    if "reason" in header:
        return header["reason"], header["detail"]
    rows, columns = header["shape"]
    pixels = np.frombuffer(_exactly(child.stdout, rows * columns * 3), np.uint8).reshape(rows, columns, 3)
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
    while header := requests.read(_REQUEST.size):
        length, at_least = _REQUEST.unpack(header)
        try:
            picture = decoding.decode(_exactly(requests, length), max_pixels, at_least or None)
        except Unreadable as error:
            answers.write(json.dumps({"reason": error.reason, "detail": error.detail}).encode() + b"\n")
        else:
            shape = picture.pixels.shape[:2]
            answers.write(
                json.dumps({"shape": shape, "width": picture.width, "height": picture.height}).encode() + b"\n"
            )
            answers.write(picture.pixels.tobytes())
        answers.flush()


def _limit_memory(memory_bytes: int) -> None:
    import resource  # some systems lack this module, others lack the limit

    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
