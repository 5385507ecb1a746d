"""Work in threads. What computes releases Python's lock, so that threads work side by side."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(threads: int, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results of ``work``, in the order of ``items``. After an error, or a signal, the rest is not begun."""
    if threads <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            pool.shutdown(cancel_futures=True)
