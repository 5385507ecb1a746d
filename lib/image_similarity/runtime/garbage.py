"""What Spark's Python workers do between two tasks costs next to nothing; and imports are not slowed by collections.

After each task a worker of Spark calls ``gc.collect()``, and is not free for the next task before that ends. It looks
at every object of every module: half a second with torch and pynndescent imported, which is more than most tasks take.
What survived such a collection is therefore frozen: later ones do not look at it again.
"""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_modules_when_frozen = 0
_pauses, _pausing = 0, threading.Lock()
_was_enabled, _freezes = True, False


def is_spark_worker() -> bool:
    """Whether Spark started this process to run tasks in Python."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "pyspark.daemon"


def freeze_modules() -> None:
    """From now on, freeze what a full collection leaves, whenever modules were imported since the last time.

    Not after every collection: what is frozen and ends up in a cycle is never freed, so that each time may lose a
    little.
    """
    if _after_collection not in gc.callbacks:
        gc.callbacks.append(_after_collection)


def freeze_after_pauses() -> None:
    """From now on, freeze what there is when `paused` ends: in a process that is this program's alone.

    Where the user's own program imports it, what is frozen may be the user's, and would never be freed.
    """
    global _freezes
    _freezes = True


def _after_collection(phase: str, info: "dict[str, int]") -> None:
    global _modules_when_frozen
    if phase == "stop" and info["generation"] == 2 and len(sys.modules) != _modules_when_frozen:
        _modules_when_frozen = len(sys.modules)
        gc.freeze()


@contextmanager
def paused() -> Iterator[None]:
    """No collections while this context is open, in any thread: for imports.

    Those of torch make hundreds of thousands of objects that stay. To look at them again and again takes a quarter of
    the time of the import; and a second at the end of the process, which `freeze_after_pauses` saves.
    """
    global _pauses, _was_enabled
    with _pausing:
        _pauses += 1
        if _pauses == 1:
            _was_enabled = gc.isenabled()
            gc.disable()
    try:
        yield
    finally:
        with _pausing:
            _pauses -= 1
            if not _pauses:
                if _freezes:
                    gc.freeze()
                if _was_enabled:  # the user may have disabled them
                    gc.enable()
