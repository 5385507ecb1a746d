"""The errors that people are meant to read: one line that says what, where, and what to do.

Each class of `JobFailed` has an exit code of the jobs. `Unreadable` is about one image and becomes a row of
``failures``. Any other exception is a defect of this project, and keeps its traceback.
"""

from typing import Any


class JobFailed(Exception):
    """The job failed for reasons other than its input (a lost race, an unreachable address). Exit code 1."""

    exit_code = 1

    def __init__(self, message: str = "", **fields: Any):
        """``fields``: values for machines, in addition to the message."""
        super().__init__(message)
        self.fields = fields


class WrongInput(JobFailed):
    """Arguments, settings or input files must be changed before the job can work. Exit code 2."""

    exit_code = 2


class TooManyFailures(JobFailed):
    """More images failed than ``max_failed_fraction`` (of ``embeddings``, of ``downloads``) allows. Exit code 3."""

    exit_code = 3


class Interrupted(BaseException):
    """The job was ended by Ctrl-C. Like ``KeyboardInterrupt`` it is not an ``Exception``. Exit code 130."""

    exit_code = 130

    def __str__(self) -> str:
        return "interrupted"


class Terminated(Interrupted):
    """The job was ended by SIGTERM, as schedulers do. Exit code 143."""

    exit_code = 143

    def __str__(self) -> str:
        return "ended by SIGTERM"


class Unreadable(Exception):
    """An image that cannot be used. ``reason``: a word for the table ``failures``; ``detail``: one line for people."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = " ".join(detail.split())[:300]
