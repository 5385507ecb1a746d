"""What all jobs' command lines share: arguments, and ``main``, which runs a job and turns what happened into an exit
code.
"""

import argparse
import gc
import importlib
import json
import math
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from image_similarity import conf, reporting, settings
from image_similarity.errors import WrongInput, did_you_mean, listed
from image_similarity.jobs import early
from image_similarity.jobs.job import Application, Finished, PlanOnly
from image_similarity.reporting import Reporter
from image_similarity.runtime import progress, shutdown
from image_similarity.runtime.session import is_submitted, lazy_session, open_session, scratch_folders, started
from image_similarity.settings import Given, Settings
from image_similarity.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FLAGS = "settings_by_flag"
"""Where parsed arguments have the settings that flags of their own set."""


def setting(key: str, is_text: bool = False) -> dict[str, Any]:
    """Keyword arguments for ``add_argument`` that make a flag an abbreviation of ``--set key=value``.

    The flag wins over ``--set``. ``is_text``: the value is a string, whatever it looks like.
    """
    return {"dest": FLAGS, "action": partial(_Setting, key=key, is_text=is_text)}


def as_toml(text: str) -> str:
    """``text`` as a string of TOML, which a value is read as: it may look like a number."""
    return json.dumps(text, ensure_ascii=False)


def at_least(least: int) -> Callable[[str], int]:
    """A ``type`` for ``add_argument``: a whole number that is not smaller."""

    def number(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"should be a whole number of {least} or more, not {text!r}")
        return int(text)

    return number


def whole(text: str) -> int:
    """A ``type`` for ``add_argument``: a whole number, which may be negative."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"should be a whole number, not {text!r}") from None


def one_of(words: Iterable[str]) -> Callable[[str], str]:
    """A ``type`` for ``add_argument``: one of ``words``. It is used in place of ``choices`` for its message."""
    known = list(words)

    def word(text: str) -> str:
        if text not in known:
            suggestion = did_you_mean(text, known) or ":"
            raise argparse.ArgumentTypeError(f"{text!r} is no choice{suggestion} choose from {listed(known)}")
        return text

    return word


_GIVEN = "_given"
"""Where arguments keep, while they are parsed, what was given already."""


def _refuse_empty(parser: argparse.ArgumentParser, value: Any, flag: str | None) -> None:
    if not str(value).strip() or value == Path():
        parser.error(f"{flag} is empty: a variable that is not set?")


class _NotEmpty:
    """An action of a parser for a flag whose value is not empty."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *value: Any) -> None:
        _refuse_empty(parser, *value)
        super().__call__(parser, namespace, *value)  # type: ignore[misc]


