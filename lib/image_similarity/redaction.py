"""Addresses without what gives access: passwords and queries, which may be signatures.

Everything that leaves the process as text goes through `redacted`: messages, records of runs, pages.
"""

import re
from collections.abc import Mapping
from typing import Any

_USER = re.compile(r"""(\b[a-z][a-z0-9+.-]*://)[^\s/?\#"'<>]*@""", re.IGNORECASE)
_NO_PORT = re.compile(
    r"""(\b[a-z][a-z0-9+.-]*://[^\s/?\#"'<>:@[\]]*:)(?!\d*(?:[\s/?\#"'<>,;:|`.)\]]|$))[^\s"'<>]*""", re.IGNORECASE
)
"""A password with a slash in it, say, so that its @ is not found in the place of the host."""
_QUERY = re.compile(r"""(\bhttps?://[^\s?\#"'<>]*?(?:\?|%3F))[^\s\#"'<>]+""", re.IGNORECASE)
"""Of the web alone: elsewhere a question mark is part of a name. Java's messages write it as ``%3F``."""


def redacted(text: str) -> str:
    """``text`` with ``...`` in the place of users with their passwords, and of queries, in all addresses in it."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1...", _NO_PORT.sub(r"\1...", _USER.sub(r"\1...@", text)))


def redacted_values(value: Any) -> Any:
    """``value`` with `redacted` for every text in it, in mappings, lists and tuples, too."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted_values(key): redacted_values(item) for key, item in value.items()}
    return [redacted_values(item) for item in value] if isinstance(value, (list, tuple)) else value
