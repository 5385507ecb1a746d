"""What all jobs' command lines share: arguments, and ``main``, which runs a job and turns what happened into an exit
code.
"""

import argparse
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from pyspark.sql import SparkSession

from image_similarity import conf, reporting, settings
from image_similarity.jobs.job import Application, Finished, PlanOnly
from image_similarity.reporting import Reporter
from image_similarity.runtime import environment, progress, shutdown
from image_similarity.runtime.session import open_session
from image_similarity.warehouse.warehouse import Warehouse

FLAGS = "settings_by_flag"
"""Where parsed arguments have the settings that flags of their own set."""


def setting(key: str, is_text: bool = False) -> dict[str, Any]:
    """Keyword arguments for ``add_argument`` that make a flag an abbreviation of ``--set key=value``.

    The flag wins over ``--set``. ``is_text``: the value is a string, whatever it looks like.
    """
    return {
        "dest": FLAGS,
        "action": "append",
        "type": lambda value: f"{key}={json.dumps(value) if is_text else value}",
    }


def at_least(least: int) -> Callable[[str], int]:
    """A ``type`` for ``add_argument``: a whole number that is not smaller."""

    def number(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of {least} or more")
        return int(text)

    return number


_GIVEN = "_given"
"""Where arguments keep, while they are parsed, what was given already."""


class _Once:
    """An action of a parser for a flag that may be given once: of two values, either would be wrong for somebody."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *value: Any) -> None:
        given: set[str] = namespace.__dict__.setdefault(_GIVEN, set())
        if self.dest in given:  # type: ignore[attr-defined]
            parser.error(f"{value[-1]} is given more than once")
        if value[:-1] == ("",):
            parser.error(f"{value[-1]} is empty: a variable that is not set?")
        given.add(self.dest)  # type: ignore[attr-defined]
        super().__call__(parser, namespace, *value)  # type: ignore[misc]


class _Store(_Once, argparse._StoreAction):
    pass


class _StoreTrue(_Once, argparse._StoreTrueAction):
    pass


def _parser(job: Any, name: str) -> argparse.ArgumentParser:
    """A parser with the arguments of ``job`` and those that every job takes.

    A flag that is given twice is an error, unless it is said to be repeatable.
    """
    parser = argparse.ArgumentParser(
        prog=f"{name}.py", description=job.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for action, once in ((None, _Store), ("store", _Store), ("store_true", _StoreTrue)):
        parser.register("action", action, once)
    common = parser.add_argument_group("every job")
    common.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="settings (default: those of one machine, conf/local.toml)"
    )
    common.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="one setting, repeatable; wins over the file, and a flag of its own wins over it",
    )
    parser.set_defaults(**{FLAGS: []})
    common.add_argument("--warehouse", required=True, metavar="URI", help="the folder of all tables")
    common.add_argument(
        "--run-id", metavar="LABEL", help="kept in runs; what this label has published is not done again"
    )
    common.add_argument(
        "--keep-runs",
        type=at_least(2),
        metavar="N",
        help=(
            "after publishing, remove all but the N newest runs of each slot, and what dead runs left (default: "
            "keep all)"
        ),
    )
    common.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    common.add_argument("--verbose", action="store_true", help="show tracebacks, and how long each step took")
    common.add_argument(
        "--log-every",
        type=_seconds,
        default=reporting.DEFAULT_EVERY,
        metavar="SECONDS",
        help="between two lines of progress, where no terminal shows it (default: %(default)g)",
    )
    common.add_argument(
        "--log-format",
        choices=reporting.FORMATS,
        default=reporting.TEXT,
        help="for people, or one JSON object a line on stdout",
    )
    job.add_arguments(parser)
    return parser


def _seconds(text: str) -> float:
    if not 0 < (value := float(text)) < threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def start(name: str) -> NoReturn:
    """Run the job ``name`` with this process's arguments, and exit with its code: what the scripts in ``jobs/`` do."""
    sys.exit(main(importlib.import_module(f"image_similarity.jobs.{name}")))


def main(job: Any, argv: Sequence[str] | None = None, session: SparkSession | None = None) -> int:
    """Parse, load settings, start Spark, run ``job``, and turn what happened into an exit code.

    ``job``: a module of `image_similarity.jobs`, with ``add_arguments(parser)`` and ``run(application)``. ``session``:
    one that is there already; it is left running.
    """
    name = job.__name__.rpartition(".")[2]
    arguments = _parser(job, name).parse_args(argv)
    reporter = Reporter(arguments.log_format, arguments.log_every, arguments.verbose, arguments.run_id, {"job": name})
    finished: list[Finished] = []
    with reporting.reporting_to(reporter):
        try:
            loaded = settings.load(
                arguments.config or conf.local_toml(), arguments.overrides, arguments.settings_by_flag
            )
            with _session(name, session) as used, shutdown.interruptible(used):
                environment.check_names(used, [arguments.warehouse])
                warehouse = Warehouse(used, arguments.warehouse)
                with Application(arguments, loaded, used, warehouse, finished) as application:
                    job.run(application)
        except PlanOnly:
            pass
        except BaseException as error:  # the last line of defence: whatever it is, one line and a non-zero exit
            return shutdown.explain(name, error, [one.name for one in finished], arguments.verbose)
    return 0


@contextmanager
def _session(name: str, given: SparkSession | None) -> Iterator[SparkSession]:
    """``given``, or a session of our own that is stopped in the end, whatever happens."""
    used = given or open_session(name)
    try:
        with progress.named(used, name):
            yield used
    except BaseException:
        with suppress(Exception):  # Spark may be what failed, and then it cannot be stopped; what is told is why
            if given is None:
                used.stop()
        raise
    if given is None:
        used.stop()
