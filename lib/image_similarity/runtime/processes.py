"""Worker processes of a job that needs no Spark: tasks in processes that may die, as Spark's workers may.

A server imports what tasks need, once, and forks a worker for each task that runs at the same time. A task whose worker
dies is tried again in a new one, and knows it. All processes end with the job's, even if that is killed: their sockets
close then.

Workers are sent pickled objects. Their answers are read as JSON, never as pickled objects: a decoder that is taken over
by a hostile file takes over its worker, and not the job.
"""

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import Connection, wait
from typing import Any

from image_similarity.errors import JobFailed

ATTEMPTS = 3
"""As many as Spark's on one machine, see conf/spark/local.conf."""


class Mark(Enum):
    """What is no answer: no worker can say it."""

    BEGUN = 1
    DONE = 2


BEGUN, DONE = Mark.BEGUN, Mark.DONE
_LONGEST_ANSWER = 64 * 2**20  # bytes
_ANSWER_SECONDS = 60
"""The longest pause within an answer that has begun. A worker that is taken over might never end it."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables for libraries that would start a thread for each core in each worker. Spark sets the first one, too."""


@dataclass(frozen=True)
class Task:
    """A task as a worker gets it."""

    number: int
    attempt: int
    """0, or how often the task was tried before. Its worker may have died of a hostile file."""
    work: Any


Run = Callable[[Task], Iterator[Any]]
"""A module's function that does a task, and yields answers that JSON can say."""


class Server:
    """A process that imports ``modules``, and forks workers that have them. Nobody waits until it has."""

    def __init__(self, modules: Sequence[str]):
        self._control, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
        environment |= {name: "1" for name in _THREADS}
        # A group of its own: Ctrl-C reaches the job alone, which ends its workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "image_similarity.runtime.processes", *modules],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,  # the job's own is for its messages
            env=environment,
            process_group=0,
        )
        theirs.close()
        self.is_closed = False
        atexit.register(self.close)

    def worker(self) -> Connection:
        """A connection to a new worker."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"1"], [theirs.fileno()])
            except OSError:
                raise JobFailed(f"no worker processes: their server ended with code {self._process.wait()}") from None
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _ANSWER_SECONDS, 0))
        return Connection(ours.detach())

    def close(self) -> None:
        """Ends the server and all of its workers."""
        if self.is_closed:
            return  # its number may be another process's by now
        self.is_closed = True
        self._control.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        atexit.unregister(self.close)


_prepared: dict[tuple[str, ...], Server] = {}


def prepare(*modules: str) -> Server:
    """The server that has ``modules``; started if it is not there. Called early, it imports them meanwhile."""
    if modules not in _prepared or _prepared[modules].is_closed:
        _prepared[modules] = Server(modules)
    return _prepared[modules]


def release() -> None:
    """Ends all servers."""
    while _prepared:
        _prepared.popitem()[1].close()


def task_count(cores: int, units: int, least: int, most: int) -> int:
    """The number of tasks for ``units`` of work, with ``least`` to ``most`` units in each if possible.

    There are enough tasks to show progress and to finish together, and few enough that starting them costs little. The
    number is a multiple of the cores.
    """
    tasks = max(units / most, min(units / least, 4 * cores))
    return max(1, -(-round(tasks) // cores) * cores)


def run(server: Server, function: Run, tasks: Sequence[Any], most: int) -> Generator[tuple[int, Any], None, None]:
    """The answers of ``function`` to each of ``tasks``, at most ``most`` at a time, as (number of the task, answer).

    `BEGUN` stands before the answers of each attempt of a task, and `DONE` after those of the one that succeeded.
    Raises ``JobFailed`` if a worker died, or a task raised, in each of `ATTEMPTS` attempts.
    """
    waiting = [Task(number, 0, work) for number, work in enumerate(tasks)][::-1]
    busy: dict[Connection, Task] = {}
    idle: list[Connection] = []
    try:
        while busy or waiting:
            while waiting and len(busy) < most:
                yield waiting[-1].number, BEGUN
                _begin(idle.pop() if idle else server.worker(), function, waiting.pop(), busy)
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                task, (kind, answer) = busy[connection], _received(connection)
                if kind == "answer":
                    yield task.number, answer
                    continue
                del busy[connection]
                if kind == "done":
                    idle.append(connection)
                    yield task.number, DONE
                else:  # a worker that raised is not trusted either
                    connection.close()
                    waiting.append(_next_attempt(task, answer))
    except BaseException:  # a signal, say: what workers write is removed next
        server.close()
        raise
    finally:
        for connection in [*busy, *idle]:
            connection.close()


def _next_attempt(task: Task, fault: str) -> Task:
    if task.attempt + 1 == ATTEMPTS:
        raise JobFailed(fault)
    return Task(task.number, task.attempt + 1, task.work)


def _begin(connection: Connection, function: Run, task: Task, busy: dict[Connection, Task]) -> None:
    busy[connection] = task
    with suppress(OSError):  # it is dead: whoever waits for its answer sees it
        connection.send((function, task))


def _received(connection: Connection) -> tuple[str, Any]:
    try:
        message = json.loads(connection.recv_bytes(_LONGEST_ANSWER))
        return message["kind"], message["answer"]
    except (EOFError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return "died", "a worker process was killed, or crashed, in each attempt of a task"


# -- in the server and its workers -------------------------------------------------------------------------------------


def main(modules: Sequence[str]) -> None:
    """The server: forks a worker for each socket that it is sent, until its own one is closed."""
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers that have ended leave nothing
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or collections in workers would copy the pages of all modules
    # Python 3.12 and newer warn of threads when they fork. Here they are those of Arrow's allocator, which minds forks.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    while True:
        message, sockets, *_ = socket.recv_fds(control, 1, 1)
        if not message:  # the job has ended, perhaps by a signal that cannot be caught: nobody waits for its workers
            os.killpg(0, signal.SIGKILL)
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a worker may have children, and wait for them
            _serve(Connection(sockets[0]))
            os._exit(0)
        os.close(sockets[0])


def _serve(connection: Connection) -> None:
    with suppress(EOFError, OSError):  # the job has ended, or needs no more of this worker
        while True:
            function, task = connection.recv()
            kind, answer = "done", None
            try:
                for part in function(task):
                    _send(connection, "answer", part)
            except Exception as error:
                kind, answer = "failed", _described(error)
            _send(connection, kind, answer)


def _send(connection: Connection, kind: str, answer: Any) -> None:
    connection.send_bytes(json.dumps({"kind": kind, "answer": answer}).encode())


def _described(error: Exception) -> str:
    if isinstance(error, JobFailed):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[0]


if __name__ == "__main__":
    main(sys.argv[1:])
