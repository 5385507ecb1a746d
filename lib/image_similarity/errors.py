"""The errors that a person is meant to read: one line that says what, where, and what to do.

Each `JobFailed` is one exit code of the jobs. `Unreadable` is about one image and becomes a row of ``failures``.
Everything else that is raised is a defect of ours and keeps its traceback."""

from typing import Any


class JobFailed(Exception):
    """The job could not be done as things stand (a lost race, an unreachable address). Exit code 1."""

    exit_code = 1

    def __init__(self, message: str = "", **fields: Any):
        """``fields``: what machines are told beside the message."""
        super().__init__(message)
        self.fields = fields


class WrongInput(JobFailed):
    """Arguments, settings or input files that have to be changed before it can work. Exit code 2."""

    exit_code = 2


class TooManyFailures(JobFailed):
    """More images failed than ``max_failed_fraction`` (of ``embeddings``, of ``downloads``) allows. Exit code 3."""

    exit_code = 3


class Interrupted(BaseException):
    """The job was ended from outside, by Ctrl-C. Like ``KeyboardInterrupt`` no ``except Exception`` stops it. Exit code
    130."""

    exit_code = 130

    def __str__(self) -> str:
        return "interrupted"


class Terminated(Interrupted):
    """The job was ended from outside, by SIGTERM: a scheduler's way. Exit code 143."""

    exit_code = 143

    def __str__(self) -> str:
        return "ended by SIGTERM"


class Unreadable(Exception):
    """An image that cannot be used. ``reason``: a word that the table ``failures`` knows; ``detail``: one line."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = " ".join(detail.split())[:300]
