"""What `search` and `serve` share: arguments, and errors as one line with an exit code."""

import sys
import traceback
from collections.abc import Sequence
from typing import Any

from image_similarity import reporting
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.jobs.command_line import Parser

_VERBOSE = "--verbose"


class _Parser(Parser):
    """A parser whose words that belong to no flag are ``files``, wherever they stand, if the subcommand takes any."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        parsed, others = super().parse_known_args(args, namespace)
        if hasattr(parsed, "files"):  # argparse itself takes them from one place only
            parsed.files, others = [*parsed.files, *(word for word in others if word != "--")], []
        return parsed, others


def run(name: str, module: Any, words: Sequence[str]) -> int:
    """Parses ``words`` and runs ``module``, which has ``add_arguments(parser)`` and ``run(arguments) -> int``.

    Returns the exit code. An error is one line on stderr, and with ``--verbose`` its traceback. Ctrl-C, and a
    reader that has gone, are left to the caller. ``name``: what was typed, for help and errors. Whoever types no
    ``words`` is told the ``USAGE`` of ``module``, too.
    """
    parser = _Parser(prog=name, description=module.__doc__.partition("\n")[0])
    module.add_arguments(parser)
    if _VERBOSE not in parser._option_string_actions:
        parser.add_argument(_VERBOSE, action="store_true", help="show tracebacks")
    try:
        arguments = parser.parse_args(words)
    except WrongInput as error:
        if not words:
            print(f"usage: {name} {module.USAGE}", file=sys.stderr)
        return tell(name, error, is_verbose=False)
    try:
        code: int = module.run(arguments)
        return code
    except BrokenPipeError:
        raise
    except Exception as error:  # the last line of defence: whatever it is, one line and a non-zero exit
        return tell(name, error, arguments.verbose)


def tell(name: str, error: Exception, is_verbose: bool) -> int:
    """Tells ``error`` on stderr in one line, after its traceback if ``is_verbose``. Returns the exit code for it."""
    if is_verbose:
        reporting.current().tell("error", "".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, JobFailed):
        message = " ".join(str(error).splitlines())
    else:  # a defect of ours, or of the machine
        first = (str(error).splitlines() or [""])[0]
        message = f"{type(error).__name__}: {first}" + ("" if is_verbose else f" ({_VERBOSE} shows the traceback)")
    reporting.current().tell("error", f"{name}: error: {message}")
    return error.exit_code if isinstance(error, JobFailed) else JobFailed.exit_code
