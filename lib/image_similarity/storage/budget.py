"""Bounds the bytes that the threads of a task hold at once."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from image_similarity.errors import Unreadable

T = TypeVar("T")


class ByteBudget:
    """``total`` bytes. ``threads`` ask for some before they read a file, and give them back once it is dealt with.

    They get them in the order of asking. A file larger than the whole budget is read when no other is held. A thread
    that holds bytes must not ask for more: so those that hold some can always go on, and give them back.
    """

    def __init__(self, total: int, threads: int):
        self._total, self._held = total, 0
        self._share = max(1, total // threads)
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reading(self, read: Callable[[int], T], most: int, expected: int | None = None) -> Iterator[T]:
        """``read(size)`` of a file of up to ``most`` bytes, which is held to the end of the context.

        Its bytes are asked for before it is read, so that no server and no clock waits meanwhile: ``expected``, or a
        thread's share if that is None. A file that turns out to be larger (`Unreadable`, ``too_many_bytes``) is read
        again, with room for ``most``.
        """
        for size in sorted({min(self._share if expected is None else expected, most), most}):
            with self.holding(size):
                try:
                    content = read(size)
                except Unreadable as error:
                    if error.reason == "too_many_bytes" and size < most:
                        continue
                    raise
                yield content
                return

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Waits until ``size`` bytes are free, and holds them to the end of the context."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(lambda: self._waiting[0] is turn and self._fits(size))
            self._waiting.popleft()
            self._held += size
            self._changed.notify_all()  # the next one may fit as well
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._held == 0 or self._held + size <= self._total
