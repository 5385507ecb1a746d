"""What tests have started is gone when they are, however they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SUPERVISED = Path(__file__).resolve().parents[2] / "tools" / "supervised.py"

STUBBORN = """
import os, signal, subprocess, sys, time
# A child in a session of its own that ignores SIGTERM, and is an orphan as soon as this one ends.
program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
time.sleep(0.5)
print(child.pid, flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


def supervised(seconds: float, code: int) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SUPERVISED), sys.executable, "-c", STUBBORN, str(seconds), str(code)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything(number: int) -> None:
    process = supervised(600, 0)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    os.kill(process.pid, number)
    assert process.wait(timeout=30) == 128 + number
    assert not psutil.pid_exists(child)


def test_what_the_command_leaves_is_ended_and_its_code_is_kept() -> None:
    process = supervised(0, 3)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    began = time.monotonic()
    assert process.wait(timeout=30) == 3 and not psutil.pid_exists(child)
    assert time.monotonic() - began < 30
