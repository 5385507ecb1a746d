"""Functions over arrays as machine code. numba compiles them at the first call and caches them for the next process."""

import os
from collections.abc import Callable
from typing import Any

from numba import njit

# A container or a service may have no writable home folder. Then there is no cache: each process compiles for itself,
# which takes a second.
_CACHE = os.access(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~"), os.W_OK)


def compiled(any_order: bool = False) -> Callable[[Any], Any]:
    """Decorator. ``any_order``: sums may be added in any order. This is fast, but their last bits are not defined."""
    options: dict[str, Any] = {"fastmath": {"reassoc", "nsz"}} if any_order else {}

    def decorated(function: Any) -> Any:
        try:
            return njit(nogil=True, cache=_CACHE, **options)(function)
        except RuntimeError:  # numba has no folder for its cache
            return njit(nogil=True, **options)(function)

    return decorated