class _Once(_NotEmpty):
    """An action of a parser for a flag that may be given once: of two values, either would be wrong for somebody."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *value: Any) -> None:
        given: set[str] = namespace.__dict__.setdefault(_GIVEN, set())
        if self.dest in given:  # type: ignore[attr-defined]
            parser.error(f"{value[-1]} is given more than once")
        given.add(self.dest)  # type: ignore[attr-defined]
        super().__call__(parser, namespace, *value)


class _Append(_NotEmpty, argparse._AppendAction):
    pass


class _Store(_Once, argparse._StoreAction):
    pass


class _StoreTrue(_Once, argparse._StoreTrueAction):
    pass


class _Setting(argparse.Action):
    """The action of `setting`: appends a `Given` to `FLAGS`."""

    def __init__(self, key: str, is_text: bool, **options: Any):
        stands_for = f"{key}; default: {settings.default_of(key)}".replace("%", "%%")
        super().__init__(**{**options, "help": f"{options.get('help') or ''} ({stands_for})".lstrip()})
        self.key, self.is_text = key, is_text

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, flag: str | None = None
    ) -> None:
        _refuse_empty(parser, value, flag)
        text = as_toml(value) if self.is_text else value
        given = Given(f"{self.key}={text}", f"{flag} {value}")
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), given])


class Parser(argparse.ArgumentParser):
    """A parser that tells a fault in one line, with the names that are near, and guesses no flag from its beginning.

    ``WrongInput`` if the arguments are wrong.
    """

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)
        for action, kind in ((None, _Store), ("store", _Store), ("store_true", _StoreTrue), ("append", _Append)):
            self.register("action", action, kind)

    def error(self, message: str) -> NoReturn:
        required = message.removeprefix("the following arguments are required: ")
        if required != message:
            raise WrongInput(f"{required} must be given; --help says what for")
        raise WrongInput(re.sub(r"^argument (?:[^\s/]+/)*(\S+): ", r"\1: ", message))

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        self._check_flags(words)
        parsed: argparse.Namespace
        parsed, others = self.parse_known_args(words, namespace)
        if others:
            more = f" and {len(others) - 1:,} more belong" if len(others) > 1 else " belongs"
            typeset = re.fullmatch("[\u2010-\u2015]+(.*)", others[0])  # dashes, as in a text that was copied
            flag = did_you_mean(f"--{typeset[1]}", self._flags()) if typeset else ""
            self.error(f"{others[0]!r}{more} to no flag{flag or ': quote what has spaces or *'}")
        return parsed

    def _check_flags(self, words: Sequence[str]) -> None:
        """Refuses flags that do not exist, and flags without their value: before what else may be missing is told."""
        for word, following in zip(words, [*words[1:], None]):
            if word == "--":
                return
            flag = word.partition("=")[0]
            if not self._is_flag(word):
                continue
            action = self._option_string_actions.get(flag)
            if action is None:
                self.error(f"no such flag: {flag}{did_you_mean(flag, self._flags()) or '; --help lists all'}")
            if action.nargs is None and flag == word and (following is None or self._is_flag(following)):
                self.error(f"{flag} needs a value: {flag} {action.metavar}")

    def _is_flag(self, word: str) -> bool:
        """Whether ``word`` is meant as a flag: no value of one begins with a dash, but for negative numbers."""
        short = not word.startswith("--") and word[:2] in self._option_string_actions  # -k5
        is_number = re.fullmatch(r"-\d+|-\d*\.\d+", word) is not None
        dashed = re.match(r"-+\w", word) is not None
        return dashed and not is_number and " " not in word and not (short and len(word) > 2)

    def _flags(self) -> list[str]:
        return [flag for flag in self._option_string_actions if flag != "-h"]


def _parser(job: Any, name: str, prog: str | None = None) -> Parser:
    """A parser with the arguments of ``job`` and those that every job takes.

    A flag that is given twice is an error, unless it is said to be repeatable. ``prog``: what was typed; the name of
    the job's script by default.
    """
    parser = Parser(
        prog=prog or f"{name}.py", description=job.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = parser.add_argument_group("every job")
    common.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.toml",
        help=(
            "settings that win over those of one machine (conf/local.toml), key by key; repeatable, and a later file "
            "wins over an earlier one"
        ),
    )
    common.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="one setting, repeatable; wins over files, and a flag of its own wins over it",
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
        type=one_of(reporting.FORMATS),
        default=reporting.TEXT,
        metavar="|".join(reporting.FORMATS),
        help="for people, or one JSON object a line on stdout",
    )
    job.add_arguments(parser)
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"should be a number of seconds, more than 0, not {text!r}")
    return value


def start(name: str) -> NoReturn:
    """Run the job ``name`` with this process's arguments, and exit with its code: what the scripts in ``jobs/`` do."""
    code = main(importlib.import_module(f"image_similarity.jobs.{name}"))
    gc.freeze()  # or the interpreter would look at every object of every library before it ends: seconds, with torch
    sys.exit(code)


def main(
    job: Any, argv: Sequence[str] | None = None, session: "SparkSession | None" = None, prog: str | None = None
) -> int:
    """Parse, load settings, run ``job``, and turn what happened into an exit code. Spark starts when it is needed.

    ``job``: a module of `image_similarity.jobs`, with ``add_arguments(parser)`` and ``run(application)``. ``session``:
    one that is there already; it is left running. ``prog``: what was typed to start it, for help and errors, if it was
    not the job's script.
    """
    name = job.__name__.rpartition(".")[2]
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser(job, name, prog).parse_args(words)
    except WrongInput as error:
        with reporting.reporting_to(Reporter(_format_in(words), about={"job": name})):
            return shutdown.explain(prog or name, error, [], verbose=False)
    reporter = Reporter(arguments.log_format, arguments.log_every, arguments.verbose, arguments.run_id, {"job": name})
    finished: list[Finished] = []
    with reporting.reporting_to(reporter):
        try:
            loaded = _settings(job, arguments)
            _check_early(job, arguments, loaded, session)
            if not arguments.dry_run:
                early.note_lone_publishers(_published_folders(arguments))
            with _session(name, session, arguments.warehouse) as used, shutdown.interruptible(used):
                warehouse = Warehouse(used, arguments.warehouse)
                with Application(arguments, loaded, used, warehouse, finished) as application:
                    job.run(application)
        except PlanOnly:
            pass
        except BaseException as error:  # the last line of defence: whatever it is, one line and a non-zero exit
            return shutdown.explain(prog or name, error, [one.name for one in finished], arguments.verbose)
    return 0


