"""Ends a worker process whose decoder hangs."""

import functools
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

from image_similarity.storage import timeouts

T = TypeVar("T")


def watched(seconds: float, decode: Callable[..., T]) -> Callable[..., T]:
    """``decode``, which ends this process if a call takes longer than ``seconds``.

    ``decode`` also takes ``waiting``, see `decoding.Waiting`: a picture's time begins anew when its turn comes. A hung
    decoder thread cannot be interrupted, so the worker is killed. Whoever started it tries its task again, and decodes
    in a child process then.
    """

    @functools.wraps(decode)
    def bounded(*arguments: Any, **options: Any) -> T:
        clock = timeouts.Clock(seconds)
        try:
            return timeouts.by_clock(clock, functools.partial(decode, *arguments, **options, waiting=clock.stopped))
        except TimeoutError:
            os.kill(os.getpid(), signal.SIGKILL)
            raise

    return bounded
