"""Run a command, and leave nothing behind: ``python tools/supervised.py COMMAND...``.

Tests start JVMs, workers and jobs in sessions of their own. When this process is ended by SIGTERM, SIGINT or SIGHUP, or
when the command ends, everything that the command has started is ended, too: with SIGTERM first, and with SIGKILL where
that does not help. The exit code is the command's, or 128 and the signal's number.
"""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import psutil

GRACE_SECONDS = 3
_PR_SET_CHILD_SUBREAPER = 36


class _Ended(BaseException):
    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def run(command: Sequence[str]) -> int:
    """Run ``command`` to its end, or to the end of this process; its exit code."""
    _adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _raise)
    try:
        return subprocess.Popen(command).wait()
    except _Ended as ended:
        return 128 + ended.number
    finally:
        end_descendants()


def _raise(number: int, frame: Any) -> None:
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # once is enough: what follows takes a few seconds
    raise _Ended(number)


def _adopt_orphans() -> None:
    """On Linux, become the parent of processes whose own parent dies, so that they can be found."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """End all processes below this one."""
    known = psutil.Process().children(recursive=True)
    for process in known:
        _signal(process, signal.SIGTERM)
    psutil.wait_procs(known, timeout=GRACE_SECONDS)
    # Those that were started meanwhile, and orphans of the first, are here now.
    while rest := psutil.Process().children(recursive=True):
        for process in rest:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(rest, timeout=1)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