def _format_in(words: Sequence[str]) -> str:
    """The log format that ``words``, which cannot be parsed, ask for."""
    joined = " ".join(words)
    return reporting.JSON if re.search(rf"--log-format[ =]{reporting.JSON}(?: |$)", joined) else reporting.TEXT


def _settings(job: Any, arguments: argparse.Namespace) -> Settings:
    """The settings. A job may have ``declare(arguments, declared)``, which returns more of them; and
    ``fingerprint_tables(arguments)``, the tables of which each fingerprint that it can work on has a slot.
    """
    files = settings.read([conf.local_toml(), *arguments.config])
    if hasattr(job, "declare"):
        declared = settings.declared_fingerprints(files, arguments.overrides)
        arguments.settings_by_flag = [*arguments.settings_by_flag, *job.declare(arguments, declared)]
    loaded = settings.load(files, arguments.overrides, arguments.settings_by_flag)
    if hasattr(job, "fingerprint_tables") and not _names_fingerprint(arguments, files[1:]):
        loaded = early.with_only_fingerprint(arguments.warehouse, loaded, job.fingerprint_tables(arguments))
    if arguments.dry_run:
        layers = [*map(str, files), *(["--set"] if arguments.overrides else [])]
        reporting.say(f"settings: {', then '.join(layers)}", event="settings")
    return loaded


def _names_fingerprint(arguments: argparse.Namespace, files: Sequence[settings.ReadFile]) -> bool:
    """Whether somebody said which fingerprint is meant: not the settings of one machine, which always name one."""
    typed = [*arguments.overrides, *(one.override for one in arguments.settings_by_flag)]
    return any(override.startswith("neighbours.fingerprint=") for override in typed) or any(
        "fingerprint" in section for file in files if isinstance(section := file.values.get("neighbours"), dict)
    )


def _check_early(job: Any, arguments: argparse.Namespace, loaded: Settings, session: "SparkSession | None") -> None:
    """Raises ``WrongInput`` or ``JobFailed`` for faults that are seen before Spark is started.

    ``session``: one that is there already. The arguments get ``scratch_folders``, as far as they are known.

    A job may have ``check_early(arguments, settings)``, which raises ``WrongInput`` for its own; or, if it repairs
    warehouses, ``check_arguments(arguments)``.
    """
    if not hasattr(job, "check_early"):  # it works on a warehouse as it is, which may be damaged, on a full disk
        early.check_there("--warehouse", arguments.warehouse)
        early.check_is_no_site(arguments.warehouse)
        if hasattr(job, "check_arguments"):
            job.check_arguments(arguments)
        return
    early.check_folder("--warehouse", arguments.warehouse, arguments.dry_run)
    early.check_is_no_site(arguments.warehouse)
    published = early.snapshot(arguments.warehouse)  # a lost pointer is more than a wrong argument
    if arguments.run_id is not None and (published is None or early.has_label(published, arguments.run_id)):
        return  # what the label has published is not done again, whatever became of its input
    arguments.scratch_folders = scratch_folders(session)
    job.check_early(arguments, loaded)
    places = ("warehouse", "gallery", "report", "export")
    early.check_room(arguments, **{flag: getattr(arguments, flag, None) for flag in places})


def _published_folders(arguments: argparse.Namespace) -> dict[str, str]:
    """flag -> URI of the folders that the job publishes in."""
    flags = ("warehouse", "gallery", "report")
    return {f"--{flag}": uri for flag in flags if (uri := getattr(arguments, flag, None)) is not None}


@contextmanager
def _session(name: str, given: "SparkSession | None", warehouse: str) -> "Iterator[SparkSession]":
    """``given``, or a session of our own that starts when it is needed and is stopped in the end, whatever happens."""

    def opened() -> "SparkSession":
        from image_similarity.runtime import environment

        own = open_session(name)
        environment.check_names(own, [warehouse])
        return own

    if given is not None:
        used = given
    else:  # a cluster takes an application that was submitted, and never starts a session, for a failed one
        used = opened() if is_submitted() else lazy_session(opened)
    try:
        with progress.named(used, name):
            yield used
    except BaseException:
        with suppress(Exception):  # Spark may be what failed, and then it cannot be stopped; what is told is why
            if given is None and started(used):
                used.stop()
        raise
    if given is None and started(used):
        used.stop()
