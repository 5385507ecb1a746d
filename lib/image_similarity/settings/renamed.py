"""Settings that were renamed. The old name is still read, from a file, from ``--set`` and from the record of an old
run.
"""

from collections.abc import Mapping
from typing import Any

KINDS = ("exported", "colour-histogram", "hog", "pca")
"""Kinds of fingerprints that are not torchvision's networks. They were declared as ``network = "pca"``."""

_KEYS = {
    "neighbours": {"copies": "drop_duplicates"},
    "approximate": {
        "partitions": "nlist",
        "visits": "nprobe",
        "widenings": "probe_doublings",
        "settled": "delta",
        "descent_rows": "nndescent_rows",
    },
}
_VALUES = {"copies": {"all": False, "one": True}}


def current(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values``, section -> key -> value, under the current names.

    A section that is no mapping is returned as it is; validation refuses it. Raises ``ValueError`` if a key has a value
    under both names.
    """
    return {
        name: _section(name, section) if isinstance(section, Mapping) else section for name, section in values.items()
    }


def section(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one section under the current names. See `current`."""
    return dict(current({name: values})[name])


def _section(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    if name == "fingerprints":
        return {fingerprint: _fingerprint(declared) for fingerprint, declared in values.items()}
    renamed: dict[str, Any] = {}
    for key, value in values.items():
        new = _KEYS.get(name, {}).get(key, key)
        if new in renamed:
            raise ValueError(f"{name}.{new} is given twice, once under its old name: leave one of them out")
        readings = _VALUES.get(key, {}) if new != key else {}
        renamed[new] = readings.get(value, value) if isinstance(value, str) else value
    return renamed


def _fingerprint(declared: Any) -> Any:
    if not isinstance(declared, Mapping) or "kind" in declared or declared.get("network") not in KINDS:
        return declared
    return {"kind": declared["network"], **{key: value for key, value in declared.items() if key != "network"}}
