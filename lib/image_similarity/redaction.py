"""Addresses without what gives access: passwords and queries, which may be signatures.

Everything that leaves the process as text goes through `redacted`: messages, records of runs, pages.
"""

import re
from collections.abc import Mapping
from typing import Any

# They begin at what is in each address once: a search for schemes, which texts may be full of, would take a time that
# grows with the square of the length.
_USER = re.compile(r"""(://)[^\s/?\#"'<>]*@""")
_NO_PORT = re.compile(r"""(://[^\s/?\#"'<>:@[\]]*:)(?!\d*(?:[\s/?\#"'<>,;:|`.)\]]|$))[^\s"'<>]*""")
"""A password with a slash in it, say, so that its @ is not found in the place of the host."""
_WEB = re.compile(r"""\bhttps?://[^\s\#"'<>]*""", re.IGNORECASE)
_QUERY = re.compile(r"(\?|%3F)(?!\.\.\.[,;:.)]*\Z).+", re.IGNORECASE | re.DOTALL)
"""Of the web alone: elsewhere a question mark is part of a name. Java's messages write it as ``%3F``. What was left out
before stays as it is, with the comma of a list behind it."""


def redacted(text: str) -> str:
    """``text`` with ``...`` in the place of users with their passwords, and of queries, in all addresses in it."""
    if "://" not in text:
        return text
    text = _NO_PORT.sub(r"\1...", _USER.sub(r"\1...@", text))
    return _WEB.sub(lambda address: _QUERY.sub(r"\1...", address[0], count=1), text)


def redacted_values(value: Any) -> Any:
    """``value`` with `redacted` for every text in it, in mappings, lists and tuples, too."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted_values(key): redacted_values(item) for key, item in value.items()}
    return [redacted_values(item) for item in value] if isinstance(value, (list, tuple)) else value
