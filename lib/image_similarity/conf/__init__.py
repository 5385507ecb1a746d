"""Defaults for one machine, as files that travel with the library: ``local.toml`` (settings), ``spark/local.conf`` and
``log4j2.properties`` (what Spark is told, and what it prints).
"""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path


def local_toml() -> Traversable:
    """The settings that hold where ``--config`` names no other file; also within a zip."""
    return resources.files(__name__) / "local.toml"


def folder() -> Path | None:
    """The folder of these files; None where the library is in a zip, as with spark-submit, which brings files of its
    own.
    """
    here = Path(__file__).resolve().parent
    return here if here.is_dir() else None
