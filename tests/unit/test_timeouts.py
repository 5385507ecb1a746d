"""Calls that are given up: what becomes of them, of their threads, and of the process."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from image_similarity.storage import timeouts

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def answered() -> Iterator[threading.Event]:
    """What hanging calls wait for; set at the end."""
    event = threading.Event()
    yield event
    event.set()


def test_results_and_errors_are_those_of_the_call() -> None:
    def late() -> None:
        raise TimeoutError("its own")

    assert timeouts.within(9, divmod, 7, 2) == (3, 1) and timeouts.one_of_many(9, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        timeouts.within(9, divmod, 7, 0)
    with pytest.raises(TimeoutError, match="its own"):
        timeouts.by_clock(timeouts.Clock(9), late)
    for bounded in (timeouts.within, timeouts.one_of_many):
        with pytest.raises(TimeoutError, match="its own"):
            bounded(9, late)


def test_a_call_that_hangs_is_given_up(answered: threading.Event) -> None:
    with pytest.raises(TimeoutError, match="no answer within 0.05 s"):
        timeouts.within(0.05, answered.wait)
    assert timeouts.within(9, divmod, 7, 2) == (3, 1)


def test_time_in_which_a_call_waits_for_others_is_not_its_own(answered: threading.Event) -> None:
    clock = timeouts.Clock(0.2)

    def wait_and_work() -> str:
        for _ in range(2):
            with clock.stopped():
                answered.wait(0.5)
        return "done"

    assert timeouts.by_clock(clock, wait_and_work) == "done"

    def wait_and_hang() -> None:
        with clock.stopped():
            answered.wait(0.5)
        answered.wait()

    with pytest.raises(TimeoutError, match="no answer within 0.2 s"):
        timeouts.by_clock(clock, wait_and_hang)


def test_a_process_ends_with_calls_that_hang() -> None:
    program = (
        "import threading; from image_similarity.storage import timeouts\n"
        "try: timeouts.within(0.05, threading.Event().wait)\n"
        "except TimeoutError: print('given up')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "given up\n", "")


def test_many_calls_that_hang_stop_others_until_they_come_back(answered: threading.Event) -> None:
    def hang() -> None:
        with pytest.raises(TimeoutError, match="no answer within"):
            timeouts.one_of_many(0.05, answered.wait)

    with ThreadPoolExecutor(8) as pool:
        for given_up in [pool.submit(hang) for _ in range(32)]:
            given_up.result()
    for _ in range(100):
        with pytest.raises(TimeoutError, match="not tried: 32 earlier reads still have no answer"):
            timeouts.one_of_many(9, divmod, 7, 2)
    assert timeouts.within(9, divmod, 7, 2) == (3, 1), "what is not one of many is tried"
    answered.set()
    while timeouts._helpers(os.getpid()).abandoned:
        time.sleep(0.01)
    assert timeouts.one_of_many(9, divmod, 7, 2) == (3, 1)


def test_threads_are_used_again_and_hold_no_results() -> None:
    class Large:
        pass

    timeouts.within(9, int)
    before = threading.active_count()
    for _ in range(100):
        timeouts.within(9, int)
    assert threading.active_count() == before
    result = timeouts.within(9, Large)
    held = weakref.ref(result)
    del result
    end = time.monotonic() + 10
    while held() is not None and time.monotonic() < end:
        time.sleep(0.01)  # the helper is about to let it go
    assert held() is None


def _answer(answers: Any) -> None:
    answers.put(timeouts.within(9, divmod, 7, 2))


def test_a_forked_child_has_threads_of_its_own() -> None:
    timeouts.within(9, int)
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    child = fork.Process(target=_answer, args=(answers,))
    child.start()
    assert answers.get(timeout=20) == (3, 1)
    child.join()


def test_a_listing_is_given_up_when_nothing_more_comes(answered: threading.Event) -> None:
    def listing(pauses: list[float]) -> Iterator[float]:
        for pause in pauses:
            answered.wait(pause)
            yield pause

    assert timeouts.collected(0.2, listing([0.05] * 10)) == [0.05] * 10, "longer in all, and never still"
    with pytest.raises(TimeoutError, match="no answer within 0.1 s"):
        timeouts.collected(0.1, listing([0.0, 0.0, 60.0]))
    with pytest.raises(ZeroDivisionError):
        timeouts.collected(9, (1 // number for number in (1, 0)))
