"""Modules are looked at once by the collections of a worker, and are not a worker's elsewhere."""

import subprocess
import sys

import pytest

FREEZING = """
import gc, sys
import image_similarity
from image_similarity.runtime import garbage
assert not garbage.is_spark_worker() and garbage._after_collection not in gc.callbacks
garbage.freeze_modules()
garbage.freeze_modules()
gc.collect()
first = gc.get_freeze_count()
kept = [[] for _ in range(1000)]
gc.collect()
assert gc.get_freeze_count() == first, "no module came: what is alive now may be garbage later"
import colorsys
gc.collect()
print(first, gc.get_freeze_count(), sum(len(gc.get_objects(generation)) for generation in range(3)))
"""


def test_what_collections_left_is_frozen_when_modules_came() -> None:
    done = subprocess.run([sys.executable, "-c", FREEZING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, tracked = map(int, done.stdout.split())
    assert first > 1000 and second > first + 1000 and tracked < 100


@pytest.mark.parametrize("name", ["pyspark.daemon", "pyspark.worker", "json"])
def test_only_workers_of_spark_do_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.machinery import ModuleSpec

    from image_similarity.runtime import garbage

    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec(name, None))
    assert garbage.is_spark_worker() == (name == "pyspark.daemon")


PAUSING = """
import gc, threading
from image_similarity.runtime import garbage
inside, leave = threading.Event(), threading.Event()
def other():
    with garbage.paused():
        inside.set()
        leave.wait()
thread = threading.Thread(target=other)
with garbage.paused():
    thread.start()
    inside.wait()
    assert not gc.isenabled()
assert not gc.isenabled(), "the other thread has not ended"
leave.set()
thread.join()
assert gc.isenabled() and not gc.get_freeze_count(), "what is alive may be the user's, and garbage later"
gc.disable()
with garbage.paused():
    pass
assert not gc.isenabled(), "the user has disabled them"
gc.enable()
garbage.freeze_after_pauses()
try:
    with garbage.paused():
        raise ImportError
except ImportError:
    assert gc.isenabled() and gc.get_freeze_count() > 1000
"""


def test_collections_wait_until_the_last_import_ends() -> None:
    done = subprocess.run([sys.executable, "-c", PAUSING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
