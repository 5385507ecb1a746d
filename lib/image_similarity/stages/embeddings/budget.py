"""Bounds the bytes that the threads of a task hold at once."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class ByteBudget:
    """Bytes that threads ask for before they read a file, and give back once they have decoded it.

    They get them in the order of asking. A file larger than the whole budget is read when no other is held. A thread
    that holds bytes must not ask for more: so those that hold some can always go on, and give them back.
    """

    def __init__(self, total: int):
        self._total, self._held = total, 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

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
