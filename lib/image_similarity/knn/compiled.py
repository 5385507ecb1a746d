"""Functions over arrays as machine code, made by numba at the first call and kept for the next process."""

import os
from collections.abc import Callable
from typing import Any

from numba import njit

# Without a home of its own (a container, a service) there is no place to keep them: each process compiles for itself, a
# second.
_KEPT = os.access(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~"), os.W_OK)


def compiled(any_order: bool = False) -> Callable[[Any], Any]:
    """Decorator. ``any_order``: sums may be added in any order, which is fast and leaves their last bits open."""
    options: dict[str, Any] = {"fastmath": {"reassoc", "nsz"}} if any_order else {}

    def decorated(function: Any) -> Any:
        try:
            return njit(nogil=True, cache=_KEPT, **options)(function)
        except RuntimeError:  # numba found no place
            return njit(nogil=True, **options)(function)

    return decorated
