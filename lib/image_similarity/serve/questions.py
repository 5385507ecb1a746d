"""What is asked: a picture, an address, a vector or an image of the collection; and how much of an answer."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_similarity.errors import did_you_mean, listed
from image_similarity.serve.refusals import Refused

K, MOST = 12, 500
"""Similar images that are shown unless a number is given, and most of either relation."""
LONGEST_VECTOR = 1 << 17
JSON_BYTES = 4 << 20
"""Most bytes of a body of JSON: a vector of some 100,000 numbers."""
LABELS = {"k": "Most alike", "dissimilar": "Least alike"}
"""What a page calls fields."""
_WEB = ("http://", "https://")
_METRICS = ("cosine", "correlation", "euclidean")


@dataclass(frozen=True)
class Wanted:
    """How an answer should be. None: as it is published, see `Collection.search`."""

    k: int = K
    dissimilar: int = 0
    fingerprint: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Question:
    """One of the four is given."""

    wanted: Wanted = Wanted()
    content: bytes | None = None
    """A file of a picture."""
    address: str | None = None
    """Where a picture is: http or https."""
    vector: NDArray[np.float64] | None = None
    """(d,) float64, finite."""
    image_id: str | None = None


def from_fields(fields: Iterable[tuple[str, str]], known: tuple[str, ...] = ()) -> dict[str, str]:
    """Fields of an address or a form by name. Raises `Refused` for one that is there twice, or that is not known.

    ``known``: names beside those of `Wanted`.
    """
    named: dict[str, str] = {}
    names = (*known, *Wanted.__dataclass_fields__)
    for name, value in fields:
        if name not in names:
            raise Refused(
                400, f"no such field: {name[:40]!r}{did_you_mean(name[:40], names)}; there are {listed(names)}"
            )
        if name in named:
            raise Refused(400, f"{name} is there twice")
        named[name] = value
    return named


def wanted(fields: Mapping[str, Any], labels: Mapping[str, str] = {}) -> Wanted:
    """What ``fields``, of an address, a form or JSON, want. Empty ones count as missing.

    ``labels``: what whoever asks calls a field, where that is not its name. Raises `Refused`.
    """
    metric = fields.get("metric") or None
    if metric is not None and metric not in _METRICS:
        raise Refused(400, f"metric is none of {listed(_METRICS)}: {str(metric)[:40]!r}")
    fingerprint = fields.get("fingerprint") or None
    if not isinstance(fingerprint, (str, type(None))):
        raise Refused(400, "fingerprint should be a name")
    called = {"k": "k", "dissimilar": "dissimilar", **labels}
    k = _number(fields.get("k", ""), called["k"], K)
    dissimilar = _number(fields.get("dissimilar", ""), called["dissimilar"], 0)
    if not k and not dissimilar:
        raise Refused(400, f"nothing is asked for: {called['k']} and {called['dissimilar']} are both 0")
    return Wanted(k, dissimilar, fingerprint, metric)


def _number(value: Any, called: str, usual: int) -> int:
    if value == "":
        return usual
    text = str(value)
    is_number = not isinstance(value, bool) and text.isascii() and text.isdigit() and len(text) < 10
    if not is_number or int(text) > MOST:
        raise Refused(400, f"{called} should be a number from 0 to {MOST}, not {text[:40]!r}")
    return int(text)


def from_json(body: bytes, fields: Mapping[str, str]) -> Question:
    """``{"address": "https://..."}`` or ``{"vector": [...]}``, with the fields of `Wanted` if wanted.

    ``fields``: those of the address, which JSON overrides. Raises `Refused`.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, 'the body should be {"address": "https://..."} or {"vector": [...]}')
    names = ("address", "vector", *Wanted.__dataclass_fields__)
    unknown = next((name for name in value if name not in names), None)
    if unknown is not None:
        raise Refused(
            400, f"no such key: {unknown[:40]!r}{did_you_mean(unknown[:40], names)}; there are {listed(names)}"
        )
    asked = wanted({**fields, **value})
    if ("address" in value) == ("vector" in value):
        raise Refused(400, "give either an address or a vector")
    if "vector" in value:
        return Question(asked, vector=_vector(value["vector"]))
    return Question(asked, address=checked_address(value["address"]))


def _no_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are Python's own, and no vector has them


def _vector(values: Any) -> NDArray[np.float64]:
    fits = isinstance(values, list) and 0 < len(values) <= LONGEST_VECTOR
    if not fits or not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        raise Refused(400, f"vector should be a list of 1 to {LONGEST_VECTOR:,} numbers")
    try:
        vector = np.array(values, np.float64)
    except OverflowError:  # JSON's integers have no end
        vector = np.array([math.inf])
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():
        raise Refused(400, "vector has a number that is too large")
    return vector


def typed(text: str, wanted: Wanted) -> Question:
    """The question of a page's field for an address or the id of an image. Raises `Refused`."""
    if text.lower().startswith(_WEB):
        return Question(wanted, address=checked_address(text))
    return Question(wanted, image_id=text)


def checked_address(value: Any) -> str:
    """``value``, if it can be an http(s) address. Raises `Refused`: no file of this machine is read."""
    is_address = isinstance(value, str) and value.strip().lower().startswith(_WEB)
    if not is_address or len(value) > 8192 or not value.strip().isprintable():
        raise Refused(400, "the address should begin with http:// or https://")
    return str(value.strip())
