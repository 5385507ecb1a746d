"""Which fingerprint and metric come first where several are published: one rule for views, programs and pages."""

from collections.abc import Iterable

DEFAULT_FINGERPRINT = "vgg16-fc2"
"""That of ``neighbours.fingerprint`` in the settings."""
DEFAULT_METRIC = "cosine"

FOLDER = "folder"
"""Where no attribute is called so, the attribute that is the first folder of an image_id."""


def default_of(names: Iterable[str], default: str) -> str | None:
    """The only one of ``names``, else ``default`` if it is among them; None if nothing says which is meant."""
    known = set(names)
    if len(known) == 1:
        return known.pop()
    return default if default in known else None


def tags_by(fingerprints: Iterable[str], fingerprint: str) -> str | None:
    """The one of ``fingerprints``, which have tags, whose tags go with what ``fingerprint`` compared: its own, else
    those of the default, else of the first by name. None if there are none.
    """
    known = default_first(fingerprints)
    return fingerprint if fingerprint in known else next(iter(known), None)


def default_first(names: Iterable[str], default: str = DEFAULT_FINGERPRINT) -> list[str]:
    """``names``, each once, in their order, with ``default`` in front if it is among them."""
    return sorted(set(names), key=lambda name: (name != default, name))
