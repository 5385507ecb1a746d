"""Finds the subcommand, and runs it. Only the subcommand that runs is imported."""

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from image_similarity import __version__
from image_similarity.command import catalogue
from image_similarity.command.catalogue import NAME, SEARCH, SERVE
from image_similarity.errors import Interrupted, WrongInput, did_you_mean
from image_similarity.reporting import printable
from image_similarity.runtime import garbage

_ABOUT = (
    "For every image of a collection, the others that look most like it; and those that look like a picture of yours."
)
_READER_GONE = 128 + 13
"""Exit code of a program that SIGPIPE ends."""


def start() -> NoReturn:
    """Runs the subcommand of this process's arguments, and exits with its code."""
    garbage.freeze_after_pauses()
    code = main()
    gc.freeze()  # or the interpreter would look at every object of every library before it ends: seconds, with torch
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand, and returns its exit code: 0, 2 for wrong input, 1 for another failure, 130 after Ctrl-C.

    Where whoever reads the output has had enough (``| head``), the code is 141, and nothing is said.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except WrongInput as error:
        print(f"{NAME}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{NAME}: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains as it ends
        return _READER_GONE


def _run(words: list[str]) -> int:
    """Raises ``WrongInput`` for a subcommand that does not exist."""
    if not words:
        print(_short_help(), file=sys.stderr)
        return WrongInput.exit_code
    first, *others = words
    if first in ("-h", "--help", "help"):
        if first == "help" and others:
            return _run([others[0], "--help"])
        print(_help())
        return 0
    if first == "--version":
        print(f"{NAME} {__version__}")
        return 0
    command = _checked(first)
    if command == SEARCH:
        from image_similarity.command import search

        return search.main(others)
    if command == SERVE:
        from image_similarity.command import serving

        return serving.main(others)
    return _run_job(command, others)


def _run_job(command: str, words: list[str]) -> int:
    from image_similarity.jobs import command_line

    job = importlib.import_module(f"image_similarity.jobs.{catalogue.module_of(command)}")
    return command_line.main(job, words, prog=f"{NAME} {command}")


def _checked(word: str) -> str:
    """The subcommand that ``word`` names. Raises ``WrongInput`` with near names if there is none."""
    command = catalogue.command_of(word)
    if command in catalogue.COMMANDS:
        return command
    typed = printable(word)
    if word.startswith("-"):
        raise WrongInput(f"{typed} stands before the command, which comes first: {NAME} COMMAND {typed} ...")
    suggestion = did_you_mean(command, catalogue.COMMANDS)
    if not suggestion and os.path.isfile(word):
        suggestion = f"; to ask what looks like this file: {NAME} {SEARCH} {typed} --warehouse URI"
    raise WrongInput(f"no such command: {typed}{suggestion or f'; {NAME} --help lists all'}")


def _help() -> str:
    width = max(map(len, catalogue.COMMANDS)) + 2
    lines = [f"usage: {NAME} COMMAND ...", "", _ABOUT]
    for heading, commands in catalogue.GROUPS.items():
        lines += ["", f"{heading}:", *(f"  {name:{width}}{about}" for name, about in commands.items())]
    lines += ["", f"{NAME} COMMAND --help says what a command takes; {NAME} --version which version this is."]
    return "\n".join(lines)


def _short_help() -> str:
    return "\n".join(
        [
            f"usage: {NAME} COMMAND ...",
            "",
            f"  {NAME} run-pipeline --images URI --warehouse URI --gallery URI   makes a collection and its gallery",
            f"  {NAME} {SEARCH} FILE --warehouse URI                              asks what looks like a picture",
            "",
            f"{NAME} --help lists all commands",
        ]
    )
