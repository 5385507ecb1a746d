"""The messages of a job, as text for people or as JSON for machines, and the durations of its steps.

One `Reporter` serves one application. ``command_line.main`` makes it, and everything below finds it by `current`.
Without one (in a notebook, in a test of a stage) text goes to stdout and stderr. Nothing here depends on Spark, and
Python's root logger stays unchanged.
"""

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from image_similarity.errors import counted
from image_similarity.redaction import redacted, redacted_values

DEFAULT_EVERY = 10.0
"""Seconds between two lines of progress, by default."""

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)

_LEVELS = {"error": "error", "note": "warning"}
_ON_STDERR = ("progress", "step", "error")


@dataclass
class _Step:
    name: str
    began: float
    seconds: float = 0.0
    """The duration without that of nested steps."""


@dataclass
class Reporter:
    """Writes messages, and measures the durations of steps.

    Text: results go to stdout, progress and errors to stderr. JSON: everything goes to stdout, one line for each event.
    A line is written at once, so lines of several threads do not mix, and Spark prints on stderr only.
    """

    format: str = TEXT
    every: float = DEFAULT_EVERY
    """Seconds between two lines of progress, where no terminal shows it."""
    verbose: bool = False
    """Whether people get details as well. Machines always do."""
    label: str | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """The current work: ``job``, and also ``slot`` and ``run_id`` if it is a single run."""
    _steps: list[_Step] = field(default_factory=list)
    _inside: list[float] = field(default_factory=list)
    """For each open step, the seconds spent in nested steps."""
    _lock: Any = field(default_factory=threading.Lock)

    # -- messages ------------------------------------------------------------------------------------------------------

    @property
    def on_terminal(self) -> bool:
        """Whether progress is shown as one line that is updated."""
        return self.format == TEXT and sys.stderr.isatty()

    def tell(self, event: str, message: str, detail: bool = False, **fields: Any) -> None:
        """Writes ``message``. ``fields`` are for machines only. ``detail``: people see it only with ``--verbose``."""
        if self.format == JSON:
            if message.strip():
                self._write(
                    sys.stdout, f"{json.dumps(redacted_values(self._record(event, message, fields)), default=str)}\n"
                )
        elif self.verbose or not detail:
            self._write(sys.stderr if event in _ON_STDERR else sys.stdout, f"{redacted(message)}\n")

    def show(self, line: str) -> None:
        """Replaces the last line of the terminal by ``line``."""
        self._write(sys.stderr, f"\r\x1b[K{redacted(line)}")

    def show_no_more(self) -> None:
        """Ends the line that `show` wrote."""
        self._write(sys.stderr, "\n")

    def _record(self, event: str, message: str, fields: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        about = {"job": None, "slot": None, "run_id": None, **self.about, "label": self.label}
        return {
            "time": now,
            "level": _LEVELS.get(event, "info"),
            **about,
            "event": event,
            "message": message.strip(),
            **fields,
        }

    def _write(self, stream: Any, text: str) -> None:
        with self._lock:
            stream.write(text)
            stream.flush()

    # -- durations -----------------------------------------------------------------------------------------------------

    @contextmanager
    def timed(self, name: str) -> Iterator[_Step]:
        """Records the duration of this context as step ``name``. The time of nested steps counts for those only."""
        step = _Step(name, time.monotonic())
        self._steps.append(step)
        self._inside.append(0.0)
        try:
            yield step
        finally:
            whole = time.monotonic() - step.began
            step.seconds = whole - self._inside.pop()
            if self._inside:
                self._inside[-1] += whole

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Like `timed`, and reports the step when it is done."""
        with self.timed(name) as step:
            yield
        self.tell("step", f"{name}: {step.seconds:.1f} s", detail=True, step=name, seconds=round(step.seconds, 3))

    def seconds_by_step(self, since: float) -> dict[str, float]:
        """step -> seconds, in order of first begin, for steps begun at ``since`` (of ``time.monotonic``) or later."""
        seconds: dict[str, float] = {}
        for step in self._steps:
            if step.began >= since:
                seconds[step.name] = seconds.get(step.name, 0.0) + step.seconds
        return {name: round(spent, 3) for name, spent in seconds.items()}


_QUIET = Reporter()
_current: ContextVar[Reporter] = ContextVar("reporter", default=_QUIET)


def current() -> Reporter:
    """The reporter of this application."""
    return _current.get()


@contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Makes ``reporter`` the current one in this context."""
    token = _current.set(reporter)
    try:
        yield
    finally:
        _current.reset(token)


def say(*lines: str, event: str = "summary", detail: bool = False, **fields: Any) -> None:
    """Writes one paragraph: the first line as it is, the others indented.

    ``event`` and ``fields`` are for machines: the kind of message, and its values. ``detail``: people see it only with
    ``--verbose``.
    """
    current().tell(event, "\n  ".join(lines), detail, **fields)


def note(message: str) -> None:
    """Writes a warning: something that is no failure, but that people should know."""
    say(f"  note: {message}", event="note")


def aligned(rows: Iterable[tuple[str, ...]], indent: str = "  ") -> str:
    """``rows`` as lines with aligned columns."""
    listed = [tuple(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*listed)]
    return "\n".join(
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in listed
    )


def printable(text: str) -> str:
    """``text`` with all unprintable characters escaped, so that it is one line."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def brief(name: str, most: int = 60) -> str:
    """``name`` as `printable`, cut to ``most`` characters: for a line that names several."""
    shown = printable(name)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def longest(seconds: dict[str, float], most: int = 5) -> str:
    """The longest steps of ``seconds`` (step -> seconds), as text for people."""
    chosen = sorted(seconds.items(), key=lambda step: -step[1])[:most]
    return ", ".join(f"{name} {spent:.1f} s" for name, spent in chosen)


class Progress:
    """Reports on one piece of work of ``units``: rate, share done, time left. ``unit``: their plural, ``images``."""

    def __init__(self, reporter: Reporter, what: str, units: int, unit: str):
        self._reporter, self._what, self._units, self._unit = reporter, what, units, unit
        self._all = counted(units, unit.removesuffix("s"), unit)
        self._start = time.monotonic()
        self._on_terminal = reporter.on_terminal
        self._finished = False
        self._share, self._reached = 0.0, 0.0
        """The last share, and the seconds after which it was first seen."""

    @property
    def every(self) -> float:
        """Seconds until the next `update`."""
        return min(0.5, self._reporter.every) if self._on_terminal else self._reporter.every

    def update(self, share: float) -> None:
        if self._finished:
            return
        seconds = time.monotonic() - self._start
        if share > self._share:
            self._share, self._reached = share, seconds
        done = round(share * self._units)
        if not done:
            line = f"{self._what}: {self._all}, no results yet after {_clock(seconds)}"
            self._tell("progress", line, 0, seconds, None, None)
            return
        rate, left = self._estimate(seconds)
        line = f"{self._what}: {done:,} of {self._all} ({share:.0%})"
        line += f", {_rate(rate)} {self._unit}/s" if rate is not None else ""
        line += f", {_clock(left)} left" if left is not None else ""
        self._tell("progress", line, done, seconds, rate, left)

    def _estimate(self, seconds: float) -> tuple[float | None, float | None]:
        """Units a second, and seconds left; None where they are not known.

        Work is seen in steps. From the last step on the time left falls with the clock; once it is over, nobody knows.
        """
        if not self._reached:
            return None, None
        left = self._reached / self._share - seconds
        return self._share * self._units / self._reached, left if left > 0 else None

    def done(self) -> None:
        self._finished = True
        seconds = time.monotonic() - self._start
        rate = self._units / max(seconds, 1e-9)
        line = f"{self._what}: {self._all} in {seconds:.1f} s"
        self._tell(
            "step", line + (f" ({_rate(rate)} {self._unit}/s)" if self._units else ""), self._units, seconds, rate, 0.0
        )

    def end(self) -> None:
        if self._on_terminal:
            self._reporter.show_no_more()

    def _tell(self, event: str, line: str, done: int, seconds: float, rate: float | None, left: float | None) -> None:
        if self._on_terminal:
            self._reporter.show(line)
            return
        self._reporter.tell(
            event,
            line,
            step=self._what,
            done=done,
            total=self._units,
            unit=self._unit,
            seconds=round(seconds, 3),
            rate=None if rate is None else round(rate, 3),
            seconds_left=None if left is None else round(left, 1),
        )


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
