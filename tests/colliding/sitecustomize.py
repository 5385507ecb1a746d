"""Python imports this by itself when its folder is on PYTHONPATH: all JPEGs agree in the first 60 bits of their sha256.

Somebody can make two such files, so everything that knows a content by its digest must do with the rest of it.
"""

import hashlib
from typing import Any

_sha256 = hashlib.sha256
_SAME = "a" * 15


class _Colliding:
    def __init__(self, content: bytes):
        self._digest = _SAME + _sha256(content).hexdigest()[len(_SAME) :]

    def hexdigest(self) -> str:
        return self._digest


def sha256(content: bytes = b"", **options: Any) -> Any:
    return _Colliding(content) if bytes(content[:2]) == b"\xff\xd8" else _sha256(content, **options)


hashlib.sha256 = sha256  # type: ignore[assignment]
