"""`Refused`: why a request is not answered, for whoever sent it."""

from collections.abc import Mapping


class Refused(Exception):
    """The answer to a request that is wrong, not allowed, or too much. Its text is one line."""

    def __init__(
        self, status: int, message: str, reason: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """``status``: of HTTP, 400 or more. ``reason``: a word for programs, as in the table ``failures``."""
        super().__init__(" ".join(message.split()))
        self.status, self.reason, self.headers = status, reason, dict(headers or {})
