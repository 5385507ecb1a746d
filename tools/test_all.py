"""All tests but the long ones: ``python tools/test_all.py`` (or ``make test-all``).

Two things run at a time, whatever they are: more would make two cores slower, and tests that wait for something fail.
First, tests without jobs, by two processes. Then whole jobs and pages, beside tests on clusters and in Airflow. What a
step prints is shown when it ends. The exit code is 0 if every step's is.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence

PYTEST = [sys.executable, "-m", "pytest", "--durations=10"]
Steps = Sequence[Sequence[str]]
PHASES: Sequence[Sequence[Steps]] = (
    ([["tests/unit", "tests/spark", "-n", "2", "--dist", "loadfile"]],),
    ([["tests/jobs", "tests/browser"]], [["tests/cluster"], ["tests/airflow"]]),
)
"""One after the other; each is lanes that run beside one another, and a lane is steps, one after the other."""


def main() -> int:
    codes: list[int] = []
    for lanes in PHASES:
        threads = [threading.Thread(target=_run, args=(steps, codes)) for steps in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return max(codes)


def _run(steps: Steps, codes: list[int]) -> None:
    for step in steps:
        began = time.monotonic()
        done = subprocess.run([*PYTEST, *step], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        codes.append(done.returncode)
        seconds = time.monotonic() - began
        print(f"== {' '.join(step)}: exit code {done.returncode} after {seconds:.0f} s\n{done.stdout}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
