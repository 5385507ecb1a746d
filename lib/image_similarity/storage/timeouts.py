"""Waits that end. Python cannot interrupt a call into the system: a read from a dead network drive, or the resolution
of a name. So such a call runs in a thread of its own, which is abandoned when it takes too long.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_MOST_ABANDONED = 32


def within(seconds: float, call: Callable[..., T], *arguments: Any) -> T:
    """``call(*arguments)``, run in a helper thread: its result, or what it raises.

    Raises ``TimeoutError`` after ``seconds``. The call then goes on in its thread, and its result is dropped. The
    thread is a daemon: neither the end of a task nor that of the process waits for it.
    """
    return _result(_helpers(os.getpid()).submit(call, arguments), seconds)


class Clock:
    """The seconds that a call may take without a break. While it waits for other calls the clock stands still, and
    afterwards it begins anew.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._began: float | None = time.monotonic()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The call enters this while it waits for others."""
        self._began = None
        try:
            yield
        finally:
            self._began = time.monotonic()

    def left(self) -> float:
        """Seconds until the clock runs out if the call does not stop it; not above 0 if it has run out."""
        began = self._began  # read once: the call sets it from its own thread
        return self.seconds if began is None else began + self.seconds - time.monotonic()


def by_clock(clock: Clock, call: Callable[..., T], *arguments: Any) -> T:
    """As `within`, for a call that stops ``clock`` while it waits for others."""
    future = _helpers(os.getpid()).submit(call, arguments)
    while (left := clock.left()) > 0:
        try:
            return _result(future, left)
        except TimeoutError:
            if future.done():
                return future.result()
    raise TimeoutError(f"no answer within {clock.seconds:g} s")


def one_of_many(seconds: float, call: Callable[..., T], *arguments: Any) -> T:
    """As `within`, for calls of which there may be as many as there are images.

    While 32 such calls of this process are abandoned and have not come back, others raise ``TimeoutError`` at once: a
    drive or store is gone, each further call would wait in vain, and leave a thread behind.
    """
    helpers = _helpers(os.getpid())
    if len(helpers.abandoned) >= _MOST_ABANDONED:
        raise TimeoutError(f"not tried: {len(helpers.abandoned)} earlier reads still have no answer")
    future = helpers.submit(call, arguments)
    try:
        return _result(future, seconds)
    finally:
        if not future.done():
            helpers.abandoned.add(future)
            future.add_done_callback(helpers.abandoned.discard)


def collected(seconds: float, items: Iterable[T]) -> list[T]:
    """All ``items``, as a list. Raises ``TimeoutError`` if none comes for ``seconds`` (at the latest after twice that
    time). They are iterated over in a helper thread.
    """
    collection = list[T]()
    future = _helpers(os.getpid()).submit(_extend, (collection, items))
    while True:
        before = len(collection)
        try:
            _result(future, seconds)
            return collection
        except TimeoutError:
            if len(collection) == before:
                raise


def _result(future: "Future[T]", seconds: float) -> T:
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():  # the error is the call's own, or the call ended at this very moment
            return future.result()
        raise TimeoutError(f"no answer within {seconds:g} s") from None


def _extend(collection: list[T], items: Iterable[T]) -> None:
    for item in items:  # one by one, so that the length tells of progress
        collection.append(item)


class _Helpers:
    """Helper threads of one process. Idle ones are used again, since starting a thread takes longer than most reads."""

    def __init__(self) -> None:
        self.abandoned: set[Future[Any]] = set()
        """Calls of `one_of_many` that have not come back."""
        self._idle: list[_Helper] = []

    def submit(self, call: Callable[..., T], arguments: tuple[Any, ...]) -> "Future[T]":
        future: Future[T] = Future()
        try:
            helper = self._idle.pop()
        except IndexError:
            helper = _Helper(self._idle)
            helper.start()
        helper.calls.put((future, call, arguments))
        return future


class _Helper(threading.Thread):
    def __init__(self, idle: "list[_Helper]"):
        super().__init__(name="helper", daemon=True)
        self.calls: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        self._idle = idle

    def run(self) -> None:
        while True:
            self._serve(*self.calls.get())

    def _serve(self, future: "Future[Any]", call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        # A method of its own: an idle helper must not hold on to a result, which may be a large file.
        try:
            result = call(*arguments)
        except BaseException as error:
            self._idle.append(self)  # first, so that whoever waits finds it idle for the next call
            future.set_exception(error)
        else:
            self._idle.append(self)
            future.set_result(result)


@lru_cache(maxsize=1)
def _helpers(process: int) -> _Helpers:
    """``process`` is part of the cache's key, since a forked child has none of its parent's threads."""
    return _Helpers()
