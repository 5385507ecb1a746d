"""The errors that a person is meant to read: one line that says what, where, and what to do.

Each class is one exit code of the jobs. Everything else that is raised is a defect of ours and keeps its traceback.
"""


class JobFailed(Exception):
    """The job could not be done as things stand (a lost race, an unreachable address). Exit code 1."""

    exit_code = 1


class WrongInput(JobFailed):
    """Arguments, settings or input files that have to be changed before it can work. Exit code 2."""

    exit_code = 2


class TooManyFailures(JobFailed):
    """More images failed than ``max_failed_fraction`` (of ``embeddings``, of ``downloads``) allows. Exit code 3."""

    exit_code = 3
