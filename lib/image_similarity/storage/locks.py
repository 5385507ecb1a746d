"""What the locks of stores without a kernel share: signs of life, and the patience to wait for them.

A holder changes its lock every few seconds. A waiter takes the lock away once it has seen no change for a minute, by
its own clock, which nobody sets. No two clocks are compared, so a clock that is wrong does no harm.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

LOCK_SECONDS = 60.0
"""The holder of a lock that has shown no sign of life for so long is dead."""
BEAT_SECONDS = LOCK_SECONDS / 6
"""Time between two signs of life. Some may be lost or late."""
GIVE_UP_SECONDS = 5 * LOCK_SECONDS
"""An update that takes longer will never succeed: the store lacks what it needs. A dead holder takes a fifth of it."""
LOST = "this job showed no sign of life for a minute, and another one went on in its place: run it again"


class Patience:
    """How long one waiter has seen the same holder."""

    def __init__(self) -> None:
        self._seen: Any = None
        self._since = time.monotonic()

    def ends(self, seen: Any) -> bool:
        """Whether ``seen``, the name of the holder and its latest sign of life, has been the same for too long."""
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since > LOCK_SECONDS


def pause() -> None:
    """Waits a moment before the next attempt. It is random, so that two waiters do not meet again and again."""
    time.sleep(random.uniform(0.02, 0.2))


@contextmanager
def beating(beat: Callable[[], Any], seconds: float, name: str) -> Iterator[None]:
    """Calls ``beat`` every so many seconds, in a thread called ``name``, until the context ends.

    An ``OSError`` is ignored: the store may be back at the next beat.
    """
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            with suppress(OSError):
                beat()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
