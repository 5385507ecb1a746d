"""What Spark's Python workers do between two tasks costs next to nothing.

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


def _after_collection(phase: str, info: "dict[str, int]") -> None:
    global _modules_when_frozen
    if phase == "stop" and info["generation"] == 2 and len(sys.modules) != _modules_when_frozen:
        _modules_when_frozen = len(sys.modules)
        gc.freeze()


@contextmanager
def paused() -> Iterator[None]:
    """No collections while this context is open, in any thread, and none of what is there when it ends: for imports.

    Those of torch make hundreds of thousands of objects that stay. To look at them again and again takes a quarter of
    the time of the import, and a second at the end of the process.
    """
    global _pauses
    with _pausing:
        _pauses += 1
        if _pauses == 1:
            gc.disable()
    try:
        yield
    finally:
        with _pausing:
            _pauses -= 1
            if not _pauses:
                gc.freeze()
                gc.enable()
