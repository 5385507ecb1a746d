"""All tests but the long ones, in two lanes that keep two cores busy: ``python tools/test_all.py`` (or ``make
test-all``).

Tests on clusters and in Airflow mostly wait for machines to start, so they have a lane of their own beside the others.
What a step prints is shown when it ends. The exit code is 0 if every step's is.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence

PYTEST = [sys.executable, "-m", "pytest"]
BY_TWO = ["-n", "2", "--dist", "loadfile"]
LANES = (
    (["tests/unit", "tests/spark", "tests/jobs", "tests/browser", *BY_TWO],),
    (["tests/cluster"], ["tests/airflow"]),
)


def main() -> int:
    codes: list[int] = []
    lanes = [threading.Thread(target=_run, args=(lane, codes)) for lane in LANES]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    return max(codes)


def _run(steps: Sequence[Sequence[str]], codes: list[int]) -> None:
    for step in steps:
        began = time.monotonic()
        done = subprocess.run(
            [*PYTEST, "-q", "--durations=15", *step], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        codes.append(done.returncode)
        print(
            f"== {' '.join(step)}: exit code {done.returncode} after {time.monotonic() - began:.0f} s\n{done.stdout}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
